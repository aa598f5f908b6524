//! The metrics of the process: reloads, its phase, the runtime, what the system gives it.
//!
//! **Promises.** The names of what the system gives are those that every Prometheus client uses
//! (`process_…`).
//!
//! **Not here.** Who sets them: `reload.rs`, and `app.rs` before each scrape.

use std::time::{Duration, SystemTime};

#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::{Counter, Gauge, IntCounter, IntGauge, Registry};

use super::family::{Maker, Set};
use crate::lifecycle::Phase;
use crate::terms::labels::{ReloadObject, ReloadOutcome};

/// What became of each object of a reload, in the order of [`ReloadObject::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Objects([ReloadOutcome; ReloadObject::ALL.len()]);

pub(super) struct ProcessMetrics {
    reloads: Set<ReloadOutcome, IntCounter>,
    /// For each of [`ReloadObject::ALL`].
    reload_objects: Vec<Set<ReloadOutcome, IntCounter>>,
    reload_failing: IntGauge,
    reload_last_success: Gauge,
    log_lines_dropped: IntCounter,
    phase: Set<Phase, IntGauge>,
    drain_started: Gauge,
    drain_timeout: Gauge,
    workers: IntGauge,
    busy: Counter,
}

impl Default for Objects {
    fn default() -> Self {
        Self([ReloadOutcome::Unchanged; ReloadObject::ALL.len()])
    }
}

impl Objects {
    /// Notes what became of `object`; the worst that is noted stays.
    pub(crate) fn note(&mut self, object: ReloadObject, outcome: ReloadOutcome) {
        let worse = |outcome| match outcome {
            ReloadOutcome::Unchanged => 0,
            ReloadOutcome::Swapped => 1,
            ReloadOutcome::Failed => 2,
        };
        let noted = &mut self.0[object as usize];
        if worse(outcome) > worse(*noted) {
            *noted = outcome;
        }
    }
}

impl ProcessMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let make = Maker(registry);
        #[cfg(target_os = "linux")]
        registry.register(Box::new(ProcessCollector::for_self())).expect("it is registered once");
        let one = |name, help| make.register(IntGauge::new(name, help));
        let instant = |name, help| make.register(Gauge::new(name, help));
        let reloads = make.counters(
            "tlsidecar_reloads_total",
            "Attempts to load certificates and configuration again.",
            &["outcome"],
        );
        let objects = make.counters(
            "tlsidecar_reload_objects_total",
            "Attempts to load again, by what was loaded.",
            &["object", "outcome"],
        );
        let phase = make.gauges(
            "tlsidecar_phase",
            "1 for the phase of its life that the process is in.",
            &["phase"],
        );
        let build = make.gauges(
            "tlsidecar_build_info",
            "Always 1; the labels tell what is running.",
            &["version"],
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            reloads: Set::of(&reloads, &[]),
            reload_objects: ReloadObject::ALL
                .iter()
                .map(|object| Set::of(&objects, &[object.as_str()]))
                .collect(),
            reload_failing: one(
                "tlsidecar_reload_failing",
                "1 while the last attempt to reload has failed and an older snapshot is in force.",
            ),
            reload_last_success: instant(
                "tlsidecar_reload_last_success_timestamp_seconds",
                "When certificates and configuration were last found good, in Unix time.",
            ),
            log_lines_dropped: make.register(IntCounter::new(
                "tlsidecar_log_lines_dropped_total",
                "Log lines lost because standard error did not take them, or not in time.",
            )),
            phase: Set::of(&phase, &[]),
            drain_started: instant(
                "tlsidecar_drain_started_timestamp_seconds",
                "When the drain began, in Unix time; 0 before.",
            ),
            drain_timeout: instant(
                "tlsidecar_drain_timeout_seconds",
                "How long a drain takes at the most: shutdown.delay and shutdown.drain_timeout.",
            ),
            workers: one("tlsidecar_runtime_workers", "Threads that work for connections."),
            busy: make.register(Counter::new(
                "tlsidecar_runtime_busy_seconds_total",
                "How long the threads that work for connections were at work, all together.",
            )),
        }
    }

    pub(super) fn reloaded(&self, outcome: ReloadOutcome, objects: Objects) {
        self.reloads[outcome].inc();
        for (counters, &outcome) in self.reload_objects.iter().zip(&objects.0) {
            counters[outcome].inc();
        }
    }

    pub(super) fn looked_at(&self, outcome: ReloadOutcome, now: SystemTime) {
        self.reload_failing.set(i64::from(outcome == ReloadOutcome::Failed));
        if outcome != ReloadOutcome::Failed {
            self.reload_last_success.set(unix_seconds(now));
        }
    }

    pub(super) fn set_log_lines_dropped(&self, total: u64) {
        self.log_lines_dropped.inc_by(total.saturating_sub(self.log_lines_dropped.get()));
    }

    pub(super) fn set_phase(&self, now: Phase, drain_started: Option<SystemTime>) {
        for &phase in Phase::ALL {
            self.phase[phase].set(i64::from(phase == now));
        }
        self.drain_started.set(drain_started.map_or(0.0, unix_seconds));
    }

    pub(super) fn set_drain_timeout(&self, timeout: Duration) {
        self.drain_timeout.set(timeout.as_secs_f64());
    }

    pub(super) fn set_runtime(&self, workers: usize, busy: Duration) {
        self.workers.set(i64::try_from(workers).unwrap_or(i64::MAX));
        self.busy.inc_by((busy.as_secs_f64() - self.busy.get()).max(0.0));
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    crate::time::since_epoch(time).as_secs_f64()
}
