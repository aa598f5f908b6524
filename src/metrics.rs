//! Every metric of the process.
//!
//! **Promises.** Each metric is declared once, with its name, labels, help and kind. docs/metrics.md lists them
//! all, and a test compares the two. Label values come from closed sets or from the configuration, never from a
//! client. The data path moves a metric by one atomic operation, without a look-up.
//!
//! **Not here.** The admin port that serves them (`control/admin.rs`).

mod active;
mod backends;
mod declare;
mod listener;
mod names;
mod process;
mod resources;
mod rollouts;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::{Encoder, Registry, TextEncoder};

pub(crate) use self::active::{ActiveCa, ActiveCertificate, ActiveCrl, ActiveFile, Reported};
pub(crate) use self::backends::{BackendMetrics, BackendUse};
use self::listener::ListenerFamilies;
pub use self::listener::ListenerMetrics;
pub(crate) use self::listener::{Load, SessionStats, Totals};
pub(crate) use self::names::NameStatus;
use self::names::{BackendNames, NameFamilies};
pub(crate) use self::process::Objects;
use self::process::ProcessMetrics;
use self::resources::ResourceReader;
pub(crate) use self::resources::Resources;
pub(crate) use self::rollouts::ListedRollout;
use crate::events::Events;
use crate::lifecycle::Phase;
use crate::lock::Lock;
use crate::terms::labels::ReloadOutcome;

/// Updates metrics whose values are kept elsewhere.
type Refresh = Box<dyn Fn(&Metrics) + Send + Sync>;

/// The metrics of one process, with their registry.
pub struct Metrics {
    registry: Registry,
    listeners: ListenerFamilies,
    names: BackendNames,
    process: ProcessMetrics,
    resources: ResourceReader,
    refreshes: Lock<Vec<Refresh>>,
    /// The same as single events, for their readers.
    events: Arc<Events>,
}

impl Metrics {
    /// Makes the metrics of a process; [`Self::listener`] adds those of its listeners.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let events = Arc::<Events>::default();
        let listeners = ListenerFamilies::register(&registry, &events);
        let names = NameFamilies::register(&registry).all();
        let process = ProcessMetrics::register(&registry);
        let resources = ResourceReader::default();
        let refreshes = Lock::default();
        Self { registry, listeners, names, process, resources, refreshes, events }
    }

    /// Makes the metrics of the listener `name`. All of them are exported from now on.
    #[must_use]
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        Arc::new(self.listeners.listener(name))
    }

    /// The events of the process.
    pub(crate) const fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// Runs `refresh` before every scrape.
    pub(crate) fn refresh_by(&self, refresh: impl Fn(&Self) + Send + Sync + 'static) {
        self.refreshes.lock().push(Box::new(refresh));
    }

    /// Counts a reload and records whether it succeeded.
    pub(crate) fn reloaded(&self, outcome: ReloadOutcome, objects: Objects, now: SystemTime) {
        self.process.reloaded(outcome, objects);
        self.looked_at(outcome, now);
    }

    /// Records whether the files were valid when they were last read.
    pub(crate) fn looked_at(&self, outcome: ReloadOutcome, now: SystemTime) {
        self.process.looked_at(outcome, now);
    }

    /// Sets the number of log lines dropped since the process started.
    pub(crate) fn set_log_lines_dropped(&self, total: u64) {
        self.process.set_log_lines_dropped(total);
    }

    /// Sets the phase of the process and the start of its drain.
    pub(crate) fn set_phase(&self, phase: Phase, drain_started: Option<SystemTime>) {
        self.process.set_phase(phase, drain_started);
    }

    /// Sets the number of sessions that a drain closes as soon as their exchange has ended.
    pub(crate) fn set_drain_waiting(&self, sessions: usize) {
        self.process.set_drain_waiting(sessions);
    }

    /// Sets the longest duration of a drain.
    pub(crate) fn set_drain_timeout(&self, timeout: Duration) {
        self.process.set_drain_timeout(timeout);
    }

    /// Replaces the state of the names of backends.
    pub(crate) fn set_names(&self, names: Vec<NameStatus>) {
        self.names.publish(names);
    }

    /// Returns the state of the names of backends as of the last scrape.
    pub(crate) fn names(&self) -> Vec<NameStatus> {
        self.names.reported()
    }

    /// Sets the number of worker threads and their total busy time.
    pub(crate) fn set_runtime(&self, workers: usize, busy: Duration) {
        self.process.set_runtime(workers, busy);
    }

    /// Returns the resources of the process; those that it counts itself as of the last scrape.
    pub(crate) fn resources(&self) -> Resources {
        self.process.resources(self.resources.read())
    }

    /// Updates the metrics whose values are kept elsewhere, as before every scrape.
    pub(crate) fn refresh(&self) {
        for refresh in &*self.refreshes.lock() {
            refresh(self);
        }
    }

    /// Returns all metrics in the Prometheus text format, and its content type.
    ///
    /// # Errors
    /// If the encoder fails; writing to memory, it does not.
    pub fn render(&self) -> io::Result<(Vec<u8>, &'static str)> {
        self.refresh();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).map_err(io::Error::other)?;
        Ok((text, prometheus::TEXT_FORMAT))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
