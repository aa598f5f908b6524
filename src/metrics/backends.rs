//! The metrics of the backends of one listener.
//!
//! **Promises.** The exported backends are those of the current configuration, each counted since it was first
//! configured. A connection that began before a reload may still dial a backend that was removed; that does not
//! bring its series back.
//!
//! **Not here.** The duration of connects, which belongs to the listener (`listener.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::{Gauge, IntCounter};

use super::declare::{Named, Set, declare_metrics};
use crate::lock::Lock;
use crate::terms::labels::ConnectResult;

declare_metrics! {
    struct BackendHandles of BackendFamilies {
        connects: Named<Set<ConnectResult, IntCounter>>
            = "tlsidecar_backend_connects_total" ["listener", "backend", "result"]
            "Attempts to connect to a backend.";
        up: Named<Gauge>
            = "tlsidecar_backend_up" ["listener", "backend"]
            "1 if the last attempt to connect to the backend succeeded, 0 if not.";
    }
}

/// The backends of a listener.
pub(super) struct Backends {
    handles: BackendHandles,
    /// The configured backends, by their addresses.
    current: Lock<HashMap<String, Arc<BackendMetrics>>>,
}

/// The metrics of one backend of a listener.
pub(crate) struct BackendMetrics {
    address: String,
    connects: Set<ConnectResult, IntCounter>,
    /// True if the last attempt succeeded.
    up: AtomicBool,
}

impl BackendFamilies {
    /// Returns the metrics of a listener, which has no backends yet.
    pub(super) fn listener(&self, name: &str) -> Backends {
        Backends { handles: self.children(&[name]), current: Lock::default() }
    }
}

impl Backends {
    /// Returns the metrics of the backend at `address`. Those of a backend that is not configured are not exported.
    pub(super) fn get(&self, address: &str) -> Arc<BackendMetrics> {
        let known = self.current.lock().get(address).cloned();
        known.unwrap_or_else(|| {
            Arc::new(BackendMetrics::new(address, Set::from_fn(|_| unexported())))
        })
    }

    /// Returns the configured backends, ordered by address.
    pub(super) fn all(&self) -> Vec<Arc<BackendMetrics>> {
        let mut all: Vec<_> = self.current.lock().values().cloned().collect();
        all.sort_unstable_by(|a, b| a.address.cmp(&b.address));
        all
    }

    /// Keeps the backends with these addresses, adds the new ones and removes the others.
    pub(super) fn replace(&self, addresses: impl Iterator<Item = String>) {
        let mut current = self.current.lock();
        let mut before = std::mem::take(&mut *current);
        let wanted = addresses.map(|address| (vec![address], ())).collect();
        self.handles.connects.replace(wanted, |names, connects, ()| {
            let address = &names[0];
            let kept = before.remove(address);
            let new = || Arc::new(BackendMetrics::new(address, connects.clone()));
            current.insert(address.clone(), kept.unwrap_or_else(new));
        });
    }

    /// Brings the gauge up to date. A backend without an attempt has none.
    pub(super) fn publish(&self) {
        let tried = |backend: &Arc<BackendMetrics>| {
            let up = f64::from(u8::from(backend.is_up()?));
            Some((vec![backend.address.clone()], up))
        };
        self.handles.up.publish(self.all().iter().filter_map(tried));
    }
}

/// Returns a counter that no registry has.
fn unexported() -> IntCounter {
    IntCounter::new("unexported", "Counted for a backend that was removed.")
        .expect("the name is a constant that a test has used")
}

impl BackendMetrics {
    fn new(address: &str, connects: Set<ConnectResult, IntCounter>) -> Self {
        Self { address: address.to_owned(), connects, up: AtomicBool::new(false) }
    }

    /// The address as configured.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Counts an attempt to connect that has ended.
    pub(crate) fn dialled(&self, result: ConnectResult) {
        self.up.store(result == ConnectResult::Ok, Ordering::Relaxed);
        self.connects[result].inc();
    }

    /// Returns whether the last attempt succeeded, or none before the first.
    pub(crate) fn is_up(&self) -> Option<bool> {
        let tried = ConnectResult::ALL.iter().any(|&result| self.connects(result) > 0);
        tried.then(|| self.up.load(Ordering::Relaxed))
    }

    /// Returns the number of attempts with this result.
    pub(crate) fn connects(&self, result: ConnectResult) -> u64 {
        self.connects[result].get()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    #[test]
    fn a_backend_that_has_gone_does_not_come_back_by_an_old_connection() {
        let registry = Registry::new();
        let backends = BackendFamilies::register(&registry).listener("test");
        let series = || {
            backends.publish();
            let families = registry.gather();
            let count = |name: &str| {
                let family = families.iter().find(|family| family.name() == name);
                family.map_or(0, |family| family.get_metric().len())
            };
            (count("tlsidecar_backend_connects_total"), count("tlsidecar_backend_up"))
        };
        let all = ConnectResult::ALL.len();
        backends.replace(["a", "b", "b"].map(str::to_owned).into_iter());
        assert_eq!(series(), (2 * all, 0), "no backend has been tried yet");
        let (a, b) = (backends.get("a"), backends.get("b"));
        a.dialled(ConnectResult::Ok);
        a.dialled(ConnectResult::Refused);
        assert_eq!(series(), (2 * all, 1));
        let refused = || backends.get("a").connects(ConnectResult::Refused);
        assert_eq!((refused(), a.is_up(), b.is_up()), (1, Some(false), None));
        series();
        assert_eq!(refused(), 1, "published twice, counted once");

        backends.replace(["a".to_owned()].into_iter());
        b.dialled(ConnectResult::Ok);
        backends.get("b").dialled(ConnectResult::Ok);
        assert_eq!(series(), (all, 1));
        assert_eq!(refused(), 1, "a backend that stays keeps its count");
    }
}
