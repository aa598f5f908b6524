//! The time at which the next client certificate of a live session expires.
//!
//! **Promises.** Adding a session costs one atomic operation. The wait follows the system clock: it notices within
//! [`LONGEST_WAIT`] if that is set.
//!
//! **Not here.** The sessions that have expired (`sessions/recheck.rs`).

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::time::unix_seconds;

/// The longest wait between two looks at the system clock.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The earliest end of validity among live sessions.
pub(crate) struct NextExpiry {
    /// The last valid second, in Unix time.
    last_second: AtomicI64,
    sooner: Notify,
}

impl Default for NextExpiry {
    fn default() -> Self {
        Self { last_second: AtomicI64::new(i64::MAX), sooner: Notify::new() }
    }
}

impl NextExpiry {
    /// Adds a session whose certificate is valid up to `last_second`, in Unix time.
    pub(crate) fn add(&self, last_second: i64) {
        if last_second < self.last_second.fetch_min(last_second, Ordering::SeqCst) {
            self.sooner.notify_one();
        }
    }

    /// Waits until the earliest expiry has passed, and forgets it: the others have to be added again.
    pub(crate) async fn passed(&self) {
        loop {
            let now = unix_seconds(SystemTime::now());
            let last_second = self.last_second.load(Ordering::SeqCst);
            if now > last_second {
                self.last_second.store(i64::MAX, Ordering::SeqCst);
                return;
            }
            let left = u64::try_from(last_second.saturating_sub(now)).unwrap_or(0);
            let wait = Duration::from_secs(left.saturating_add(1)).min(LONGEST_WAIT);
            let _sooner = timeout(wait, self.sooner.notified()).await;
        }
    }
}
