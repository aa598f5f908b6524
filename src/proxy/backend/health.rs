//! The health of one address of a backend, by the results of connects and checks.
//!
//! **Promises.** An address that failed is paused: for a second after the first failure, doubled with each further one
//! up to [`LONGEST_PAUSE`], with a random part, so that several proxies do not return at once. After the pause one
//! connection tries it. Failures during a pause do not prolong it.
//!
//! **Not here.** The choice among addresses, which also decides whether a paused one is tried (`pool.rs`), metrics
//! (`metrics/backends.rs`).

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::Lock;
use crate::sessions::pace::jitter;
use crate::terms::reason::Reason;

const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Failures in a row after which an address is known to be down: it has failed for three seconds or more.
const FAILURES_OF_A_DOWN_ADDRESS: u32 = 3;

/// The health of one address.
#[derive(Debug, Default)]
pub(super) struct Health(Lock<Failures>);

#[derive(Debug, Default)]
struct Failures {
    /// In a row, each after the pause of the one before.
    count: u32,
    /// The end of the pause. None if the last attempt succeeded.
    paused_until: Option<Instant>,
    /// A connection tries the address after its pause.
    in_trial: bool,
    last: Option<Reason>,
}

/// An attempt to connect to the address.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    health: &'a Health,
    is_trial: bool,
}

/// A change of the health that operators should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HealthChange {
    Failed(Reason),
    Recovered,
}

impl Health {
    /// Returns the end of the pause, if the address is paused. While a connection tries it, it is paused for the others;
    /// without `has_trials`, until an attempt has succeeded.
    pub(super) fn paused_until(&self, now: Instant, has_trials: bool) -> Option<Instant> {
        let failures = self.0.lock();
        failures.paused_until.filter(|until| now < *until || failures.in_trial || !has_trials)
    }

    /// Returns the reason of the last failure if the address is known to be down.
    pub(super) fn down(&self) -> Option<Reason> {
        let failures = self.0.lock();
        failures.last.filter(|_| failures.count >= FAILURES_OF_A_DOWN_ADDRESS)
    }

    /// Begins an attempt. The first one after a pause is the trial.
    pub(super) fn begin(&self, now: Instant) -> Attempt<'_> {
        let mut failures = self.0.lock();
        let is_due = failures.paused_until.is_some_and(|until| until <= now);
        let is_trial = is_due && !failures.in_trial;
        failures.in_trial |= is_trial;
        Attempt { health: self, is_trial }
    }
}

impl Attempt<'_> {
    /// The address was connected.
    pub(super) fn succeeded(self) -> Option<HealthChange> {
        let mut failures = self.health.0.lock();
        let has_failed = failures.count > 0;
        *failures = Failures { in_trial: failures.in_trial, ..Failures::default() };
        has_failed.then_some(HealthChange::Recovered)
    }

    /// The connect failed.
    pub(super) fn failed(self, now: Instant, reason: Reason) -> Option<HealthChange> {
        let mut failures = self.health.0.lock();
        failures.last = Some(reason);
        if failures.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        failures.count = failures.count.saturating_add(1);
        failures.paused_until = Some(now + pause(failures.count));
        (failures.count == 1).then_some(HealthChange::Failed(reason))
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.is_trial {
            self.health.0.lock().in_trial = false;
        }
    }
}

/// Returns the pause after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let doubled = SHORTEST_PAUSE * (1 << failures.saturating_sub(1).min(5));
    jittered(doubled.min(LONGEST_PAUSE))
}

/// Returns a random duration of three to five quarters of this one.
pub(super) fn jittered(duration: Duration) -> Duration {
    // The keys of a RandomState are random.
    duration * 3 / 4 + jitter(duration / 2, RandomState::new().hash_one(0_u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(health: &Health) {
        let now = Instant::now();
        health.begin(now).failed(now, Reason::BackendRefused);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_failed_is_tried_by_one_connection_after_each_pause() {
        let health = Health::default();
        let is_paused = || health.paused_until(Instant::now(), true).is_some();
        assert!(!is_paused());
        for (failures, seconds) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (7, 30)] {
            failed(&health);
            assert_eq!(health.down().is_some(), failures >= 3);
            let (soon, late) = (seconds * 749, seconds * 1251);
            tokio::time::advance(Duration::from_millis(soon)).await;
            assert!(is_paused(), "{failures}");
            tokio::time::advance(Duration::from_millis(late - soon)).await;
            assert!(!is_paused(), "{failures}");
            let trial = health.begin(Instant::now());
            assert!(is_paused(), "one at a time");
            drop(trial);
            assert!(!is_paused(), "a trial that was given up leaves its place to the next");
        }
        health.begin(Instant::now()).succeeded();
        assert!(!is_paused() && health.down().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_during_a_pause_does_not_prolong_it() {
        let health = Health::default();
        failed(&health);
        let until = health.paused_until(Instant::now(), true);
        for _ in 0..5 {
            failed(&health);
        }
        assert_eq!((health.paused_until(Instant::now(), true), health.down()), (until, None));
        tokio::time::advance(LONGEST_PAUSE).await;
        assert_eq!(health.paused_until(Instant::now(), true), None);
        assert_eq!(health.paused_until(Instant::now(), false), until, "a check ends the pause");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_failure_and_the_recovery_are_reported() {
        let (health, now) = (Health::default(), Instant::now());
        let reason = Reason::BackendTimeout;
        let changes = [
            health.begin(now).succeeded(),
            health.begin(now).failed(now, reason),
            health.begin(now).failed(now, reason),
            health.begin(now).succeeded(),
        ];
        let expected =
            [None, Some(HealthChange::Failed(reason)), None, Some(HealthChange::Recovered)];
        assert_eq!(changes, expected);
    }
}
