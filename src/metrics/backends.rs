//! The metrics of the backends of one listener.
//!
//! **Promises.** The exported backends are those of the current configuration, each counted since it was first
//! configured. A connection that began before a reload may still dial a backend that was removed; that does not
//! bring its series back. Happened only lists of several addresses or a limit of connects need is exported for these only.
//!
//! **Not here.** The duration of connects, which belongs to the listener (`listener.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use prometheus::{Gauge, IntCounter};

use super::declare::{Named, Set, declare_metrics};
use crate::config::Balance;
use crate::events::{Events, Happened};
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
        has_replacement: Named<Gauge>
            = "tlsidecar_backend_has_replacement" ["listener", "backend"]
            "1 if another address of each list of backends with this one is up, 0 if not.";
        sessions: Named<Gauge>
            = "tlsidecar_backend_sessions" ["listener", "backend"]
            "Connections that use an address of a list of backends, or connect to it.";
        waiting: Named<Gauge>
            = "tlsidecar_backend_connects_waiting" ["listener", "backend"]
            "Connections that wait for their turn to connect to the backend.";
    }
}

/// The backends of a listener.
pub(super) struct Backends {
    listener: Box<str>,
    events: Arc<Events>,
    handles: BackendHandles,
    /// The configured backends, by their addresses.
    current: Lock<HashMap<String, Arc<BackendMetrics>>>,
    shape: Lock<Shape>,
}

/// The part of the configuration that decides which metrics are exported.
#[derive(Default)]
struct Shape {
    /// The addresses of each backend.
    lists: Vec<Vec<String>>,
    has_connect_limit: bool,
}

/// The metrics of one backend of a listener.
pub(crate) struct BackendMetrics {
    listener: Box<str>,
    events: Arc<Events>,
    address: String,
    connects: Set<ConnectResult, IntCounter>,
    /// An attempt has ended, of a device or of a check.
    tried: AtomicBool,
    /// True if the last attempt succeeded.
    up: AtomicBool,
    uses: AtomicUsize,
    waiting: AtomicUsize,
}

/// The use of a backend by one connection, from the attempt to connect to the end.
pub(crate) struct BackendUse(Arc<BackendMetrics>);

/// The wait of one connection for its turn to connect to a backend.
pub(crate) struct ConnectWait<'a>(&'a BackendMetrics);

impl BackendFamilies {
    /// Returns the metrics of a listener, which has no backends yet.
    pub(super) fn listener(&self, name: &str, events: &Arc<Events>) -> Backends {
        Backends {
            listener: name.into(),
            events: Arc::clone(events),
            handles: self.children(&[name]),
            current: Lock::default(),
            shape: Lock::default(),
        }
    }
}

impl Backends {
    /// Returns the metrics of the backend at `address`. Those of a backend that is not configured are not exported.
    pub(super) fn get(&self, address: &str) -> Arc<BackendMetrics> {
        let known = self.current.lock().get(address).cloned();
        known.unwrap_or_else(|| Arc::new(self.new_backend(address, Set::from_fn(|_| unexported()))))
    }

    /// Returns the configured backends, ordered by address.
    pub(super) fn all(&self) -> Vec<Arc<BackendMetrics>> {
        let mut all: Vec<_> = self.current.lock().values().cloned().collect();
        all.sort_unstable_by(|a, b| a.address.cmp(&b.address));
        all
    }

    /// Keeps the backends with these addresses, adds the new ones and removes the others.
    pub(super) fn replace(&self, lists: Vec<Vec<String>>, balance: Balance) {
        let mut current = self.current.lock();
        let mut before = std::mem::take(&mut *current);
        let addresses = lists.iter().flatten();
        let wanted = addresses.map(|address| (vec![address.clone()], ())).collect();
        self.handles.connects.replace(wanted, |names, connects, ()| {
            let address = &names[0];
            let kept = before.remove(address);
            let new = || Arc::new(self.new_backend(address, connects.clone()));
            current.insert(address.clone(), kept.unwrap_or_else(new));
        });
        let has_connect_limit = balance.max_connects_in_progress.is_some();
        *self.shape.lock() = Shape { lists, has_connect_limit };
    }

