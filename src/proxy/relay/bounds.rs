//! The time limits of a relay.
//!
//! **Not here.** The timer (`relay.rs`), pauses before the maximum age (`pause.rs`).

use std::time::Duration;

use tokio::time::Instant;

use super::error::RelayError;
use crate::config::Timeouts;
use crate::sessions::stop::Stopped;
use crate::terms::reason::Reason;

/// The time limits of a relay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Longest time without a relayed byte.
    pub(crate) idle: Option<Duration>,
    /// The same after one side has ended its stream.
    pub(crate) half_close: Option<Duration>,
    /// Instant of the maximum age. The relay ends at a pause before it.
    pub(crate) too_old: Option<Instant>,
}

impl Bounds {
    /// Returns the bounds of a connection that starts now.
    pub(crate) fn of(timeouts: &Timeouts) -> Self {
        Self {
            idle: timeouts.idle,
            half_close: timeouts.half_close,
            too_old: timeouts.max_age.map(|age| Instant::now() + age),
        }
    }
}

/// A limit that ends a relay. Smaller than its error, because the next one is looked up at each wake-up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    Idle(Duration),
    HalfClose(Duration),
    MaxAge,
    /// The relay was asked to end at its next pause, for this reason.
    Pause(Reason),
}

impl Bound {
    /// Returns true if the relay ends only because no byte was relayed for too long.
    pub(super) const fn is_silence(self) -> bool {
        match self {
            Self::Idle(_) | Self::HalfClose(_) | Self::Pause(_) => true,
            Self::MaxAge => false,
        }
    }

    /// Returns the error with which the relay ends.
    pub(super) const fn error(self) -> RelayError {
        match self {
            Self::Idle(quiet) => RelayError::Idle(quiet),
            Self::HalfClose(quiet) => RelayError::HalfClosed(quiet),
            Self::MaxAge => RelayError::Stopped(Stopped(Reason::MaxAge)),
            Self::Pause(reason) => RelayError::Paused(reason),
        }
    }
}
