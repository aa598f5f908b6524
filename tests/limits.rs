//! The limits of connections: permits, eviction, file descriptors and memory.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use tlsidecar::config::{
    ClientAuth, ClientTrust, IdentityLimit, ListenerConfig, OverIdentityLimit, SourcePrefix,
};
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::certs::Wish;
use crate::support::client::{Session, say_and_hear};
use crate::support::file;
use crate::support::process::binary;
use crate::support::proxy::{config, listener};
use crate::support::raw;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Proxy, Sidecar, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_a_device_waits_and_is_served_when_a_permit_is_free() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    listener.limits.max_connections = Some(2);
    let proxy = Proxy::with(listener);
    let device = Device::new(&authority);
    let first = device.echo(proxy.address).await.unwrap();
    let _second = device.echo(proxy.address).await.unwrap();
    let at_limit = || proxy.count("tlsidecar_connections_at_limit{listener=\"test\"}") > 0;
    eventually("the limit is reached", at_limit).await;
    assert_eq!(proxy.count("tlsidecar_connections_limit{listener=\"test\"}"), 2);
    // Its TCP connection is in the kernel's backlog. Its TLS is not answered.
    let third = tokio::spawn({
        let (device, address) = (device.clone(), proxy.address);
        async move { device.echo(address).await }
    });
    let accepted = || proxy.count("tlsidecar_connections_accepted_total{listener=\"test\"}");
    assert!(!third.is_finished() && accepted() <= 2);
    drop(first);
    within("the third is served", third).await.unwrap().unwrap();
    assert!(accepted() > 2);
}

/// A proxy with this budget for bytes that peers do not take, before a backend that sends without end.
async fn flooding_proxy(authority: &Authority, max_buffered_bytes: usize) -> (Proxy, Backend) {
    let backend = Backend::serving(
        async |mut tcp: TcpStream| {
            while tcp.write_all(&[7; 16 * 1024]).await.is_ok() {}
        },
    )
    .await;
    let listener = listener(backend.config(), &authority.server());
    let mut config = config(listener);
    config.process.max_buffered_bytes = Some(max_buffered_bytes);
    (Proxy::on(config, None), backend)
}

/// Returns a socket whose kernel takes few bytes before the device reads.
fn with_little_room() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket
}

