//! From an accepted socket to a TLS session, before one deadline.
//!
//! **Promises.** The deadline runs from accept to the last byte of our last flight, whatever the
//! client does in between. A client that is refused gets the alert that the RFC names, and gets it
//! before the socket is closed. A resumed client's certificate is checked again, since rustls does
//! not.
//!
//! **Not here.** What the ClientHello says (`hello.rs`), which certificate is shown and which are
//! believed (`trust/`).

mod faults;
pub(crate) mod words;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, CipherSuite, NamedGroup, PeerIncompatible,
};

use super::close;
use super::hello::{self, Hello, HelloError};
use super::reason::Reason;
use super::record::{Fault, Negotiated, Offer};
use super::socket;
use super::tls::{Negotiation, ReceiveError, TlsStream, plaintext_alert};
use crate::config::Timeouts;
use crate::ops::metrics::{Cipher, Group, HandshakeKind, Incompatible, KeyKind, SuiteKind};
use crate::ops::sessions::Identity;
use crate::trust::certs::verifier::ChainError;
use crate::trust::identity;
use crate::trust::snapshot::Snapshot;

/// A client after its handshake.
pub(crate) struct Client<Io> {
    pub(crate) stream: TlsStream<Io>,
    /// What was opened together with the end of the handshake.
    pub(crate) early: Vec<u8>,
    /// As the client asked for it.
    pub(crate) server_name: Option<Box<str>>,
    /// The protocol that ALPN agreed on: one of the listener's own.
    pub(crate) alpn: Option<Box<[u8]>>,
    /// What the handshake agreed on.
    pub(crate) negotiated: Option<Negotiated>,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Client<Io> {
    /// Ends the session of a client that has nowhere to go.
    pub(crate) async fn dismiss(mut self) {
        self.stream.queue_close_notify();
        self.stream.close().await;
    }
}

/// What a handshake that is over has agreed on; `key` tells what our certificate's is with a suite.
fn negotiated<Io: AsyncRead + AsyncWrite + Unpin>(
    negotiation: &Negotiation<Io>,
    key: impl FnOnce(Cipher) -> KeyKind,
) -> Option<Negotiated> {
    let state = negotiation.state();
    let kind = match state.handshake_kind()? {
        rustls::HandshakeKind::Full => HandshakeKind::Full,
        rustls::HandshakeKind::FullWithHelloRetryRequest => HandshakeKind::FullRetry,
        rustls::HandshakeKind::Resumed => HandshakeKind::Resumed,
    };
    let cipher = cipher(state.negotiated_cipher_suite()?.suite())?;
    Some(Negotiated {
        cipher,
        kind,
        group: state.negotiated_key_exchange_group().map_or(Group::None, |g| group(g.name())),
        key: if kind == HandshakeKind::Resumed { KeyKind::None } else { key(cipher) },
        alpn: state.alpn_protocol().map(|alpn| String::from_utf8_lossy(alpn).into()),
        identity: negotiation.peer_certificates().first().map(|leaf| identity::of(leaf).into()),
        crypto: negotiation.crypto(),
    })
}

/// A group of the provider that `trust/certs.rs` sets up.
const fn group(group: NamedGroup) -> Group {
    match group {
        NamedGroup::X25519MLKEM768 => Group::X25519MlKem768,
        NamedGroup::X25519 => Group::X25519,
        NamedGroup::secp256r1 => Group::Secp256r1,
        NamedGroup::secp384r1 => Group::Secp384r1,
        _ => Group::Other,
    }
}

/// A suite of the provider that `trust/certs.rs` sets up.
fn cipher(suite: CipherSuite) -> Option<Cipher> {
    Some(match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Cipher::Tls13Aes128,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => Cipher::Tls13Aes256,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Cipher::Tls13Chacha20,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => Cipher::EcdsaAes128,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => Cipher::EcdsaAes256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => Cipher::EcdsaChacha20,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Cipher::RsaAes128,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Cipher::RsaAes256,
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Cipher::RsaChacha20,
        _ => return None,
    })
}

/// Why there is no TLS session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("the handshake was not over within {0:?}")]
    Timeout(Duration),
    #[error("the client closed the connection during the handshake")]
    Eof,
    #[error("the client sent the fatal alert {}", words::alert(*.0))]
    Alert(AlertDescription),
    #[error("{}", words::incompatible(.0))]
    Incompatible(PeerIncompatible),
    #[error("none of the client's ALPN protocols is accepted")]
    NoCommonAlpn,
    #[error("the client sent no certificate")]
    CertificateMissing,
    #[error("the client's certificate is refused: {}", words::certificate(.0))]
    Certificate(CertificateError),
    #[error("the client's certificate was good when its session began, and is refused now: {}", words::certificate(.cause))]
    Resumed { cause: CertificateError, identity: Option<Box<Identity>> },
    #[error("the client's TLS is at fault: {0}")]
    Tls(rustls::Error),
    #[error("TLS failed on our side: {0}")]
    Internal(rustls::Error),
    #[error(transparent)]
    Io(io::Error),
}

