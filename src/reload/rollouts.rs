//! Begins, reports and ends the rollouts of server certificates.
//!
//! **Promises.** Each start, decision and end of a rollout is one log line with its figures, and is counted once.
//!
//! **Not here.** The decision (`trust/rollout/trial.rs`), the handshakes (`proxy/handshake/selection.rs`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::target::ReloadTarget;
use crate::metrics::{ListedRollout, ListenerMetrics};
use crate::terms::rollout::{RolloutCause, RolloutResult};
use crate::trust::certs::chain::ServerCertificate;
use crate::trust::policy::Policy;
use crate::trust::rollout::Rollout;
use crate::trust::rollout::trial::{GroupFigures, Progress, Verdict};
use crate::trust::snapshot::Snapshot;

/// An operator's decision about rollouts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RolloutOrder {
    pub(crate) verdict: Verdict,
    /// The listener; none for all of them.
    pub(crate) listener: Option<String>,
}

/// Applies an operator's decision. Returns a sentence for each rollout that it decides.
pub(super) fn decide(targets: &[ReloadTarget], order: &RolloutOrder) -> Vec<String> {
    let wanted = |name: &str| order.listener.as_deref().is_none_or(|listener| listener == name);
    let mut decided = Vec::new();
    for target in targets.iter().filter(|target| wanted(target.metrics.name())) {
        let (snapshot, name) = (target.current.load(), target.metrics.name());
        for (route, rollout) in rollouts(&snapshot) {
            if rollout.trial.decide(order.verdict, RolloutCause::Operator) {
                let route = route.map_or_else(String::new, |route| format!(", route[{route}]"));
                let what = match order.verdict {
                    Verdict::Promote => "all devices get the new certificate",
                    Verdict::RollBack => "all devices get the earlier certificate",
                };
                decided.push(format!("listener {name:?}{route}: {what}"));
            }
        }
    }
    decided
}

/// Decides about the rollouts whose observation is over. Returns the time until the next one has to be reviewed.
pub(super) fn review(targets: &[ReloadTarget]) -> Option<Duration> {
    let mut next: Option<Duration> = None;
    for target in targets {
        let (snapshot, listener) = (target.current.load(), target.metrics.name());
        for (route, Rollout { trial, settings, .. }) in rollouts(&snapshot) {
            if trial.review(settings) {
                let [old, new] = trial.progress().groups.map(text);
                let min_addresses = settings.min_addresses;
                tracing::warn!(
                    listener,
                    route,
                    old,
                    new,
                    min_addresses,
                    "certificate rollout waits after its observation: too few addresses, or too many fail"
                );
            }
            let left = trial.review_in(settings);
            next = next.into_iter().chain(left).min();
        }
    }
    next
}

/// Returns the instant of the next review, if that is before `poll`.
pub(super) fn earlier_of(poll: Instant, review_in: Option<Duration>) -> Instant {
    let review = review_in.and_then(|left| Instant::now().checked_add(left));
    review.map_or(poll, |review| review.min(poll))
}