    fn new_backend(
        &self,
        address: &str,
        connects: Set<ConnectResult, IntCounter>,
    ) -> BackendMetrics {
        BackendMetrics {
            listener: self.listener.clone(),
            events: Arc::clone(&self.events),
            address: address.to_owned(),
            connects,
            tried: AtomicBool::new(false),
            up: AtomicBool::new(false),
            uses: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Returns whether another address is up in each list that has this one; none if no list has several addresses.
    pub(super) fn has_replacement(&self, address: &str) -> Option<bool> {
        let current = self.current.lock();
        let shape = self.shape.lock();
        let is_up = |other: &String| current.get(other).and_then(|other| other.is_up());
        let lists = || shape.lists.iter().filter(|list| list.iter().any(|one| one == address));
        let replaced = |list: &Vec<String>| {
            list.iter().any(|other| other != address && is_up(other) == Some(true))
        };
        lists().any(|list| list.len() > 1).then(|| lists().all(replaced))
    }

    /// Brings the gauges up to date. A backend without an attempt has none that shows its state.
    pub(super) fn publish(&self) {
        let all = self.all();
        let named = |backend: &BackendMetrics, value| (vec![backend.address.clone()], value);
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let tried = |backend: &Arc<BackendMetrics>| Some(named(backend, flag(backend.is_up()?)));
        self.handles.up.publish(all.iter().filter_map(tried));
        let replaced = |backend: &Arc<BackendMetrics>| {
            Some(named(backend, flag(self.has_replacement(&backend.address)?)))
        };
        self.handles.has_replacement.publish(all.iter().filter_map(replaced));
        let has_several = self.shape.lock().lists.iter().any(|list| list.len() > 1);
        let sessions = all.iter().filter(|_| has_several);
        let sessions = sessions.map(|backend| named(backend, number(backend.uses())));
        self.handles.sessions.publish(sessions);
        let has_limit = self.shape.lock().has_connect_limit;
        let waiting = all.iter().filter(|_| has_limit);
        let waiting = waiting.map(|backend| named(backend, number(backend.waiting())));
        self.handles.waiting.publish(waiting);
    }
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

/// Returns a counter that no registry has.
fn unexported() -> IntCounter {
    IntCounter::new("unexported", "Counted for a backend that was removed.")
        .expect("the name is a constant that a test has used")
}

impl BackendMetrics {
    /// The address as configured.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Counts an attempt to connect that has ended.
    pub(crate) fn dialled(&self, result: ConnectResult) {
        self.connects[result].inc();
        self.set_up(result == ConnectResult::Ok);
    }

    /// Records whether the last attempt succeeded, also one that is not counted: a check.
    pub(crate) fn set_up(&self, up: bool) {
        let was_up = self.up.swap(up, Ordering::Relaxed);
        let was_tried = self.tried.swap(true, Ordering::Relaxed);
        if was_up != up || !was_tried {
            let (listener, backend) = (self.listener.clone(), self.address.as_str().into());
            self.events.note(Happened::Backend { listener, backend, up });
        }
    }

    /// Returns whether the last attempt succeeded, or none before the first.
    pub(crate) fn is_up(&self) -> Option<bool> {
        self.tried.load(Ordering::Relaxed).then(|| self.up.load(Ordering::Relaxed))
    }

    /// Returns the number of connections that use the backend or connect to it.
    pub(crate) fn uses(&self) -> usize {
        self.uses.load(Ordering::Relaxed)
    }

    /// Returns the number of connections that wait for their turn to connect.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Counts a connection that waits for its turn to connect, until the returned value is dropped.
    pub(crate) fn waits(&self) -> ConnectWait<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        ConnectWait(self)
    }

    /// Returns the number of attempts with this result.
    pub(crate) fn connects(&self, result: ConnectResult) -> u64 {
        self.connects[result].get()
    }
}

impl BackendUse {
    /// Counts a connection that uses the backend.
    pub(crate) fn of(backend: Arc<BackendMetrics>) -> Self {
        backend.uses.fetch_add(1, Ordering::Relaxed);
        Self(backend)
    }

    /// The address as configured.
    pub(crate) fn address(&self) -> &str {
        self.0.address()
    }
}

impl Drop for BackendUse {
    fn drop(&mut self) {
        self.0.uses.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ConnectWait<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    #[test]
    fn a_backend_that_has_gone_does_not_come_back_by_an_old_connection() {
        let registry = Registry::new();
        let backends = BackendFamilies::register(&registry).listener("test", &Arc::default());
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
        let replace = |lists: &[&[&str]]| {
            let list = |list: &&[&str]| list.iter().map(|&address| address.to_owned()).collect();
            backends.replace(lists.iter().map(list).collect(), Balance::default());
        };
        replace(&[&["a"], &["b"], &["b"]]);
        assert_eq!(series(), (2 * all, 0), "no backend has been tried yet");
        let (a, b) = (backends.get("a"), backends.get("b"));
        a.dialled(ConnectResult::Ok);
        a.dialled(ConnectResult::Refused);
        assert_eq!(series(), (2 * all, 1));
        let refused = || backends.get("a").connects(ConnectResult::Refused);
        assert_eq!((refused(), a.is_up(), b.is_up()), (1, Some(false), None));
        series();
        assert_eq!(refused(), 1, "published twice, counted once");

        replace(&[&["a"]]);
        b.dialled(ConnectResult::Ok);
        backends.get("b").dialled(ConnectResult::Ok);
        assert_eq!(series(), (all, 1));
        assert_eq!(refused(), 1, "a backend that stays keeps its count");
    }
    #[test]
    fn an_address_has_a_replacement_if_each_of_its_lists_has_another_one_that_is_up() {
        let backends =
            BackendFamilies::register(&Registry::new()).listener("test", &Arc::default());
        let lists: [&[&str]; 3] = [&["a", "b"], &["b", "c"], &["d"]];
        let lists = lists.map(|list| list.iter().map(|&one| one.to_owned()).collect()).to_vec();
        backends.replace(lists, Balance::default());
        let all = || ["a", "b", "c", "d"].map(|address| backends.has_replacement(address));
        assert_eq!(all(), [Some(false), Some(false), Some(false), None], "none was tried");
        backends.get("a").set_up(true);
        assert_eq!(all(), [Some(false), Some(false), Some(false), None]);
        backends.get("c").set_up(true);
        assert_eq!(all(), [Some(false), Some(true), Some(false), None]);
        backends.get("b").dialled(ConnectResult::Ok);
        assert_eq!(all(), [Some(true), Some(true), Some(true), None]);
    }
}
