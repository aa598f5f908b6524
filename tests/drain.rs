//! The drain: by signal, by request, and `tlsidecar drain --wait`.

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::process::{Child, ChildStdout};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tlsidecar::config::{Config, ShutdownConfig};
use tlsidecar::lifecycle::{Drained, Phase};
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::bytes;
use crate::support::client::{Session, say_and_hear};
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
        shutdown: ShutdownConfig { delay, drain_timeout, ..ShutdownConfig::default() },
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

/// A proxy whose drain closes sessions over this time, and a device.
async fn paced(backend: Backend, drain_spread: Duration) -> (Device, Backend, Proxy) {
    let authority = Authority::new("ca");
    let config = Config {
        shutdown: ShutdownConfig { drain_spread, drain_timeout: LONG, ..ShutdownConfig::default() },
        ..config(listener(backend.config(), &authority.server()))
    };
    (Device::new(&authority), backend, Proxy::on(config, None))
}

/// A backend that answers requests of seven bytes once true is sent.
async fn answering() -> (tokio::sync::watch::Sender<bool>, Backend) {
    let (answer, may_answer) = tokio::sync::watch::channel(false);
    let backend = Backend::serving(move |mut tcp| {
        let mut may_answer = may_answer.clone();
        async move {
            while tcp.read_exact(&mut [0; 7]).await.is_ok() {
                may_answer.wait_for(|may| *may).await.unwrap();
                tcp.write_all(b"answer").await.unwrap();
            }
        }
    });
    (answer, backend.await)
}

/// Opens this many sessions, eight at a time.
async fn opened(device: &Device, address: SocketAddr, count: usize) -> Vec<Session> {
    let mut sessions = Vec::new();
    while sessions.len() < count {
        let more = (0..8.min(count - sessions.len())).map(|_| {
            let device = device.clone();
            tokio::spawn(async move { device.echo(address).await.unwrap() })
        });
        for one in more.collect::<Vec<_>>() {
            sessions.push(within("a handshake", one).await.unwrap());
        }
    }
    sessions
}

/// Waits until all sessions have ended with a close_notify. Returns how many ended in each second since `start`.
async fn by_second(sessions: Vec<Session>, start: Instant, seconds: usize) -> Vec<usize> {
    let ends = sessions.into_iter().map(|mut session| {
        tokio::spawn(async move {
            // rustls reports a close_notify as 0 bytes, and an end without one as an error.
            assert_eq!(session.read(&mut [0; 1]).await.unwrap(), 0);
            start.elapsed()
        })
    });
    let mut by_second = vec![0; seconds];
    for end in ends.collect::<Vec<_>>() {
        let second = usize::try_from(end.await.unwrap().as_secs()).unwrap();
        by_second[second.min(seconds - 1)] += 1;
    }
    by_second
}

