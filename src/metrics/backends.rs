//! The metrics of the backends of one listener.
//!
//! **Promises.** Told are the backends that the configuration in force has, each counted from when it
//! came. A connection that began before a reload may dial one that has gone: that brings none of its
//! series back.
//!
//! **Not here.** How long connecting takes, which is the listener's (`listener.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use prometheus::{IntCounterVec, IntGaugeVec};

use crate::lock::Lock;
use crate::terms::closed_set::ClosedSet;
use crate::terms::labels::ConnectResult;

/// The backends of a listener.
pub(super) struct Backends {
    listener: String,
    connects: IntCounterVec,
    up: IntGaugeVec,
    /// By their addresses, as the configuration has them.
    in_force: Lock<HashMap<String, Arc<BackendMetrics>>>,
}

/// What is counted of one backend of a listener.
pub(crate) struct BackendMetrics {
    address: String,
    connects: [AtomicU64; ConnectResult::ALL.len()],
    /// Whether the last attempt succeeded.
    up: AtomicBool,
}

impl Backends {
    /// The backends of the listener of this name, of which there are none yet.
    pub(super) fn new(listener: &str, connects: &IntCounterVec, up: &IntGaugeVec) -> Self {
        Self {
            listener: listener.to_owned(),
            connects: connects.clone(),
            up: up.clone(),
            in_force: Lock::default(),
        }
    }

    /// The metrics of the backend at `address`.
    pub(super) fn get(&self, address: &str) -> Arc<BackendMetrics> {
        let known = self.in_force.lock().get(address).cloned();
        known.unwrap_or_else(|| Arc::new(BackendMetrics::new(address)))
    }

    /// All of them, by their addresses.
    pub(super) fn all(&self) -> Vec<Arc<BackendMetrics>> {
        let in_force = self.in_force.lock();
        let mut all: Vec<_> = in_force.values().cloned().collect();
        all.sort_unstable_by(|a, b| a.address.cmp(&b.address));
        all
    }

    /// Leaves those that have these addresses, and begins those that are new.
    pub(super) fn replace(&self, addresses: impl Iterator<Item = String>) {
        let mut in_force = self.in_force.lock();
        let mut before = std::mem::take(&mut *in_force);
        for address in addresses {
            // The configuration may name one twice.
            if let Some(backend) = before.remove(&address) {
                in_force.insert(address, backend);
            } else {
                let new = || Arc::new(BackendMetrics::new(&address));
                in_force.entry(address.clone()).or_insert_with(new);
            }
        }
        for address in before.keys() {
            for result in ConnectResult::ALL {
                // It fails only if it has never been told.
                let labels = &[&self.listener, address.as_str(), result.as_str()];
                let _untold = self.connects.remove_label_values(labels);
            }
            let _untold = self.up.remove_label_values(&[&self.listener, address]);
        }
    }

    /// Brings their series up to date.
    pub(super) fn tell(&self) {
        // Alone, since it adds what is missing.
        let in_force = self.in_force.lock();
        for (address, backend) in &*in_force {
            for &result in ConnectResult::ALL {
                let labels = &[&self.listener, address.as_str(), result.as_str()];
                let told = self.connects.with_label_values(labels);
                told.inc_by(backend.connects(result) - told.get());
            }
            if let Some(up) = backend.is_up() {
                self.up.with_label_values(&[&self.listener, address]).set(i64::from(up));
            }
        }
    }
}

impl BackendMetrics {
    fn new(address: &str) -> Self {
        let (address, connects) = (address.to_owned(), Default::default());
        Self { address, connects, up: AtomicBool::new(false) }
    }

    /// Its address, as in the configuration.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// An attempt to connect to it has ended.
    pub(crate) fn dialled(&self, result: ConnectResult) {
        self.up.store(result == ConnectResult::Ok, Ordering::Relaxed);
        self.connects[result.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the last attempt succeeded; none before the first.
    pub(crate) fn is_up(&self) -> Option<bool> {
        let tried = ConnectResult::ALL.iter().any(|&result| self.connects(result) > 0);
        tried.then(|| self.up.load(Ordering::Relaxed))
    }

    /// How many attempts ended so.
    pub(crate) fn connects(&self, result: ConnectResult) -> u64 {
        self.connects[result.index()].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;
    use prometheus::core::Collector;

    use super::*;

    #[test]
    fn a_backend_that_has_gone_does_not_come_back_by_an_old_connection() {
        let connects = IntCounterVec::new(Opts::new("c", "c"), &["listener", "backend", "result"]);
        let up = IntGaugeVec::new(Opts::new("u", "u"), &["listener", "backend"]);
        let backends = Backends::new("test", &connects.unwrap(), &up.unwrap());
        let series = || {
            backends.tell();
            let count = |collector: &dyn Collector| collector.collect()[0].get_metric().len();
            (count(&backends.connects), count(&backends.up))
        };
        let all = ConnectResult::ALL.len();
        backends.replace(["a", "b", "b"].map(str::to_owned).into_iter());
        assert_eq!(series(), (2 * all, 0), "nobody knows yet who is up");
        let (a, b) = (backends.get("a"), backends.get("b"));
        a.dialled(ConnectResult::Ok);
        a.dialled(ConnectResult::Refused);
        assert_eq!(series(), (2 * all, 1));
        let refused = || backends.connects.with_label_values(&["test", "a", "refused"]).get();
        assert_eq!((refused(), a.is_up(), b.is_up()), (1, Some(false), None));
        series();
        assert_eq!(refused(), 1, "told twice, counted once");

        backends.replace(["a".to_owned()].into_iter());
        b.dialled(ConnectResult::Ok);
        backends.get("b").dialled(ConnectResult::Ok);
        assert_eq!(series(), (all, 1));
        assert_eq!(refused(), 1, "what stays, counts on");
    }
}
