//! What the micro-benchmarks may touch of a connection: its handshake, its session, its relay.
//!
//! Built with the feature `bench` alone, and no stable interface: it changes with what it opens.
//! Each function is as thin as it can be, so that a bench measures what a connection does.
//!
//! **Promises.** Nothing is done here that a connection does not do; a case that fails panics.
//!
//! **Not here.** The cases and the device at the other end: `benches/micro/`.

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::handshake;
use super::handshake_memory::Share;
use super::hello::{self, Between};
use super::relay::{self, Bounds};
use super::tls::scratch::{self, HANDSHAKE_READ_BYTES};
use super::tls::{Received, TlsStream};
use crate::config::{self, BackendAddress, CertificateFiles, ClientAuth, ListenerConfig, Timeouts};
use crate::metrics::Metrics;
use crate::sessions;
use crate::trust::snapshot::Snapshot;

/// A listener's side, on its defaults.
pub struct Server {
    snapshot: Snapshot,
    metrics: Arc<Metrics>,
}

/// A client after its handshake.
pub struct Session<Io>(TlsStream<Io>);

impl Server {
    /// A server that shows the certificate in these files.
    ///
    /// # Panics
    /// If they cannot be used.
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

    /// Takes a client through its handshake.
    ///
    /// # Panics
    /// If there is no session at its end.
    pub async fn accept<Io: AsyncRead + AsyncWrite + Unpin>(&self, io: Io) -> Session<Io> {
        let greeted = handshake::greet(io, &self.snapshot.listener, Share::default()).await;
        let client = greeted.expect("it is a ClientHello").accept(&self.snapshot).await;
        Session(client.expect("the device can be served").stream)
    }

    /// Relays until both directions have ended.
    ///
    /// # Panics
    /// If they do not end in order.
    pub fn relay<C, B>(
        &self,
        mut client: Session<C>,
        mut backend: B,
    ) -> impl Future<Output = ()> + use<C, B>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let peer = ([127, 0, 0, 1], 1).into();
        let session = sessions::Session::new(self.metrics.listener("bench"), 1, peer);
        let bounds = Bounds::of(&self.snapshot.listener.timeouts);
        async move {
            let stream = &mut client.0;
            let backend = &mut backend;
            let never = |_: (&C, _), _: (&B, _)| false;
            let relay = relay::relay(stream, backend, Vec::new(), &session, bounds, never);
            relay.await.result.expect("nothing disturbs it");
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Session<Io> {
    /// Reads once and opens what came: how many bytes of plaintext there were.
    ///
    /// # Panics
    /// If the session is over.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        scratch::with(|scratch| {
            self.0.poll_receive(cx, scratch, HANDSHAKE_READ_BYTES).map(|received| {
                assert_eq!(received.expect("what came can be opened"), Received::Some);
                scratch.plain.len()
            })
        })
    }

    /// Seals `plain`, of at most 64 KiB, and writes it. Only after a flush.
    ///
    /// # Panics
    /// If it cannot be sealed or written.
    pub fn send(&mut self, cx: &mut Context<'_>, plain: &[u8]) {
        let sent = scratch::with(|scratch| self.0.send(cx, plain, &mut scratch.sealed));
        sent.expect("a session in order takes what is said");
    }
}

/// Reads a whole ClientHello and looks at it: the name that it asks for.
///
/// # Panics
/// If it is none, or not whole.
pub async fn look(mut bytes: &[u8]) -> Option<Box<str>> {
    let timeouts = Timeouts::default();
    let limits = hello::Limits {
        deadline: Instant::now() + timeouts.handshake,
        timeout: timeouts.hello,
        max_bytes: config::Limits::default().max_hello_bytes,
    };
    let hello =
        hello::read(&mut bytes, Vec::new(), Between::Nothing, limits, &Share::default()).await;
    hello.expect("it is a ClientHello").server_name
}
