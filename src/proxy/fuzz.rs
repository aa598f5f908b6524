//! Access for the fuzz targets to the PROXY protocol header, the ClientHello and TLS of a connection, and to the files
//! of a listener.
//!
//! Built only with the feature `fuzz`. Not a stable interface: it changes with the parts.
//!
//! **Promises.** The proxy does the same with the same input. Input is refused by a return value: a panic is
//! a finding.
//!
//! **Not here.** The targets and their assertions (`fuzz/`), the configuration, which is public, the admin
//! port (`control/admin/fuzz.rs`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite};

use super::handshake::{self, Kernel};
use super::handshake_memory::Share;
use super::hello::{self, Between, HelloLimits};
use super::proxy_protocol;
use super::relay::{self, Bounds};
use crate::config::{
    AcceptedVersions, BackendAddress, CertificateFiles, ClientAuth, ClientTrust, ListenerConfig,
};
use crate::metrics::Metrics;
use crate::sessions::{Session, Sessions};
use crate::trust::snapshot::Snapshot;

/// The server side of a listener that requests client certificates and also accepts devices without one.
pub struct FuzzServer {
    snapshot: Snapshot,
    metrics: Arc<Metrics>,
}

impl FuzzServer {
    /// Returns a server with the files `server.crt`, `server.key`, `ca.crt` and `devices.crl` of a directory.
    ///
    /// # Panics
    /// If the files cannot be used.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let files = ["server.crt", "server.key", "ca.crt", "devices.crl"].map(|f| dir.join(f));
        let loaded = Snapshot::load(&listener(&files), SystemTime::now());
        let (snapshot, _warnings) = loaded.expect("the files can be used");
        Self { snapshot, metrics: Arc::new(Metrics::new()) }
    }

    /// Reads a ClientHello, and returns its server name; none if the hello is refused.
    pub async fn server_name(&self, mut io: impl AsyncRead + Unpin) -> Option<Option<Box<str>>> {
        let listener = &self.snapshot.listener;
        let limits = HelloLimits::of(&listener.timeouts, listener.limits);
        let share = Share::default();
        let hello = hello::read(&mut io, Vec::new(), Between::Nothing, limits, &share).await;
        let hello = hello.ok()?;
        hello.check(AcceptedVersions { tls12: true, tls13: true }).ok()?;
        Some(hello.server_name)
    }

    /// Performs the handshake and the relay of a connection.
    pub async fn serve<C, B>(&self, io: C, mut backend: B)
    where
        C: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let listener = &self.snapshot.listener;
        let (memory, kernel) = (Share::default(), Kernel::NONE);
        let started = handshake::read_client_hello(io, listener, memory, kernel, None).await;
        let Ok(started) = started else { return };
        let (Ok(client), _) = started.accept(&self.snapshot, &0, None).await else { return };
        let mut stream = client.stream;
        let peer = ([127, 0, 0, 1], 1).into();
        let session = Session::new(self.metrics.listener("fuzz"), 1, peer);
        let (bounds, sessions) = (Bounds::of(&listener.timeouts), Sessions::default());
        let (stream, backend, early) = (&mut stream, &mut backend, client.early);
        let never = |_: (&C, _), _: (&B, _)| false;
        let relay = relay::relay(stream, backend, early, (&session, &sessions), bounds, never);
        let _ended = relay.await;
    }
}

/// Parses a PROXY protocol header. Returns its length and the addresses in it; none if it is incomplete or invalid.
#[must_use]
pub fn proxy_header(bytes: &[u8]) -> Option<(usize, Option<(SocketAddr, SocketAddr)>)> {
    let header = proxy_protocol::parse(bytes).ok().flatten()?;
    let addresses = header.addresses.map(|addresses| (addresses.source, addresses.destination));
    Some((header.length, addresses))
}

/// Returns true if more bytes could make a PROXY protocol header of these.
#[must_use]
pub fn may_become_proxy_header(bytes: &[u8]) -> bool {
    matches!(proxy_protocol::parse(bytes), Ok(None))
}

/// Loads a server's chain and key, CAs and CRLs from these files.
///
/// # Errors
/// The problems of the files, as they are reported.
pub fn load(files: &[PathBuf; 4]) -> Result<(), Vec<String>> {
    let loaded = Snapshot::load(&listener(files), SystemTime::now());
    let reported = |problems: Vec<_>| problems.iter().map(ToString::to_string).collect();
    loaded.map(|_| ()).map_err(reported)
}

fn listener([cert, key, ca, crl]: &[PathBuf; 4]) -> ListenerConfig {
    let pair = CertificateFiles { cert: cert.clone(), key: key.clone() };
    let backend = "127.0.0.1:1".parse::<BackendAddress>().expect("it is an address");
    let clients = ClientAuth::Optional(ClientTrust {
        crls: vec![crl.clone()],
        ..ClientTrust::new(ca.clone())
    });
    ListenerConfig::new("fuzz", ([127, 0, 0, 1], 0).into(), backend, pair, clients)
}
