//! The metrics of the process: reloads, phase, runtime, and the resources of the operating system.
//!
//! **Promises.** The metrics of the operating system have the names that every Prometheus client library uses
//! (`process_…`).
//!
//! **Not here.** The updates: `reload.rs`, and `app.rs` before each scrape.

use std::time::{Duration, SystemTime};

#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::{Counter, Gauge, IntCounter, IntGauge, Registry};

use super::declare::{Named, Set, declare_metrics};
use super::resources::Resources;
use crate::lifecycle::Phase;
use crate::terms::labels::{ReloadObject, ReloadOutcome};

declare_metrics! {
    struct ProcessHandles of ProcessFamilies {
        reloads: Set<ReloadOutcome, IntCounter>
            = "tlsidecar_reloads_total" ["outcome"]
            "Attempts to load certificates and configuration again.";
        reload_objects: Set<ReloadObject, Set<ReloadOutcome, IntCounter>>
            = "tlsidecar_reload_objects_total" ["object", "outcome"]
            "Attempts to load again, by the kind of object.";
        reload_failing: IntGauge
            = "tlsidecar_reload_failing" []
            "1 while the last attempt to reload has failed and an older snapshot is active.";
        reload_last_success: Gauge
            = "tlsidecar_reload_last_success_timestamp_seconds" []
            "When certificates and configuration were last found valid, in Unix time.";
        log_lines_dropped: IntCounter
            = "tlsidecar_log_lines_dropped_total" []
            "Log lines lost because standard error did not take them, or not in time.";
        phase: Set<Phase, IntGauge>
            = "tlsidecar_phase" ["phase"]
            "1 for the current phase of the process.";
        drain_started: Gauge
            = "tlsidecar_drain_started_timestamp_seconds" []
            "When the drain began, in Unix time; 0 before.";
        drain_timeout: Gauge
            = "tlsidecar_drain_timeout_seconds" []
            "Longest duration of a drain: shutdown.delay and shutdown.drain_timeout.";
        drain_waiting: IntGauge
            = "tlsidecar_drain_waiting_sessions" []
            "Sessions that a drain closes as soon as the exchange in progress has ended.";
        workers: IntGauge
            = "tlsidecar_runtime_workers" []
            "Threads that serve connections.";
        busy: Counter
            = "tlsidecar_runtime_busy_seconds_total" []
            "Time that the threads that serve connections were busy, all together.";
        build: Named<Gauge>
            = "tlsidecar_build_info" ["version"]
            "Always 1; the label identifies the running version.";
    }
}

/// The outcome of a reload for each kind of object, in the order of [`ReloadObject::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Objects([ReloadOutcome; ReloadObject::ALL.len()]);

/// The metrics of the process.
pub(super) struct ProcessMetrics(ProcessHandles);

impl Default for Objects {
    fn default() -> Self {
        Self([ReloadOutcome::Unchanged; ReloadObject::ALL.len()])
    }
}

impl Objects {
    /// Records an outcome for `object`; the worst one is kept.
    pub(crate) fn note(&mut self, object: ReloadObject, outcome: ReloadOutcome) {
        let severity = |outcome| match outcome {
            ReloadOutcome::Unchanged => 0,
            ReloadOutcome::Swapped => 1,
            ReloadOutcome::Failed => 2,
        };
        let noted = &mut self.0[object as usize];
        if severity(outcome) > severity(*noted) {
            *noted = outcome;
        }
    }
}

impl ProcessMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        #[cfg(target_os = "linux")]
        registry.register(Box::new(ProcessCollector::for_self())).expect("it is registered once");
        let handles = ProcessFamilies::register(registry).children(&[]);
        handles.build.publish([(vec![env!("CARGO_PKG_VERSION").to_owned()], 1.0)]);
        Self(handles)
    }

    pub(super) fn reloaded(&self, outcome: ReloadOutcome, objects: Objects) {
        self.0.reloads[outcome].inc();
        for (&object, &outcome) in ReloadObject::ALL.iter().zip(&objects.0) {
            self.0.reload_objects[object][outcome].inc();
        }
    }

    pub(super) fn looked_at(&self, outcome: ReloadOutcome, now: SystemTime) {
        self.0.reload_failing.set(i64::from(outcome == ReloadOutcome::Failed));
        if outcome != ReloadOutcome::Failed {
            self.0.reload_last_success.set(unix_seconds(now));
        }
    }

    pub(super) fn set_log_lines_dropped(&self, total: u64) {
        let counter = &self.0.log_lines_dropped;
        counter.inc_by(total.saturating_sub(counter.get()));
    }

    pub(super) fn set_phase(&self, now: Phase, drain_started: Option<SystemTime>) {
        for &phase in Phase::ALL {
            self.0.phase[phase].set(i64::from(phase == now));
        }
        self.0.drain_started.set(drain_started.map_or(0.0, unix_seconds));
    }

    pub(super) fn set_drain_waiting(&self, sessions: usize) {
        self.0.drain_waiting.set(i64::try_from(sessions).unwrap_or(i64::MAX));
    }

    pub(super) fn set_drain_timeout(&self, timeout: Duration) {
        self.0.drain_timeout.set(timeout.as_secs_f64());
    }

    pub(super) fn set_runtime(&self, workers: usize, busy: Duration) {
        self.0.workers.set(i64::try_from(workers).unwrap_or(i64::MAX));
        self.0.busy.inc_by((busy.as_secs_f64() - self.0.busy.get()).max(0.0));
    }

    /// Returns these resources with those that the process counts itself.
    pub(super) fn resources(&self, read: Resources) -> Resources {
        Resources {
            workers: u64::try_from(self.0.workers.get()).unwrap_or(0),
            busy_seconds: self.0.busy.get(),
            log_lines_dropped: self.0.log_lines_dropped.get(),
            ..read
        }
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    crate::time::since_epoch(time).as_secs_f64()
}
