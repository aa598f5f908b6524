//! Times of the last bytes of a session, in each direction.
//!
//! **Promises.** A backend counts as silent once the device has sent last, [`SILENT`] ago. 16 bytes per session, and no
//! lock: only the session's own task writes.
//!
//! **Not here.** The clock (`sessions.rs`), the timeouts of a relay (`proxy/relay/bounds.rs`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::terms::labels::Direction;

/// Time without an answer after which the backend counts as silent. Keepalives of MQTT and polls of Modbus are answered
/// at once, and devices give up after about as long.
pub(super) const SILENT: Duration = Duration::from_secs(30);

/// Bit of `to_client` before the first byte to the client. The other bits are the time from which it is awaited.
const AWAITED: u64 = 1 << 63;

/// Times in milliseconds since accept.
pub(super) struct Activity {
    /// 0 before the first byte.
    to_backend: AtomicU64,
    to_client: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Self { to_backend: AtomicU64::new(0), to_client: AtomicU64::new(AWAITED) }
    }
}

impl Activity {
    /// The relay begins at `now`. A server that speaks first is awaited from now on.
    pub(super) fn begin(&self, now: u64) {
        self.to_client.store(AWAITED | now, Ordering::Relaxed);
    }

    /// A byte was relayed at `now`. Returns the time for which the first byte to the client was awaited, if it is that one.
    pub(super) fn record(&self, direction: Direction, now: u64) -> Option<Duration> {
        let to_client = self.to_client.load(Ordering::Relaxed);
        let is_awaited = to_client & AWAITED != 0;
        match direction {
            Direction::ToBackend => {
                if is_awaited && self.last(Direction::ToBackend).is_none() {
                    self.begin(now);
                }
                self.to_backend.store(now.max(1), Ordering::Relaxed);
                None
            }
            Direction::ToClient => {
                self.to_client.store(now, Ordering::Relaxed);
                is_awaited.then(|| Duration::from_millis(now.saturating_sub(to_client & !AWAITED)))
            }
        }
    }

    /// Returns the time of the last byte in a direction.
    pub(super) fn last(&self, direction: Direction) -> Option<u64> {
        match direction {
            Direction::ToBackend => {
                Some(self.to_backend.load(Ordering::Relaxed)).filter(|&at| at > 0)
            }
            Direction::ToClient => {
                Some(self.to_client.load(Ordering::Relaxed)).filter(|at| at & AWAITED == 0)
            }
        }
    }

    /// Returns the time of the last byte in any direction; 0 before the first one.
    pub(super) fn latest(&self) -> u64 {
        self.last(Direction::ToBackend).max(self.last(Direction::ToClient)).unwrap_or(0)
    }

    /// Returns the time at `now` for which the backend has not answered, if the device has sent last.
    pub(super) fn backend_silence(&self, now: Duration) -> Option<Duration> {
        let sent = self.last(Direction::ToBackend)?;
        let is_answered = self.last(Direction::ToClient).is_some_and(|at| at >= sent);
        (!is_answered).then(|| now.saturating_sub(Duration::from_millis(sent)))
    }

    /// Returns whether the device has sent last, and the backend has not answered for [`SILENT`] at `now`.
    pub(super) fn is_backend_silent(&self, now: Duration) -> bool {
        self.backend_silence(now).is_some_and(|silence| silence >= SILENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_first_answer_is_awaited_from_the_first_byte_to_the_backend() {
        let activity = Activity::default();
        activity.begin(100);
        assert_eq!(activity.record(Direction::ToBackend, 5_000), None);
        assert_eq!(activity.record(Direction::ToBackend, 5_010), None);
        let first = activity.record(Direction::ToClient, 5_030);
        assert_eq!(first, Some(Duration::from_millis(30)));
        assert_eq!(activity.record(Direction::ToBackend, 6_000), None);
        assert_eq!(activity.record(Direction::ToClient, 7_000), None, "not the first one");
    }

    #[test]
    fn a_server_that_speaks_first_is_awaited_from_the_connect() {
        let activity = Activity::default();
        activity.begin(100);
        let first = activity.record(Direction::ToClient, 350);
        assert_eq!(first, Some(Duration::from_millis(250)));
    }

    #[test]
    fn a_backend_is_silent_while_the_device_has_sent_last_and_long_ago() {
        let activity = Activity::default();
        activity.begin(0);
        assert!(!activity.is_backend_silent(MINUTE), "the device has sent nothing");
        activity.record(Direction::ToBackend, 1_000);
        let long_enough = Duration::from_millis(1_000) + SILENT;
        assert!(activity.is_backend_silent(long_enough));
        assert!(!activity.is_backend_silent(long_enough.saturating_sub(Duration::from_millis(1))));
        activity.record(Direction::ToClient, 2_000);
        assert!(!activity.is_backend_silent(MINUTE), "it has answered");
        activity.record(Direction::ToBackend, 3_000);
        assert!(activity.is_backend_silent(MINUTE), "and not again");
    }

    #[test]
    fn the_last_bytes_of_each_direction_are_known() {
        let activity = Activity::default();
        let last = || [Direction::ToBackend, Direction::ToClient].map(|d| activity.last(d));
        activity.begin(50);
        assert_eq!((last(), activity.latest()), ([None, None], 0));
        activity.record(Direction::ToBackend, 70);
        assert_eq!((last(), activity.latest()), ([Some(70), None], 70));
        activity.record(Direction::ToClient, 90);
        assert_eq!((last(), activity.latest()), ([Some(70), Some(90)], 90));
    }
}
