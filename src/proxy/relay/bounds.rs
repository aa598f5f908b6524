//! How long a relay may last.
//!
//! **Promises.** Devices that came together do not leave together: the maximum age is jittered.
//!
//! **Not here.** The timer, and what moves it on (`relay.rs`).

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Timeouts;

/// The bounds on a relay's time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// How long no byte may move.
    pub(crate) idle: Option<Duration>,
    /// The same, once one side has ended its stream.
    pub(crate) half_close: Option<Duration>,
    /// When the connection is too old.
    pub(crate) too_old: Option<Instant>,
}

impl Bounds {
    /// The bounds of a connection that starts now.
    pub(crate) fn of(timeouts: &Timeouts) -> Self {
        Self {
            idle: timeouts.idle,
            half_close: timeouts.half_close,
            too_old: timeouts.max_age.map(|age| Instant::now() + jittered(age)),
        }
    }
}

/// Takes up to a tenth off, at random: devices that came together, after a restart, must not all
/// leave together as well.
fn jittered(age: Duration) -> Duration {
    // The standard library's only randomness: each RandomState has its own keys.
    let random = RandomState::new().hash_one(()) % 1000;
    age - age / 10_000 * u32::try_from(random).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_takes_off_up_to_a_tenth_and_not_always_the_same() {
        let age = Duration::from_secs(1000);
        let ages: Vec<_> = (0..200).map(|_| jittered(age)).collect();
        assert!(ages.iter().all(|&a| a <= age && a >= age * 9 / 10), "{ages:?}");
        assert!(ages.iter().any(|&a| a != ages[0]));
    }
}
