//! The pace of full handshakes: at most a number of them per second.
//!
//! **Promises.** Over any time, at most rate × time + [`BURST`]'s worth of handshakes is begun, plus those that were
//! resumptions until their ticket was declined: they are charged afterwards.
//!
//! **Not here.** The devices that wait (`handshake_slots/queue.rs`).

use std::time::Duration;

use tokio::time::Instant;

/// The time that the pace may be ahead of: short waits should not waste slots.
const BURST: Duration = Duration::from_millis(100);

/// The pace of one listener.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// None: no limit.
    interval: Option<Duration>,
    /// The time at which the handshakes that were begun are paid for.
    paid: Option<Instant>,
}

impl Pace {
    /// Sets the number of handshakes per second. None: no limit.
    pub(super) fn set(&mut self, per_second: Option<u32>) {
        self.interval = per_second.map(|rate| Duration::from_secs(1) / rate);
    }

    /// Returns the time before which no handshake may begin, or none if one may begin now.
    pub(super) fn not_before(&self, now: Instant) -> Option<Instant> {
        self.interval?;
        let begin = self.paid?.checked_sub(BURST)?;
        (begin > now).then_some(begin)
    }

    /// Charges a handshake.
    pub(super) fn charge(&mut self, now: Instant) {
        if let Some(interval) = self.interval {
            let paid = self.paid.map_or(now, |paid| paid.max(now));
            self.paid = Some(paid + interval);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn in_one_second_begin_as_many_handshakes_as_the_rate_and_a_burst() {
        let mut pace = Pace::default();
        pace.set(Some(50));
        let (start, mut begun) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_secs(1) {
            match pace.not_before(Instant::now()) {
                Some(instant) => tokio::time::sleep_until(instant).await,
                None => {
                    pace.charge(Instant::now());
                    begun += 1;
                }
            }
        }
        assert!((50..=56).contains(&begun), "{begun}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_a_handshake_may_always_begin() {
        let mut pace = Pace::default();
        (0..1000).for_each(|_| pace.charge(Instant::now()));
        assert_eq!(pace.not_before(Instant::now()), None);
    }
}