/// Has `wake` called after the decision about each rollout of a snapshot.
pub(super) fn wake_by(snapshot: &Snapshot, wake: &(impl Fn() + Clone + Send + Sync + 'static)) {
    rollouts(snapshot).for_each(|(_, rollout)| rollout.trial.wake_by(wake.clone()));
}

/// Reports the rollouts that begin or change with a new snapshot.
pub(super) fn announce(old: &Snapshot, new: &Snapshot, metrics: &ListenerMetrics) {
    let listener = &new.listener.name;
    for (route, policy) in new.by_route() {
        let before = old.counterpart(&new.listener, route);
        let earlier = before.and_then(|before| before.rollout.as_ref());
        match (earlier, &policy.rollout) {
            (None, Some(rollout)) => started(listener, route, policy, rollout),
            (Some(earlier), Some(rollout)) if Arc::ptr_eq(&earlier.trial, &rollout.trial) => {
                if earlier.state != rollout.state {
                    ended(listener, route, rollout, RolloutResult::RolledBack, metrics);
                }
            }
            (Some(earlier), Some(rollout)) => {
                ended(listener, route, earlier, RolloutResult::Replaced, metrics);
                started(listener, route, policy, rollout);
            }
            (Some(earlier), None) => {
                ended(listener, route, earlier, result(earlier, policy), metrics);
            }
            (None, None) => {}
        }
    }
    publish(new, metrics);
}

/// Returns why a rollout is over.
fn result(rollout: &Rollout, new: &Policy) -> RolloutResult {
    match rollout.trial.verdict() {
        Some(Verdict::Promote) => RolloutResult::Promoted,
        Some(Verdict::RollBack) | None if new.withdraws(rollout) => RolloutResult::Withdrawn,
        Some(Verdict::RollBack) | None => RolloutResult::Disabled,
    }
}

/// Lists the rollouts of a snapshot for operators.
fn publish(snapshot: &Snapshot, metrics: &ListenerMetrics) {
    let listed = |(route, policy): (Option<usize>, &Policy)| {
        let Rollout { settings, trial, state, earlier } = policy.rollout.as_ref()?;
        let certificates = (&earlier.certificates[..], &policy.certificates[..]);
        let limits = (settings.share, settings.observe);
        Some((*state, ListedRollout::new(route, limits, certificates, Arc::clone(trial))))
    };
    metrics.rollouts().publish(snapshot.by_route().filter_map(listed).collect());
}

fn rollouts(snapshot: &Snapshot) -> impl Iterator<Item = (Option<usize>, &Rollout)> {
    snapshot.by_route().filter_map(|(route, policy)| Some((route, policy.rollout.as_ref()?)))
}

fn started(listener: &str, route: Option<usize>, policy: &Policy, rollout: &Rollout) {
    let (share, observe) = (rollout.settings.share, rollout.settings.observe);
    let [new, earlier] = [&policy.certificates, &rollout.earlier.certificates].map(|c| serials(c));
    tracing::info!(
        listener, route, share = %format_args!("{share}%"), ?observe, new, earlier,
        "certificate rollout started"
    );
}

fn ended(
    listener: &str,
    route: Option<usize>,
    rollout: &Rollout,
    result: RolloutResult,
    metrics: &ListenerMetrics,
) {
    metrics.rollouts().ended(&rollout.trial, result);
    let Progress { decision, groups, .. } = rollout.trial.progress();
    let decided = decision.map(|decision| decision.cause);
    let by = match result {
        RolloutResult::Promoted | RolloutResult::RolledBack => decided,
        RolloutResult::Withdrawn | RolloutResult::Replaced | RolloutResult::Disabled => None,
    };
    let by = by.map_or(RolloutCause::Changed.as_str(), RolloutCause::as_str);
    let [old, new] = groups.map(text);
    match result {
        RolloutResult::Promoted => {
            tracing::info!(listener, route, by, old, new, "certificate rollout promoted");
        }
        RolloutResult::RolledBack => {
            tracing::warn!(
                listener,
                route,
                by,
                old,
                new,
                "certificate rolled back: all devices get the earlier one until the files change; a restart would \
                 send all of them the new one"
            );
        }
        RolloutResult::Withdrawn => {
            tracing::info!(listener, route, by, old, new, "certificate rollout withdrawn");
        }
        RolloutResult::Replaced => {
            tracing::info!(listener, route, by, old, new, "certificate rollout replaced");
        }
        RolloutResult::Disabled => {
            tracing::info!(listener, route, by, old, new, "certificate rollout disabled");
        }
    }
}

/// Writes the serial numbers of certificates.
fn serials(certificates: &[ServerCertificate]) -> String {
    let serials: Vec<_> = certificates.iter().map(|c| c.info.serial.as_str()).collect();
    serials.join(" ")
}

/// Writes the figures of a group: failed addresses of all addresses.
fn text(figures: GroupFigures) -> String {
    let sample = figures.sample;
    format!("{} of {} addresses failed", sample.failed, sample.addresses)
}
