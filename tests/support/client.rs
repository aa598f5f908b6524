//! A device: a TLS client over real TCP.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::{Resumption, Tls12Resumption};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    self, AlertDescription, ClientConfig, RootCertStore, SupportedProtocolVersion,
};

use super::certs::{Authority, Pair};
use super::wait::within;

/// A device, and the way in which it connects.
#[derive(Clone)]
pub(crate) struct Device {
    config: ClientConfig,
    name: String,
}

/// An established session.
pub(crate) type Session = TlsStream<TcpStream>;

impl Device {
    /// Makes a device that trusts `authority` and connects to localhost, without resumption.
    pub(crate) fn new(authority: &Authority) -> Self {
        Self::with(authority.roots(), &[&TLS13, &TLS12], aws_lc_rs::default_provider(), None)
    }

    /// Makes a device that supports only this version.
    pub(crate) fn speaking(
        authority: &Authority,
        version: &'static SupportedProtocolVersion,
    ) -> Self {
        Self::with(authority.roots(), &[version], aws_lc_rs::default_provider(), None)
    }

    /// Makes a device with a client certificate.
    pub(crate) fn showing(authority: &Authority, pair: &Pair) -> Self {
        let versions = [&TLS13, &TLS12];
        Self::with(authority.roots(), &versions, aws_lc_rs::default_provider(), Some(pair))
    }

    /// Makes a device with all of these properties and a crypto provider.
    pub(crate) fn with(
        roots: RootCertStore,
        versions: &[&'static SupportedProtocolVersion],
        provider: CryptoProvider,
        pair: Option<&Pair>,
    ) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match pair.map(Pair::load) {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        Self { config, name: "localhost".to_owned() }
    }

    /// Connects to another server name; with an IP address it sends no SNI.
    pub(crate) fn asking_for(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Offers ALPN protocols.
    pub(crate) fn offering(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        self
    }

    /// Keeps tickets and sessions, and resumes them.
    pub(crate) fn resuming(mut self) -> Self {
        self.config.resumption = Resumption::in_memory_sessions(64);
        self
    }

    /// Keeps sessions of TLS 1.2 by their IDs, without tickets.
    pub(crate) fn without_tickets(mut self) -> Self {
        let sessions = Resumption::in_memory_sessions(64);
        self.config.resumption = sessions.tls12_resumption(Tls12Resumption::SessionIdOnly);
        self
    }

    /// Sends a client certificate chain, in records of so many bytes.
    pub(crate) fn showing_in_records_of(
        mut self,
        bytes: usize,
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
    ) -> Self {
        let key = aws_lc_rs::sign::any_supported_type(key).unwrap();
        let shown = CertifiedKey::new(chain, key);
        self.config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(shown));
        self.config.max_fragment_size = Some(bytes);
        self
    }

    /// Connects and completes the client's part of the handshake.
    pub(crate) async fn connect(&self, address: SocketAddr) -> std::io::Result<Session> {
        let tcp = TcpStream::connect(address).await?;
        // Otherwise the client's kernel delays small messages for up to 40 ms.
        tcp.set_nodelay(true)?;
        self.connect_over(tcp).await
    }

    /// Completes the client's part of the handshake on a connected socket.
    pub(crate) async fn connect_over(&self, tcp: TcpStream) -> std::io::Result<Session> {
        let name = ServerName::try_from(self.name.clone()).unwrap();
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        within("a handshake", connector.connect(name, tcp)).await
    }

    /// Connects, sends one message to an echo, and waits for it to come back.
    pub(crate) async fn echo(&self, address: SocketAddr) -> std::io::Result<Session> {
        let mut session = self.connect(address).await?;
        say_and_hear(&mut session, b"ping").await?;
        Ok(session)
    }

    /// Connects, expects to be refused in the handshake or, in TLS 1.3, directly after it, and returns the alert.
    pub(crate) async fn refused_with(&self, address: SocketAddr) -> AlertDescription {
        let refused = async {
            let mut session = self.connect(address).await?;
            // In TLS 1.3 a client's handshake ends before the server has verified its certificate.
            match session.read(&mut [0; 1]).await? {
                0 => Err(std::io::Error::other("closed without an alert")),
                _ => Err(std::io::Error::other("data instead of an alert")),
            }
        };
        let error: std::io::Error = refused.await.unwrap_err_or_never();
        match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => *alert,
            _ => panic!("no alert, but {error}"),
        }
    }
}

/// Returns the error of a result that is never `Ok`.
trait UnwrapErrOrNever {
    fn unwrap_err_or_never(self) -> std::io::Error;
}

impl UnwrapErrOrNever for std::io::Result<std::convert::Infallible> {
    fn unwrap_err_or_never(self) -> std::io::Error {
        match self {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }
}

/// Sends `message` and waits for its echo.
pub(crate) async fn say_and_hear<Io>(io: &mut Io, message: &[u8]) -> std::io::Result<()>
where
    Io: AsyncReadExt + AsyncWriteExt + Unpin,
{
    io.write_all(message).await?;
    io.flush().await?;
    let mut heard = vec![0; message.len()];
    within("an echo", io.read_exact(&mut heard)).await?;
    assert_eq!(heard, message);
    Ok(())
}
