//! The metrics of the rollouts of server certificates of one listener.
//!
//! **Promises.** They are exported for listeners that have or had a rollout configured. The last ended rollout of each
//! route stays listed until the next one begins.
//!
//! **Not here.** Their state (`trust/rollout/trial.rs`), which is read when it is requested.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::{IntCounter, IntGauge};

use super::declare::{Later, Set, declare_metrics};
use crate::lock::Lock;
use crate::terms::rollout::{RolloutGroup, RolloutResult, RolloutState, ShownOutcome};
use crate::trust::certs::chain::ServerCertificate;
use crate::trust::rollout::trial::{Progress, Trial};

declare_metrics! {
    struct RolloutHandles of RolloutFamilies {
        active: Later<Set<RolloutState, IntGauge>>
            = "tlsidecar_rollouts_active" ["listener", "state"]
            "Rollouts of server certificates that are observed or rolled back.";
        ended: Later<Set<RolloutResult, IntCounter>>
            = "tlsidecar_rollouts_total" ["listener", "result"]
            "Decisions and ends of rollouts of server certificates.";
        handshakes: Later<Set<RolloutGroup, Set<ShownOutcome, IntCounter>>>
            = "tlsidecar_rollout_handshakes_total" ["listener", "group", "outcome"]
            "Full handshakes during a rollout of a server certificate.";
    }
}

/// The rollouts of a listener.
pub(crate) struct Rollouts {
    handles: RolloutHandles,
    listed: Lock<Vec<ListedRollout>>,
}

/// A rollout, as operators see it.
#[derive(Clone)]
pub(crate) struct ListedRollout {
    /// The place of its route; none for the listener's own certificates.
    pub(crate) route: Option<usize>,
    pub(crate) share: u32,
    pub(crate) observe: Duration,
    /// The certificates that it replaces, and the new ones.
    pub(crate) earlier: Vec<ServerCertificate>,
    pub(crate) new: Vec<ServerCertificate>,
    /// The result and its time, if it is over.
    pub(crate) ended: Option<(RolloutResult, SystemTime)>,
    trial: Arc<Trial>,
}

impl RolloutFamilies {
    /// Returns the metrics of a listener, which has no rollout yet.
    pub(super) fn listener(&self, name: &str) -> Rollouts {
        Rollouts { handles: self.children(&[name]), listed: Lock::default() }
    }
}

impl ListedRollout {
    /// Lists a rollout that is not over.
    pub(crate) fn new(
        route: Option<usize>,
        (share, observe): (u32, Duration),
        (earlier, new): (&[ServerCertificate], &[ServerCertificate]),
        trial: Arc<Trial>,
    ) -> Self {
        let (earlier, new) = (earlier.to_vec(), new.to_vec());
        Self { route, share, observe, earlier, new, ended: None, trial }
    }

    /// Returns the current figures and the decision.
    pub(crate) fn progress(&self) -> Progress {
        self.trial.progress()
    }
}

impl Rollouts {
    /// Exports the metrics, so that all of them are there before the first rollout begins.
    pub(crate) fn export(&self) {
        let RolloutHandles { active, ended, handshakes } = &self.handles;
        let _exported = (active.used(), ended.used(), handshakes.used());
    }

    /// Counts a full handshake of a client of this group.
    pub(crate) fn shown(&self, group: RolloutGroup, outcome: ShownOutcome) {
        self.handles.handshakes.used()[group][outcome].inc();
    }

    /// Counts the decision or the end of a rollout.
    pub(crate) fn ended(&self, trial: &Arc<Trial>, result: RolloutResult) {
        self.handles.ended.used()[result].inc();
        let is_over = result != RolloutResult::RolledBack;
        let now = SystemTime::now();
        for listed in self.listed.lock().iter_mut().filter(|_| is_over) {
            if Arc::ptr_eq(&listed.trial, trial) {
                listed.ended = Some((result, now));
            }
        }
    }

    /// Lists these rollouts, with their states. An ended one stays as long as its route has no other.
    pub(crate) fn publish(&self, current: Vec<(RolloutState, ListedRollout)>) {
        if !current.is_empty() {
            self.export();
        }
        if self.handles.active.is_used() {
            for &state in RolloutState::ALL {
                let count = current.iter().filter(|(found, _)| *found == state).count();
                self.handles.active.used()[state].set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        let mut listed = self.listed.lock();
        let is_replaced =
            |old: &ListedRollout| current.iter().any(|(_, new)| new.route == old.route);
        listed.retain(|old| old.ended.is_some() && !is_replaced(old));
        listed.extend(current.into_iter().map(|(_, rollout)| rollout));
    }

    /// Returns the rollouts that are not over, and the last one of each other route.
    pub(crate) fn listed(&self) -> Vec<ListedRollout> {
        self.listed.lock().clone()
    }
}
