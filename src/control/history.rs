//! The counters of the listeners over the last minutes, for operators without Prometheus.
//!
//! **Promises.** At most [`SAMPLES`] samples are kept: for each listener five numbers, and one for each reason and
//! each detail of a reason (an alert, a kind of cipher suite) that occurred in that time. They are differences of counters that exist anyway, so the data path does
//! no extra work. Time is monotonic, so it is correct on a gateway without a real-time clock as well.
//!
//! **Not here.** Counting (`metrics.rs`), the output (`admin/status.rs`).

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use crate::lock::Lock;
use crate::metrics::{ListenerMetrics, Totals};
use crate::terms::closed_set::ClosedSet;
use crate::terms::labels::{
    Alert, Direction, Incompatible, LooksLike, NoRouteCause, RejectionCause, SuiteKind,
};
use crate::terms::reason::Reason;

/// Duration of a sample.
const PERIOD: Duration = Duration::from_secs(10);

/// Number of complete samples that are kept: a quarter of an hour.
const SAMPLES: usize = 90;

/// The recent past of the listeners.
pub(crate) struct History {
    pub(crate) listeners: Vec<Arc<ListenerMetrics>>,
    past: Lock<Past>,
}

struct Past {
    /// Counters at the end of the last sample.
    totals: Vec<Totals>,
    samples: VecDeque<Sample>,
}

/// Increases of all counters between two instants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) ended: Instant,
    /// For each listener.
    pub(crate) increases: Vec<Increase>,
}

/// Increases of one listener's counters between two instants, and its open connections at the second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Increase {
    pub(crate) accepted: u64,
    /// Completed handshakes.
    pub(crate) handshakes: u64,
    /// Open connections at the end of the sample.
    pub(crate) active: i64,
    /// Plaintext bytes relayed, only in directions with some.
    pub(crate) bytes: Vec<(Direction, u64)>,
    /// Only reasons that occurred.
    pub(crate) closed: Vec<(Reason, u64)>,
    /// Only alerts that clients sent.
    pub(crate) alerts: Vec<(Alert, u64)>,
    /// Only likely causes of alerts about the server certificate that occurred.
    pub(crate) certificate_rejections: Vec<(RejectionCause, u64)>,
    /// Only incompatibilities that occurred.
    pub(crate) incompatible: Vec<(Incompatible, u64)>,
    /// Only kinds of cipher suites that occurred.
    pub(crate) refused_suites: Vec<(SuiteKind, u64)>,
    /// Only protocols other than TLS that occurred.
    pub(crate) not_tls: Vec<(LooksLike, u64)>,
    /// Only conditions of routes that were not met.
    pub(crate) no_route: Vec<(NoRouteCause, u64)>,
}

impl History {
    /// Starts the history of these listeners.
    pub(crate) fn new(listeners: Vec<Arc<ListenerMetrics>>) -> Self {
        let totals = listeners.iter().map(|listener| listener.totals()).collect();
        let past = Lock::new(Past { totals, samples: VecDeque::new() });
        Self { listeners, past }
    }

    /// Takes samples until the process ends.
    pub(crate) async fn run(&self) {
        let mut ticks = interval(PERIOD);
        // After the machine was suspended, one long sample covers the pause.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick completes at once.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.sample(Instant::now());
        }
    }

    /// Returns the kept samples, oldest first, and the one that has only begun.
    pub(crate) fn recent(&self, now: Instant) -> Vec<Sample> {
        let past = self.past();
        let (_, begun) = self.since(&past.totals, now);
        past.samples.iter().cloned().chain([begun]).collect()
    }

    fn sample(&self, now: Instant) {
        let mut past = self.past();
        let (totals, sample) = self.since(&past.totals, now);
        past.totals = totals;
        past.samples.push_back(sample);
        if past.samples.len() > SAMPLES {
            past.samples.pop_front();
        }
    }

    /// Returns the counters, and their increase since `before`.
    fn since(&self, before: &[Totals], now: Instant) -> (Vec<Totals>, Sample) {
        let totals: Vec<_> = self.listeners.iter().map(|listener| listener.totals()).collect();
        let increases = totals.iter().zip(before).zip(&self.listeners);
        let increases = increases.map(|((now, before), listener)| increase(now, before, listener));
        let increases = increases.collect();
        (totals, Sample { ended: now, increases })
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock()
    }
}

fn increase(now: &Totals, before: &Totals, listener: &ListenerMetrics) -> Increase {
    Increase {
        accepted: now.accepted - before.accepted,
        handshakes: now.handshakes - before.handshakes,
        active: listener.load().active,
        bytes: grown(&now.bytes, &before.bytes),
        closed: grown(&now.closed, &before.closed),
        alerts: grown(&now.alerts, &before.alerts),
        certificate_rejections: grown(&now.certificate_rejections, &before.certificate_rejections),
        incompatible: grown(&now.incompatible, &before.incompatible),
        refused_suites: grown(&now.refused_suites, &before.refused_suites),
        not_tls: grown(&now.not_tls, &before.not_tls),
        no_route: grown(&now.no_route, &before.no_route),
    }
}

/// Returns the values whose counters have grown, with the increase.
fn grown<L: ClosedSet>(now: &[u64], before: &[u64]) -> Vec<(L, u64)> {
    let increases = now.iter().zip(before).map(|(now, before)| now - before);
    L::all().iter().copied().zip(increases).filter(|(_, increase)| *increase > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn samples_hold_increases_and_the_oldest_are_dropped() {
        let metrics = Metrics::new();
        let history = History::new(vec![metrics.listener("a"), metrics.listener("b")]);
        let now = Instant::now();
        history.listeners[1].accepted();
        history.listeners[1].accepted();
        history.listeners[1].closed(Reason::ClientTlsEof, Duration::ZERO);
        history.listeners[1].alerted(Alert::UnknownCa);
        history.listeners[1].rejected(RejectionCause::IssuerNotSent);
        history.listeners[1].refused(Incompatible::CipherSuite, SuiteKind::Rsa);
        history.listeners[1].not_tls(LooksLike::Http);
        history.listeners[1].no_route(NoRouteCause::Alpn);
        history.listeners[1].relayed(Direction::ToClient, 7);
        let closed = vec![(Reason::ClientTlsEof, 1)];
        let one = Increase {
            accepted: 2,
            handshakes: 0,
            active: 1,
            bytes: vec![(Direction::ToClient, 7)],
            closed,
            alerts: vec![(Alert::UnknownCa, 1)],
            certificate_rejections: vec![(RejectionCause::IssuerNotSent, 1)],
            incompatible: vec![(Incompatible::CipherSuite, 1)],
            refused_suites: vec![(SuiteKind::Rsa, 1)],
            not_tls: vec![(LooksLike::Http, 1)],
            no_route: vec![(NoRouteCause::Alpn, 1)],
        };
        let first = Sample { ended: now, increases: vec![Increase::default(), one] };
        assert_eq!(
            history.recent(now),
            std::slice::from_ref(&first),
            "a sample that has not ended is included"
        );
        history.sample(now);
        let one = Increase { active: 1, ..Increase::default() };
        let quiet = Sample { ended: now, increases: vec![Increase::default(), one] };
        assert_eq!(history.recent(now), [first, quiet.clone()]);
        (0..SAMPLES).for_each(|_| history.sample(now));
        assert_eq!(history.recent(now), vec![quiet; SAMPLES + 1]);
    }
}
