//! Rolling restarts: a new process takes over the port while devices connect.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::support::file;
use crate::support::process::{binary, by_shell};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Sidecar, eventually};

/// Devices that connect per second, each for one message.
const PER_SECOND: u32 = 500;

/// Devices that are connected or connect at a time. On a busy machine, there are fewer per second than wanted, so that
/// none of them waits until its handshake's deadline.
const AT_A_TIME: usize = 100;

/// Connects devices until it is ended.
struct Load {
    end: tokio::sync::oneshot::Sender<()>,
    outcomes: tokio::task::JoinHandle<Vec<Result<(), String>>>,
}

impl Load {
    fn start(device: &Device, address: SocketAddr) -> Self {
        let (end, mut ended) = tokio::sync::oneshot::channel();
        let device = device.clone();
        let outcomes = tokio::spawn(async move {
            let room = Arc::new(Semaphore::new(AT_A_TIME));
            let mut ticks = interval(Duration::from_secs(1) / PER_SECOND);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut devices = JoinSet::new();
            while ended.try_recv().is_err() {
                ticks.tick().await;
                let place = Arc::clone(&room).acquire_owned().await.unwrap();
                let device = device.clone();
                devices.spawn(async move {
                    let outcome = one(&device, address).await.map_err(|error| error.to_string());
                    drop(place);
                    outcome
                });
            }
            devices.join_all().await
        });
        Self { end, outcomes }
    }

    /// Ends the load. Asserts that no device has failed.
    async fn ended(self) {
        let _ended = self.end.send(());
        let outcomes = within("the last device", self.outcomes).await.unwrap();
        let failed: Vec<_> = outcomes.iter().filter_map(|one| one.as_ref().err()).collect();
        assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), outcomes.len());
    }
}

/// One device: a handshake, a message and its echo, and the end of both sides.
async fn one(device: &Device, address: SocketAddr) -> std::io::Result<()> {
    let mut session = device.echo(address).await?;
    session.shutdown().await?;
    match within("the end", session.read(&mut [0; 1])).await? {
        0 => Ok(()),
        _ => Err(std::io::Error::other("data after the echo")),
    }
}

/// Waits until a process has accepted so many devices.
async fn serves(sidecar: &Sidecar, devices: u64) {
    let series = "tlsidecar_connections_accepted_total{listener=\"test\"}";
    eventually("it serves devices", || sidecar.count(series) >= devices).await;
}

/// Stops `old` while devices connect and `new` serves them too. Asserts that each device is served.
async fn restart(device: &Device, mut old: Sidecar, start_new: impl FnOnce(SocketAddr) -> Sidecar) {
    let load = Load::start(device, old.address);
    serves(&old, 500).await;
    let new = start_new(old.address);
    serves(&new, 1).await;
    old.signal("TERM");
    let ended = tokio::task::spawn_blocking(move || (old.ended().code(), old.log()));
    let (code, log) = within("its end", ended).await.unwrap();
    assert_eq!(code, Some(0), "{log}");
    serves(&new, 500).await;
    load.ended().await;
}

/// Returns a configuration with a drain that waits for its connections, and `more` in its listener.
fn text(authority: &Authority, backend: &Backend, more: &str) -> String {
    let more = format!("{more}[shutdown]\ndrain_timeout = \"1m\"\n");
    file::text(backend.address, &authority.server(), &more)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_with_a_reused_port_fails_no_device() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let text = text(&authority, &backend, "reuse_port = true\n");
    let old = Sidecar::start(authority.dir(), &text);
    let directory = tempfile::tempdir().unwrap();
    let start_new = |address| {
        let listen = "name = \"test\"\nlisten = \"";
        let any = format!("{listen}127.0.0.1:0");
        assert!(text.contains(&any));
        Sidecar::start(directory.path(), &text.replace(&any, &format!("{listen}{address}")))
    };
    restart(&Device::new(&authority), old, start_new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_with_a_passed_socket_fails_no_device() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let text = text(&authority, &backend, "");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let start = || {
        // LISTEN_PID has to be the id of the process itself.
        let mut command = by_shell("LISTEN_PID=$$ exec \"$@\" 3<&0 </dev/null");
        command.arg("--config").arg(file::write(authority.dir(), &text));
        command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "test");
        command.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
        Sidecar::run(command)
    };
    restart(&Device::new(&authority), start(), |_| start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_reuse_port_shares_its_port_with_no_other() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let first = Sidecar::start(authority.dir(), &text(&authority, &backend, ""));
    let directory = tempfile::tempdir().unwrap();
    let second = text(&authority, &backend, "reuse_port = true\n");
    let second = second.replace("127.0.0.1:0\"\nbackend", &format!("{}\"\nbackend", first.address));
    assert!(second.contains(&first.address.to_string()));
    let mut command = binary();
    command.arg("--config").arg(file::write(directory.path(), &second));
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("reuse_port"), "{log}");
}
