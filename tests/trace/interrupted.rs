//! `tlsidecar trace --pcap` that ends before the handshake of a device, and the files that it refuses.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::pcap::{Read, sidecar};
use crate::support::command::{Running, output};
use crate::support::process::binary;
use crate::support::raw::{answer_to, client_hello};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Sidecar};

/// A running `tlsidecar trace` of all devices, with secrets in the capture.
struct Tracing {
    child: Running,
    /// Its output, until the test closes it.
    lines: Option<BufReader<ChildStdout>>,
    path: PathBuf,
}

impl Tracing {
    /// Starts it, and waits until the trace has begun.
    fn start(dir: &Path) -> Self {
        let path = dir.join("capture.pcapng");
        let mut command = trace(dir);
        command.args(["--output", "json", "--pcap-secrets", "--pcap"]).arg(&path);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = child.stdout.take().map(BufReader::new);
        let mut tracing = Self { child: Running(child), lines, path };
        tracing.until("started");
        tracing
    }

    /// Waits for a step of this kind.
    fn until(&mut self, kind: &str) {
        let (lines, mut line) = (self.lines.as_mut().unwrap(), String::new());
        while !line.contains(&format!("\"step\":\"{kind}\"")) {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "no step {kind}");
        }
    }
}

/// Returns a command that traces all devices.
fn trace(dir: &Path) -> Command {
    let mut command = binary();
    let admin = format!("unix:{}", dir.join("admin.sock").display());
    command.args(["trace", "--peer", "127.0.0.1", "--for", "60s", "--admin", &admin]);
    command
}

/// Traces a device that waits in its handshake, ends the trace, and returns the exit code and the content of the file.
async fn ended_by(end: impl AsyncFnOnce(&mut Tracing, &mut Option<Sidecar>)) -> (i32, Read) {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let mut sidecar = Some(sidecar(&authority, &backend, ""));
    let mut tracing = Tracing::start(authority.dir());
    let mut device = TcpStream::connect(sidecar.as_ref().unwrap().address).await.unwrap();
    device.write_all(&client_hello()).await.unwrap();
    tracing.until("hello");
    end(&mut tracing, &mut sidecar).await;
    let waited = tokio::task::spawn_blocking(move || {
        let status = tracing.child.0.wait().unwrap();
        (status.code().unwrap(), Read::of(&tracing.path))
    });
    let ended = within("its end", waited).await.unwrap();
    drop(device);
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_ends_early_writes_the_packets_of_devices_in_their_handshake() {
    for (name, expected) in [("INT", 0), ("TERM", 0), ("closed output", 0), ("no sidecar", 1)] {
        let (code, read) = ended_by(async |tracing, sidecar| match name {
            "closed output" => {
                tracing.lines = None;
                answer_to(sidecar.as_ref().unwrap().address, b"GET / HTTP/1.1\r\n\r\n").await;
            }
            "no sidecar" => *sidecar = None,
            signal => tracing.child.signal(signal),
        })
        .await;
        assert_eq!(code, expected, "{name}");
        assert!(read.streams.values().any(|bytes| bytes.starts_with(&[22, 3])), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_kind_is_refused_and_one_file_for_secrets_and_packets() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let _sidecar = sidecar(&authority, &backend, "");
    let dir = authority.dir();
    let [other, same, link] = ["other", "same", "link"].map(|name| dir.join(name));
    std::fs::write(&other, "CLIENT_RANDOM 00 00\n").unwrap();
    std::fs::write(&same, "").unwrap();
    for path in [&other, &same] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    std::fs::hard_link(&same, &link).unwrap();
    let mut command = trace(dir);
    let (code, _, lines) = output(command.arg("--pcap").arg(&other));
    assert!(code == 1 && lines.contains("other: it is no pcapng file"), "{lines}");
    for pcap in [&same, &link] {
        let mut command = trace(dir);
        let (code, _, lines) = output(command.arg("--pcap").arg(pcap).arg("--keylog").arg(&same));
        assert!(code == 1 && lines.contains("--keylog and --pcap are the same file"), "{lines}");
    }
    assert_eq!(std::fs::read(&same).unwrap(), b"");
    assert_eq!(std::fs::read(&other).unwrap().len(), 20);
}
