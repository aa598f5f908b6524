//! Unix time.
//!
//! **Promises.** A time before 1970 counts as 1970: a clock that is wrong causes no error.
//!
//! **Not here.** The dates in certificates (`trust/x509.rs`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the time since 1970.
pub(crate) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

/// Returns the Unix time in whole seconds.
pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    i64::try_from(since_epoch(time).as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_1970_counts_as_1970() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(unix_seconds(at(1_800_000_000)), 1_800_000_000);
        assert_eq!(since_epoch(UNIX_EPOCH - Duration::from_secs(1)), Duration::ZERO);
    }
}
