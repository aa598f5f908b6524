//! The relay over pipes in memory: time is paused, and either end can be broken at will.
//!
//! **Not here.** What only sockets do, such as resets of the kernel: `tests/relay.rs`.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as Device;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::version::TLS12;
use tokio_rustls::rustls::{
    CipherSuiteCommon, ServerConfig, SupportedCipherSuite, Tls12CipherSuite,
};

use super::*;
use crate::ops::metrics::Metrics;
use crate::ops::shutdown::Shutdown;
use crate::proxy::handshake;
use crate::trust::snapshot::Snapshot;
use crate::trust::testing::snapshot_and_client;

/// How a pipe's peer is.
#[derive(Clone, Copy, Default, PartialEq)]
enum Peer {
    #[default]
    Well,
    /// It has ended its stream, or will, and resets what comes.
    Refusing,
    /// It has reset without an end.
    Reset,
    /// The same, and a write has taken the error.
    ResetTold,
}

/// A pipe whose peer can be told to be unwell: then writes and reads fail as the kernel's do.
struct Pipe {
    inner: DuplexStream,
    peer: Arc<Mutex<Peer>>,
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let peer = *self.peer.lock().unwrap();
        match Pin::new(&mut self.inner).poll_read(cx, buffer) {
            Poll::Pending if peer == Peer::Reset => {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            Poll::Pending if peer == Peer::ResetTold => Poll::Ready(Ok(())),
            read => read,
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let peer = *self.peer.lock().unwrap();
        match peer {
            Peer::Well => Pin::new(&mut self.inner).poll_write(cx, bytes),
            Peer::Refusing | Peer::ResetTold => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Peer::Reset => {
                *self.peer.lock().unwrap() = Peer::ResetTold;
                // A reset makes the socket readable as well.
                cx.waker().wake_by_ref();
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A relay that runs, and what stands at its ends.
struct Line {
    device: Device<DuplexStream>,
    device_is: Arc<Mutex<Peer>>,
    backend: DuplexStream,
    backend_is: Arc<Mutex<Peer>>,
    shutdown: Shutdown,
    metrics: Arc<Metrics>,
    ended: tokio::task::JoinHandle<Ended>,
}

/// Long enough for pipes to fill.
const SOON: Duration = Duration::from_millis(200);

const UNBOUNDED: Bounds = Bounds { idle: None, half_close: None, too_old: None };

impl Line {
    /// A relay whose pipes hold `capacity` bytes each way.
    async fn new(capacity: usize, bounds: Bounds) -> Self {
        Self::between(snapshot_and_client(), capacity, bounds).await
    }

    /// The same with what the sides are to be.
    async fn between(
        (snapshot, connector): (Snapshot, TlsConnector),
        capacity: usize,
        bounds: Bounds,
    ) -> Self {
        let (device_end, ours) = duplex(capacity);
        let (backend, backend_end) = duplex(capacity);
        let (device_is, backend_is) = (Arc::default(), Arc::default());
        let client = Pipe { inner: ours, peer: Arc::clone(&device_is) };
        let mut server = Pipe { inner: backend_end, peer: Arc::clone(&backend_is) };
        let shutdown = Shutdown::new();
        let force = shutdown.forced();
        let metrics = Arc::new(Metrics::new());
        let mut traffic = Traffic::new(metrics.listener("test"));
        let (begin, begun) = tokio::sync::oneshot::channel();
        let ended = tokio::spawn(async move {
            let timeouts = snapshot.listener.timeouts;
            let greeted = handshake::greet(client, timeouts).await.unwrap();
            let mut client = greeted.accept(&snapshot).await.unwrap();
            let _unless_nobody_waits = begin.send(());
            let early = client.early;
            let ended =
                relay(&mut client.stream, &mut server, early, &mut traffic, bounds, &force).await;
            if ended.reset != Some(Leg::Client) {
                client.stream.close().await;
            }
            ended
        });
        let name = ServerName::try_from("localhost").unwrap();
        let device = connector.connect(name, device_end).await.unwrap();
        // A ticket fills a small pipe: there the device has to read before the relay begins.
        if capacity > 512 {
            begun.await.unwrap();
        }
        Self { device, device_is, backend, backend_is, shutdown, metrics, ended }
    }

    async fn ended_with(self) -> (Option<Reason>, Option<Leg>) {
        let ended = self.ended.await.unwrap();
        (ended.result.err().map(|error| error.reason()), ended.reset)
    }
}

/// How many bytes were counted.
fn counted(metrics: &Metrics, direction: Direction) -> usize {
    let series = format!("tlsidecar_bytes_total{{direction=\"{direction}\",listener=\"test\"}} ");
    let text = String::from_utf8(metrics.render().unwrap().0).unwrap();
    text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
}

async fn read_all(from: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).await.unwrap();
    all
}

#[tokio::test]
async fn pipes_of_seven_bytes_carry_everything() {
    let mut line = Line::new(7, UNBOUNDED).await;
    let (mut reader, mut writer) = tokio::io::split(&mut line.device);
    let (mut backend_reader, mut backend_writer) = tokio::io::split(&mut line.backend);
    let up = vec![1; 40_000];
    let down = vec![2; 40_000];
    let (got_up, got_down, (), ()) = tokio::join!(
        read_all(&mut backend_reader),
        read_all(&mut reader),
        async {
            writer.write_all(&up).await.unwrap();
            writer.shutdown().await.unwrap();
        },
        async {
            backend_writer.write_all(&down).await.unwrap();
            backend_writer.shutdown().await.unwrap();
        }
    );
    assert!(got_up == up && got_down == down);
    assert_eq!(line.ended_with().await, (None, None));
}

#[tokio::test]
async fn what_a_client_said_before_it_reset_the_answer_is_delivered() {
    for peer in [Peer::Refusing, Peer::Reset] {
        let mut line = Line::new(1 << 20, UNBOUNDED).await;
        line.device.write_all(&[1; 100_000]).await.unwrap();
        line.device.shutdown().await.unwrap();
        *line.device_is.lock().unwrap() = peer;
        line.backend.write_all(b"an answer that nobody takes").await.unwrap();
        assert_eq!(read_all(&mut line.backend).await.len(), 100_000);
        // Its stream came whole: the backend's is not to be cut by a reset.
        assert_eq!(line.ended_with().await, (Some(Reason::ClientReset), None));
    }
}

#[tokio::test]
async fn a_client_that_was_cut_is_passed_on_as_a_reset_also_if_a_write_has_noticed() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    // The backend takes no more: so it is not read whether the client is still there.
    let stuck = tokio::time::timeout(SOON, line.device.write_all(&[1; 100_000]));
    assert!(stuck.await.is_err());
    *line.device_is.lock().unwrap() = Peer::Reset;
    line.backend.write_all(b"half way").await.unwrap();
    assert!(read_all(&mut line.backend).await.len() > 1024);
    assert_eq!(line.ended_with().await, (Some(Reason::ClientReset), Some(Leg::Backend)));
}

#[tokio::test]
async fn a_backend_that_was_cut_is_passed_on_as_a_reset_also_if_a_write_has_noticed() {
    let mut line = Line::new(1 << 20, UNBOUNDED).await;
    line.backend.write_all(b"half an ans").await.unwrap();
    *line.backend_is.lock().unwrap() = Peer::Reset;
    line.device.write_all(b"more").await.unwrap();
    let mut answer = [0; 11];
    line.device.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"half an ans");
    // No close_notify: rustls tells it (0 bytes) from a bare end (an error).
    assert!(line.device.read(&mut [0; 1]).await.is_err());
    assert_eq!(line.ended_with().await, (Some(Reason::BackendReset), Some(Leg::Client)));
}

#[tokio::test]
async fn what_a_backend_said_before_it_refused_the_rest_is_delivered() {
    let mut line = Line::new(1 << 20, UNBOUNDED).await;
    *line.backend_is.lock().unwrap() = Peer::Refusing;
    line.device.write_all(b"a request that is refused").await.unwrap();
    line.backend.write_all(&[2; 100_000]).await.unwrap();
    line.backend.shutdown().await.unwrap();
    assert_eq!(read_all(&mut line.device).await.len(), 100_000);
    assert_eq!(line.ended_with().await, (Some(Reason::BackendReset), None));
}

#[tokio::test]
async fn a_backend_that_is_stuck_in_answering_a_client_that_is_gone_still_gets_its_report() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    // An echo that takes nothing while its answer is not taken.
    let (mut backend_reads, mut backend_writes) = tokio::io::split(line.backend);
    let answering = tokio::spawn(async move {
        let mut got = 0;
        let mut buffer = [0; 512];
        while let Ok(read @ 1..) = backend_reads.read(&mut buffer).await {
            got += read;
            if backend_writes.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
        got
    });
    // Until all pipes are full: the device does not read.
    let report = vec![1; 200_000];
    let stuck = tokio::time::timeout(SOON, line.device.write_all(&report));
    assert!(stuck.await.is_err());
    *line.device_is.lock().unwrap() = Peer::Refusing;
    // What it reads now makes room for the write that fails.
    line.device.get_mut().0.read_exact(&mut [0; 512]).await.unwrap();
    drop(line.device);
    assert!(answering.await.unwrap() > 1024);
    let ended = line.ended.await.unwrap();
    assert_eq!(ended.result.unwrap_err().reason(), Reason::ClientReset);
}

#[tokio::test]
async fn a_client_that_is_stuck_in_asking_a_backend_that_refuses_still_gets_the_refusal() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    *line.backend_is.lock().unwrap() = Peer::Refusing;
    line.backend.write_all(b"no").await.unwrap();
    // It does not read before it has said everything.
    line.device.write_all(&[1; 200_000]).await.unwrap();
    line.backend.shutdown().await.unwrap();
    assert_eq!(read_all(&mut line.device).await, b"no");
    drop(line.device);
    let ended = line.ended.await.unwrap();
    assert_eq!(ended.result.unwrap_err().reason(), Reason::BackendReset);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_the_idle_timeout_and_not_before() {
    let idle = Duration::from_secs(3600);
    let mut line = Line::new(1024, Bounds { idle: Some(idle), ..UNBOUNDED }).await;
    let start = Instant::now();
    // Bytes in either direction start the time anew.
    tokio::time::sleep(idle - Duration::from_secs(1)).await;
    line.device.write_all(b"up").await.unwrap();
    line.backend.read_exact(&mut [0; 2]).await.unwrap();
    tokio::time::sleep(idle - Duration::from_secs(1)).await;
    line.backend.write_all(b"down").await.unwrap();
    line.device.read_exact(&mut [0; 4]).await.unwrap();
    // The end is said in order: a close_notify to the device, an end of stream to the backend.
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(start.elapsed().as_secs(), 3 * 3600 - 2);
    drop(line.device.shutdown().await);
    assert_eq!(line.backend.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(line.ended_with().await, (Some(Reason::IdleTimeout), None));
}

#[tokio::test(start_paused = true)]
async fn after_one_side_has_ended_the_half_close_timeout_bounds_the_silence_not_the_answer() {
    let bounds = Bounds {
        idle: Some(Duration::from_secs(3600)),
        half_close: Some(Duration::from_secs(60)),
        too_old: None,
    };
    let mut line = Line::new(1024, bounds).await;
    line.device.shutdown().await.unwrap();
    assert_eq!(line.backend.read(&mut [0; 1]).await.unwrap(), 0);
    // An answer that takes ten minutes, with no minute of silence.
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        line.backend.write_all(b"more").await.unwrap();
        line.device.read_exact(&mut [0; 4]).await.unwrap();
    }
    let silence = Instant::now();
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(silence.elapsed().as_secs(), 60);
    assert_eq!(line.ended_with().await, (Some(Reason::HalfCloseTimeout), None));
}

#[tokio::test(start_paused = true)]
async fn a_busy_connection_is_closed_at_its_maximum_age() {
    let too_old = Instant::now() + Duration::from_secs(600);
    let mut line = Line::new(1024, Bounds { too_old: Some(too_old), ..UNBOUNDED }).await;
    while Instant::now() < too_old - Duration::from_secs(2) {
        line.device.write_all(b"x").await.unwrap();
        line.backend.read_exact(&mut [0; 1]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(Instant::now(), too_old);
    assert_eq!(line.ended_with().await, (Some(Reason::MaxAge), None));
}

#[tokio::test(start_paused = true)]
async fn without_bounds_a_silent_connection_lives_for_years() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    tokio::time::sleep(Duration::from_secs(3 * 365 * 24 * 3600)).await;
    line.device.write_all(b"still here").await.unwrap();
    line.backend.read_exact(&mut [0; 10]).await.unwrap();
}

#[tokio::test]
async fn a_forced_connection_says_close_notify() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    line.shutdown.force();
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    drop(line.device.shutdown().await);
    assert_eq!(line.ended_with().await, (Some(Reason::DrainDeadline), None));
}

#[tokio::test]
async fn a_relay_that_is_stopped_with_bytes_for_the_backend_undelivered_resets_it() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    let stuck = tokio::time::timeout(SOON, line.device.write_all(&[1; 100_000]));
    assert!(stuck.await.is_err());
    line.shutdown.force();
    // The device is told in order.
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    let got = read_all(&mut line.backend).await.len();
    assert_eq!(counted(&line.metrics, Direction::ToBackend), got);
    drop(line.device);
    let ended = line.ended.await.unwrap();
    assert_eq!(ended.reset, Some(Leg::Backend));
    assert_eq!(ended.result.unwrap_err().reason(), Reason::DrainDeadline);
}

#[tokio::test]
async fn bytes_that_nobody_takes_are_not_counted() {
    for direction in [Direction::ToBackend, Direction::ToClient] {
        let mut line = Line::new(1 << 20, UNBOUNDED).await;
        let refusing = match direction {
            Direction::ToBackend => &line.backend_is,
            Direction::ToClient => &line.device_is,
        };
        *refusing.lock().unwrap() = Peer::Refusing;
        line.device.write_all(b"question").await.unwrap();
        line.backend.write_all(b"answer").await.unwrap();
        line.device.shutdown().await.unwrap();
        line.backend.shutdown().await.unwrap();
        let metrics = Arc::clone(&line.metrics);
        assert!(line.ended_with().await.0.is_some());
        let counts = [Direction::ToBackend, Direction::ToClient].map(|d| counted(&metrics, d));
        let expected = match direction {
            Direction::ToBackend => [0, 6],
            Direction::ToClient => [8, 0],
        };
        assert_eq!(counts, expected);
    }
}

#[tokio::test]
async fn a_forged_record_ends_the_connection_with_an_alert_and_resets_the_backend() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    let forged = [&[23, 3, 3, 0, 40][..], &[0; 40]].concat();
    line.device.get_mut().0.write_all(&forged).await.unwrap();
    let error = line.device.read(&mut [0; 1]).await.unwrap_err();
    // bad_record_mac, RFC 8446 section 5.2.
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    drop(line.device.get_mut().0.shutdown().await);
    assert_eq!(line.ended_with().await, (Some(Reason::ClientTlsError), Some(Leg::Backend)));
}