impl HandshakeError {
    /// The stable reason for this error.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Hello(HelloError::Silent | HelloError::Slow { .. }) | Self::Timeout(_) => {
                Reason::ClientTlsTimeout
            }
            Self::Hello(HelloError::Probe) => Reason::ClientProbe,
            Self::Hello(HelloError::Eof { .. }) | Self::Eof => Reason::ClientTlsEof,
            Self::Hello(HelloError::NotTls) => Reason::ClientTlsNotTls,
            Self::Hello(HelloError::Io(error)) | Self::Io(error) => io_reason(error),
            Self::Alert(_) => Reason::ClientTlsAlert,
            Self::Incompatible(_) | Self::NoCommonAlpn => Reason::ClientTlsIncompatible,
            Self::CertificateMissing => Reason::ClientCertMissing,
            Self::Certificate(cause) | Self::Resumed { cause, .. } => certificate_reason(cause),
            Self::Hello(HelloError::TooLong) | Self::Tls(_) => Reason::ClientTlsError,
            Self::Internal(_) => Reason::Internal,
        }
    }

    /// What is known of it that its reason does not tell.
    pub(crate) fn fault(&self) -> Option<Fault> {
        match self {
            Self::Alert(description) => Some(Fault::Alert(faults::alert(*description))),
            Self::Incompatible(what) => Some(Fault::Incompatible(faults::incompatible(what))),
            Self::NoCommonAlpn => Some(Fault::Incompatible(Incompatible::Alpn)),
            Self::Hello(_)
            | Self::Timeout(_)
            | Self::Eof
            | Self::CertificateMissing
            | Self::Certificate(_)
            | Self::Resumed { .. }
            | Self::Tls(_)
            | Self::Internal(_)
            | Self::Io(_) => None,
        }
    }

    /// Returns the identity of a client that was verified once.
    pub(crate) fn take_identity(&mut self) -> Option<Box<Identity>> {
        match self {
            Self::Resumed { identity, .. } => identity.take(),
            _ => None,
        }
    }
}

impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        use rustls::Error;
        match error {
            Error::AlertReceived(description) => Self::Alert(description),
            Error::PeerIncompatible(what) => Self::Incompatible(what),
            Error::NoApplicationProtocol => Self::NoCommonAlpn,
            Error::NoCertificatesPresented => Self::CertificateMissing,
            Error::InvalidCertificate(error) => Self::Certificate(error),
            Error::General(_)
            | Error::FailedToGetCurrentTime
            | Error::FailedToGetRandomBytes
            | Error::BadMaxFragmentSize
            | Error::InconsistentKeys(_)
            | Error::EncryptError => Self::Internal(error),
            // rustls's list is open. Whatever else it finds, it finds in what the client sent.
            _ => Self::Tls(error),
        }
    }
}

/// A socket that failed was reset, or its peer has stopped answering.
fn io_reason(error: &io::Error) -> Reason {
    if socket::is_lost(error) { Reason::ClientLost } else { Reason::ClientReset }
}

fn certificate_reason(error: &CertificateError) -> Reason {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => Reason::ClientCertExpired,
        E::NotValidYet | E::NotValidYetContext { .. } => Reason::ClientCertNotYetValid,
        E::UnknownIssuer => Reason::ClientCertUnknownCa,
        E::Revoked => Reason::ClientCertRevoked,
        _ if let Some(error) = ChainError::within(error) => match error {
            ChainError::TooManyCertificates { .. } | ChainError::TooManyBytes { .. } => {
                Reason::ClientCertChainTooLarge
            }
            ChainError::Version1 => Reason::ClientCertRejected,
        },
        // rustls's list is open: an unknown status, a bad signature, a wrong purpose, and so on.
        _ => Reason::ClientCertRejected,
    }
}

/// A client that has said its ClientHello, and waits for our answer.
pub(crate) struct Greeted<Io> {
    io: Io,
    hello: Hello,
    deadline: Instant,
}

