//! Errors of a relay, and their reasons.
//!
//! **Not here.** The close of each side (`relay.rs`).

use std::io;
use std::time::Duration;

use tokio_rustls::rustls;

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
    #[error("the client violated TLS: {0}")]
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