#[tokio::test]
async fn what_came_before_a_forged_record_in_the_same_segment_is_delivered() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    line.device.write_all(b"report").await.unwrap();
    let forged = [&[23, 3, 3, 0, 40][..], &[0; 40]].concat();
    line.device.get_mut().0.write_all(&forged).await.unwrap();
    // The session is over: it is not to be sealed.
    line.backend.write_all(b"answer").await.unwrap();
    let error = line.device.read(&mut [0; 1]).await.unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    drop(line.device.get_mut().0.shutdown().await);
    assert_eq!(read_all(&mut line.backend).await, b"report");
    assert_eq!(line.ended_with().await, (Some(Reason::ClientTlsError), Some(Leg::Backend)));
}

#[tokio::test]
async fn a_session_that_is_over_seals_nothing_while_its_last_words_wait_for_the_backend() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    line.device.write_all(&[1; 900]).await.unwrap();
    line.backend.read_exact(&mut [0; 1]).await.unwrap();
    line.device.write_all(&[2; 600]).await.unwrap();
    let forged = [&[23, 3, 3, 0, 40][..], &[0; 40]].concat();
    line.device.get_mut().0.write_all(&forged).await.unwrap();
    line.backend.write_all(b"answer").await.unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    drop(line.device);
    assert_eq!(read_all(&mut line.backend).await.len(), 1499);
    let ended = line.ended.await.unwrap();
    assert_eq!(ended.result.unwrap_err().reason(), Reason::ClientTlsError);
}