/// Hears what the client of a socket that was accepted just now says first.
///
/// # Errors
/// Why it is no ClientHello. The client has been told by then, and its socket is closed.
pub(crate) async fn greet<Io: AsyncRead + AsyncWrite + Unpin>(
    mut io: Io,
    timeouts: Timeouts,
) -> Result<Greeted<Io>, HandshakeError> {
    let deadline = Instant::now() + timeouts.handshake;
    match hello::read(&mut io, deadline, timeouts.hello).await {
        Ok(hello) => Ok(Greeted { io, hello, deadline }),
        Err(error) => {
            refuse_hello(io, &error).await;
            Err(error.into())
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Greeted<Io> {
    /// What the client offers.
    pub(crate) fn offer(&self) -> Offer<'_> {
        let Hello { server_name, version, best_suite, .. } = &self.hello;
        let server_name = server_name.as_deref();
        Offer { server_name, version: *version, best_suite: *best_suite }
    }

    /// Takes the client through the rest of its handshake.
    ///
    /// # Errors
    /// Why there is no session. The client has been told by then, and its socket is closed.
    pub(crate) async fn accept(self, snapshot: &Snapshot) -> Result<Client<Io>, HandshakeError> {
        let Self { io, hello, deadline } = self;
        let configs = &snapshot.server_configs;
        let config = if hello.prefers_chacha20 { &configs.clients } else { &configs.ours };
        let negotiation = Negotiation::new(io, Arc::clone(config));
        let mut negotiation = negotiation.map_err(HandshakeError::Internal)?;
        match timeout_at(deadline, finish(&mut negotiation, hello.bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(Unfinished::Tls(error))) => {
                let error = sharpened(error, hello.best_suite, hello.legacy_version);
                negotiation.queue_last_words(&error);
                negotiation.close().await;
                return Err(error.into());
            }
            Ok(Err(Unfinished::Other(error))) => return Err(error),
            Err(_) => {
                return Err(HandshakeError::Timeout(snapshot.listener.timeouts.handshake));
            }
        }
        let believed = still_believed(&negotiation, snapshot);
        let alpn = negotiation.state().alpn_protocol().map(Box::from);
        let negotiated = negotiated(&negotiation, |cipher| {
            let name = hello.server_name.as_deref();
            snapshot.resolver.key_kind(name, &hello.schemes, |key| cipher.goes_with(key))
        });
        let (mut stream, early) = negotiation.into_stream().map_err(HandshakeError::Internal)?;
        if let Err(cause) = believed {
            stream.queue_last_words(&rustls::Error::InvalidCertificate(cause.clone()));
            stream.close().await;
            let identity = negotiated.and_then(|negotiated| negotiated.identity);
            return Err(HandshakeError::Resumed { cause, identity });
        }
        Ok(Client { stream, early, server_name: hello.server_name, alpn, negotiated })
    }
}

/// Tells a client whose first message was no ClientHello what RFC 8446 section 6.2 has for it.
async fn refuse_hello<Io>(mut io: Io, error: &HelloError)
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let alert = match error {
        HelloError::NotTls => AlertDescription::UnexpectedMessage,
        HelloError::TooLong => AlertDescription::DecodeError,
        HelloError::Silent
        | HelloError::Slow { .. }
        | HelloError::Probe
        | HelloError::Eof { .. }
        | HelloError::Io(_) => return,
    };
    close::linger(&mut io, &plaintext_alert(alert)).await;
}

/// Why a handshake that had begun was not finished.
enum Unfinished {
    /// rustls refused, and may have an alert to send.
    Tls(rustls::Error),
    Other(HandshakeError),
}

impl From<ReceiveError> for Unfinished {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Tls(error) => Self::Tls(error),
            ReceiveError::Io(error) => Self::Other(HandshakeError::Io(error)),
            ReceiveError::MidRecord => Self::Other(HandshakeError::Eof),
        }
    }
}

/// Exchanges flights until both sides have finished.
async fn finish<Io: AsyncRead + AsyncWrite + Unpin>(
    negotiation: &mut Negotiation<Io>,
    mut hello: Vec<u8>,
) -> Result<(), Unfinished> {
    negotiation.feed(&mut hello).map_err(ReceiveError::Tls)?;
    drop(hello);
    loop {
        let flushed = negotiation.flush().await;
        if !negotiation.state().is_handshaking() {
            // A device that reports and leaves at once may be gone before it has taken its tickets.
            // What it said counts, and the relay's own flush finds that it is gone.
            return Ok(());
        }
        flushed.map_err(ReceiveError::Io)?;
        if !negotiation.receive().await? {
            return Err(Unfinished::Other(HandshakeError::Eof));
        }
    }
}

/// What is really wrong with an old device. rustls misses the extension for signature algorithms, which
/// came with TLS 1.2, before it looks at the version; and a common group before it looks at the suites,
/// of which a device with RSA key exchange alone has none that needs a group.
fn sharpened(
    error: rustls::Error,
    best_suite: SuiteKind,
    legacy_version: Option<[u8; 2]>,
) -> rustls::Error {
    use PeerIncompatible as P;
    let rustls::Error::PeerIncompatible(what) = &error else { return error };
    match what {
        P::SignatureAlgorithmsExtensionRequired if legacy_version.is_some_and(|v| v < [3, 3]) => {
            P::Tls12NotOffered.into()
        }
        P::NoKxGroupsInCommon | P::NamedGroupsExtensionRequired
            if best_suite != SuiteKind::EcdheGcm =>
        {
            P::NoCipherSuitesInCommon.into()
        }
        _ => error,
    }
}

/// Checks the certificate of a resumed client again: rustls takes it from the ticket as it was
/// believed then, and it may have expired since. (A change of CAs or CRLs ends the tickets
/// themselves, see `trust/tickets.rs`.)
fn still_believed<Io: AsyncRead + AsyncWrite + Unpin>(
    client: &Negotiation<Io>,
    snapshot: &Snapshot,
) -> Result<(), CertificateError> {
    let resumed = client.state().handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    match (&snapshot.client_verifier, client.peer_certificates()) {
        (Some(verifier), [leaf, rest @ ..]) if resumed => {
            verifier.verify(leaf, rest, UnixTime::now()).map(drop)
        }
        _ => Ok(()),
    }
}
