//! Devices: TLS clients that dial a proxy.
//!
//! All of a load make the same offer (X25519 and P-256 or the hybrid of X25519 with ML-KEM-768, AES-128-GCM first), so that
//! every proxy selects the same suite and group, and the figures compare implementations rather than ciphers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::aws_lc_rs::{self, cipher_suite as suite, kx_group};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, HandshakeKind, RootCertStore};

use super::backend::Task;
use super::material::Material;
use super::setup::{Groups, Setup};

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

/// Connects devices of one kind to one proxy.
#[derive(Clone)]
pub struct Dialer {
    address: SocketAddr,
    /// None for plain TCP.
    tls: Option<TlsConnector>,
}

/// A connection, with TLS or without.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection with or without TLS.
pub type Line = Box<dyn Stream>;

impl Dialer {
    /// Returns a dialer for devices without TLS.
    pub const fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    /// Returns a dialer for devices that support only `version`, do what the load requires, and resume sessions if
    /// `resumes`.
    pub fn tls(
        address: SocketAddr,
        material: &Material,
        setup: Setup,
        version: Version,
        resumes: bool,
    ) -> Self {
        let mut config = config_for(material, setup, version);
        config.resumption =
            if resumes { Resumption::in_memory_sessions(8) } else { Resumption::disabled() };
        Self { address, tls: Some(TlsConnector::from(Arc::new(config))) }
    }

    /// Returns a dialer for a device with this certificate, which does not resume.
    pub fn showing(
        address: SocketAddr,
        material: &Material,
        version: Version,
        identity: Identity,
    ) -> Self {
        Self { address, tls: Some(connector(material, version, Some(identity))) }
    }

    /// Returns a dialer for one device, which resumes its own sessions.
    pub fn of_one_device(&self) -> Self {
        let tls = self.tls.as_ref().expect("the device has TLS");
        let mut config = ClientConfig::clone(tls.config());
        config.resumption = Resumption::in_memory_sessions(1);
        Self { address: self.address, tls: Some(TlsConnector::from(Arc::new(config))) }
    }

    /// Returns whether its devices have TLS.
    pub const fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Connects without TLS.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    /// Connects and performs the TLS handshake.
    pub async fn handshake(&self) -> io::Result<TlsStream<TcpStream>> {
        let tls = self.tls.as_ref().expect("the device has TLS");
        let tcp = self.connect().await?;
        tls.connect(ServerName::try_from("localhost").expect("the name is valid"), tcp).await
    }

    /// Connects, and selects the backend's task.
    pub async fn dial(&self, task: Task) -> io::Result<Line> {
        let mut line: Line = if self.tls.is_some() {
            Box::new(self.handshake().await?)
        } else {
            Box::new(self.connect().await?)
        };
        line.write_all(&[task.byte()]).await?;
        Ok(line)
    }

    /// Opens `count` connections, some at a time, each with one echo of 64 bytes.
    pub async fn dial_many(&self, count: usize) -> io::Result<Vec<Line>> {
        let mut lines = Vec::with_capacity(count);
        while lines.len() < count {
            let some = (count - lines.len()).min(AT_A_TIME);
            lines.extend(dial_all(&vec![self.clone(); some]).await?);
        }
        Ok(lines)
    }
}

/// Connections that are opened at a time.
pub const AT_A_TIME: usize = 50;

/// Opens a connection with each dialer, at the same time, each with one echo of 64 bytes.
pub async fn dial_all(dialers: &[Dialer]) -> io::Result<Vec<Line>> {
    let dialling = dialers.iter().cloned().map(|dialer| {
        tokio::spawn(async move {
            let mut line = dialer.dial(Task::Echo).await?;
            echo(&mut line, &[7; 64]).await?;
            io::Result::Ok(line)
        })
    });
    let mut lines = Vec::with_capacity(dialers.len());
    for one in dialling.collect::<Vec<_>>() {
        lines.push(within(Duration::from_secs(30), one).await?.map_err(io::Error::other)??);
    }
    Ok(lines)
}

/// A certificate chain and its key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Returns a client that never resumes sessions, and whose secrets can be extracted.
pub fn connector(
    material: &Material,
    version: Version,
    identity: Option<Identity>,
) -> TlsConnector {
    let mut config = config(material, version, Groups::Classic, identity);
    config.resumption = Resumption::disabled();
    config.enable_secret_extraction = true;
    TlsConnector::from(Arc::new(config))
}

/// Returns the settings of the devices of a load.
pub fn config_for(material: &Material, setup: Setup, version: Version) -> ClientConfig {
    let identity = || (vec![material.device.0.clone()], material.device_key());
    config(material, version, setup.groups, setup.client_auth.then(identity))
}

fn config(
    material: &Material,
    version: Version,
    groups: Groups,
    identity: Option<Identity>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(material.ca.clone()).expect("the CA is valid");
    let version = match version {
        Version::Tls12 => &TLS12,
        Version::Tls13 => &TLS13,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(provider(groups)))
        .with_protocol_versions(&[version])
        .expect("the provider supports both versions")
        .with_root_certificates(roots);
    match identity {
        Some((chain, key)) => {
            config.with_client_auth_cert(chain, key).expect("the certificate matches its key")
        }
        None => config.with_no_client_auth(),
    }
}

/// Returns whether the session was resumed.
pub fn is_resumed(session: &TlsStream<TcpStream>) -> bool {
    session.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// Sends `message` and waits for its echo.
pub async fn echo(line: &mut (impl Stream + ?Sized), message: &[u8]) -> io::Result<()> {
    let mut answer = vec![0; message.len()];
    line.write_all(message).await?;
    line.flush().await?;
    line.read_exact(&mut answer).await.map(|_| ())
}

/// Limits a wait: a stuck proxy must not block the run.
pub async fn within<T>(bound: Duration, work: impl Future<Output = T>) -> io::Result<T> {
    tokio::time::timeout(bound, work).await.map_err(|_| io::ErrorKind::TimedOut.into())
}

fn provider(groups: Groups) -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ],
        kx_groups: match groups {
            Groups::Classic => vec![kx_group::X25519, kx_group::SECP256R1],
            Groups::PostQuantum => vec![kx_group::X25519MLKEM768],
        },
        ..aws_lc_rs::default_provider()
    }
}
