//! The relay: every byte is delivered in order to both ends, however they end.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tlsidecar::config::BackendAddress;
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, SupportedProtocolVersion};

use crate::support::backend::read_all;
use crate::support::bytes::{self, Bytes};
use crate::support::client::{Session, say_and_hear};
use crate::support::proxy::{balances, closed_series, listener};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Proxy, Sidecar, eventually};

const MIB: usize = 1024 * 1024;

/// A proxy, a device's session through it, and the backend's end of the session.
struct Line {
    proxy: Proxy,
    device: Session,
    backend: TcpStream,
    _backends: Backend,
}

impl Line {
    async fn new() -> Self {
        Self::speaking(&TLS13).await
    }

    async fn speaking(version: &'static SupportedProtocolVersion) -> Self {
        let authority = Authority::new("ca");
        let (hand_over, mut handed) = mpsc::unbounded_channel();
        let backends = Backend::serving(move |tcp| {
            let sent = hand_over.send(tcp);
            async move { sent.unwrap() }
        })
        .await;
        let proxy = Proxy::start(backends.config(), &authority.server());
        let device = Device::speaking(&authority, version).connect(proxy.address).await.unwrap();
        let backend = within("the backend is dialled", handed.recv()).await.unwrap();
        Self { proxy, device, backend, _backends: backends }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarter_gibibyte_each_way_at_once_arrives_unchanged() {
    let Line { proxy, device, backend, .. } = Line::new().await;
    let (mut device_reads, mut device_writes) = tokio::io::split(device);
    let (mut backend_reads, mut backend_writes) = backend.into_split();
    let up = async {
        let sent = bytes::send(&mut device_writes, 1, 256 * MIB, 100_000).await;
        device_writes.shutdown().await.unwrap();
        sent
    };
    let down = async {
        let sent = bytes::send(&mut backend_writes, 2, 256 * MIB, 100_000).await;
        backend_writes.shutdown().await.unwrap();
        sent
    };
    let (sent_up, sent_down, got_down, got_up) = tokio::join!(
        up,
        down,
        bytes::receive(&mut device_reads),
        bytes::receive(&mut backend_reads)
    );
    assert_eq!(got_up, (256 * MIB, sent_up));
    assert_eq!(got_down, (256 * MIB, sent_down));
    proxy.ends_with(Reason::Ok).await;
    let bytes = |direction| {
        proxy
            .count(&format!("tlsidecar_bytes_total{{direction=\"{direction}\",listener=\"test\"}}"))
    };
    assert_eq!(bytes("to_backend"), 256 * MIB as u64);
    assert_eq!(bytes("to_client"), 256 * MIB as u64);
}

#[tokio::test]
async fn single_bytes_both_ways_arrive_in_order() {
    let Line { mut device, mut backend, proxy, .. } = Line::new().await;
    let mut bytes = Bytes::new(3);
    for _ in 0..2000 {
        let mut byte = [0; 1];
        bytes.fill(&mut byte);
        device.write_all(&byte).await.unwrap();
        device.flush().await.unwrap();
        backend.write_all(&byte).await.unwrap();
        assert_eq!(within("a byte", backend.read_u8()).await.unwrap(), byte[0]);
        assert_eq!(within("a byte", device.read_u8()).await.unwrap(), byte[0]);
    }
    device.shutdown().await.unwrap();
    drop(backend);
    proxy.ends_with(Reason::Ok).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_single_bytes_each_way_at_once_arrives_unchanged() {
    const TOTAL: usize = 64 * 1024;
    let Line { proxy, device, mut backend, .. } = Line::new().await;
    backend.set_nodelay(true).unwrap();
    let (mut device_reads, mut device_writes) = tokio::io::split(device);
    let (mut backend_reads, mut backend_writes) = backend.split();
    let up = async {
        let sent = bytes::send(&mut device_writes, 5, TOTAL, 1).await;
        device_writes.shutdown().await.unwrap();
        sent
    };
    let down = async {
        let sent = bytes::send(&mut backend_writes, 6, TOTAL, 1).await;
        backend_writes.shutdown().await.unwrap();
        sent
    };
    let all = async {
        tokio::join!(
            up,
            down,
            bytes::receive(&mut device_reads),
            bytes::receive(&mut backend_reads)
        )
    };
    let (sent_up, sent_down, got_down, got_up) = within("both streams", all).await;
    assert_eq!(got_up, (TOTAL, sent_up));
    assert_eq!(got_down, (TOTAL, sent_down));
    proxy.ends_with(Reason::Ok).await;
}

#[tokio::test]
async fn chunks_of_any_size_arrive_in_order() {
    let Line { mut device, backend, proxy, .. } = Line::new().await;
    let echo = tokio::spawn(crate::support::backend::echo(backend));
    let mut bytes = Bytes::new(4);
    for _ in 0..300 {
        // Sizes around those of records (16 KiB) and reads (64 KiB), and other sizes.
        let size = match bytes.below(4) {
            0 => 1 + bytes.below(7),
            1 => 16_380 + bytes.below(10),
            2 => 65_530 + bytes.below(10),
            _ => 1 + bytes.below(200_000),
        };
        let mut chunk = vec![0; size];
        bytes.fill(&mut chunk);
        let (mut reader, mut writer) = tokio::io::split(&mut device);
        let sending = async {
            writer.write_all(&chunk).await.unwrap();
            writer.flush().await.unwrap();
        };
        let mut heard = vec![0; size];
        let hearing = async { within("an echo", reader.read_exact(&mut heard)).await.unwrap() };
        tokio::join!(sending, hearing);
        assert!(heard == chunk, "a chunk of {size} bytes came back changed");
    }
    device.shutdown().await.unwrap();
    within("the echo's end", echo).await.unwrap();
    proxy.ends_with(Reason::Ok).await;
}

#[tokio::test]
async fn a_device_that_ends_its_stream_still_gets_the_answer() {
    let Line { mut device, mut backend, proxy, .. } = Line::new().await;
    device.write_all(b"question").await.unwrap();
    device.shutdown().await.unwrap();
    // The backend sees the request and its end before it answers.
    assert_eq!(within("the end", read_all(&mut backend)).await.unwrap(), b"question");
    backend.write_all(&vec![7; 3 * MIB]).await.unwrap();
    backend.shutdown().await.unwrap();
    drop(backend);
    let answer = within("the answer", read_all(&mut device)).await.unwrap();
    assert_eq!(answer, vec![7; 3 * MIB]);
    proxy.ends_with(Reason::Ok).await;
}

#[tokio::test]
async fn a_backend_that_ends_first_still_gets_later_bytes_of_the_device() {
    let Line { mut device, mut backend, proxy, .. } = Line::new().await;
    backend.write_all(&vec![9; 3 * MIB]).await.unwrap();
    backend.shutdown().await.unwrap();
    // rustls reports a close_notify as 0 bytes, and an end without one as an error.
    let all = within("all of it, and a close_notify", read_all(&mut device)).await.unwrap();
    assert_eq!(all, vec![9; 3 * MIB]);
    device.write_all(b"thanks").await.unwrap();
    device.shutdown().await.unwrap();
    assert_eq!(within("the thanks", read_all(&mut backend)).await.unwrap(), b"thanks");
    proxy.ends_with(Reason::Ok).await;
}

#[tokio::test]
async fn bytes_before_an_end_without_close_notify_are_delivered_and_counted_as_truncated() {
    let Line { mut device, mut backend, proxy, .. } = Line::new().await;
    device.write_all(b"final bytes").await.unwrap();
    device.flush().await.unwrap();
    // TCP ends without a close_notify.
    device.get_mut().0.shutdown().await.unwrap();
    assert_eq!(within("the bytes", read_all(&mut backend)).await.unwrap(), b"final bytes");
    backend.write_all(b"farewell").await.unwrap();
    drop(backend);
    assert_eq!(within("the answer", read_all(&mut device)).await.unwrap(), b"farewell");
    proxy.ends_with(Reason::ClientTruncated).await;
}

#[tokio::test]
async fn a_reset_by_the_device_reaches_the_backend_as_a_reset() {
    let Line { device, mut backend, proxy, .. } = Line::new().await;
    device.get_ref().0.set_zero_linger().unwrap();
    drop(device);
    assert_reset(backend.read(&mut [0; 8])).await;
    proxy.ends_with(Reason::ClientReset).await;
}

#[tokio::test]
async fn a_reset_by_the_backend_reaches_the_device_as_a_reset() {
    let Line { mut device, backend, proxy, .. } = Line::new().await;
    backend.set_zero_linger().unwrap();
    drop(backend);
    assert_reset(device.read(&mut [0; 8])).await;
    proxy.ends_with(Reason::BackendReset).await;
}

#[tokio::test]
async fn the_answer_of_a_backend_that_refuses_the_rest_reaches_the_device() {
    let Line { mut device, mut backend, proxy, .. } = Line::new().await;
    device.write_all(b"a request that will be refused").await.unwrap();
    device.flush().await.unwrap();
    let mut first = [0; 9];
    within("its start", backend.read_exact(&mut first)).await.unwrap();
    backend.write_all(b"no").await.unwrap();
    let mut answer = [0; 2];
    within("the refusal", device.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"no");
    // Closing with unread bytes makes the kernel send a reset.
    drop(backend);
    assert_reset(device.read(&mut [0; 8])).await;
    proxy.ends_with(Reason::BackendReset).await;
}

#[tokio::test]
async fn the_report_of_a_device_that_does_not_wait_for_the_answer_is_delivered_whole() {
    // In TLS 1.3 the device closes with our ticket unread, so its own kernel sends a reset and discards
    // unsent bytes. A server that sends tickets cannot change that.
    let Line { mut device, mut backend, proxy, .. } = Line::speaking(&TLS12).await;
    device.write_all(&[5; 200_000]).await.unwrap();
    device.shutdown().await.unwrap();
    drop(device);
    // The answer to a closed socket causes a reset, before the report has been read.
    backend.write_all(b"received").await.unwrap();
    let report = within("the report", read_all(&mut backend)).await.unwrap();
    assert_eq!(report.len(), 200_000);
    drop(backend);
    eventually("it ends", || proxy.active() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_many_devices_are_never_mixed() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let device = Device::new(&authority);
    let streams = (0..32).map(|seed| {
        let (device, address) = (device.clone(), proxy.address);
        tokio::spawn(async move {
            let session = device.connect(address).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(session);
            let sending = async {
                let sent = bytes::send(&mut writer, seed, MIB, 777).await;
                writer.shutdown().await.unwrap();
                sent
            };
            let (sent, got) = tokio::join!(sending, bytes::receive(&mut reader));
            assert_eq!(got, (MIB, sent));
        })
    });
    for stream in streams.collect::<Vec<_>>() {
        within("a stream", stream).await.unwrap();
    }
    proxy.end_with(Reason::Ok, 32).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_in_the_middle_of_transfers_leave_nothing_behind() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let device = Device::new(&authority);
    for round in 0..10 {
        let session = device.connect(proxy.address).await.unwrap();
        session.get_ref().0.set_zero_linger().unwrap();
        let (mut reader, mut writer) = tokio::io::split(session);
        let flood = vec![round; MIB];
        let sending = async { while writer.write_all(&flood).await.is_ok() {} };
        let mut heard = vec![0; 3 * MIB];
        tokio::select! {
            () = sending => panic!("the proxy does not end the session"),
            heard = reader.read_exact(&mut heard) => drop(heard.unwrap()),
        }
    }
    proxy.end_with(Reason::ClientReset, 10).await;
    say_and_hear(&mut device.connect(proxy.address).await.unwrap(), b"hi").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_by_the_backend_in_the_middle_of_an_answer_reaches_the_device_as_a_reset() {
    for _ in 0..10 {
        let Line { mut device, mut backend, proxy, .. } = Line::new().await;
        backend.write_all(&[8; 100_000]).await.unwrap();
        within("a part", device.read_exact(&mut [0; 100_000])).await.unwrap();
        // More bytes are in flight to a device that does not read yet.
        let _taken = backend.write(&vec![8; 16 * MIB]).await.unwrap();
        backend.set_zero_linger().unwrap();
        drop(backend);
        assert_reset(read_all(&mut device)).await;
        proxy.ends_with(Reason::BackendReset).await;
    }
}

/// Asserts that a stream ends by a reset, not by an end.
async fn assert_reset<T: std::fmt::Debug>(reading: impl Future<Output = std::io::Result<T>>) {
    let error = within("the reset", reading).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// Sends until the proxy takes no more.
async fn fill(device: &mut Session) {
    let flood = vec![1; MIB];
    let quiet = Duration::from_millis(500);
    while let Ok(sent) = tokio::time::timeout(quiet, device.write(&flood)).await {
        sent.unwrap();
    }
}

#[tokio::test]
async fn a_reset_of_the_backend_that_a_write_sees_reaches_the_device_as_a_reset() {
    let Line { mut device, backend, proxy, .. } = Line::new().await;
    fill(&mut device).await;
    // The proxy waits to write, so the write sees the reset.
    backend.set_zero_linger().unwrap();
    drop(backend);
    assert_reset(device.read(&mut [0; 8])).await;
    proxy.ends_with(Reason::BackendReset).await;
}

#[tokio::test]
async fn a_reset_of_the_device_that_a_write_sees_reaches_the_backend_as_a_reset() {
    let Line { mut device, mut backend, proxy, .. } = Line::new().await;
    fill(&mut device).await;
    // The proxy waits to write to the backend, and does not read from the device.
    device.get_ref().0.set_zero_linger().unwrap();
    drop(device);
    backend.write_all(b"half way").await.unwrap();
    assert_reset(read_all(&mut backend)).await;
    proxy.ends_with(Reason::ClientReset).await;
}

#[tokio::test]
async fn a_forced_stop_resets_a_backend_with_undelivered_bytes_and_ends_the_device_in_order() {
    let Line { mut device, mut backend, proxy, .. } = Line::new().await;
    fill(&mut device).await;
    proxy.app.shutdown.force();
    // rustls reports a close_notify as 0 bytes, and an end without one as an error.
    assert_eq!(within("the end", device.read(&mut [0; 8])).await.unwrap(), 0);
    assert_reset(read_all(&mut backend)).await;
    proxy.ends_with(Reason::DrainDeadline).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_resets_every_connection_and_recovers_is_served_again() {
    let authority = Authority::new("ca");
    let flapping = Arc::new(AtomicBool::new(true));
    let resets = Arc::clone(&flapping);
    let backend = Backend::serving(move |tcp| {
        let resets = resets.load(Ordering::SeqCst);
        async move {
            if resets {
                tcp.set_zero_linger().unwrap();
            } else {
                crate::support::backend::echo(tcp).await;
            }
        }
    })
    .await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let device = Device::new(&authority);
    for _ in 0..10 {
        let mut session = device.connect(proxy.address).await.unwrap();
        // A reset, or an orderly end if it came before the relay began.
        assert!(matches!(within("the end", session.read(&mut [0; 1])).await, Ok(0) | Err(_)));
    }
    proxy.end_with(Reason::BackendReset, 10).await;
    flapping.store(false, Ordering::SeqCst);
    say_and_hear(&mut device.connect(proxy.address).await.unwrap(), b"hi").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_many_short_connections_the_books_balance_and_no_descriptor_is_left() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let text = crate::support::file::text(backend.address, &authority.server(), "");
    // Dumpable, so that the test can read its descriptors as any user.
    let text = format!("process.dumpable = true\n{text}");
    let sidecar = Sidecar::start(authority.dir(), &text);
    let open = || std::fs::read_dir(format!("/proc/{}/fd", sidecar.pid())).unwrap().count();
    let ended = || sidecar.count(&closed_series(Reason::Ok));
    let device = Device::new(&authority);
    let mut before = 0;
    for round in 1..=300 {
        let mut session = device.connect(sidecar.address).await.unwrap();
        say_and_hear(&mut session, b"hi").await.unwrap();
        session.shutdown().await.unwrap();
        within("the end", read_all(&mut session)).await.unwrap();
        drop(session);
        if round == 1 {
            eventually("it has ended", || ended() == 1).await;
            before = open();
        }
    }
    eventually("all have ended", || ended() == 300).await;
    // The socket of the last answer may still be closing.
    eventually("all descriptors are closed", || open() <= before).await;
    assert!(balances(&sidecar.ask("GET", "/metrics").unwrap().1));
}

#[tokio::test]
async fn bytes_that_come_with_the_end_of_the_handshake_are_the_first_to_be_relayed() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    // A socket that holds back bytes after the ClientHello until the test releases them: the Finished and
    // the first data leave in one segment.
    let tcp = TcpStream::connect(proxy.address).await.unwrap();
    tcp.set_nodelay(false).unwrap();
    let mut session = Device::new(&authority).connect_over(tcp).await.unwrap();
    for _ in 0..20 {
        say_and_hear(&mut session, b"x").await.unwrap();
    }
    session.write_all(b"and the end").await.unwrap();
    session.shutdown().await.unwrap();
    let rest = within("the rest", read_all(&mut session)).await.unwrap();
    assert_eq!(rest, b"and the end");
    proxy.ends_with(Reason::Ok).await;
}

#[tokio::test]
async fn a_device_with_nagles_algorithm_does_not_wait_for_a_delayed_acknowledgement() {
    // TCP_DELACK_MIN of Linux.
    const DELAYED: Duration = Duration::from_millis(40);
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let mut quickest = Duration::MAX;
    // The quickest of a few: a busy machine is slow at times, the delay is always there.
    for _ in 0..10 {
        let tcp = TcpStream::connect(proxy.address).await.unwrap();
        tcp.set_nodelay(false).unwrap();
        let mut session = Device::new(&authority).connect_over(tcp).await.unwrap();
        let asked = Instant::now();
        say_and_hear(&mut session, b"x").await.unwrap();
        quickest = quickest.min(asked.elapsed());
    }
    assert!(quickest < DELAYED, "the first answer took at least {quickest:?}");
}

/// Performs a handshake whose Finished comes with all bytes of a record but the last ones, and returns the time until the
/// ticket.
fn ticket_behind_a_part_of_a_record(config: Arc<ClientConfig>, proxy: SocketAddr) -> Duration {
    let mut tcp = std::net::TcpStream::connect(proxy).unwrap();
    let mut device = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    device.write_tls(&mut tcp).unwrap();
    while device.is_handshaking() {
        device.read_tls(&mut tcp).unwrap();
        device.process_new_packets().unwrap();
    }
    device.writer().write_all(&[7; 1000]).unwrap();
    let mut sent = Vec::new();
    while device.wants_write() {
        device.write_tls(&mut sent).unwrap();
    }
    tcp.write_all(&sent[..sent.len() - 100]).unwrap();
    let since = Instant::now();
    assert!(device.read_tls(&mut tcp).unwrap() > 0);
    since.elapsed()
}

#[tokio::test]
async fn a_ticket_is_sent_at_once_also_if_a_part_of_a_record_came_with_the_finished() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let config = ClientConfig::builder().with_root_certificates(authority.roots());
    let config = Arc::new(config.with_no_client_auth());
    let tries = tokio::task::spawn_blocking(move || {
        let tries =
            (0..5).map(|_| ticket_behind_a_part_of_a_record(Arc::clone(&config), proxy.address));
        tries.min()
    });
    // Linux sends what was held back after 0.2 s.
    let quickest = tries.await.unwrap().unwrap();
    assert!(quickest < Duration::from_millis(150), "{quickest:?}");
}

#[tokio::test]
async fn a_peer_that_asks_for_key_updates_is_answered_and_loses_nothing() {
    let Line { mut device, mut backend, proxy, .. } = Line::new().await;
    for round in 0..20u8 {
        device.get_mut().1.refresh_traffic_keys().unwrap();
        device.write_all(&[round; 1000]).await.unwrap();
        device.flush().await.unwrap();
        let mut got = [0; 1000];
        within("the data", backend.read_exact(&mut got)).await.unwrap();
        assert_eq!(got, [round; 1000]);
        backend.write_all(&[round; 1000]).await.unwrap();
        within("the answer", device.read_exact(&mut got)).await.unwrap();
        assert_eq!(got, [round; 1000]);
    }
    device.shutdown().await.unwrap();
    drop(backend);
    proxy.ends_with(Reason::Ok).await;
}

/// A proxy in front of a Unix socket, a device's session through it, and the backend's end of the session.
async fn unix_line() -> (Proxy, Session, UnixStream) {
    let authority = Authority::new("ca");
    let path = authority.dir().join("backend.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let backend = format!("unix:{}", path.display()).parse::<BackendAddress>().unwrap();
    let proxy = Proxy::with(listener(backend, &authority.server()));
    let device = Device::new(&authority).connect(proxy.address).await.unwrap();
    let (backend, _) = within("the backend is dialled", unix.accept()).await.unwrap();
    (proxy, device, backend)
}

#[tokio::test]
async fn over_a_unix_socket_a_device_that_ends_its_stream_still_gets_the_answer() {
    let (proxy, mut device, mut backend) = unix_line().await;
    device.write_all(b"hello unix").await.unwrap();
    device.shutdown().await.unwrap();
    let question = within("the question", read_all(&mut backend)).await.unwrap();
    assert_eq!(question, b"hello unix");
    backend.write_all(&vec![4; MIB]).await.unwrap();
    drop(backend);
    let answer = within("the answer", read_all(&mut device)).await.unwrap();
    assert_eq!(answer, vec![4; MIB]);
    proxy.ends_with(Reason::Ok).await;
}

#[tokio::test]
async fn over_a_unix_socket_a_backend_that_ends_first_still_gets_later_bytes_of_the_device() {
    let (proxy, mut device, mut backend) = unix_line().await;
    backend.write_all(b"farewell").await.unwrap();
    backend.shutdown().await.unwrap();
    // rustls reports a close_notify as 0 bytes, and an end without one as an error.
    let farewell = within("the farewell", read_all(&mut device)).await.unwrap();
    assert_eq!(farewell, b"farewell");
    device.write_all(b"thanks").await.unwrap();
    device.shutdown().await.unwrap();
    assert_eq!(within("the thanks", read_all(&mut backend)).await.unwrap(), b"thanks");
    proxy.ends_with(Reason::Ok).await;
}

#[tokio::test]
async fn over_a_unix_socket_a_reset_by_the_device_reaches_the_backend_as_an_end() {
    let (proxy, mut device, mut backend) = unix_line().await;
    device.write_all(b"half a mess").await.unwrap();
    device.flush().await.unwrap();
    within("its start", backend.read_exact(&mut [0; 11])).await.unwrap();
    device.get_ref().0.set_zero_linger().unwrap();
    drop(device);
    // A Unix socket resets only if it is closed with unread bytes (unix(7)).
    assert_eq!(within("the end", backend.read(&mut [0; 8])).await.unwrap(), 0);
    proxy.ends_with(Reason::ClientReset).await;
}

#[tokio::test]
async fn over_a_unix_socket_a_reset_by_the_backend_reaches_the_device_as_a_reset() {
    let (proxy, mut device, mut backend) = unix_line().await;
    device.write_all(b"read, and not read").await.unwrap();
    device.flush().await.unwrap();
    within("its start", backend.read_exact(&mut [0; 4])).await.unwrap();
    // A close with unread bytes resets a Unix socket.
    drop(backend);
    assert_reset(device.read(&mut [0; 8])).await;
    proxy.ends_with(Reason::BackendReset).await;
}

#[tokio::test]
async fn a_side_that_does_not_read_stops_the_other_side() {
    let Line { mut device, mut backend, proxy, .. } = Line::new().await;
    // Each side writes as much as is taken, and none reads.
    let flood = vec![1; MIB];
    let mut up = 0;
    let mut down = 0;
    let quiet = Duration::from_millis(500);
    while let Ok(sent) = tokio::time::timeout(quiet, device.write(&flood)).await {
        up += sent.unwrap();
    }
    while let Ok(sent) = tokio::time::timeout(quiet, backend.write(&flood)).await {
        down += sent.unwrap();
    }
    // The bytes are in the kernel's socket buffers, some MiB each, not in the process: tests/limits.rs
    // measures its memory.
    assert!(up < 64 * MIB, "{up} bytes were taken up");
    assert!(down < 64 * MIB, "{down} bytes were taken down");
    drop((device, backend));
    eventually("it ends", || proxy.active() == 0).await;
}
