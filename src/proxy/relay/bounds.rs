//! The time limits of a relay.
//!
//! **Promises.** Connections that began together do not all end together: the maximum age is jittered.
//!
//! **Not here.** The timer (`relay.rs`).

use std::hash::{BuildHasher, RandomState};
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
    /// Instant of the maximum age.
    pub(crate) too_old: Option<Instant>,
}

impl Bounds {
    /// Returns the bounds of a connection that starts now.
    pub(crate) fn of(timeouts: &Timeouts) -> Self {
        Self {
            idle: timeouts.idle,
            half_close: timeouts.half_close,
            too_old: timeouts.max_age.map(|age| Instant::now() + jittered(age)),
        }
    }
}

/// Subtracts up to a tenth at random. Devices that connect together, after a restart, must not all end together.
fn jittered(age: Duration) -> Duration {
    // The only randomness of the standard library: each RandomState has random keys.
    let random = RandomState::new().hash_one(()) % 1000;
    age - age / 10_000 * u32::try_from(random).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_subtracts_up_to_a_tenth_and_varies() {
        let age = Duration::from_secs(1000);
        let ages: Vec<_> = (0..200).map(|_| jittered(age)).collect();
        assert!(ages.iter().all(|&a| a <= age && a >= age * 9 / 10), "{ages:?}");
        assert!(ages.iter().any(|&a| a != ages[0]));
    }
}