/// Connects a device that reads nothing after its handshake.
async fn stop_reading(device: &Device, to: SocketAddr) -> Session {
    device.connect_over(with_little_room().connect(to).await.unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_stop_reading_hold_no_more_than_the_budget_and_the_others_are_served() {
    const DEVICES: usize = 100;
    const BUDGET: usize = 512 * 1024;
    let authority = Authority::new("ca");
    let (proxy, _backend) = flooding_proxy(&authority, BUDGET).await;
    let device = Device::new(&authority);
    let mut stuck = Vec::new();
    for _ in 0..DEVICES {
        stuck.push(stop_reading(&device, proxy.address).await);
    }
    let held = || proxy.count("tlsidecar_buffered_bytes{listener=\"test\"}");
    eventually("the devices hold much of the budget", || held() > BUDGET as u64 * 3 / 4).await;
    let mut reads = device.connect(proxy.address).await.unwrap();
    let mut bytes = vec![0; 256 * 1024];
    within("a device that reads is served", reads.read_exact(&mut bytes)).await.unwrap();
    assert!(held() <= BUDGET as u64, "{} bytes are held", held());
    drop((stuck, reads));
    eventually("nothing is held", || held() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_devices_that_stop_reading_hold_no_more_than_the_budget() {
    const DEVICES: usize = 2000;
    const BUDGET: usize = 16 << 20;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let authority = Authority::new("ca");
    // More than the kernel takes for a device with small segments.
    let listener = TcpSocket::new_v4().unwrap();
    listener.set_send_buffer_size(16 * 1024).unwrap();
    listener.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let backend = Backend::on(listener.listen(1024).unwrap(), async |mut tcp: TcpStream| {
        let _gone = tcp.write_all(&[7; 512 * 1024]).await;
        std::future::pending::<()>().await;
    });
    let text = file::text(backend.address, &authority.server(), "");
    let text = format!("process.max_buffered_bytes = \"16MiB\"\n{text}");
    let sidecar = Sidecar::start(authority.dir(), &text);
    // Resumption in TLS 1.2 is the quickest handshake.
    let device = Device::speaking(&authority, &TLS12).resuming();
    let mut stuck = vec![stop_reading(&device, sidecar.address).await];
    let stop_reading = async move |device: Device, address| {
        let socket = with_little_room();
        // The sender's kernel has room for some segments, of 64 KiB each by default on this link.
        SockRef::from(&socket).set_tcp_mss(1400).unwrap();
        device.connect_over(socket.connect(address).await.unwrap()).await.unwrap()
    };
    let start = resident(sidecar.pid());
    let mut most = 0;
    for _ in 0..20 {
        let mut some = JoinSet::new();
        for _ in 0..DEVICES / 20 {
            let (device, address) = (device.clone(), sidecar.address);
            some.spawn(stop_reading(device, address));
        }
        stuck.extend(some.join_all().await);
        most = most.max(sidecar.count("tlsidecar_buffered_bytes{listener=\"test\"}") as usize);
    }
    let held = || sidecar.count("tlsidecar_buffered_bytes{listener=\"test\"}") as usize;
    eventually("the devices hold much of the budget", || held() > BUDGET / 2).await;
    most = most.max(held());
    let grown = resident(sidecar.pid()) - start;
    eprintln!("{most} bytes held, {grown} bytes of memory for {DEVICES} devices");
    assert!(most <= BUDGET, "{most} bytes are held");
    // And what a session needs beside it.
    assert!(grown < BUDGET + DEVICES * 12 * 1024, "{grown} bytes of memory");
}

/// Starts a record of a device: sends its first `bytes` bytes and returns the rest.
async fn start_a_record(device: &Device, to: SocketAddr, bytes: usize) -> (TcpStream, Vec<u8>) {
    let (mut tcp, mut tls) = device.connect(to).await.unwrap().into_inner();
    tls.writer().write_all(&[7; 16_000]).unwrap();
    let mut record = Vec::new();
    tls.write_tls(&mut record).unwrap();
    let rest = record.split_off(bytes);
    tcp.write_all(&record).await.unwrap();
    (tcp, rest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_record_counts_in_the_budget_until_the_record_is_complete() {
    const BUDGET: usize = 25_000;
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut config = config(listener(backend.config(), &authority.server()));
    config.process.max_buffered_bytes = Some(BUDGET);
    let proxy = Proxy::on(config, None);
    let device = Device::speaking(&authority, &TLS13);
    let held = || proxy.count("tlsidecar_buffered_bytes{listener=\"test\"}");
    let mut records = Vec::new();
    for number in 1..=2 {
        records.push(start_a_record(&device, proxy.address, 15_000).await);
        eventually("the part is counted", || held() == number * 15_000).await;
    }
    assert!(device.connect(proxy.address).await.is_err());
    eventually("it is refused", || proxy.closed(Reason::ProxyBuffersFull) == 1).await;
    for (tcp, rest) in &mut records {
        tcp.write_all(rest).await.unwrap();
    }
    eventually("nothing is held", || held() == 0).await;
    device.echo(proxy.address).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_budget_is_used_up_a_new_connection_is_refused() {
    let authority = Authority::new("ca");
    let (proxy, _backend) = flooding_proxy(&authority, 1).await;
    let device = Device::new(&authority);
    let stuck = stop_reading(&device, proxy.address).await;
    let held = || proxy.count("tlsidecar_buffered_bytes{listener=\"test\"}");
    eventually("the device holds bytes", || held() > 0).await;
    assert!(device.connect(proxy.address).await.is_err());
    eventually("it is counted", || proxy.closed(Reason::ProxyBuffersFull) == 1).await;
    drop(stuck);
    eventually("nothing is held", || held() == 0).await;
    device.connect(proxy.address).await.unwrap();
}

/// The point at which connections stop that take permits.
#[derive(Clone, Copy, Debug)]
enum Stranger {
    Silent,
    HalfAHello,
    WholeHello,
}

/// Connects from `127.0.0.last`.
async fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
    within("it connects", socket.connect(to)).await.unwrap()
}

impl Stranger {
    async fn connect(self, last: u8, to: SocketAddr) -> TcpStream {
        let mut tcp = connect_from(last, to).await;
        let hello = raw::client_hello();
        match self {
            Self::Silent => {}
            Self::HalfAHello => tcp.write_all(&hello[..hello.len() / 2]).await.unwrap(),
            Self::WholeHello => tcp.write_all(&hello).await.unwrap(),
        }
        tcp
    }
}

/// Fills a proxy with a limit of 8, of which one is an established session, with twice as many strangers from these
/// sources. A device from another source is served, and the session continues.
async fn strangers_are_evicted(stranger: Stranger, source: impl Fn(u8) -> u8) {
    const LIMIT: u8 = 8;
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    listener.limits.max_connections = Some(LIMIT.into());
    let proxy = Proxy::with(listener);
    let device = Device::new(&authority);
    let mut established = device.echo(proxy.address).await.unwrap();
    let mut strangers = Vec::new();
    for number in 0..2 * LIMIT {
        strangers.push(stranger.connect(source(number), proxy.address).await);
    }
    for last in 200..203 {
        let tcp = connect_from(last, proxy.address).await;
        let mut session = device.connect_over(tcp).await.unwrap();
        say_and_hear(&mut session, b"let in").await.unwrap();
        strangers.push(session.into_inner().0);
    }
    say_and_hear(&mut established, b"still here").await.unwrap();
    let evicted = proxy.closed(Reason::ClientEvicted);
    assert!(evicted >= u64::from(LIMIT), "{evicted} of {} were evicted", strangers.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_over_its_limit_is_refused_and_another_one_is_not() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    listener.limits.max_connections_per_source = Some(1);
    let proxy = Proxy::with(listener);
    let device = Device::new(&authority);
    let first = device.connect_over(connect_from(7, proxy.address).await).await.unwrap();
    let mut refused = connect_from(7, proxy.address).await;
    assert_eq!(within("it is closed", refused.read(&mut [0])).await.unwrap(), 0);
    eventually("it is counted", || proxy.closed(Reason::OverSourceLimit) == 1).await;
    let _other = device.connect_over(connect_from(8, proxy.address).await).await.unwrap();
    drop(first);
    let one = || proxy.count("tlsidecar_connections_active{listener=\"test\"}") == 1;
    eventually("the first has ended", one).await;
    device.connect_over(connect_from(7, proxy.address).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_devices_of_a_network_share_its_limit() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    listener.limits.max_connections_per_source = Some(1);
    listener.limits.source_prefix = SourcePrefix { v4: 30, v6: 64 };
    let proxy = Proxy::with(listener);
    let device = Device::new(&authority);
    let _first = device.connect_over(connect_from(9, proxy.address).await).await.unwrap();
    let mut refused = connect_from(10, proxy.address).await;
    assert_eq!(within("it is closed", refused.read(&mut [0])).await.unwrap(), 0);
    eventually("it is counted", || proxy.closed(Reason::OverSourceLimit) == 1).await;
    let _other = device.connect_over(connect_from(12, proxy.address).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listeners_of_a_process_share_its_limit_of_connections() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let other =
        ListenerConfig { name: "other".into(), ..listener(backend.config(), &authority.server()) };
    let mut config = config(listener(backend.config(), &authority.server()));
    config.listeners.push(other);
    config.process.max_connections = Some(1);
    let proxy = Proxy::on(config, None);
    let device = Device::new(&authority);
    let first = device.echo(proxy.address).await.unwrap();
    assert_eq!(proxy.count("tlsidecar_connections_limit{listener=\"other\"}"), 1);
    let second = connect_from(1, proxy.app.listeners[1].1).await;
    let waiting = tokio::spawn({
        let device = device.clone();
        async move { device.connect_over(second).await.unwrap() }
    });
    // The device on the second listener waits, and is served once the first listener's has left.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished());
    drop(first);
    within("the handshake", waiting).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_of_one_source_are_evicted_for_a_device() {
    strangers_are_evicted(Stranger::Silent, |_| 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_of_many_sources_are_evicted_for_a_device() {
    strangers_are_evicted(Stranger::Silent, |number| 100 + number).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_with_half_a_hello_are_evicted_for_a_device() {
    strangers_are_evicted(Stranger::HalfAHello, |number| 100 + number % 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_stop_after_their_hello_are_evicted_for_a_device() {
    strangers_are_evicted(Stranger::WholeHello, |_| 1).await;
    strangers_are_evicted(Stranger::WholeHello, |number| 100 + number).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_permit_is_released_however_connections_end() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    listener.limits.max_connections = Some(2);
    let proxy = Proxy::with(listener);
    let device = Device::new(&authority);
    for round in 0..40 {
        let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
        match round % 4 {
            0 => drop(tcp),
            1 => tcp.set_zero_linger().unwrap(),
            2 => tcp.write_all(b"not TLS").await.unwrap(),
            _ => drop(device.connect_over(tcp).await.unwrap()),
        }
    }
    device.echo(proxy.address).await.unwrap();
    eventually("all have ended", || proxy.active() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_listeners_share_the_limit_of_the_process() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let pair = authority.server();
    let second = format!(
        "\n[[listener]]\nname = \"second\"\nlisten = \"127.0.0.1:0\"\nbackend = \"{}\"\n\
         tls.certificates = [{{ cert = {:?}, key = {:?} }}]\n",
        backend.address, pair.files.cert, pair.files.key
    );
    let text = file::text(backend.address, &pair, &second);
    let path = file::write(authority.dir(), &text);
    // 64 descriptors minus those that are reserved, and two for each connection.
    let limited = format!("ulimit -n 64; exec {:?} --config {path:?}", binary().get_program());
    let mut command = Command::new("sh");
    command.args(["-c", &limited]);
    let sidecar = Sidecar::run(command);
    for name in ["test", "second"] {
        let limit = format!("tlsidecar_connections_limit{{listener=\"{name}\"}}");
        assert_eq!(sidecar.count(&limit), (64 - 16 - 8 - 4 - 2 * 2) / 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_listeners_leave_all_permits_to_the_others() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let pair = authority.server();
    let quiet = (0..9).map(|number| {
        format!(
            "\n[[listener]]\nname = \"quiet{number}\"\nlisten = \"127.0.0.1:0\"\n\
             backend = \"{}\"\ntls.certificates = [{{ cert = {:?}, key = {:?} }}]\n",
            backend.address, pair.files.cert, pair.files.key
        )
    });
    let text = file::text(backend.address, &pair, &quiet.collect::<String>());
    let path = file::write(authority.dir(), &text);
    // 120 descriptors minus those that are reserved, and two for each connection.
    let limited = format!("ulimit -n 120; exec {:?} --config {path:?}", binary().get_program());
    let mut command = Command::new("sh");
    command.args(["-c", &limited]);
    let sidecar = Sidecar::run(command);
    let device = Device::new(&authority);
    let mut served = Vec::new();
    let carried = (120 - 16 - 8 - 7 - 2 * 10) / 2;
    for _ in 0..carried {
        served.push(device.echo(sidecar.address).await.unwrap());
    }
    assert_eq!(sidecar.count("tlsidecar_connections_limit{listener=\"test\"}"), carried);
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_file_descriptors_it_waits_and_recovers_by_itself() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let text = file::text(backend.address, &authority.server(), "");
    // Dumpable, so that the test can read its descriptors as any user.
    let text = format!("process.dumpable = true\n{text}");
    let sidecar = Sidecar::start(authority.dir(), &text);
    let device = Device::new(&authority);
    let kept = device.echo(sidecar.address).await.unwrap();
    // The limit is lowered below the descriptors that the process relies on.
    let open = std::fs::read_dir(format!("/proc/{}/fd", sidecar.pid())).unwrap().count();
    let limit = |n: usize| {
        let pid = sidecar.pid().to_string();
        let nofile = format!("--nofile={n}:20000");
        let status = Command::new("prlimit").args(["--pid", &pid, &nofile]).status().unwrap();
        assert!(status.success());
    };
    let series = "tlsidecar_accept_errors_total{kind=\"fd_limit\",listener=\"test\"}";
    // Over an open connection: a new one would need a descriptor.
    let mut admin = crate::support::admin::Client::connect(sidecar.admin).await;
    let start = Instant::now();
    limit(open + 2);
    let mut flood = Vec::new();
    for _ in 0..20 {
        flood.push(TcpStream::connect(sidecar.address).await.unwrap());
    }
    // It pauses between attempts: 5 ms, then twice as long each time.
    admin.until(series, |errors| errors > 7).await;
    assert!(start.elapsed() >= Duration::from_millis(635), "{:?}", start.elapsed());
    assert!(admin.count(series).await < 20, "it retries without a pause");
    limit(20_000);
    let mut again = device.echo(sidecar.address).await.unwrap();
    say_and_hear(&mut again, b"still here").await.unwrap();
    drop((flood, kept));
    assert!(!sidecar.log().contains("ERROR"), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_do_not_read_cost_a_bounded_amount_of_memory() {
    const DEVICES: usize = 60;
    let authority = Authority::new("ca");
    // Both sides send, and none reads.
    let backend = Backend::serving(|mut tcp| async move {
        flood(&mut tcp).await;
        std::future::pending::<()>().await;
    })
    .await;
    let text = file::text(backend.address, &authority.server(), "");
    let sidecar = Sidecar::start(authority.dir(), &text);
    let device = Device::new(&authority);
    // The first connections allocate the threads' buffers, the allocator's pools and code pages.
    let warm = stuffed(&device, &sidecar, 4).await;
    let before = resident(sidecar.pid());
    let more = stuffed(&device, &sidecar, DEVICES).await;
    let each = (resident(sidecar.pid()).saturating_sub(before)) / DEVICES;
    eprintln!("{each} bytes for each pair of peers that do not read");
    // The buffers of a relay with peers that never read (docs/limits.md), and a session.
    assert!(each < (169 + 16) * 1024, "{each} bytes a connection");
    let held = sidecar.count("tlsidecar_buffered_bytes{listener=\"test\"}") as usize;
    assert!(held / (DEVICES + 4) < 169 * 1024, "{held} bytes are buffered");
    // Bytes in the kernel: its own buffer, and the first window of a peer that never reads.
    for direction in ["to_backend", "to_client"] {
        let bytes = format!("tlsidecar_bytes_total{{direction=\"{direction}\",listener=\"test\"}}");
        let taken = sidecar.count(&bytes) as usize / (DEVICES + 4);
        assert!(taken < 1536 * 1024, "{direction}: {taken} bytes a connection");
    }
    drop((warm, more));
}

/// Sends until no more bytes are taken.
async fn flood<W: AsyncWriteExt + Unpin>(to: &mut W) {
    let flood = vec![7; 1 << 20];
    let quiet = Duration::from_secs(1);
    while let Ok(Ok(())) = tokio::time::timeout(quiet, to.write_all(&flood)).await {}
}

/// Connects `count` devices that send until no more bytes are taken, and read nothing.
async fn stuffed(device: &Device, sidecar: &Sidecar, count: usize) -> Vec<Session> {
    let flooding = (0..count).map(|_| {
        let (device, address) = (device.clone(), sidecar.address);
        tokio::spawn(async move {
            let mut session = device.connect(address).await.unwrap();
            flood(&mut session).await;
            session
        })
    });
    let mut sessions = Vec::new();
    for flooding in flooding.collect::<Vec<_>>() {
        sessions.push(within("no more bytes are taken", flooding).await.unwrap());
    }
    sessions
}

/// Returns the resident memory of a process in bytes.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn the_default_limit_is_derived_from_the_file_descriptors() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let hard = Command::new("sh").args(["-c", "ulimit -Hn"]).output().unwrap().stdout;
    let hard = String::from_utf8(hard).unwrap();
    // Without a limit, a constant bounds it.
    if let Ok(hard) = hard.trim().parse::<u64>() {
        let carried = (hard - 16 - (hard / 32).clamp(8, 80) - (hard / 16).clamp(4, 64) - 2) / 2;
        let limit = || proxy.count("tlsidecar_connections_limit{listener=\"test\"}");
        eventually("the limit is reported", || limit() == carried).await;
    }
    drop(Device::new(&authority).echo(proxy.address).await.unwrap());
    proxy.ends_with(Reason::ClientTruncated).await;
}

/// A proxy that allows one connection for each identity, and a device with a certificate.
async fn one_per_identity(over: OverIdentityLimit) -> (Device, Backend, Proxy) {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let mut listener = listener(backend.config(), &authority.server());
    let trust = ClientTrust::new(authority.ca());
    listener.tls.client_auth = ClientAuth::Required(trust);
    listener.limits.per_identity = Some(IdentityLimit { max: 1, over });
    let pair = authority.issue("pump", &Wish::of_device(&["pump-7"]));
    (Device::showing(&authority, &pair).resuming(), backend, Proxy::with(listener))
}

/// Reads the end of a session. rustls reports a close_notify as 0 bytes, and an end without one as an error.
async fn gets_close_notify(session: &mut Session) {
    assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_returns_replaces_its_old_connection_also_by_resumption() {
    let (device, _backend, proxy) = one_per_identity(OverIdentityLimit::Replace).await;
    let mut lost = device.echo(proxy.address).await.unwrap();
    let mut returned = device.echo(proxy.address).await.unwrap();
    assert_eq!(returned.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    gets_close_notify(&mut lost).await;
    proxy.ends_with(Reason::OverLimit).await;
    say_and_hear(&mut returned, b"still there").await.unwrap();
    assert_eq!(proxy.active(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_of_an_identity_is_refused_before_the_backend_if_the_operator_wants_that()
 {
    let (device, backend, proxy) = one_per_identity(OverIdentityLimit::Refuse).await;
    let mut first = device.echo(proxy.address).await.unwrap();
    for refused in 1..=2 {
        let mut second = device.connect(proxy.address).await.unwrap();
        gets_close_notify(&mut second).await;
        proxy.end_with(Reason::OverLimit, refused).await;
    }
    assert_eq!(backend.connections(), 1);
    say_and_hear(&mut first, b"still there").await.unwrap();
    drop(first);
    eventually("it has ended", || proxy.active() == 0).await;
    device.echo(proxy.address).await.unwrap();
}
