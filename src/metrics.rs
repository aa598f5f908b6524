//! Every metric of the process.
//!
//! **Promises.** All names and label sets are here and in docs/metrics.md, which a test compares.
//! Label values come from closed sets or from the configuration, never from a client. Children
//! exist from the first scrape, so a counter's first increase is seen, and the data path moves them
//! by one atomic addition, without a look-up.
//!
//! **Not here.** The port that they are read from (`admin.rs`).

mod backends;
mod families;
mod family;
mod in_force;
mod listener;
mod names;
mod process;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::{Encoder, Registry, TextEncoder};

pub(crate) use self::backends::BackendMetrics;
use self::families::Families;
use self::family::Maker;
pub(crate) use self::in_force::{CaInForce, CertificateInForce, CrlInForce, MaterialInForce, Told};
pub use self::listener::ListenerMetrics;
pub(crate) use self::listener::{Census, Counted, Handshake};
pub(crate) use self::names::NameStatus;
use self::names::Names;
pub(crate) use self::process::Objects;
use self::process::ProcessMetrics;
use crate::lifecycle::Phase;
use crate::lock::Lock;
use crate::terms::labels::ReloadOutcome;

/// Brings up to date what is counted elsewhere.
type Refresh = Box<dyn Fn(&Metrics) + Send + Sync>;

/// The metrics of one process, in a registry of their own.
pub struct Metrics {
    registry: Registry,
    families: Families,
    names: Names,
    process: ProcessMetrics,
    refreshes: Lock<Vec<Refresh>>,
}

impl Metrics {
    /// The metrics of a process; those of its listeners are added by [`Self::listener`].
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let families = Families::register(&Maker(&registry));
        let names = Names::register(&Maker(&registry));
        let process = ProcessMetrics::register(&registry);
        Self { registry, families, names, process, refreshes: Lock::default() }
    }

    /// The metrics of the listener `name`, all of them there from now on.
    #[must_use]
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        Arc::new(self.families.of(name))
    }

    /// Has `refresh` run before every scrape.
    pub(crate) fn refresh_by(&self, refresh: impl Fn(&Self) + Send + Sync + 'static) {
        self.refreshes.lock().push(Box::new(refresh));
    }

    /// Counts a reload and remembers whether the last one was good.
    pub(crate) fn reloaded(&self, outcome: ReloadOutcome, objects: Objects, now: SystemTime) {
        self.process.reloaded(outcome, objects);
        self.looked_at(outcome, now);
    }

    /// Remembers whether the files were good when they were last looked at.
    pub(crate) fn looked_at(&self, outcome: ReloadOutcome, now: SystemTime) {
        self.process.looked_at(outcome, now);
    }

    /// Takes over how many log lines have been dropped since the process started.
    pub(crate) fn set_log_lines_dropped(&self, total: u64) {
        self.process.set_log_lines_dropped(total);
    }

    /// Tells how far the process is, and since when it drains.
    pub(crate) fn set_phase(&self, phase: Phase, drain_started: Option<SystemTime>) {
        self.process.set_phase(phase, drain_started);
    }

    /// Tells how long a drain may take.
    pub(crate) fn set_drain_timeout(&self, timeout: Duration) {
        self.process.set_drain_timeout(timeout);
    }

    /// Takes over how the names of backends are.
    pub(crate) fn set_names(&self, names: Vec<NameStatus>) {
        self.names.tell(names);
    }

    /// How the names of backends were before the last scrape.
    pub(crate) fn names(&self) -> Vec<NameStatus> {
        self.names.told()
    }

    /// Takes over how many threads work for connections, and for how long they have in all.
    pub(crate) fn set_runtime(&self, workers: usize, busy: Duration) {
        self.process.set_runtime(workers, busy);
    }

    /// Brings up to date what is counted elsewhere, as before every scrape.
    pub(crate) fn refresh(&self) {
        for refresh in &*self.refreshes.lock() {
            refresh(self);
        }
    }

    /// Everything in the Prometheus text format, and its content type.
    ///
    /// # Errors
    /// If the encoder fails, which for memory it does not.
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
