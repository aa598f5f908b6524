//! The data about a handshake that failed, beside its reason.
//!
//! **Promises.** It is made only for a handshake that failed: a connection that is relayed does not hold it.
//!
//! **Not here.** How it is found (`proxy/handshake/`), the log line and the metrics (`record.rs`).

use std::time::Duration;

use crate::proxy::socket::diag::TcpState;
use crate::terms::labels::{
    Alert, HandshakeStage, Incompatible, Interruption, LooksLike, NoRouteCause, OfferedVersion,
    RejectionCause, SuiteKind,
};
use crate::trust::identity::Identity;
use crate::trust::refused::RefusedCertificate;
use crate::trust::x509::Timestamp;

/// The data about a failed handshake that its reason does not include.
#[derive(Default)]
pub(crate) struct HandshakeFailure {
    pub(crate) detail: Option<FailureDetail>,
    /// The identity of a client that was verified when its session began.
    pub(crate) identity: Option<Box<Identity>>,
    /// The client's certificate, if it was refused.
    pub(crate) certificate: Option<Box<RefusedCertificate>>,
    /// The point at which the client stopped, if it did not go on.
    pub(crate) unfinished: Option<UnfinishedHandshake>,
    /// The offer of a complete ClientHello.
    pub(crate) offer: Option<FailedOffer>,
    /// The likely cause for which the client has rejected the server certificate.
    pub(crate) rejection: Option<RejectionCause>,
}

impl HandshakeFailure {
    /// Returns the best offer of a client that has nothing in common with the listener: version and kind of suite.
    pub(super) fn offers(&self) -> Option<String> {
        let Some(FailureDetail::Incompatible(_)) = self.detail else { return None };
        self.offer.map(|FailedOffer { version, best_suite, .. }| format!("{version} {best_suite}"))
    }

    /// Returns the likely cause for which the client has rejected the server certificate.
    pub(super) fn likely_cause(&self) -> Option<&'static str> {
        self.rejection.map(RejectionCause::as_str)
    }

    /// Returns the time by the clock of a device that rejects our certificate, as in RFC 3339.
    pub(super) fn client_time(&self) -> Option<String> {
        let Some(FailureDetail::Alert(alert)) = self.detail else { return None };
        let time = self.offer?.client_time.filter(|_| alert.is_about_certificate())?;
        Some(Timestamp::from_unix(time.into()).to_string())
    }
}

/// Detail of the end of a connection that its reason does not include.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureDetail {
    /// The alert that the client sent.
    Alert(Alert),
    /// The parameter without a common value.
    Incompatible(Incompatible),
    /// The protocol that the client's first bytes look like.
    NotTls(LooksLike),
    /// The condition of the routes that the client does not meet.
    NoRoute(NoRouteCause),
}

impl FailureDetail {
    /// Returns the label of the alert.
    pub(super) const fn alert(self) -> Option<&'static str> {
        match self {
            Self::Alert(alert) => Some(alert.as_str()),
            Self::Incompatible(_) | Self::NotTls(_) | Self::NoRoute(_) => None,
        }
    }

    /// Returns the label of the parameter or condition.
    pub(super) const fn what(self) -> Option<&'static str> {
        match self {
            Self::Incompatible(what) => Some(what.as_str()),
            Self::NoRoute(cause) => Some(cause.as_str()),
            Self::Alert(_) | Self::NotTls(_) => None,
        }
    }

    /// Returns the label of the other protocol.
    pub(super) const fn looks_like(self) -> Option<&'static str> {
        match self {
            Self::NotTls(looks_like) => Some(looks_like.as_str()),
            Self::Alert(_) | Self::Incompatible(_) | Self::NoRoute(_) => None,
        }
    }
}

/// A handshake that its client did not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnfinishedHandshake {
    pub(crate) how: Interruption,
    pub(crate) stage: HandshakeStage,
    /// The state of the client's connection, if the kernel had it.
    pub(crate) tcp: Option<TcpState>,
}

/// The part of a ClientHello that explains a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FailedOffer {
    pub(crate) version: OfferedVersion,
    pub(crate) best_suite: SuiteKind,
    /// The time of the device's clock in Unix time, if the random begins with one.
    pub(crate) client_time: Option<u32>,
    /// The time that the client waited for this proxy after its ClientHello was complete.
    pub(crate) waited: Duration,
}
