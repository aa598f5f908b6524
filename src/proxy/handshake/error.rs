//! The reasons for which a handshake fails, and their place among the reasons of connections.
//!
//! **Not here.** Their texts (`describe.rs`), the classes of refused certificates (`certificate.rs`).

use std::io;
use std::time::Duration;

use tokio_rustls::rustls::{self, AlertDescription, InvalidMessage, PeerIncompatible};

use super::certificate::CertificateFault;
use super::{describe, labels};
use crate::proxy::handshake_memory::Exceeded;
use crate::proxy::hello::HelloError;
use crate::proxy::hello::fault::HelloFault;
use crate::proxy::record::{FailedOffer, FailureDetail, HandshakeFailure, UnfinishedHandshake};
use crate::proxy::socket;
use crate::terms::labels::{Incompatible, Interruption, LooksLike, RejectionCause};
use crate::terms::reason::Reason;
use crate::terms::rollout::ShownOutcome;
use crate::trust::identity::Identity;
use crate::trust::refused::RefusedCertificate;

/// Reason for a failed handshake.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("the handshake was not complete within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Memory(#[from] Exceeded),
    #[error(
        "the client left before its turn, for which it had waited {waited:.1?}; nothing was computed for it"
    )]
    Abandoned { waited: Duration, how: Interruption },
    #[error(
        "the client waited {0:.1?} for its turn: more handshakes arrive than this proxy can do"
    )]
    NoSlot(Duration),
    #[error("the client closed the connection during the handshake")]
    Eof,
    #[error("the client sent the fatal alert {}", describe::alert(*.0))]
    Alert(AlertDescription),
    #[error("{}", describe::incompatible(.0))]
    Incompatible(PeerIncompatible),
    #[error("none of the client's ALPN protocols is accepted")]
    NoCommonAlpn,
    #[error("the client sent no certificate")]
    CertificateMissing,
    #[error("the client's certificate was refused: {0}")]
    Certificate(CertificateFault),
    #[error(
        "the client's certificate was accepted when its session began, and is refused now: {fault}"
    )]
    Resumed { fault: CertificateFault, identity: Option<Box<Identity>> },
    #[error("the client sent certificates of more than 64 KiB")]
    CertificatesTooLarge,
    #[error("the client violated TLS: {0}")]
    Tls(rustls::Error),
    #[error("TLS failed in this proxy: {0}")]
    Internal(rustls::Error),
    #[error(transparent)]
    Io(io::Error),
}

