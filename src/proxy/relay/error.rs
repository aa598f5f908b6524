//! Errors of a relay, and their reasons.
//!
//! **Not here.** The close of each side (`relay.rs`).

use std::io;
use std::time::Duration;

use tokio_rustls::rustls::{self, AlertDescription};

use crate::proxy::socket;
use crate::proxy::tls::SealError;
use crate::sessions::stop::Stopped;
use crate::terms::reason::Reason;

/// An abnormal end of a relay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    #[error("the client closed TCP without a close_notify")]
    Truncated,
    #[error("the client closed TCP in the middle of a TLS record")]
    MidRecord,
    #[error("the client's connection failed: {0}")]
    Client(io::Error),
    #[error("the client violated TLS: {0}{advice}", advice = advice(.0))]
    Tls(rustls::Error),
    #[error("the backend's connection failed: {0}")]
    Backend(io::Error),
    #[error("no byte within {0:?}")]
    Idle(Duration),
    #[error("no byte within {0:?} after one side had ended its stream")]
    HalfClosed(Duration),
    #[error("the session was stopped at a pause: {0}")]
    Paused(Reason),
    #[error(transparent)]
    Stopped(Stopped),
    #[error(transparent)]
    Seal(SealError),
}

impl RelayError {
    /// Returns the stable reason for this error.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Truncated => Reason::ClientTruncated,
            Self::MidRecord => Reason::ClientRecordTruncated,
            Self::Client(error) if socket::is_lost(error) => Reason::ClientLost,
            Self::Client(_) => Reason::ClientReset,
            Self::Tls(rustls::Error::AlertReceived(_)) => Reason::ClientTlsAlert,
            Self::Tls(_) => Reason::ClientTlsError,
            Self::Backend(error) if socket::is_lost(error) => Reason::BackendLost,
            Self::Backend(_) => Reason::BackendReset,
            Self::Idle(_) => Reason::IdleTimeout,
            Self::HalfClosed(_) => Reason::HalfCloseTimeout,
            Self::Paused(reason) | Self::Stopped(Stopped(reason)) => *reason,
            Self::Seal(SealError::KeysExhausted) => Reason::KeysExhausted,
            Self::Seal(SealError::Misuse(_)) => Reason::Internal,
        }
    }
}

/// Returns what to do about an alert that a client sends because of a message after the handshake. There is no other
/// than our tickets, and key updates after millions of records.
fn advice(error: &rustls::Error) -> &'static str {
    let is_of_tickets = matches!(
        error,
        rustls::Error::AlertReceived(
            AlertDescription::IllegalParameter
                | AlertDescription::DecodeError
                | AlertDescription::UnexpectedMessage,
        )
    );
    if is_of_tickets { " (it may not take session tickets: `tickets = 0` sends none)" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_because_of_tickets_says_how_to_send_none() {
        let advises = |alert| {
            let error = RelayError::Tls(rustls::Error::AlertReceived(alert));
            error.to_string().contains("`tickets = 0`")
        };
        assert!(advises(AlertDescription::IllegalParameter));
        assert!(!advises(AlertDescription::InternalError));
    }
}
