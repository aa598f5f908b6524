//! What the listeners have counted over the last minutes, for people who have no Prometheus.
//!
//! **Promises.** It keeps [`SAMPLES`] samples and no more: of each listener three numbers, and one for each
//! reason for which connections ended meanwhile. It reads counters that are moved anyway, so the data
//! path does nothing for it. Its time is one that nobody sets: a gateway without a clock of its own has
//! it right as well.
//!
//! **Not here.** What is counted (`metrics.rs`), who is shown it (`admin/status.rs`).

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use crate::lock::Lock;
use crate::metrics::{Counted, ListenerMetrics};
use crate::terms::reason::Reason;

/// How long a sample is.
const PERIOD: Duration = Duration::from_secs(10);

/// Whole samples that are kept: a quarter of an hour.
const SAMPLES: usize = 90;

/// The recent past of some listeners.
pub(crate) struct History {
    pub(crate) listeners: Vec<Arc<ListenerMetrics>>,
    past: Lock<Past>,
}

struct Past {
    /// What had been counted when the last sample ended.
    counted: Vec<Counted>,
    samples: VecDeque<Sample>,
}

/// What was counted between two moments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) ended: Instant,
    /// Of each listener.
    pub(crate) moved: Vec<Moved>,
}

/// What one listener counted between two moments, and what it had at the second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) accepted: u64,
    /// Those that were completed.
    pub(crate) handshakes: u64,
    /// Open connections when it ended.
    pub(crate) active: i64,
    /// Only reasons that there were.
    pub(crate) closed: Vec<(Reason, u64)>,
}

impl History {
    /// Of these listeners, from now on.
    pub(crate) fn new(listeners: Vec<Arc<ListenerMetrics>>) -> Self {
        let counted = listeners.iter().map(|listener| listener.counted()).collect();
        let past = Lock::new(Past { counted, samples: VecDeque::new() });
        Self { listeners, past }
    }

    /// Takes samples for ever.
    pub(crate) async fn run(&self) {
        let mut ticks = interval(PERIOD);
        // After a pause of the machine, one long sample tells what happened.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one is now.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.sample(Instant::now());
        }
    }

    /// The samples that are kept, oldest first, and one that has only begun.
    pub(crate) fn recent(&self, now: Instant) -> Vec<Sample> {
        let past = self.past();
        let (_, begun) = self.since(&past.counted, now);
        past.samples.iter().cloned().chain([begun]).collect()
    }

    fn sample(&self, now: Instant) {
        let mut past = self.past();
        let (counted, sample) = self.since(&past.counted, now);
        past.counted = counted;
        past.samples.push_back(sample);
        if past.samples.len() > SAMPLES {
            past.samples.pop_front();
        }
    }

    /// What is counted now, and what that is more than `before`.
    fn since(&self, before: &[Counted], now: Instant) -> (Vec<Counted>, Sample) {
        let counted: Vec<_> = self.listeners.iter().map(|listener| listener.counted()).collect();
        let moved = counted.iter().zip(before).zip(&self.listeners);
        let moved = moved.map(|((now, before), listener)| moved_to(now, before, listener));
        let moved = moved.collect();
        (counted, Sample { ended: now, moved })
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock()
    }
}

fn moved_to(now: &Counted, before: &Counted, listener: &ListenerMetrics) -> Moved {
    let closed = now.closed.iter().zip(&before.closed).map(|(now, before)| now - before);
    let closed = Reason::ALL.iter().copied().zip(closed);
    Moved {
        accepted: now.accepted - before.accepted,
        handshakes: now.handshakes - before.handshakes,
        active: listener.load().active,
        closed: closed.filter(|(_, count)| *count > 0).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn samples_hold_what_was_counted_between_them_and_the_oldest_go() {
        let metrics = Metrics::new();
        let history = History::new(vec![metrics.listener("a"), metrics.listener("b")]);
        let now = Instant::now();
        history.listeners[1].accepted();
        history.listeners[1].accepted();
        history.listeners[1].closed(Reason::ClientTlsEof, Duration::ZERO);
        let closed = vec![(Reason::ClientTlsEof, 1)];
        let one = Moved { accepted: 2, handshakes: 0, active: 1, closed };
        let first = Sample { ended: now, moved: vec![Moved::default(), one] };
        assert_eq!(history.recent(now), std::slice::from_ref(&first), "also before it has ended");
        history.sample(now);
        let one = Moved { active: 1, ..Moved::default() };
        let quiet = Sample { ended: now, moved: vec![Moved::default(), one] };
        assert_eq!(history.recent(now), [first, quiet.clone()]);
        (0..SAMPLES).for_each(|_| history.sample(now));
        assert_eq!(history.recent(now), vec![quiet; SAMPLES + 1]);
    }
}
