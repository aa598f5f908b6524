//! The recording of a trace of a failing device in the documents: it is what the command prints for such a device today.

use std::process::{Command, Stdio};

use crate::support::command::{Running, has, run};
use crate::support::page::missing;
use crate::support::process::binary;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Sidecar};

const PAGE: &str = "docs/admin-api.md";

/// The command of the recording.
const COMMAND: &str = "    tlsidecar trace --identity pump-7.plant.example --for 10m\n\n";

/// Returns the lines of the recording.
fn recording() -> Vec<String> {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = std::fs::read_to_string(page).unwrap();
    let (_, after) = page.split_once(COMMAND).unwrap_or_else(|| panic!("no {COMMAND} in {PAGE}"));
    after.lines().map_while(|line| line.strip_prefix("    ")).map(str::to_owned).collect()
}

/// Returns a line without what differs by recording and by version of OpenSSL: its time, the milliseconds since the start of the
/// connection, and these values.
fn without_figures(line: &str) -> String {
    const DIFFER: [&str; 4] = ["peer=", "serial=", "bytes=", "versions="];
    let (time, rest) = line.split_once(" #").unwrap_or_else(|| panic!("no time: {line}"));
    let is_time = |c: char| c.is_ascii_digit() || ":.Z".contains(c);
    assert!(time.len() == "16:31:10.447Z".len() && time.chars().all(is_time), "{line}");
    let (number, rest) = rest.split_once(" +").unwrap_or_else(|| panic!("no connection: {line}"));
    let (ms, step) = rest.split_once(" ms ").unwrap_or_else(|| panic!("no milliseconds: {line}"));
    assert!(ms.parse::<f64>().is_ok(), "{line}");
    let word = |word: &str| match DIFFER.iter().find(|key| word.starts_with(**key)) {
        Some(key) => format!("{key}…"),
        None => word.to_owned(),
    };
    format!("#{number} {}", step.split(' ').map(word).collect::<Vec<_>>().join(" "))
}

/// Starts the sidecar of the recording: one listener by flags, which requires a certificate of another CA.
fn sidecar(servers: &Authority, devices: &Authority, backend: &Backend) -> Sidecar {
    let pair = servers.server();
    let mut command = binary();
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--backend"]);
    command.arg(backend.address.to_string());
    command.arg("--cert").arg(pair.files.cert).arg("--key").arg(pair.files.key);
    command.arg("--client-ca").arg(devices.ca());
    Sidecar::run(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recording_in_the_documents_is_what_the_command_prints_for_such_a_device() {
    if !has("openssl") {
        return;
    }
    let [servers, devices, old] = ["Plant CA", "New plant CA", "Old plant CA"].map(Authority::new);
    let backend = Backend::echo().await;
    let mut sidecar = sidecar(&servers, &devices, &backend);
    let mut trace = binary();
    trace.args(["trace", "--identity", "pump-7.plant.example", "--for", "10m", "--admin"]);
    trace.arg(sidecar.admin.to_string()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut trace = Running(trace.spawn().unwrap());
    sidecar.until("the trace has begun", |log| log.contains("trace started"));
    let device = old.named("pump-7", "pump-7.plant.example").files;
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-ign_eof", "-servername", "broker.plant.example", "-connect"]);
    openssl
        .arg(sidecar.address.to_string())
        .arg("-cert")
        .arg(device.cert)
        .arg("-key")
        .arg(device.key);
    let (_refused, text) = run(openssl).await;
    assert!(text.contains("unknown ca"), "{text}");
    sidecar.until("it is refused", |log| log.contains("client_cert_unknown_ca"));
    trace.signal("INT");
    let mut output = trace.0.stdout.take().unwrap();
    let read = tokio::task::spawn_blocking(move || std::io::read_to_string(&mut output).unwrap());
    let printed = within("the end of the trace", read).await.unwrap();

    let recorded: Vec<_> = recording().iter().map(|line| without_figures(line)).collect();
    let now: Vec<_> = printed.lines().map(without_figures).collect();
    assert_eq!(now.len(), recorded.len(), "{printed}");
    assert_eq!(missing(&recorded, &now.join("\n")), None, "{printed}");
}
