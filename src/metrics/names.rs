//! The metrics of the DNS names of backends.
//!
//! **Promises.** The names come from the configuration, and a name that leaves it takes its series along. A
//! name that has never been resolved has no age.
//!
//! **Not here.** Name resolution (`proxy/backend/lookup.rs`).

use std::net::IpAddr;
use std::time::Duration;

use prometheus::Gauge;

use super::declare::{Named, declare_metrics};
use crate::lock::Lock;

declare_metrics! {
    struct NameHandles of NameFamilies {
        age: Named<Gauge>
            = "tlsidecar_backend_name_age_seconds" ["name"]
            "Time since the name of a backend was last resolved.";
        failing: Named<Gauge>
            = "tlsidecar_backend_name_failing" ["name"]
            "1 while the name of a backend cannot be resolved and its last addresses are used.";
    }
}

/// The state of the name of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameStatus {
    /// The name as configured.
    pub(crate) name: String,
    /// The addresses of the last look-up that succeeded.
    pub(crate) addresses: Vec<IpAddr>,
    /// Time since then.
    pub(crate) age: Option<Duration>,
    /// The error of the last look-up, if it failed.
    pub(crate) error: Option<String>,
}

/// The names of all backends.
pub(super) struct BackendNames {
    handles: NameHandles,
    reported: Lock<Vec<NameStatus>>,
}

impl NameFamilies {
    pub(super) fn all(&self) -> BackendNames {
        BackendNames { handles: self.children(&[]), reported: Lock::default() }
    }
}

impl BackendNames {
    /// Replaces the exported names.
    pub(super) fn publish(&self, names: Vec<NameStatus>) {
        let mut reported = self.reported.lock();
        let age = |n: &NameStatus| Some((vec![n.name.clone()], n.age?.as_secs_f64()));
        self.handles.age.publish(names.iter().filter_map(age));
        let failing = |n: &NameStatus| f64::from(u8::from(n.error.is_some()));
        self.handles.failing.publish(names.iter().map(|n| (vec![n.name.clone()], failing(n))));
        *reported = names;
    }

    /// Returns the names that were last published.
    pub(super) fn reported(&self) -> Vec<NameStatus> {
        self.reported.lock().clone()
    }
}