#[tokio::test]
async fn the_report_of_a_device_that_is_gone_before_it_has_taken_its_tickets_is_delivered() {
    // A pipe so small that the relay has not begun: the Finished is in the pipe.
    let mut line = Line::new(512, UNBOUNDED).await;
    line.device.write_all(b"report").await.unwrap();
    line.device.shutdown().await.unwrap();
    *line.device_is.lock().unwrap() = Peer::Reset;
    assert_eq!(read_all(&mut line.backend).await, b"report");
    assert_eq!(line.ended_with().await, (Some(Reason::ClientReset), None));
}

#[tokio::test]
async fn an_endless_record_is_not_collected_for_ever() {
    let mut line = Line::new(1 << 20, UNBOUNDED).await;
    // The header announces more than a record may have (RFC 8446 section 5.2: 2^14 + 256).
    line.device.get_mut().0.write_all(&[23, 3, 3, 0x7f, 0xff]).await.unwrap();
    line.device.get_mut().0.write_all(&[0; 40_000]).await.unwrap();
    drop(line.device.get_mut().0.shutdown().await);
    assert_eq!(line.ended_with().await, (Some(Reason::ClientTlsError), Some(Leg::Backend)));
}

/// A server's configuration whose TLS 1.2 keys are good for so many records.
fn short_lived_keys(config: &ServerConfig, records: u64) -> ServerConfig {
    let SupportedCipherSuite::Tls12(suite) = TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 else {
        panic!("a suite of TLS 1.2");
    };
    let common = CipherSuiteCommon {
        suite: suite.common.suite,
        hash_provider: suite.common.hash_provider,
        confidentiality_limit: records,
    };
    let short_lived = Tls12CipherSuite { common, ..*suite };
    let suites = vec![SupportedCipherSuite::Tls12(Box::leak(Box::new(short_lived)))];
    let provider = CryptoProvider { cipher_suites: suites, ..default_provider() };
    ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&config.cert_resolver))
}

#[tokio::test]
async fn a_key_that_may_seal_no_more_ends_the_connection_without_a_close_notify() {
    let (mut snapshot, connector) = snapshot_and_client();
    // 2^24 would take minutes.
    let short_lived = Arc::new(short_lived_keys(&snapshot.server_configs.ours, 4));
    snapshot.server_configs.ours = Arc::clone(&short_lived);
    snapshot.server_configs.clients = short_lived;
    let mut line = Line::between((snapshot, connector), 4096, UNBOUNDED).await;
    // The first record was our Finished.
    for record in 1..4 {
        line.backend.write_u8(record).await.unwrap();
        assert_eq!(line.device.read_u8().await.unwrap(), record);
    }
    line.backend.write_u8(4).await.unwrap();
    // What could not be sealed is missing: rustls tells a bare end (an error) from a close_notify.
    assert!(line.device.read(&mut [0; 1]).await.is_err());
    assert_eq!(counted(&line.metrics, Direction::ToClient), 3);
    assert_eq!(line.ended_with().await, (Some(Reason::KeysExhausted), Some(Leg::Client)));
}
