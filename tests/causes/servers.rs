//! The legacy server is down, cannot be reached, or does not answer; or this process has no descriptors for it.

use std::process::Command;
use std::time::Duration;

use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::before;
use crate::support::access_log::{has_fields, line, number};
use crate::support::admin::Client;
use crate::support::backend::{FullBacklog, nobody};
use crate::support::client::Session;
use crate::support::proxy::{closed_series, metric};
use crate::support::wait::within;
use crate::support::{Backend, Device, Sidecar, eventually};

/// Expects the orderly end of a device whose backend is not connected, and returns the log line.
async fn unserved(device: &Device, sidecar: &mut Sidecar, result: &str) -> String {
    let mut session = device.connect(sidecar.address).await.unwrap();
    assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
    let line = line(sidecar, &format!("backend_{result}"));
    let (_, text) = sidecar.ask("GET", "/metrics").unwrap();
    let of = |name: &str, more: &str| {
        let found = text.lines().find(|line| line.starts_with(name) && line.contains(more));
        found.unwrap_or_else(|| panic!("no {name}")).rsplit_once(' ').unwrap().1.to_owned()
    };
    assert_eq!(of("tlsidecar_backend_up{", ""), "0");
    assert_eq!(of("tlsidecar_backend_connects_total{", &format!("result=\"{result}\"")), "1");
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_named_with_its_address() {
    let nobody = nobody();
    let (device, mut sidecar) = before(nobody, "");
    let line = unserved(&device, &mut sidecar, "refused").await;
    has_fields(&line, &[&format!("backend=\"{nobody}\""), "error="]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_accept_is_named_with_its_address() {
    let full = FullBacklog::new().await;
    let (device, mut sidecar) = before(full.address, "timeouts.connect = \"300ms\"\n");
    let line = unserved(&device, &mut sidecar, "timeout").await;
    has_fields(&line, &[&format!("backend=\"{}\"", full.address), "error="]);
}

/// A server that accepts, reads, and never answers; and a device that has sent its report.
async fn unanswered() -> (Backend, Sidecar, Session) {
    let backend = Backend::serving(|mut tcp| async move {
        while tcp.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let (device, sidecar) = before(backend.address, "");
    let mut session = device.connect(sidecar.address).await.unwrap();
    session.write_all(b"is anybody there?").await.unwrap();
    let bytes = "tlsidecar_bytes_total{direction=\"to_backend\",listener=\"test\"}";
    eventually("the server has it", || sidecar.count(bytes) > 0).await;
    (backend, sidecar, session)
}

/// Resets the connection of a device, as many do that give up.
fn reset(session: Session) {
    let (tcp, _) = session.into_inner();
    tcp.set_zero_linger().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_seen_by_the_missing_first_byte() {
    let (_backend, mut sidecar, session) = unanswered().await;
    // An end that follows the last message at once has no notable silence.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    reset(session);
    let line = line(&mut sidecar, "client_reset");
    has_fields(&line, &["bytes_to_backend=17", "bytes_to_client=0"]);
    assert!(number(&line, "backend_silent_ms") >= 1000.0, "{line}");
    assert!(number(&line, "last_to_backend_ms") <= number(&line, "duration_ms"), "{line}");
    assert!(!line.contains("last_to_client_ms"), "{line}");
    let count = |name| sidecar.count(&format!("tlsidecar_backend_{name}{{listener=\"test\"}}"));
    let counts = (count("connect_duration_seconds_count"), count("first_byte_seconds_count"));
    assert_eq!(counts, (1, 0), "connected, and not answered");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half a minute"]
async fn a_server_that_does_not_answer_for_long_is_silent_and_its_devices_have_not_failed() {
    let (_backend, mut sidecar, session) = unanswered().await;
    let silent = || sidecar.count("tlsidecar_backend_silent_sessions{listener=\"test\"}");
    assert_eq!(silent(), 0);
    tokio::time::timeout(Duration::from_secs(40), async {
        while silent() == 0 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
    .await
    .unwrap();
    reset(session);
    line(&mut sidecar, "client_reset");
    let (_, top) = sidecar.ask("GET", "/top?by=peer&what=failures").unwrap();
    assert!(!top.contains("127.0.0.1"), "{top}");
    let (_, top) = sidecar.ask("GET", "/top?by=peer&what=bytes").unwrap();
    assert!(top.contains("127.0.0.1"), "{top}");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_beyond_the_limit_wait_and_the_limit_is_named() {
    let backend = Backend::echo().await;
    let (device, mut sidecar) = before(backend.address, "limits.max_connections = 2\n");
    let mut kept = Vec::new();
    for _ in 0..2 {
        kept.push(device.echo(sidecar.address).await.unwrap());
    }
    let at_limit = "tlsidecar_connections_at_limit{listener=\"test\"}";
    // The kernel accepts it for its backlog.
    let waiting = TcpStream::connect(sidecar.address).await.unwrap();
    eventually("the limit is reached", || sidecar.count(at_limit) == 1).await;
    sidecar.until("the log names it", |log| {
        log.lines().any(|line| line.contains("limit of connections") && line.contains("limit=2"))
    });
    assert_eq!(sidecar.count("tlsidecar_connections_limit{listener=\"test\"}"), 2);
    drop((waiting, kept));
    eventually("there is room", || sidecar.count(at_limit) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_descriptor_is_named_and_the_server_is_not_blamed() {
    let backend = Backend::echo().await;
    let (device, mut sidecar) = before(backend.address, "");
    let _kept = device.echo(sidecar.address).await.unwrap();
    // Over an open connection: a new one would need a descriptor.
    let mut admin = Client::connect(sidecar.admin).await;
    let place = format!("/proc/{}/fd", sidecar.pid());
    let is_free = |fd: &usize| !std::path::Path::new(&format!("{place}/{fd}")).exists();
    let free = (0..).find(is_free).unwrap();
    let (pid, nofile) = (sidecar.pid().to_string(), format!("--nofile={}:20000", free + 1));
    assert!(Command::new("prlimit").args(["--pid", &pid, &nofile]).status().unwrap().success());
    let mut session = device.connect(sidecar.address).await.unwrap();
    assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
    has_fields(&line(&mut sidecar, "proxy_fd_limit"), &["error="]);
    let text = admin.text().await;
    assert_eq!(metric(&text, &closed_series(Reason::ProxyFdLimit)), Some(1));
    let backend = backend.address;
    let up = format!("tlsidecar_backend_up{{backend=\"{backend}\",listener=\"test\"}}");
    assert_eq!(metric(&text, &up), Some(1), "the server is up");
}