/// Drains this many idle sessions over this time, in whole seconds. Returns how many have ended in each second.
async fn ends_by_second(count: usize, spread: Duration) -> Vec<usize> {
    let (device, _backend, proxy) = paced(Backend::echo().await, spread).await;
    let sessions = opened(&device, proxy.address, count).await;
    // Each session has been silent for longer than a pause.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let start = Instant::now();
    proxy.app.shutdown.drain();
    let by_second = by_second(sessions, start, usize::try_from(spread.as_secs()).unwrap()).await;
    assert_eq!(within("the drain", proxy.app.shutdown.drained()).await, Drained::Clean);
    proxy.end_with(Reason::Drain, count as u64).await;
    by_second
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_sessions_are_closed_evenly_over_the_spread_with_a_close_notify() {
    let by_second = within("the ends", ends_by_second(300, Duration::from_secs(3))).await;
    // Within a third of the mean, because other tests use the same cores.
    assert!(by_second.iter().all(|count| (67..=133).contains(count)), "{by_second:?}");
}

/// Drains sessions over no time, at no more than 20 closes per second. Returns how many have ended in each second.
async fn limited(sessions: Vec<Session>, proxy: &Proxy) -> Vec<usize> {
    let start = Instant::now();
    proxy.app.shutdown.drain();
    by_second(sessions, start, 5).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_closes_no_more_per_second_than_its_limit_and_reports_that_it_takes_too_long() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut config = config(listener(backend.config(), &authority.server()));
    config.shutdown.max_closes_per_second = NonZeroU32::new(20);
    config.shutdown.drain_spread = Duration::from_millis(100);
    config.shutdown.drain_timeout = Duration::from_secs(2);
    let proxy = Proxy::on(config, None);
    let sessions = opened(&Device::new(&authority), proxy.address, 50).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let by_second = within("the ends", limited(sessions, &proxy)).await;
    // The deadline wins.
    assert!(by_second[0] <= 20 && by_second[1] <= 20, "{by_second:?}");
    assert!(by_second[0] >= 15 && by_second[2] >= 10, "{by_second:?}");
    let drained = within("the drain", proxy.app.shutdown.drained()).await;
    assert!(matches!(drained, Drained::Forced(10..)), "{drained:?}");
    let (_, status) = ask(proxy.app.admin.unwrap(), "GET", "/status", "").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["drain"]["max_closes_per_second"], 20);
    assert_eq!(status["drain"]["exceeds_timeout"], true);
    assert!(status["drain"]["least_seconds"].as_f64().unwrap() > 2.0, "{}", status["drain"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_whose_requests_end_together_are_closed_at_the_limit_of_closes() {
    let (answer, backend) = answering().await;
    let authority = Authority::new("ca");
    let mut config = config(listener(backend.config(), &authority.server()));
    config.shutdown.max_closes_per_second = NonZeroU32::new(20);
    config.shutdown.drain_spread = Duration::from_millis(100);
    config.shutdown.drain_timeout = LONG;
    let proxy = Proxy::on(config, None);
    let device = Device::new(&authority);
    let mut sessions = Vec::new();
    for _ in 0..40 {
        let mut session = device.connect(proxy.address).await.unwrap();
        session.write_all(b"request").await.unwrap();
        sessions.push(session);
    }
    let sent = "tlsidecar_bytes_total{direction=\"to_backend\",listener=\"test\"}";
    eventually("the backend has the requests", || proxy.count(sent) == 7 * 40).await;
    proxy.app.shutdown.drain();
    let all_wait = || proxy.count("tlsidecar_drain_waiting_sessions") == 40;
    eventually("all have their order", all_wait).await;
    answer.send(true).unwrap();
    for session in &mut sessions {
        within("an answer", session.read_exact(&mut [0; 6])).await.unwrap();
    }
    let ends = within("the ends", limited(sessions, &proxy)).await;
    // They are silent for a second before the first is closed.
    assert!(ends.iter().all(|&count| count <= 25), "{ends:?}");
    assert_eq!(within("the drain", proxy.app.shutdown.drained()).await, Drained::Clean);
    proxy.end_with(Reason::Drain, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and 20,000 file descriptors"]
async fn five_thousand_idle_sessions_leave_over_thirty_seconds_flat_within_a_fifth() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let more = "[shutdown]\ndrain_spread = \"30s\"\ndrain_timeout = \"60s\"\n";
    let text = file::text(backend.address, &authority.server(), more);
    // A process of its own, for its descriptors.
    let mut sidecar = Sidecar::start(authority.dir(), &text);
    let sessions = opened(&Device::new(&authority), sidecar.address, 5000).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let start = Instant::now();
    sidecar.signal("TERM");
    let by_second = by_second(sessions, start, 30).await;
    println!("closed in each second: {by_second:?}");
    assert!(by_second.iter().all(|count| (133..=200).contains(count)), "{by_second:?}");
    assert_eq!(sidecar.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_at_the_drain_gets_its_answer_and_an_idle_session_does_not_wait_for_it()
{
    let (answer, backend) = answering().await;
    let (device, _backend, proxy) = paced(backend, Duration::from_millis(100)).await;
    let mut busy = device.connect(proxy.address).await.unwrap();
    let mut idle = device.connect(proxy.address).await.unwrap();
    busy.write_all(b"request").await.unwrap();
    let sent = "tlsidecar_bytes_total{direction=\"to_backend\",listener=\"test\"}";
    eventually("the backend has the request", || proxy.count(sent) == 7).await;
    proxy.app.shutdown.drain();
    assert_eq!(within("its end", idle.read(&mut [0; 1])).await.unwrap(), 0);
    drop(idle);
    eventually("one is left", || proxy.active() == 1).await;
    assert_eq!(proxy.count("tlsidecar_drain_waiting_sessions"), 1);
    let (_, status) = ask(proxy.app.admin.unwrap(), "GET", "/status", "").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["drain"]["waiting"], 1);
    assert_eq!(status["drain"]["spread_seconds"], 0.1);
    let waiting = Waiting::start(proxy.app.admin.unwrap(), &[]);
    let waiting = waiting.until("closing: 1 connection(s) left, 1 of them busy").await;
    answer.send(true).unwrap();
    let mut got = Vec::new();
    within("the answer", busy.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"answer");
    drop(busy);
    assert_eq!(within("the drain", proxy.app.shutdown.drained()).await, Drained::Clean);
    assert_eq!(waiting.until("drained").await.code(), Some(0));
    proxy.end_with(Reason::Drain, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_session_is_forced_at_the_deadline_of_a_paced_drain() {
    let authority = Authority::new("ca");
    let backend = Backend::serving(|mut tcp| async move {
        while tcp.write_all(&[0; 1000]).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (drain_spread, drain_timeout) = (Duration::from_millis(100), Duration::from_millis(1500));
    let config = Config {
        shutdown: ShutdownConfig { drain_spread, drain_timeout, ..ShutdownConfig::default() },
        ..config(listener(backend.config(), &authority.server()))
    };
    let proxy = Proxy::on(config, None);
    let mut session = Device::new(&authority).connect(proxy.address).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while session.read(&mut buffer).await.unwrap() > 0 {}
    });
    proxy.app.shutdown.drain();
    let drained = within("the drain", proxy.app.shutdown.drained()).await;
    assert_eq!(drained, Drained::Forced(1));
    within("its end", reading).await.unwrap();
    proxy.ends_with(Reason::DrainDeadline).await;
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
