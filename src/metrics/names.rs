//! The metrics of the names of backends.
//!
//! **Promises.** Names come from the configuration, and their series go with them. A name that has never
//! been resolved has no age.
//!
//! **Not here.** Who looks names up (`proxy/backend/lookup.rs`).

use std::net::IpAddr;
use std::time::Duration;

use prometheus::{GaugeVec, IntGaugeVec};

use super::family::Maker;

use crate::lock::Lock;

/// What is known of the name of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameStatus {
    /// As in the configuration.
    pub(crate) name: String,
    /// What it leads to, by the last look-up that succeeded.
    pub(crate) addresses: Vec<IpAddr>,
    /// How long ago that was.
    pub(crate) age: Option<Duration>,
    /// Why the last look-up failed, if it did.
    pub(crate) error: Option<String>,
}

/// The names of all backends.
pub(super) struct Names {
    age: GaugeVec,
    failing: IntGaugeVec,
    told: Lock<Vec<NameStatus>>,
}

impl Names {
    pub(super) fn register(make: &Maker<'_>) -> Self {
        Self {
            age: make.instants(
                "tlsidecar_backend_name_age_seconds",
                "How long ago the name of a backend was last resolved.",
                &["name"],
            ),
            failing: make.gauges(
                "tlsidecar_backend_name_failing",
                "1 while the name of a backend cannot be resolved, and its last addresses are used.",
                &["name"],
            ),
            told: Lock::default(),
        }
    }

    /// Replaces what is told.
    pub(super) fn tell(&self, names: Vec<NameStatus>) {
        let mut told = self.told.lock();
        for gone in told.iter().filter(|old| names.iter().all(|new| new.name != old.name)) {
            // It fails only if it has never been told.
            let _untold = self.age.remove_label_values(&[&gone.name]);
            let _untold = self.failing.remove_label_values(&[&gone.name]);
        }
        for NameStatus { name, age, error, .. } in &names {
            if let Some(age) = age {
                self.age.with_label_values(&[name]).set(age.as_secs_f64());
            }
            self.failing.with_label_values(&[name]).set(i64::from(error.is_some()));
        }
        *told = names;
    }

    /// What was told last.
    pub(super) fn told(&self) -> Vec<NameStatus> {
        self.told.lock().clone()
    }
}
