//! The time limits of a relay.
//!
//! **Not here.** The timer (`relay.rs`), pauses before the maximum age (`pause.rs`).

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Timeouts;

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