impl HandshakeError {
    /// Returns the reason for this error.
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
            Self::Abandoned { .. } => Reason::ClientAbandoned,
            Self::NoSlot(_) => Reason::ProxyOverloaded,
            Self::Alert(_) => Reason::ClientTlsAlert,
            Self::Incompatible(_) | Self::NoCommonAlpn => Reason::ClientTlsIncompatible,
            Self::CertificateMissing => Reason::ClientCertMissing,
            Self::CertificatesTooLarge => Reason::ClientCertChainTooLarge,
            Self::Certificate(fault) | Self::Resumed { fault, .. } => fault.reason(),
            Self::Tls(_) => Reason::ClientTlsError,
            Self::Internal(_) => Reason::Internal,
        }
    }

    /// Returns the outcome for a rollout of the server certificate, which the client `was_shown` or not. None is
    /// returned if the certificate cannot be the cause.
    pub(super) fn shown_outcome(&self, was_shown: bool) -> Option<ShownOutcome> {
        let outcome = match self {
            Self::Timeout(_) => ShownOutcome::Silent,
            // It left while its answer to the certificate waited for a slot.
            Self::Eof | Self::Io(_) | Self::Abandoned { .. } => ShownOutcome::Closed,
            Self::Alert(_) => ShownOutcome::Alert,
            // The resolver found no certificate that fits the client.
            Self::Incompatible(
                PeerIncompatible::NoSignatureSchemesInCommon
                | PeerIncompatible::NoCipherSuitesInCommon,
            ) => return Some(ShownOutcome::Incompatible),
            Self::Incompatible(_)
            | Self::Hello(_)
            | Self::Memory(_)
            | Self::NoSlot(_)
            | Self::NoCommonAlpn
            | Self::CertificateMissing
            | Self::Certificate(_)
            | Self::Resumed { .. }
            | Self::CertificatesTooLarge
            | Self::Tls(_)
            | Self::Internal(_) => return None,
        };
        was_shown.then_some(outcome)
    }

    /// Returns whether the client's next attempt will fail as well, so that it should not delay others.
    pub(crate) const fn will_recur(&self) -> bool {
        match self {
            Self::Alert(_)
            | Self::Incompatible(_)
            | Self::NoCommonAlpn
            | Self::CertificateMissing
            | Self::Certificate(_)
            | Self::Resumed { .. }
            | Self::CertificatesTooLarge
            | Self::Tls(_) => true,
            // The client may have had no time, or has cost no cryptography.
            Self::Hello(_)
            | Self::Timeout(_)
            | Self::Memory(_)
            | Self::Abandoned { .. }
            | Self::NoSlot(_)
            | Self::Eof
            | Self::Internal(_)
            | Self::Io(_) => false,
        }
    }

    /// Returns the client's certificate, if it was refused.
    pub(super) fn refused_certificate(&self) -> Option<&RefusedCertificate> {
        match self {
            Self::Certificate(fault) | Self::Resumed { fault, .. } => fault.certificate.as_deref(),
            Self::Hello(_)
            | Self::Timeout(_)
            | Self::Memory(_)
            | Self::Abandoned { .. }
            | Self::NoSlot(_)
            | Self::Eof
            | Self::Alert(_)
            | Self::Incompatible(_)
            | Self::NoCommonAlpn
            | Self::CertificateMissing
            | Self::CertificatesTooLarge
            | Self::Tls(_)
            | Self::Internal(_)
            | Self::Io(_) => None,
        }
    }

    /// Returns the data that the reason does not contain. The identity is taken.
    fn take_failure(&mut self) -> HandshakeFailure {
        let detail = self.detail();
        let certificate = self.refused_certificate().cloned().map(Box::new);
        let identity =
            if let Self::Resumed { identity, .. } = self { identity.take() } else { None };
        HandshakeFailure { detail, identity, certificate, ..HandshakeFailure::default() }
    }

    /// Returns how the client stopped, if the cause is that it did not go on.
    pub(super) fn interruption(&self) -> Option<Interruption> {
        match self {
            Self::Timeout(_)
            | Self::NoSlot(_)
            | Self::Hello(HelloError::Silent | HelloError::Slow { .. }) => {
                Some(Interruption::Timeout)
            }
            Self::Eof | Self::Hello(HelloError::Eof { .. } | HelloError::Probe) => {
                Some(Interruption::Eof)
            }
            Self::Abandoned { how, .. } => Some(*how),
            Self::Io(error) | Self::Hello(HelloError::Io(error)) => Some(interruption(error)),
            Self::Hello(HelloError::Fault(_))
            | Self::Memory(_)
            | Self::Alert(_)
            | Self::Incompatible(_)
            | Self::NoCommonAlpn
            | Self::CertificateMissing
            | Self::Certificate(_)
            | Self::Resumed { .. }
            | Self::CertificatesTooLarge
            | Self::Tls(_)
            | Self::Internal(_) => None,
        }
    }

    /// Returns whether the client has sent no byte.
    pub(super) const fn is_silence(&self) -> bool {
        matches!(self, Self::Hello(HelloError::Silent | HelloError::Probe))
    }

    /// Returns whether the socket has failed.
    pub(super) const fn is_of_socket(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Hello(HelloError::Io(_)))
    }

    fn detail(&self) -> Option<FailureDetail> {
        match self {
            Self::Alert(description) => Some(FailureDetail::Alert(labels::alert(*description))),
            Self::Incompatible(what) => {
                Some(FailureDetail::Incompatible(labels::incompatible(what)))
            }
            Self::NoCommonAlpn => Some(FailureDetail::Incompatible(Incompatible::Alpn)),
            Self::Hello(HelloError::Fault(HelloFault::Incompatible(what, _))) => {
                Some(FailureDetail::Incompatible(labels::incompatible(what)))
            }
            Self::Hello(HelloError::Fault(HelloFault::Fallback)) => {
                Some(FailureDetail::Incompatible(Incompatible::Version))
            }
            Self::Hello(HelloError::Fault(HelloFault::NotTls(looks_like))) => {
                Some(FailureDetail::NotTls(*looks_like))
            }
            Self::Hello(HelloError::Fault(HelloFault::ProxyHeader)) => {
                Some(FailureDetail::NotTls(LooksLike::ProxyHeader))
            }
            Self::Hello(_)
            | Self::Timeout(_)
            | Self::Memory(_)
            | Self::Abandoned { .. }
            | Self::NoSlot(_)
            | Self::Eof
            | Self::CertificateMissing
            | Self::CertificatesTooLarge
            | Self::Certificate(_)
            | Self::Resumed { .. }
            | Self::Tls(_)
            | Self::Internal(_)
            | Self::Io(_) => None,
        }
    }
}

