//! `POST /trace` and `tlsidecar trace`: each step of one device's connections.

mod alerts;
mod interrupted;
mod pcap;
mod recording;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tlsidecar::config::{ClientAuth, Config};
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::support::command::has;
use crate::support::process::{ask, binary};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Fleet, Sidecar, eventually, file};

/// Starts a proxy that accepts client certificates, with the admin socket [`socket`].
async fn fleet() -> Fleet {
    let set =
        |config: &mut Config, servers: &Authority| config.admin.socket = Some(socket(servers));
    Fleet::new(ClientAuth::Optional, set).await
}

fn socket(servers: &Authority) -> PathBuf {
    servers.dir().join("admin.sock")
}

async fn follow(fleet: &Fleet, query: &str) -> Trace {
    Trace::start(TcpStream::connect(fleet.admin()).await.unwrap(), query).await
}

/// Connects a device, and ends its session.
async fn visit(fleet: &Fleet, device: &Device) {
    let ended = || fleet.proxy.closed(Reason::Ok);
    let before = ended();
    let mut session = device.echo(fleet.proxy.address).await.unwrap();
    session.shutdown().await.unwrap();
    assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
    drop(session);
    eventually("it has ended", || ended() > before).await;
}

/// A client that reads a trace.
struct Trace {
    io: Box<dyn Io>,
    text: String,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Trace {
    async fn start(io: impl Io + 'static, query: &str) -> Self {
        let mut trace = Self { io: Box::new(io), text: String::new() };
        let request = format!("POST /trace?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        trace.io.write_all(request.as_bytes()).await.unwrap();
        while !trace.text.contains("\"started\"") {
            assert!(trace.more().await, "{}", trace.text);
        }
        trace
    }

    /// Reads more. Returns false at the end.
    async fn more(&mut self) -> bool {
        let mut chunk = [0; 8192];
        let read = within("steps", self.io.read(&mut chunk)).await.unwrap();
        self.text.push_str(&String::from_utf8_lossy(&chunk[..read]));
        read > 0
    }

    /// Returns the steps that have come, without the line of the start.
    fn steps(&self) -> Vec<Value> {
        let lines = self.text.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.filter(|step: &Value| step["step"].is_string() && step["step"] != "started").collect()
    }

    /// Waits until so many connections have ended, and returns all steps.
    async fn until_closed(&mut self, count: usize) -> Vec<Value> {
        let closed = |steps: &[Value]| steps.iter().filter(|step| step["step"] == "closed").count();
        while closed(&self.steps()) < count {
            assert!(self.more().await, "{}", self.text);
        }
        self.steps()
    }
}

fn kinds(steps: &[Value]) -> Vec<&str> {
    let kinds = steps.iter().map(|step| step["step"].as_str().unwrap());
    kinds.filter(|kind| *kind != "bytes").collect()
}

fn find<'a>(steps: &'a [Value], kind: &str) -> &'a Value {
    let found = steps.iter().find(|step| step["step"] == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {steps:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_a_device_is_shown_over_its_connections_and_no_step_of_another_one() {
    let fleet = fleet().await;
    let mut trace = follow(&fleet, "identity=pump-7").await;
    let (pump, other) = (fleet.device("pump-7"), fleet.device("pump-8"));
    for device in [&other, &pump, &other, &pump] {
        visit(&fleet, device).await;
    }
    let steps = trace.until_closed(2).await;
    let visit = [
        "accepted",
        "hello",
        "policy",
        "server_certificate",
        "client_certificate",
        "handshake",
        "backend",
        "relay",
        "alert",
        "alert",
        "closed",
    ];
    assert_eq!(kinds(&steps), [visit, visit].concat());
    assert!(steps.iter().all(|step| step["matched"] == "verified"), "{steps:?}");
    let hello = find(&steps, "hello");
    assert_eq!(hello["versions"], serde_json::json!(["1.3", "1.2"]));
    assert_eq!((&hello["sni"], &hello["groups"][0]), (&"localhost".into(), &"X25519".into()));
    for (key, name) in [("suites", "TLS_AES_128_GCM_SHA256"), ("schemes", "ecdsa_secp256r1_sha256")]
    {
        assert!(hello[key].as_array().unwrap().contains(&name.into()), "{key} in {hello}");
    }
    let certificate = find(&steps, "client_certificate");
    assert_eq!(
        (&certificate["verified"], &certificate["names"][0]),
        (&true.into(), &"pump-7".into())
    );
    assert_eq!(find(&steps, "server_certificate")["key"], "ecdsa");
    assert_eq!(find(&steps, "policy")["client_certificate"], "optional");
    assert_eq!(find(&steps, "handshake")["tls"], "1.3");
    let closed = find(&steps, "closed");
    assert_eq!((&closed["reason"], &closed["bytes_to_client"]), (&"ok".into(), &4.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_certificate_is_found_by_the_name_that_it_claims_with_our_alert() {
    let fleet = fleet().await;
    let mut trace = follow(&fleet, "identity=pump-7").await;
    let strangers = Authority::new("strangers");
    let stranger = Device::showing(&fleet.servers, &strangers.device("pump-7"));
    stranger.refused_with(fleet.proxy.address).await;
    let steps = trace.until_closed(1).await;
    assert!(steps.iter().all(|step| step["matched"] == "claimed"), "{steps:?}");
    assert_eq!(kinds(&steps)[3..], ["server_certificate", "client_certificate", "alert", "closed"]);
    assert_eq!(find(&steps, "client_certificate")["verified"], false);
    let alert = find(&steps, "alert");
    assert_eq!((&alert["sender"], &alert["alert"]), (&"tlsidecar".into(), &"unknown_ca".into()));
    assert_eq!(find(&steps, "closed")["reason"], "client_cert_unknown_ca");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_rejects_our_certificate_is_found_by_its_last_address_with_its_alert() {
    let fleet = fleet().await;
    let mut trace = follow(&fleet, "identity=pump-7").await;
    visit(&fleet, &fleet.device("pump-7")).await;
    let distrusting = Authority::new("others");
    let distrusting = Device::showing(&distrusting, &fleet.devices.device("pump-7"));
    distrusting.connect(fleet.proxy.address).await.unwrap_err();
    let steps = trace.until_closed(2).await;
    let last = steps.last().unwrap();
    assert_eq!(
        (&last["matched"], &last["reason"]),
        (&"address".into(), &"client_tls_alert".into())
    );
    assert_eq!(last["likely_cause"], "unknown_ca");
    let alert = steps.iter().rfind(|step| step["step"] == "alert").unwrap();
    assert_eq!((&alert["sender"], &alert["alert"]), (&"device".into(), &"unknown_ca".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_open_already_is_shown_with_its_bytes_and_its_end() {
    let fleet = fleet().await;
    let mut session = fleet.device("pump-7").echo(fleet.proxy.address).await.unwrap();
    let mut trace = follow(&fleet, "identity=pump-*").await;
    while trace.steps().is_empty() {
        assert!(trace.more().await);
    }
    session.write_all(b"more").await.unwrap();
    while !trace.text.contains("\"bytes\"") {
        assert!(trace.more().await);
    }
    assert_eq!(find(&trace.steps(), "bytes")["bytes_to_backend"], 8);
    session.shutdown().await.unwrap();
    drop(session);
    let steps = trace.until_closed(1).await;
    assert_eq!(kinds(&steps), ["connected", "closed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_traces_of_one_device_have_its_end_both_however_late_they_have_begun() {
    let fleet = fleet().await;
    let mut first = follow(&fleet, "identity=pump-7").await;
    let mut session = fleet.device("pump-7").echo(fleet.proxy.address).await.unwrap();
    let mut second = follow(&fleet, "identity=pump-7").await;
    while second.steps().is_empty() {
        assert!(second.more().await);
    }
    session.shutdown().await.unwrap();
    drop(session);
    let steps = second.until_closed(1).await;
    assert_eq!(kinds(&steps), ["connected", "closed"]);
    let steps = first.until_closed(1).await;
    let ends = kinds(&steps).into_iter().filter(|kind| ["accepted", "closed"].contains(kind));
    assert_eq!(ends.collect::<Vec<_>>(), ["accepted", "closed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_accepted_before_the_trace_is_shown_once_it_is_connected() {
    let fleet = fleet().await;
    let early = TcpStream::connect(fleet.proxy.address).await.unwrap();
    eventually("it is accepted", || fleet.proxy.active() == 1).await;
    let mut trace = follow(&fleet, "identity=pump-7").await;
    let session = fleet.device("pump-7").connect_over(early).await.unwrap();
    drop(session);
    assert_eq!(kinds(&trace.until_closed(1).await), ["connected", "closed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_are_bounded_and_end_after_their_time_and_when_their_client_leaves() {
    let fleet = fleet().await;
    let mut short = follow(&fleet, "peer=127.0.0.1&seconds=1").await;
    while short.more().await {}
    let ended = short.steps().pop().unwrap();
    assert_eq!((&ended["step"], &ended["reason"]), (&"ended".into(), &"time".into()));
    let mut running = Vec::new();
    for _ in 0..4 {
        running.push(follow(&fleet, "peer=127.0.0.1").await);
    }
    let status =
        |query: &str| ask(fleet.admin(), "POST", &format!("/trace?{query}"), "").unwrap().0;
    assert_eq!(status("peer=127.0.0.1"), 503);
    running.pop();
    eventually("there is room", || status("peer=127.0.0.1&seconds=1") == 200).await;
    for (query, expected) in [
        ("", 400),
        ("seconds=9", 400),
        ("peer=x", 400),
        ("listener=nosuch", 400),
        ("identity=a&seconds=3601", 400),
        ("identity=a&packets=0", 400),
        ("identity=a&packets=1073741825", 400),
    ] {
        assert_eq!(status(query), expected, "{query}");
    }
    fleet.proxy.app.shutdown.drain();
    for mut trace in running {
        while trace.more().await {}
        assert_eq!(trace.steps().pop().unwrap()["reason"], "drained");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_those_of_the_device_and_are_sent_over_the_unix_socket_alone() {
    if !has("openssl") {
        return;
    }
    let fleet = fleet().await;
    let refused = ask(fleet.admin(), "POST", "/trace?sni=traced.example&keys=true", "").unwrap();
    assert_eq!(refused.0, 403, "{}", refused.1);
    let socket = UnixStream::connect(socket(&fleet.servers)).await.unwrap();
    let mut trace = Trace::start(socket, "sni=traced.example&keys=true").await;
    let mut without = follow(&fleet, "sni=traced.example").await;
    let dir = tempfile::tempdir().unwrap();
    let log = |name: &str, version: &str| {
        let path = dir.path().join(name.to_owned() + version);
        let connect = fleet.proxy.address.to_string();
        let ran = Command::new("openssl")
            .args(["s_client", "-connect", &connect, "-servername", name, version, "-keylogfile"])
            .arg(&path)
            .stdin(Stdio::null())
            .output();
        assert!(ran.unwrap().status.success());
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    };
    let (own, other) = tokio::task::block_in_place(|| {
        let other = [log("other.example", "-tls1_3"), log("other.example", "-tls1_2")].concat();
        ([log("traced.example", "-tls1_3"), log("traced.example", "-tls1_2")].concat(), other)
    });
    let steps = trace.until_closed(2).await;
    let keys = steps.iter().filter(|step| step["step"] == "key");
    let keys: BTreeSet<_> = keys.map(|step| step["line"].as_str().unwrap().to_owned()).collect();
    // openssl also logs what no record needs, such as an exporter secret.
    let needed = |line: &&String| line.contains("TRAFFIC_SECRET") || line.starts_with("CLIENT_R");
    let own: Vec<_> = own.iter().filter(needed).collect();
    assert!(own.len() >= 5 && own.iter().all(|line| keys.contains(*line)), "{own:?} in {keys:?}");
    assert!(!other.is_empty() && other.iter().all(|line| !keys.contains(line)));
    let steps = without.until_closed(2).await;
    assert!(!kinds(&steps).contains(&"key"), "it did not ask for them");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_the_steps_and_writes_secrets_to_a_private_file_and_the_log_has_an_audit()
 {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let socket = authority.dir().join("admin.sock");
    let text = file::text(backend.address, &authority.server(), "");
    let text = text.replace("[admin]\n", &format!("[admin]\nsocket = {socket:?}\n"));
    let mut sidecar = Sidecar::start(authority.dir(), &text);
    let keylog = authority.dir().join("keys");
    let trace = |output: &str| {
        let mut command = binary();
        command.args(["trace", "--peer", "127.0.0.1", "--for", "2s", "--output", output]);
        command.arg("--admin").arg(format!("unix:{}", socket.display()));
        command.arg("--keylog").arg(&keylog);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let (text, json) = (trace("text"), trace("json"));
    let started = |log: &str| log.matches("trace started").count();
    sidecar.until("both have begun", |log| started(log) == 2);
    drop(Device::new(&authority).echo(sidecar.address).await.unwrap());
    let (text, json) = tokio::task::block_in_place(|| {
        (text.wait_with_output().unwrap(), json.wait_with_output().unwrap())
    });
    assert!(text.status.success() && json.status.success(), "{text:?}\n{json:?}");
    let lines = String::from_utf8(text.stdout).unwrap();
    for step in [
        " ms accepted listener=test peer=127.0.0.1:",
        " ms hello sni=localhost ",
        " ms closed reason=",
    ] {
        assert!(lines.contains(step), "{step} in {lines}");
    }
    let json = String::from_utf8(json.stdout).unwrap();
    assert!(json.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{json}");
    let keys = std::fs::read_to_string(&keylog).unwrap();
    assert!(keys.contains("CLIENT_TRAFFIC_SECRET_0 "), "{keys}");
    let secret = keys.lines().next().unwrap().rsplit(' ').next().unwrap();
    assert!(!lines.contains(secret) && !json.contains(secret) && !sidecar.log().contains(secret));
    assert_eq!(keylog.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    sidecar.until("both have ended", |log| log.matches("trace ended").count() == 2);
    let log = sidecar.log();
    assert!(log.contains("selection=\"peer=127.0.0.1&seconds=2&keys=true\""), "{log}");
    assert!(log.contains("caller=uid ") && log.contains("keys=true"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_ends_in_order_with_the_process() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let socket = authority.dir().join("admin.sock");
    let text = file::text(backend.address, &authority.server(), "");
    let text = text.replace("[admin]\n", &format!("[admin]\nsocket = {socket:?}\n"));
    for _ in 0..4 {
        let mut sidecar = Sidecar::start(authority.dir(), &text);
        let mut command = binary();
        command.args(["trace", "--peer", "127.0.0.1", "--admin"]);
        command.arg(format!("unix:{}", socket.display()));
        let trace = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        sidecar.until("it has begun", |log| log.contains("trace started"));
        sidecar.signal("TERM");
        assert!(sidecar.ended().success());
        let ended = tokio::task::block_in_place(|| trace.wait_with_output().unwrap());
        assert!(ended.status.success(), "{ended:?}");
        assert!(sidecar.log().contains("trace ended"), "{}", sidecar.log());
    }
}
