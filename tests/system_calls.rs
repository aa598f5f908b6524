//! The system calls of a connection, counted by strace.
//!
//! The table of docs/performance-rationale.md has the calls one by one.
//!
//! **Not here.** Waits (epoll_wait, futex), whose number depends on the time between two packets, and writes of the log.

use std::collections::BTreeMap;
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::certs::Wish;
use crate::support::client::Session;
use crate::support::command::{has, skipped};
use crate::support::process::by_shell;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Pair, Sidecar};

/// Enough that the start and the end of the process do not count.
const CONNECTIONS: usize = 200;

/// Returns the calls of a connection with a full handshake, one echo, and an end.
async fn calls<End: Future<Output = ()>>(end: impl Fn(Session) -> End) -> BTreeMap<String, f64> {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let Pair { files, .. } = authority.issue("server", &Wish::default());
    let backend = Backend::echo().await;
    let table = dir.path().join("calls");
    let mut command =
        by_shell("exec strace -f -c -e trace=%network,close,epoll_ctl,ppoll -o \"$TABLE\" \"$@\"");
    command.env("TABLE", &table).args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(["--backend", &backend.address.to_string()]);
    command.arg("--cert").arg(files.cert).arg("--key").arg(files.key);
    let mut sidecar = Sidecar::run(command);
    let device = Device::new(&authority);
    for _ in 0..CONNECTIONS {
        end(device.echo(sidecar.address).await.unwrap()).await;
    }
    let strace = sidecar.pid();
    let traced = std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children"));
    let killed = Command::new("kill").args(["-TERM", traced.unwrap().trim()]).status();
    assert!(killed.unwrap().success());
    assert!(sidecar.ended().success());
    rows(&std::fs::read_to_string(table).unwrap())
}

/// Returns the calls of a table of strace for one of the connections.
fn rows(table: &str) -> BTreeMap<String, f64> {
    let row = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let calls: u32 = fields.get(3)?.parse().ok()?;
        let times = f64::from(calls) / CONNECTIONS as f64;
        Some(((*fields.last()?).to_owned(), times))
    };
    table.lines().filter_map(row).filter(|(name, _)| name != "total").collect()
}

/// Calls of every connection, however it ends.
const ALWAYS: [(&str, f64); 7] = [
    ("epoll_ctl", 4.0),
    ("close", 2.0),
    ("socket", 1.0),
    ("connect", 1.0),
    ("getpeername", 1.0),
    ("getsockname", 1.0),
    ("ppoll", 1.0),
];

/// Asserts the calls that do not depend on time: those of every connection, and `expected`. Reads and accepts may find nothing once more.
fn assert_calls(mut calls: BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    let mut take = |name: &str| calls.remove(name).unwrap_or_default();
    let (reads, accepts) = (take("recvfrom"), take("accept4"));
    assert!((4.0..8.0).contains(&reads), "{reads} reads");
    assert!((1.0..=2.1).contains(&accepts), "{accepts} accepts");
    for &(name, times) in ALWAYS.iter().chain(expected) {
        let found = take(name);
        assert!((found - times).abs() < 0.4, "{name}: {found}, expected {times}");
    }
    calls.retain(|_, times| *times > 0.4);
    assert!(calls.is_empty(), "calls that are not expected: {calls:?}");
}

#[tokio::test]
async fn a_connection_that_ends_by_a_reset_takes_no_more_calls_than_documented() {
    if !has("strace") && skipped("strace is not installed") {
        return;
    }
    let found = calls(async |session: Session| {
        session.get_ref().0.set_zero_linger().unwrap();
    })
    .await;
    assert_calls(found, &[("sendto", 4.0), ("setsockopt", 4.0)]);
}

#[tokio::test]
async fn a_connection_that_ends_in_order_takes_no_more_calls_than_documented() {
    if !has("strace") && skipped("strace is not installed") {
        return;
    }
    let found = calls(async |mut session: Session| {
        session.shutdown().await.unwrap();
        let read = within("the proxy's end", session.read(&mut [0; 1])).await;
        assert_eq!(read.unwrap(), 0);
    })
    .await;
    assert_calls(found, &[("sendto", 5.0), ("setsockopt", 3.0), ("shutdown", 2.0)]);
}