/// A handshake that failed, and how far it had come.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct FailedHandshake {
    pub(crate) error: HandshakeError,
    pub(super) unfinished: Option<UnfinishedHandshake>,
    /// The offer of a complete ClientHello.
    pub(super) offer: Option<FailedOffer>,
    pub(super) rejection: Option<RejectionCause>,
}

impl FailedHandshake {
    /// Returns the reason for this failure.
    pub(crate) fn reason(&self) -> Reason {
        self.error.reason()
    }

    /// Returns the data that the reason does not contain. The identity is taken.
    pub(crate) fn take_failure(&mut self) -> HandshakeFailure {
        let Self { error, unfinished, offer, rejection } = self;
        HandshakeFailure {
            unfinished: *unfinished,
            offer: *offer,
            rejection: *rejection,
            ..error.take_failure()
        }
    }
}

impl From<HandshakeError> for Box<FailedHandshake> {
    fn from(error: HandshakeError) -> Self {
        Self::new(FailedHandshake { error, unfinished: None, offer: None, rejection: None })
    }
}

impl From<rustls::Error> for HandshakeError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum is non-exhaustive")]
    fn from(error: rustls::Error) -> Self {
        use rustls::Error;
        match error {
            Error::AlertReceived(description) => Self::Alert(description),
            Error::PeerIncompatible(what) => Self::Incompatible(what),
            Error::NoApplicationProtocol => Self::NoCommonAlpn,
            Error::NoCertificatesPresented => Self::CertificateMissing,
            Error::InvalidCertificate(cause) => {
                Self::Certificate(CertificateFault { cause, certificate: None })
            }
            // The ClientHello was bounded before. A client has no other message of this length.
            Error::InvalidMessage(
                InvalidMessage::HandshakePayloadTooLarge
                | InvalidMessage::CertificatePayloadTooLarge,
            ) => Self::CertificatesTooLarge,
            Error::General(_)
            | Error::FailedToGetCurrentTime
            | Error::FailedToGetRandomBytes
            | Error::BadMaxFragmentSize
            | Error::InconsistentKeys(_)
            | Error::EncryptError => Self::Internal(error),
            // rustls's other errors are about the client's bytes.
            _ => Self::Tls(error),
        }
    }
}

fn fault_reason(fault: &HelloFault) -> Reason {
    match fault {
        HelloFault::NotTls(_) => Reason::ClientTlsNotTls,
        HelloFault::ProxyHeader => Reason::ProxyHeaderUnexpected,
        HelloFault::Incompatible(..) | HelloFault::Fallback => Reason::ClientTlsIncompatible,
        HelloFault::NameNotServed => Reason::ClientNameUnknown,
        HelloFault::Malformed(_)
        | HelloFault::Illegal(_)
        | HelloFault::Unexpected(_)
        | HelloFault::TooLong(_)
        | HelloFault::Overflow
        | HelloFault::UnknownName
        | HelloFault::Renegotiation => Reason::ClientTlsError,
    }
}

/// Returns the reason for a failed socket: it was reset, or its peer has stopped answering.
fn io_reason(error: &io::Error) -> Reason {
    if socket::is_lost(error) { Reason::ClientLost } else { Reason::ClientReset }
}

/// Returns how a client stopped whose socket has failed.
pub(super) fn interruption(error: &io::Error) -> Interruption {
    if socket::is_lost(error) { Interruption::Timeout } else { Interruption::Reset }
}
