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
mod negotiated;
pub(crate) mod words;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, PeerIncompatible, ServerConfig,
};

use self::negotiated::negotiated;
use super::close;
use super::handshake_memory::{Exceeded, Share};
use super::hello::message::records;
use super::hello::{self, Between, Hello, HelloError, HelloFault};
use super::record::{Fault, Negotiated, Offer};
use super::socket;
use super::tls::{Negotiation, Opening, ReceiveError, TlsStream, plaintext_alert};
use crate::config::{self, TlsVersion};
use crate::terms::labels::{Incompatible, SuiteKind};
use crate::terms::reason::Reason;
use crate::trust::certs::verifier::ChainError;
use crate::trust::identity::Identity;
use crate::trust::provider::Disguise;
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
    pub(crate) async fn close_gracefully(mut self) {
        self.stream.queue_close_notify();
        self.stream.close().await;
    }
}

/// Why there is no TLS session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("the handshake was not over within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Memory(#[from] Exceeded),
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
            Self::Hello(HelloError::Fault(fault)) => fault_reason(fault),
            Self::Hello(HelloError::Io(error)) | Self::Io(error) => io_reason(error),
            Self::Memory(Exceeded) => Reason::ClientTlsMemory,
            Self::Alert(_) => Reason::ClientTlsAlert,
            Self::Incompatible(_) | Self::NoCommonAlpn => Reason::ClientTlsIncompatible,
            Self::CertificateMissing => Reason::ClientCertMissing,
            Self::Certificate(cause) | Self::Resumed { cause, .. } => certificate_reason(cause),
            Self::Tls(_) => Reason::ClientTlsError,
            Self::Internal(_) => Reason::Internal,
        }
    }

    /// What is known of it that its reason does not tell.
    pub(crate) fn fault(&self) -> Option<Fault> {
        match self {
            Self::Alert(description) => Some(Fault::Alert(faults::alert(*description))),
            Self::Incompatible(what) => Some(Fault::Incompatible(faults::incompatible(what))),
            Self::NoCommonAlpn => Some(Fault::Incompatible(Incompatible::Alpn)),
            Self::Hello(HelloError::Fault(HelloFault::Incompatible(what, _))) => {
                Some(Fault::Incompatible(faults::incompatible(what)))
            }
            Self::Hello(HelloError::Fault(HelloFault::Fallback)) => {
                Some(Fault::Incompatible(Incompatible::Version))
            }
            Self::Hello(_)
            | Self::Timeout(_)
            | Self::Memory(_)
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

fn fault_reason(fault: &HelloFault) -> Reason {
    match fault {
        HelloFault::NotTls => Reason::ClientTlsNotTls,
        HelloFault::Incompatible(..) | HelloFault::Fallback => Reason::ClientTlsIncompatible,
        HelloFault::Malformed(_)
        | HelloFault::Illegal(_)
        | HelloFault::Unexpected(_)
        | HelloFault::TooLong(_)
        | HelloFault::Overflow
        | HelloFault::UnknownName
        | HelloFault::Renegotiation => Reason::ClientTlsError,
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
            ChainError::Version1 | ChainError::Empty => Reason::ClientCertRejected,
        },
        // rustls's list is open: an unknown status, a bad signature, a wrong purpose, and so on.
        _ => Reason::ClientCertRejected,
    }
}

/// A client that has said its ClientHello, and waits for our answer.
pub(crate) struct Greeted<Io> {
    io: Io,
    hello: Hello,
    limits: hello::Limits,
    memory: Share,
}

/// Hears what the client of a socket that was accepted just now says first.
///
/// # Errors
/// Why it is no ClientHello. The client has been told by then, and its socket is closed.
pub(crate) async fn greet<Io: AsyncRead + AsyncWrite + Unpin>(
    mut io: Io,
    listener: &config::ListenerConfig,
    memory: Share,
) -> Result<Greeted<Io>, HandshakeError> {
    let limits = hello::Limits {
        deadline: Instant::now() + listener.timeouts.handshake,
        timeout: listener.timeouts.hello,
        max_bytes: listener.limits.max_hello_bytes,
    };
    let read = {
        let read = pin!(hello::read(&mut io, Vec::new(), Between::Nothing, limits, &memory));
        memory.or_exceeded(read).await?
    };
    match read {
        Ok(hello) => Ok(Greeted { io, hello, limits, memory }),
        Err(error) => {
            refuse_hello(&mut io, &error).await;
            Err(error.into())
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Greeted<Io> {
    /// What the client offers.
    pub(crate) fn offer(&self) -> Offer<'_> {
        let Hello { server_name, odd_name, version, best_suite, .. } = &self.hello;
        let server_name = server_name.as_deref().or(odd_name.as_deref());
        Offer { server_name, version: *version, best_suite: *best_suite }
    }

    /// Takes the client through the rest of its handshake.
    ///
    /// # Errors
    /// Why there is no session. The client has been told by then, and its socket is closed.
    pub(crate) async fn accept(self, snapshot: &Snapshot) -> Result<Client<Io>, HandshakeError> {
        let Self { mut io, mut hello, limits, memory } = self;
        let opening = match opening(&mut hello, snapshot) {
            Ok(opening) => opening,
            Err(fault) => {
                let error = HelloError::from(fault);
                refuse_hello(&mut io, &error).await;
                return Err(error.into());
            }
        };
        let negotiation = Negotiation::new(io, server_config(&hello, snapshot));
        // Boxed and pinned: a future has room for each place that they are moved to.
        let mut negotiation = Box::new(negotiation.map_err(HandshakeError::Internal)?);
        let finished = {
            let finished = pin!(finish(&mut negotiation, opening, limits, &memory, snapshot));
            let finished = pin!(memory.or_exceeded(finished));
            timeout_at(limits.deadline, finished).await
        };
        let unfinished = match finished {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(unfinished))) => Some(unfinished),
            Ok(Err(exceeded)) => return Err(exceeded.into()),
            Err(_) => {
                return Err(HandshakeError::Timeout(snapshot.listener.timeouts.handshake));
            }
        };
        if let Some(unfinished) = unfinished {
            return Err(unfinished.refuse(&mut negotiation, &hello).await);
        }
        if negotiation.peer_certificates().is_some() {
            // What has been verified, and what is below, is not one turn of the worker.
            tokio::task::yield_now().await;
        }
        let believed = still_believed(&negotiation, snapshot);
        let alpn = negotiation.alpn().map(Box::from);
        let negotiated = negotiated(&negotiation, |cipher| {
            let name = hello.server_name.as_deref();
            snapshot.policy().resolver.key_kind(name, &hello.schemes, |key| cipher.goes_with(key))
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

fn server_config(hello: &Hello, snapshot: &Snapshot) -> Arc<ServerConfig> {
    let configs = &snapshot.policy().server_configs;
    Arc::clone(if hello.prefers_chacha20 { &configs.client_order } else { &configs.server_order })
}

/// What rustls gets of a ClientHello, whose message is freed.
fn opening(hello: &mut Hello, snapshot: &Snapshot) -> Result<Opening, HelloFault> {
    let tls12_accepted = snapshot.listener.tls.min_version == TlsVersion::Tls12;
    let version = hello.check(tls12_accepted)?;
    let mut message = std::mem::take(&mut hello.message);
    let disguise = hello.disguise.and_then(|(at, shown)| Disguise::put_on(&mut message, at, shown));
    let mut records = records(&message);
    records.append(&mut hello.behind);
    Ok(Opening { records, version, disguise, early_data: hello.early_data })
}

/// Tells a client whose first message was no ClientHello what RFC 8446 section 6.2 has for it.
async fn refuse_hello<Io>(io: &mut Io, error: &HelloError)
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    match error {
        HelloError::Fault(fault) => close::linger(io, &plaintext_alert(fault.alert())).await,
        HelloError::Silent
        | HelloError::Slow { .. }
        | HelloError::Probe
        | HelloError::Eof { .. }
        | HelloError::Io(_) => {}
    }
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

impl Unfinished {
    /// Sends the client the alert for it, and closes its socket.
    async fn refuse<Io>(self, negotiation: &mut Negotiation<Io>, hello: &Hello) -> HandshakeError
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        match self {
            Self::Tls(error) => {
                let error = match negotiation.no_certificate_fits() {
                    Some(why) => why.into(),
                    None => sharpened(error, hello.best_suite),
                };
                negotiation.queue_last_words(&error);
                negotiation.close().await;
                error.into()
            }
            Self::Other(HandshakeError::Hello(error)) => {
                refuse_hello(negotiation.io_mut(), &error).await;
                error.into()
            }
            Self::Other(error) => error,
        }
    }
}

/// Exchanges flights until both sides have finished.
async fn finish<Io: AsyncRead + AsyncWrite + Unpin>(
    negotiation: &mut Negotiation<Io>,
    opening: Opening,
    limits: hello::Limits,
    memory: &Share,
    snapshot: &Snapshot,
) -> Result<(), Unfinished> {
    // rustls keeps the messages for a signature of TLS 1.2: RFC 5246 section 7.4.8.
    let kept = snapshot.policy().client_verifier.as_ref().map_or(0, |_| opening.records.len());
    negotiation.open(opening).map_err(Unfinished::Tls)?;
    loop {
        while negotiation.is_paused() {
            tokio::task::yield_now().await;
            negotiation.resume().map_err(Unfinished::Tls)?;
        }
        let flushed = negotiation.flush().await;
        if !negotiation.is_handshaking() {
            // A device that reports and leaves at once may be gone before it has taken its tickets.
            // What it said counts, and the relay's own flush finds that it is gone.
            return Ok(());
        }
        flushed.map_err(ReceiveError::Io)?;
        if negotiation.awaits_second_hello() {
            let second = second_hello(negotiation, limits, memory, snapshot).await;
            let second = second.map_err(|error| Unfinished::Other(error.into()))?;
            negotiation.open(second).map_err(Unfinished::Tls)?;
            continue;
        }
        memory.set(kept + negotiation.held_bytes());
        if !negotiation.receive().await? {
            return Err(Unfinished::Other(HandshakeError::Eof));
        }
    }
}

/// Reads the ClientHello that answers a HelloRetryRequest: RFC 8446 section 4.1.2.
async fn second_hello<Io: AsyncRead + AsyncWrite + Unpin>(
    negotiation: &mut Negotiation<Io>,
    limits: hello::Limits,
    memory: &Share,
    snapshot: &Snapshot,
) -> Result<Opening, HelloError> {
    let early_data = negotiation.early_data_left();
    let between = Between::Retry { change_cipher_specs: 1, early_data };
    let carried = negotiation.take_held();
    let mut second = hello::read(negotiation.io_mut(), carried, between, limits, memory).await?;
    Ok(opening(&mut second, snapshot)?)
}

/// What is really wrong with an old device. rustls misses a common group before it looks at the suites,
/// of which a device with RSA key exchange alone has none that needs a group.
fn sharpened(error: rustls::Error, best_suite: SuiteKind) -> rustls::Error {
    use PeerIncompatible as P;
    let rustls::Error::PeerIncompatible(what) = &error else { return error };
    match what {
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
    let resumed = client.kind() == Some(rustls::HandshakeKind::Resumed);
    match (&snapshot.policy().client_verifier, client.peer_certificates()) {
        (Some(verifier), Some((leaf, rest))) if resumed => {
            verifier.verify(leaf, rest, UnixTime::now())
        }
        _ => Ok(()),
    }
}
