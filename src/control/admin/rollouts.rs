//! The rollouts of server certificates in `GET /status`.
//!
//! **Not here.** Their list (`metrics/rollouts.rs`), the decisions (`trust/rollout/trial.rs`).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::metrics::ListedRollout;
use crate::terms::closed_set::ClosedSet;
use crate::terms::rollout::{
    RolloutCause, RolloutGroup, RolloutResult, RolloutState, ShownOutcome,
};
use crate::time::unix_seconds;
use crate::trust::certs::chain::ServerCertificate;
use crate::trust::rollout::trial::{GroupFigures, Progress, Verdict};
use crate::trust::x509;

/// A rollout.
#[derive(Serialize)]
pub(super) struct RolloutView {
    /// The place of its route; null for the listener's own certificates.
    route: Option<usize>,
    state: &'static str,
    since: i64,
    /// The end of the observation.
    until: i64,
    /// The time of the decision or of the end, and its cause.
    decided: Option<i64>,
    decided_by: Option<&'static str>,
    share_percent: u32,
    earlier: Vec<CertificateView>,
    new: Vec<CertificateView>,
    groups: BTreeMap<&'static str, GroupView>,
}

#[derive(Serialize)]
struct CertificateView {
    cert: String,
    serial: String,
    sha256: String,
    not_after: i64,
}

#[derive(Serialize)]
struct GroupView {
    addresses: u32,
    failed_addresses: u32,
    handshakes: BTreeMap<&'static str, u64>,
}

impl RolloutView {
    pub(super) fn of(rollout: &ListedRollout) -> Self {
        let Progress { since, decision, groups } = rollout.progress();
        let is_final = |result| match result {
            RolloutResult::Promoted | RolloutResult::RolledBack => true,
            RolloutResult::Withdrawn | RolloutResult::Replaced | RolloutResult::Disabled => false,
        };
        let changed = rollout.ended.filter(|(result, _)| !is_final(*result));
        let state = match (rollout.ended, decision.map(|decision| decision.verdict)) {
            (Some((result, _)), _) => result.as_str(),
            (None, Some(Verdict::Promote)) => RolloutResult::Promoted.as_str(),
            (None, Some(Verdict::RollBack)) => RolloutState::RolledBack.as_str(),
            (None, None) => RolloutState::Observing.as_str(),
        };
        let decided = match (changed, decision) {
            (Some((_, at)), _) => Some((at, RolloutCause::Changed)),
            (None, Some(decision)) => Some((decision.at, decision.cause)),
            (None, None) => None,
        };
        let groups = RolloutGroup::ALL.iter().zip(&groups);
        Self {
            route: rollout.route,
            state,
            since: unix_seconds(since),
            until: unix_seconds(since + rollout.observe),
            decided: decided.map(|(at, _)| unix_seconds(at)),
            decided_by: decided.map(|(_, cause)| cause.as_str()),
            share_percent: rollout.share,
            earlier: rollout.earlier.iter().map(certificate).collect(),
            new: rollout.new.iter().map(certificate).collect(),
            groups: groups.map(|(name, figures)| (name.as_str(), group(figures))).collect(),
        }
    }
}

fn certificate(certificate: &ServerCertificate) -> CertificateView {
    CertificateView {
        cert: certificate.label.clone(),
        serial: certificate.info.serial.clone(),
        sha256: x509::fingerprint(&certificate.leaf, ""),
        not_after: certificate.info.not_after.timestamp(),
    }
}

fn group(figures: &GroupFigures) -> GroupView {
    let count = |outcome: &ShownOutcome| (outcome.as_str(), figures.outcomes[outcome.index()]);
    GroupView {
        addresses: figures.sample.addresses,
        failed_addresses: figures.sample.failed,
        handshakes: ShownOutcome::ALL.iter().map(count).collect(),
    }
}
