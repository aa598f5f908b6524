//! Stops many sessions one after another, so that their devices do not all return in the same second.
//!
//! A drain, a re-check and the maximum age spread the ends of sessions over a time by the functions of this file.
//!
//! **Promises.** Ends are even: of `n` sessions over a time, each has its own `n`th part of it, and a jittered instant in
//! that part. If the process was suspended, the sessions whose time has passed are not stopped in one burst: the plan is
//! compressed into the time that is left. Stops that come at once wait for their turn under the limit of closes per
//! second; a session that stops at its next pause waits there (`proxy/relay/pause.rs`).
//!
//! **Not here.** The choice of sessions: `sessions/drain.rs`, `sessions/recheck.rs`. The maximum age itself:
//! `proxy/relay.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Session;
use super::close_rate::CloseRate;
use crate::lock::Lock;
use crate::terms::reason::Reason;

/// Delay from which on a plan is compressed, instead of its overdue part being stopped at once.
const SUSPENDED: Duration = Duration::from_secs(1);

/// The sessions to stop by the time at which each is stopped, and its ID.
pub(super) type Plan = BTreeMap<(Instant, u64), (Arc<Session>, PlannedStop)>;

/// The order that a session gets at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlannedStop {
    /// To stop at once.
    Now(Reason),
    /// To stop as soon as no exchange is in progress.
    AtPause(Reason),
}

/// A plan that is carried out while it can change.
#[derive(Default)]
pub(super) struct Pace {
    plan: Lock<Plan>,
    changed: Notify,
}

impl Pace {
    /// Replaces the plan by one that is made of it. Meanwhile no session is stopped, and nobody waits for the lock: with a
    /// hundred thousand sessions it takes a while. There is one caller at a time.
    pub(super) fn replace(&self, new: impl FnOnce(&Plan) -> Plan) {
        let before = std::mem::take(&mut *self.plan.lock());
        let plan = new(&before);
        *self.plan.lock() = plan;
        self.changed.notify_one();
    }

    /// Stops each session of the plan at its time, and not before its turn. Runs until the runtime ends.
    pub(super) async fn run(&self, closes: &CloseRate) {
        let mut turn = None;
        loop {
            let next = self.plan.lock().first_key_value().map(|((due, _), _)| *due);
            match next {
                None => self.changed.notified().await,
                Some(due) => tokio::select! {
                    () = self.changed.notified() => {}
                    () = sleep_until(turn.map_or(due, |turn| due.max(turn))) => {
                        self.stop_due(Instant::now(), closes, &mut turn);
                    }
                },
            }
        }
    }

    /// Stops the sessions that are due, up to one that has to wait for its turn.
    fn stop_due(&self, now: Instant, closes: &CloseRate, turn: &mut Option<Instant>) {
        let mut plan = self.plan.lock();
        compress(&mut plan, now);
        while let Some(first) = plan.first_entry().filter(|first| first.key().0 <= now) {
            match first.get().1 {
                PlannedStop::Now(_) if closes.wait(turn, now).is_some() => return,
                PlannedStop::Now(reason) => {
                    first.remove().0.stop(reason);
                    *turn = None;
                }
                PlannedStop::AtPause(reason) => {
                    first.remove().0.stop_order().give_at_pause(reason);
                }
            }
        }
    }
}

/// Returns `count` instants from `now` on, evenly over `spread`, the first at once. The others are jittered within
/// their parts.
pub(super) fn evenly(
    now: Instant,
    spread: Duration,
    count: usize,
) -> impl Iterator<Item = Instant> {
    let part = share(spread, 1, count);
    (0..count).map(move |place| {
        let jitter = if place == 0 { Duration::ZERO } else { jitter(part, place as u64) };
        now + share(spread, place, count) + jitter
    })
}

/// Returns a part of `width` that differs from that of other seeds. Consecutive seeds are spread evenly: they are
/// multiplied by the golden ratio (Knuth, The Art of Computer Programming, volume 3, section 6.4).
pub(crate) fn jitter(width: Duration, seed: u64) -> Duration {
    const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;
    let fraction = seed.wrapping_mul(GOLDEN_RATIO) >> 32;
    nanos((width.as_nanos() * u128::from(fraction)) >> 32)
}

/// Moves the times of a plan whose start has passed long ago, so that it begins now and ends as planned, or
/// [`SUSPENDED`] from now if that has passed too.
fn compress(plan: &mut Plan, now: Instant) {
    let (Some((first, _)), Some((last, _))) =
        (plan.first_key_value().map(|(key, _)| *key), plan.last_key_value().map(|(key, _)| *key))
    else {
        return;
    };
    if now < first + SUSPENDED {
        return;
    }
    let (before, left) = (last - first, last.saturating_duration_since(now).max(SUSPENDED));
    let moved = |due: Instant| now + scaled(due - first, left, before);
    *plan = std::mem::take(plan).into_iter().map(|((due, id), v)| ((moved(due), id), v)).collect();
}

/// Returns `spread * place / count`.
fn share(spread: Duration, place: usize, count: usize) -> Duration {
    nanos(spread.as_nanos() * place as u128 / count.max(1) as u128)
}

/// Returns `time * new / old`.
fn scaled(time: Duration, new: Duration, old: Duration) -> Duration {
    nanos(time.as_nanos() * new.as_nanos() / old.as_nanos().max(1))
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
