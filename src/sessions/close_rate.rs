//! The limit of closes per second (`shutdown.max_closes_per_second`), over a drain, re-checks and the maximum age together.
//!
//! **Promises.** In no second are there more closes than the limit, also if the process is late or was suspended: a turn
//! that was not used within [`VALID`] is lost. Turns are given in order. Without a limit, asking costs one atomic load.
//!
//! **Not here.** What asks for a turn (`sessions/pace.rs`, `proxy/relay/pause.rs`). Ends that do not ask: those by the
//! deadline of a drain, by an operator, and by the connection itself.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::Lock;

/// Time from its instant on for which a turn can be used. Turns are further apart by this part of a second, so that late and
/// punctual closes together do not exceed the limit.
const VALID: Duration = Duration::from_millis(50);

/// Resolution of tokio's timers: turns within it are given together.
const RESOLUTION: Duration = Duration::from_millis(2);

const SECOND: Duration = Duration::from_secs(1);

/// The turns to close a session.
#[derive(Debug, Default)]
pub(crate) struct CloseRate {
    /// Closes per second. 0: no limit.
    limit: AtomicU32,
    /// The next turn that is free.
    next: Lock<Option<Instant>>,
}

impl CloseRate {
    /// Sets the limit. It applies to turns that are given from now on.
    pub(crate) fn set_limit(&self, limit: Option<NonZeroU32>) {
        self.limit.store(limit.map_or(0, NonZeroU32::get), Ordering::Relaxed);
    }

    /// Returns the instant until which a close has to wait, or none if it can be done now. `turn` keeps the turn of this
    /// close while it waits.
    pub(crate) fn wait(&self, turn: &mut Option<Instant>, now: Instant) -> Option<Instant> {
        if turn.is_none_or(|turn| turn + VALID < now) {
            *turn = self.next(now);
        }
        turn.filter(|turn| now < *turn)
    }

    /// Takes the next turn. None: there is no limit.
    fn next(&self, now: Instant) -> Option<Instant> {
        let limit = NonZeroU32::new(self.limit.load(Ordering::Relaxed))?;
        let mut next = self.next.lock();
        let earliest = now.checked_sub(RESOLUTION).unwrap_or(now);
        let turn = next.map_or(now, |next| next.max(earliest));
        *next = Some(turn + interval(limit));
        Some(turn)
    }

    /// Returns the time that this number of closes takes at least.
    pub(crate) fn time_for(&self, count: usize) -> Duration {
        let limit = NonZeroU32::new(self.limit.load(Ordering::Relaxed));
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        limit.map_or(Duration::ZERO, |limit| interval(limit) * count)
    }
}

fn interval(limit: NonZeroU32) -> Duration {
    (SECOND + VALID) / limit.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn in_no_second_are_there_more_turns_than_the_limit() {
        for limit in [1, 3, 100, 7000] {
            let rate = CloseRate::default();
            rate.set_limit(NonZeroU32::new(limit));
            let now = Instant::now();
            let turns: Vec<_> = (0..4 * limit).map(|_| rate.next(now).unwrap()).collect();
            assert_eq!(turns[0], now);
            // The first of a second is used as late as it can be, and the others in time.
            for (place, first) in turns.iter().enumerate() {
                let within = |turn: &&Instant| **turn < *first + VALID + SECOND;
                let count = turns[place..].iter().filter(within).count();
                assert!(count <= limit as usize, "{count} in a second at {limit}");
            }
            let whole = rate.time_for(turns.len());
            assert!(*turns.last().unwrap() < now + whole && whole < 5 * SECOND, "{whole:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn turns_of_the_past_cannot_be_taken_later() {
        let rate = CloseRate::default();
        rate.set_limit(NonZeroU32::new(10));
        assert_eq!(rate.wait(&mut None, Instant::now()), None);
        tokio::time::advance(60 * SECOND).await;
        let now = Instant::now();
        assert_eq!(rate.wait(&mut None, now), None);
        assert!(rate.wait(&mut None, now).unwrap() >= now + SECOND / 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_was_missed_is_lost_and_the_next_one_is_behind_the_others() {
        let rate = CloseRate::default();
        rate.set_limit(NonZeroU32::new(1));
        let (mut first, mut second) = (None, None);
        let now = Instant::now();
        assert_eq!(rate.wait(&mut first, now), None);
        let due = rate.wait(&mut second, now).unwrap();
        tokio::time::advance(due + VALID - now).await;
        assert_eq!(rate.wait(&mut second, Instant::now()), None, "it is just in time");
        tokio::time::advance(RESOLUTION).await;
        assert!(rate.wait(&mut second, Instant::now()).unwrap() >= due + SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let rate = CloseRate::default();
        let now = Instant::now();
        assert_eq!((rate.wait(&mut None, now), rate.wait(&mut None, now)), (None, None));
        assert_eq!(rate.time_for(9), Duration::ZERO);
    }
}
