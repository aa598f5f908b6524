//! The relay over pipes in memory: tests pause the time and break either end.
//!
//! **Not here.** Behaviour that needs sockets, for example resets: `tests/relay.rs`.

mod faults;
mod idle_ciphers;
mod stops;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
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
use crate::metrics::Metrics;
use crate::proxy::handshake::{self, Kernel};
use crate::proxy::handshake_memory::Share;
use crate::terms::reason::Reason;
use crate::trust::snapshot::Snapshot;
use crate::trust::testing::snapshot_and_client;

/// State of a pipe's peer.
#[derive(Clone, Copy, Default, PartialEq)]
enum PeerState {
    #[default]
    Open,
    /// It has ended its stream, or will, and resets on further bytes.
    Refusing,
    /// It has reset without ending its stream.
    Reset,
    /// The same, and a write has consumed the error.
    ResetConsumed,
}

/// A pipe whose peer can fail. Writes and reads then fail as those of the kernel do.
struct Pipe {
    inner: DuplexStream,
    peer: Arc<Mutex<PeerState>>,
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let peer = *self.peer.lock().unwrap();
        match Pin::new(&mut self.inner).poll_read(cx, buffer) {
            Poll::Pending if peer == PeerState::Reset => {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            Poll::Pending if peer == PeerState::ResetConsumed => Poll::Ready(Ok(())),
            read @ (Poll::Pending | Poll::Ready(_)) => read,
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
            PeerState::Open => Pin::new(&mut self.inner).poll_write(cx, bytes),
            PeerState::Refusing | PeerState::ResetConsumed => {
                Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
            }
            PeerState::Reset => {
                *self.peer.lock().unwrap() = PeerState::ResetConsumed;
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

/// A running relay, and both ends.
struct Line {
    device: Device<DuplexStream>,
    device_is: Arc<Mutex<PeerState>>,
    backend: DuplexStream,
    backend_is: Arc<Mutex<PeerState>>,
    /// Answers of the kernel when it is asked for readiness, the last first. After these, false.
    kernel: Arc<Mutex<Vec<bool>>>,
    session: Arc<Session>,
    metrics: Arc<Metrics>,
    ended: tokio::task::JoinHandle<Ended>,
    /// The session had no cipher when the relay ended.
    had_no_cipher: Arc<AtomicBool>,
}

/// Long enough for pipes to fill.
const SOON: Duration = Duration::from_millis(200);

const UNBOUNDED: Bounds = Bounds { idle: None, half_close: None, too_old: None };

impl Line {
    /// Starts a relay whose pipes hold `capacity` bytes in each direction.
    async fn new(capacity: usize, bounds: Bounds) -> Self {
        Self::between(snapshot_and_client(), capacity, bounds).await
    }

    /// The same with this server and client.
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
        let metrics = Arc::new(Metrics::new());
        let peer = ([127, 0, 0, 1], 1).into();
        let session = Arc::new(Session::new(metrics.listener("test"), 1, peer));
        let relayed = Arc::clone(&session);
        let kernel = Arc::<Mutex<Vec<bool>>>::default();
        let ready = Arc::clone(&kernel);
        let had_no_cipher = Arc::<AtomicBool>::default();
        let without_cipher = Arc::clone(&had_no_cipher);
        let (begin, begun) = tokio::sync::oneshot::channel();
        let ended = tokio::spawn(async move {
            let (listener, memory) = (&snapshot.listener, Share::default());
            let started =
                handshake::read_client_hello(client, listener, memory, Kernel::NONE, None)
                    .await
                    .unwrap();
            let mut client = started.accept(&snapshot, &0, None).await.0.unwrap();
            let _not_waited_for = begin.send(());
            let (early, sessions) = (client.early, Sessions::default());
            let stream = &mut client.stream;
            let is_ready = move |_: (&Pipe, Interest), _: (&Pipe, Interest)| {
                ready.lock().unwrap().pop().unwrap_or(false)
            };
            let ended =
                relay(stream, &mut server, early, (&relayed, &sessions), bounds, is_ready).await;
            without_cipher.store(!client.stream.has_cipher(), Ordering::Relaxed);
            if ended.reset != Some(Side::Client) {
                client.stream.close().await;
            }
            ended
        });
        let name = ServerName::try_from("localhost").unwrap();
        let device = connector.connect(name, device_end).await.unwrap();
        // A ticket fills a small pipe: the device then has to read before the relay begins.
        if capacity > 512 {
            begun.await.unwrap();
        }
        Self {
            device,
            device_is,
            backend,
            backend_is,
            kernel,
            session,
            metrics,
            ended,
            had_no_cipher,
        }
    }

    async fn ended_with(self) -> (Option<Reason>, Option<Side>) {
        let ended = self.ended.await.unwrap();
        (ended.result.err().map(|error| error.reason()), ended.reset)
    }
}

/// Returns the counter of bytes.
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
async fn the_report_of_a_client_that_resets_the_answer_is_delivered() {
    for peer in [PeerState::Refusing, PeerState::Reset] {
        let mut line = Line::new(1 << 20, UNBOUNDED).await;
        line.device.write_all(&[1; 100_000]).await.unwrap();
        line.device.shutdown().await.unwrap();
        *line.device_is.lock().unwrap() = peer;
        line.backend.write_all(b"an answer that is not taken").await.unwrap();
        assert_eq!(read_all(&mut line.backend).await.len(), 100_000);
        // Its stream is complete: the backend's must not be cut by a reset.
        assert_eq!(line.ended_with().await, (Some(Reason::ClientReset), None));
    }
}

#[tokio::test]
async fn the_reset_of_a_client_is_passed_on_also_if_a_write_has_seen_it() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    // The backend takes no more, so the client is not read.
    let stuck = tokio::time::timeout(SOON, line.device.write_all(&[1; 100_000]));
    assert!(stuck.await.is_err());
    *line.device_is.lock().unwrap() = PeerState::Reset;
    line.backend.write_all(b"half way").await.unwrap();
    assert!(read_all(&mut line.backend).await.len() > 1024);
    assert_eq!(line.ended_with().await, (Some(Reason::ClientReset), Some(Side::Backend)));
}

#[tokio::test]
async fn the_reset_of_a_backend_is_passed_on_also_if_a_write_has_seen_it() {
    let mut line = Line::new(1 << 20, UNBOUNDED).await;
    line.backend.write_all(b"half an ans").await.unwrap();
    *line.backend_is.lock().unwrap() = PeerState::Reset;
    line.device.write_all(b"more").await.unwrap();
    let mut answer = [0; 11];
    line.device.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"half an ans");
    // No close_notify: rustls reports one as 0 bytes, and an end without one as an error.
    assert!(line.device.read(&mut [0; 1]).await.is_err());
    assert_eq!(line.ended_with().await, (Some(Reason::BackendReset), Some(Side::Client)));
}

#[tokio::test]
async fn the_answer_of_a_backend_that_refuses_the_rest_is_delivered() {
    let mut line = Line::new(1 << 20, UNBOUNDED).await;
    *line.backend_is.lock().unwrap() = PeerState::Refusing;
    line.device.write_all(b"a request that is refused").await.unwrap();
    line.backend.write_all(&[2; 100_000]).await.unwrap();
    line.backend.shutdown().await.unwrap();
    assert_eq!(read_all(&mut line.device).await.len(), 100_000);
    assert_eq!(line.ended_with().await, (Some(Reason::BackendReset), None));
}

#[tokio::test]
async fn a_backend_that_blocks_in_its_answer_still_gets_the_report_of_a_client_that_has_closed() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    // An echo that does not read while its answer is not taken.
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
    // Until all pipes are full, since the device does not read.
    let report = vec![1; 200_000];
    let stuck = tokio::time::timeout(SOON, line.device.write_all(&report));
    assert!(stuck.await.is_err());
    *line.device_is.lock().unwrap() = PeerState::Refusing;
    // This read makes room for the write that fails.
    line.device.get_mut().0.read_exact(&mut [0; 512]).await.unwrap();
    drop(line.device);
    assert!(answering.await.unwrap() > 1024);
    let ended = line.ended.await.unwrap();
    assert_eq!(ended.result.unwrap_err().reason(), Reason::ClientReset);
}

#[tokio::test]
async fn a_client_that_blocks_in_its_request_still_gets_the_answer_of_a_backend_that_refuses() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    *line.backend_is.lock().unwrap() = PeerState::Refusing;
    line.backend.write_all(b"no").await.unwrap();
    // It does not read before it has sent everything.
    line.device.write_all(&[1; 200_000]).await.unwrap();
    line.backend.shutdown().await.unwrap();
    assert_eq!(read_all(&mut line.device).await, b"no");
    drop(line.device);
    let ended = line.ended.await.unwrap();
    assert_eq!(ended.result.unwrap_err().reason(), Reason::BackendReset);
}

#[tokio::test]
async fn bytes_that_are_not_taken_are_not_counted() {
    for direction in [Direction::ToBackend, Direction::ToClient] {
        let mut line = Line::new(1 << 20, UNBOUNDED).await;
        let refusing = match direction {
            Direction::ToBackend => &line.backend_is,
            Direction::ToClient => &line.device_is,
        };
        *refusing.lock().unwrap() = PeerState::Refusing;
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
