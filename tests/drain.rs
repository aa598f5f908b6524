//! The drain: by signal, by request, and `tlsidecar drain --wait`.

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout};
use std::time::Duration;

use tlsidecar::config::{Config, ShutdownConfig};
use tlsidecar::lifecycle::{Drained, Phase};
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::bytes;
use crate::support::client::say_and_hear;
use crate::support::file;
use crate::support::process::{ask, binary};
use crate::support::proxy::{config, listener};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Proxy, Sidecar, eventually};

const LONG: Duration = Duration::from_secs(600);

/// A proxy with these times of a drain, and a device.
async fn draining(delay: Duration, drain_timeout: Duration) -> (Device, Backend, Proxy) {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let config = Config {
        shutdown: ShutdownConfig { delay, drain_timeout },
        ..config(listener(backend.config(), &authority.server()))
    };
    (Device::new(&authority), backend, Proxy::on(config, None))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_proxy_is_drained_at_once() {
    let (_device, _backend, proxy) = draining(Duration::ZERO, LONG).await;
    proxy.app.shutdown.drain();
    let drained = within("the drain", proxy.app.shutdown.drained()).await;
    assert_eq!(drained, Drained::Clean);
    assert!(TcpStream::connect(proxy.address).await.is_err(), "the listener is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn during_the_delay_the_proxy_is_not_ready_and_still_accepts() {
    let (device, _backend, proxy) = draining(LONG, LONG).await;
    assert_eq!(ask(proxy.app.admin.unwrap(), "GET", "/readyz", "").unwrap().0, 200);
    proxy.app.shutdown.drain();
    eventually("it is not ready", || proxy.app.shutdown.phase() == Phase::Draining).await;
    assert_eq!(ask(proxy.app.admin.unwrap(), "GET", "/readyz", "").unwrap().0, 503);
    assert_eq!(ask(proxy.app.admin.unwrap(), "GET", "/livez", "").unwrap().0, 200);
    drop(device.echo(proxy.address).await.unwrap());
    proxy.ends_with(Reason::ClientTruncated).await;
    proxy.app.shutdown.force();
    within("the drain", proxy.app.shutdown.drained()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_may_end_by_themselves_and_new_ones_are_refused() {
    let (device, _backend, proxy) = draining(Duration::ZERO, LONG).await;
    let mut open = device.echo(proxy.address).await.unwrap();
    proxy.app.shutdown.drain();
    eventually("the listener is closed", || proxy.app.shutdown.phase() == Phase::Closing).await;
    eventually("new ones are refused", || std::net::TcpStream::connect(proxy.address).is_err())
        .await;
    say_and_hear(&mut open, b"not yet done").await.unwrap();
    open.shutdown().await.unwrap();
    assert_eq!(within("the end", open.read(&mut [0; 1])).await.unwrap(), 0);
    drop(open);
    assert_eq!(within("the drain", proxy.app.shutdown.drained()).await, Drained::Clean);
    proxy.ends_with(Reason::Ok).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_deadline_the_rest_is_forced_with_a_close_notify() {
    let (device, _backend, proxy) = draining(Duration::ZERO, Duration::from_millis(300)).await;
    let mut open =
        [device.echo(proxy.address).await.unwrap(), device.echo(proxy.address).await.unwrap()];
    let silent = TcpStream::connect(proxy.address).await.unwrap();
    eventually("all are accepted", || proxy.active() > 2).await;
    proxy.app.shutdown.drain();
    for session in &mut open {
        // rustls reports a close_notify as 0 bytes, and an end without one as an error.
        assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
    }
    let drained = within("the drain", proxy.app.shutdown.drained()).await;
    assert_eq!(drained, Drained::Forced(3));
    proxy.end_with(Reason::DrainDeadline, 3).await;
    drop((open, silent));
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_in_flight_are_finished() {
    const TOTAL: usize = 8 << 20;
    let (device, _backend, proxy) = draining(Duration::ZERO, LONG).await;
    let transfers = (0..5).map(|seed| {
        let (device, address) = (device.clone(), proxy.address);
        tokio::spawn(async move {
            let session = device.echo(address).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(session);
            let sending = async {
                let sent = bytes::send(&mut writer, seed, TOTAL, 50_000).await;
                writer.shutdown().await.unwrap();
                sent
            };
            let (sent, got) = tokio::join!(sending, bytes::receive(&mut reader));
            assert_eq!(got, (TOTAL, sent));
        })
    });
    let transfers: Vec<_> = transfers.collect();
    eventually("all have begun", || proxy.active() > 4).await;
    proxy.app.shutdown.drain();
    for transfer in transfers {
        within("a transfer", transfer).await.unwrap();
    }
    assert_eq!(within("the drain", proxy.app.shutdown.drained()).await, Drained::Clean);
    proxy.end_with(Reason::Ok, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_drain_by_request_devices_are_refused() {
    let (device, _backend, proxy) = draining(Duration::ZERO, LONG).await;
    let open = device.echo(proxy.address).await.unwrap();
    assert_eq!(ask(proxy.app.admin.unwrap(), "POST", "/drain", "").unwrap().0, 202);
    let refused = || std::net::TcpStream::connect(proxy.address).is_err();
    eventually("the listener is closed", refused).await;
    let error = TcpStream::connect(proxy.address).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    drop(open);
    within("the drain", proxy.app.shutdown.drained()).await;
    // The process lives on, but its port stays closed.
    assert!(refused());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_binary_finishes_transfers_in_flight_refuses_new_connections_and_ends_with_0() {
    const TOTAL: usize = 4 << 20;
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let more = "[shutdown]\ndrain_timeout = \"1h\"\n";
    let text = file::text(backend.address, &authority.server(), more);
    let mut sidecar = Sidecar::start(authority.dir(), &text);
    let session = Device::new(&authority).echo(sidecar.address).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(session);
    let half = bytes::send(&mut writer, 1, TOTAL, 50_000);
    let (first, got) = tokio::join!(half, bytes::receive_some(&mut reader, TOTAL));
    assert_eq!(got, first);
    // The signal comes in the middle of the transfer.
    sidecar.signal("TERM");
    let refused = || std::net::TcpStream::connect(sidecar.address).is_err();
    eventually("new connections are refused", refused).await;
    let rest = async {
        let sent = bytes::send(&mut writer, 2, TOTAL, 50_000).await;
        writer.shutdown().await.unwrap();
        sent
    };
    let (rest, got) = tokio::join!(rest, bytes::receive(&mut reader));
    assert_eq!(got, (TOTAL, rest));
    assert_eq!(sidecar.ended().code(), Some(0), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_by_request_leaves_the_admin_port_answering() {
    let (_device, _backend, proxy) = draining(Duration::ZERO, LONG).await;
    assert_eq!(ask(proxy.app.admin.unwrap(), "POST", "/drain", "").unwrap().0, 202);
    within("the drain", proxy.app.shutdown.drained()).await;
    let (status, metrics) = ask(proxy.app.admin.unwrap(), "GET", "/metrics", "").unwrap();
    assert_eq!(status, 200);
    assert!(metrics.contains("tlsidecar_build_info"));
    assert_eq!(
        ask(proxy.app.admin.unwrap(), "GET", "/readyz", "").unwrap(),
        (503, "drained\n".to_owned())
    );
    // A second request changes nothing.
    assert_eq!(ask(proxy.app.admin.unwrap(), "POST", "/drain", "").unwrap().0, 202);
}

/// `tlsidecar drain --wait` on this admin port, and its output by lines.
struct Waiting {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Waiting {
    fn start(admin: SocketAddr, more: &[&str]) -> Self {
        let mut command = binary();
        command.args(["drain", "--wait", "--admin", &admin.to_string()]).args(more);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads the next line.
    async fn next_line(mut self) -> (Self, Option<String>) {
        let reading = tokio::task::spawn_blocking(move || {
            let line = self.lines.next().map(Result::unwrap);
            (self, line)
        });
        within("a line", reading).await.unwrap()
    }

    /// Reads up to the line that contains this text.
    async fn until(mut self, wanted: &str) -> Self {
        loop {
            let (waiting, line) = self.next_line().await;
            self = waiting;
            let line = line.unwrap_or_else(|| panic!("it has ended without {wanted:?}"));
            if line.contains(wanted) {
                return self;
            }
        }
    }

    fn code(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_waiting_command_reports_how_many_connections_are_left() {
    let (device, _backend, proxy) = draining(Duration::ZERO, LONG).await;
    let first = device.echo(proxy.address).await.unwrap();
    let second = device.echo(proxy.address).await.unwrap();
    let waiting =
        Waiting::start(proxy.app.admin.unwrap(), &[]).until("closing: 2 connection(s)").await;
    drop(first);
    let waiting = waiting.until("closing: 1 connection(s)").await;
    drop(second);
    assert_eq!(waiting.until("drained").await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_waiting_command_exits_with_1_if_connections_had_to_be_forced() {
    let (device, _backend, proxy) = draining(Duration::ZERO, Duration::from_millis(500)).await;
    let _open = device.echo(proxy.address).await.unwrap();
    let waiting =
        Waiting::start(proxy.app.admin.unwrap(), &[]).until("1 connection(s) were forced").await;
    assert_eq!(waiting.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_waiting_command_times_out_and_the_drain_continues() {
    let (device, _backend, proxy) = draining(Duration::ZERO, LONG).await;
    let mut open = device.echo(proxy.address).await.unwrap();
    let waiting = Waiting::start(proxy.app.admin.unwrap(), &["--timeout", "700ms"])
        .until("did not end in time")
        .await;
    assert_eq!(waiting.code(), Some(1));
    say_and_hear(&mut open, b"still here").await.unwrap();
    drop(open);
    within("the drain", proxy.app.shutdown.drained()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_waiting_command_exits_when_the_process_ends() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let text =
        file::text(backend.address, &authority.server(), "[shutdown]\ndrain_timeout = \"1h\"\n");
    let mut sidecar = Sidecar::start(authority.dir(), &text);
    let _open = Device::new(&authority).echo(sidecar.address).await.unwrap();
    let waiting = Waiting::start(sidecar.admin, &[]).until("1 connection(s) left").await;
    sidecar.signal("KILL");
    sidecar.ended();
    assert_eq!(waiting.until("the process has ended").await.code(), Some(0));
}
