//! Access for the micro-benchmarks to the parts of a connection: handshake, record layer, relay.
//!
//! Built only with the feature `bench`. Not a stable interface: it changes with the parts. Each function is
//! as thin as possible, so that a bench measures only the work of a connection.
//!
//! **Promises.** A case that fails panics.
//!
//! **Not here.** The cases and the device at the other end (`benches/micro/`).

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite};

use super::handshake::{self, Kernel};
use super::handshake_memory::Share;
use super::hello::{self, Between, HelloLimits};
use super::relay::{self, Bounds};
use super::tls::scratch::{self, HANDSHAKE_READ_BYTES};
use super::tls::{Received, TlsStream};
use crate::config::{self, BackendAddress, CertificateFiles, ClientAuth, ListenerConfig, Timeouts};
use crate::metrics::Metrics;
use crate::sessions::{Session, Sessions};
use crate::trust::snapshot::Snapshot;

/// The server side of a listener with default settings.
pub struct BenchServer {
    snapshot: Snapshot,
    metrics: Arc<Metrics>,
}

/// A client after its handshake.
pub struct BenchStream<Io>(TlsStream<Io>);

impl BenchServer {
    /// Returns a server with the certificate and key of these files.
    ///
    /// # Panics
    /// If the files cannot be used.
    #[must_use]
    pub fn new(cert: &Path, key: &Path) -> Self {
        let pair = CertificateFiles { cert: cert.to_owned(), key: key.to_owned() };
        let backend = "127.0.0.1:1".parse::<BackendAddress>().expect("it is an address");
        let address = ([127, 0, 0, 1], 0).into();
        let listener = ListenerConfig::new("bench", address, backend, pair, ClientAuth::None);
        let loaded = Snapshot::load(&listener, SystemTime::now());
        let (snapshot, _warnings) = loaded.expect("the certificate can be used");
        Self { snapshot, metrics: Arc::new(Metrics::new()) }
    }

    /// Performs a handshake.
    ///
    /// # Panics
    /// If the handshake fails.
    pub async fn accept<Io: AsyncRead + AsyncWrite + Unpin>(&self, io: Io) -> BenchStream<Io> {
        let started = handshake::read_client_hello(
            io,
            &self.snapshot.listener,
            Share::default(),
            Kernel::NONE,
            None,
        )
        .await;
        let started = started.expect("it is a ClientHello");
        let client = started.accept(&self.snapshot, &0, None).await.0;
        BenchStream(client.expect("the device can be served").stream)
    }

    /// Relays until both directions have ended.
    ///
    /// # Panics
    /// If the relay fails.
    pub fn relay<C, B>(
        &self,
        mut client: BenchStream<C>,
        mut backend: B,
    ) -> impl Future<Output = ()> + use<C, B>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let peer = ([127, 0, 0, 1], 1).into();
        let session = Session::new(self.metrics.listener("bench"), 1, peer);
        let bounds = Bounds::of(&self.snapshot.listener.timeouts);
        let sessions = Sessions::default();
        async move {
            let stream = &mut client.0;
            let backend = &mut backend;
            let never = |_: (&C, _), _: (&B, _)| false;
            let relay =
                relay::relay(stream, backend, Vec::new(), (&session, &sessions), bounds, never);
            relay.await.result.expect("the relay ends without an error");
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> BenchStream<Io> {
    /// Reads once, opens the records, and returns the number of plaintext bytes.
    ///
    /// # Panics
    /// If the session has ended.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        scratch::with(|scratch| {
            self.0.poll_receive(cx, scratch, HANDSHAKE_READ_BYTES).map(|received| {
                assert_eq!(received.expect("the records can be opened"), Received::Some);
                scratch.plain.len()
            })
        })
    }

    /// Drops the ciphers. The next record in a direction rebuilds its cipher.
    pub fn drop_ciphers(&mut self) {
        self.0.drop_ciphers();
    }

    /// Seals `plain`, of at most 64 KiB, and writes it. Nothing may be queued before.
    ///
    /// # Panics
    /// If it cannot be sealed or written.
    pub fn send(&mut self, cx: &mut Context<'_>, plain: &[u8]) {
        let sent = scratch::with(|scratch| self.0.send(cx, plain, &mut scratch.sealed));
        sent.expect("an open session accepts data");
    }
}

/// Reads a complete ClientHello and returns the server name that it requests.
///
/// # Panics
/// If `bytes` is not a complete ClientHello.
pub async fn read_hello(mut bytes: &[u8]) -> Option<Box<str>> {
    let limits = HelloLimits::of(&Timeouts::default(), config::Limits::default());
    let hello =
        hello::read(&mut bytes, Vec::new(), Between::Nothing, limits, &Share::default()).await;
    hello.expect("it is a ClientHello").server_name
}
