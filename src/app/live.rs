//! The judgement of a candidate configuration: the connected devices that it would end, or refuse when they return.
//!
//! **Promises.** The sessions that would be ended are exactly those that the re-check after a reload stops: the same
//! function decides, with the same facts (`trust/recheck.rs`). Nothing is asked from a device, and nothing is changed.
//!
//! **Not here.** The facts (`sessions/facts.rs`), the report (`commands/check/live.rs`).

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::sessions::facts::RemoteSession;
use crate::terms::closed_set::closed_set;
use crate::terms::reason::Reason;
use crate::trust::policy::Policy;
use crate::trust::recheck::{self, CheckedSession};
use crate::trust::snapshot::Snapshot;

closed_set! {
    /// The effect of a candidate on a device.
    pub(crate) enum Effect {
        /// Its session is ended by the re-check. It cannot return either.
        Ended => "ended",
        /// Its session stays, and its next handshake is refused.
        Refused => "refused",
    }
}

/// A session on which a candidate has an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AffectedSession {
    /// Its place in the list that was judged.
    pub(crate) place: usize,
    pub(crate) effect: Effect,
    /// The reason with which it is ended, or with which its next connection is refused.
    pub(crate) reason: Reason,
}

/// The effects of a candidate.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    /// In the order of the list that was judged.
    pub(crate) affected: Vec<AffectedSession>,
    /// The listeners that the candidate does not have, with the number of their sessions. A reload leaves them as they are.
    pub(crate) unjudged: BTreeMap<String, usize>,
}

/// Judges sessions by the snapshots of a candidate, at the time `now`.
pub(crate) fn judge(
    candidate: &[Snapshot],
    sessions: &[RemoteSession],
    now: SystemTime,
) -> Judgement {
    let mut judgement = Judgement::default();
    let mut by_listener: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, session) in sessions.iter().enumerate() {
        by_listener.entry(&session.facts.listener).or_default().push(place);
    }
    for (name, places) in by_listener {
        let Some(snapshot) = candidate.iter().find(|one| one.listener.name == name) else {
            judgement.unjudged.insert(name.to_owned(), places.len());
            continue;
        };
        let of_listener: Vec<_> = places.iter().map(|place| sessions[*place].checked()).collect();
        for (index, (effect, reason)) in effects(snapshot, &of_listener, now) {
            judgement.affected.push(AffectedSession { place: places[index], effect, reason });
        }
    }
    judgement.affected.sort_unstable_by_key(|one| one.place);
    judgement
}

/// Returns the effect on each session of a listener that has one, by its place.
fn effects(
    snapshot: &Snapshot,
    sessions: &[CheckedSession<'_>],
    now: SystemTime,
) -> BTreeMap<usize, (Effect, Reason)> {
    let mut effects = BTreeMap::new();
    let ended = recheck::check_all(snapshot, sessions, now, |policy| policy.recheck);
    for (place, reason) in ended.iter().flat_map(recheck::PolicyVerdicts::refused) {
        effects.insert(place, (Effect::Ended, reason));
    }
    for (place, reason) in refusals(snapshot, sessions, now) {
        effects.entry(place).or_insert((Effect::Refused, reason));
    }
    effects
}

/// Returns the sessions whose devices a handshake would refuse, with the reason of that handshake.
fn refusals(
    snapshot: &Snapshot,
    sessions: &[CheckedSession<'_>],
    now: SystemTime,
) -> Vec<(usize, Reason)> {
    let mut refusals = Vec::new();
    for of_policy in recheck::check_all(snapshot, sessions, now, |_: &Policy| true) {
        let refused = of_policy.refused().map(|(place, reason)| {
            (place, in_a_handshake(reason, sessions[place].client.is_some()))
        });
        refusals.extend(refused);
        let overdue = of_policy.verdicts.overdue.iter().map(|index| of_policy.sessions[*index]);
        refusals.extend(overdue.map(|place| (place, Reason::ClientCertRevocationUnknown)));
    }
    let unserved =
        sessions.iter().enumerate().filter(|(_, session)| !has_backend(snapshot, session));
    refusals.extend(unserved.map(|(place, _)| (place, Reason::NoRoute)));
    refusals
}

/// Returns the reason of a handshake for a client that a re-check refuses with `reason`.
fn in_a_handshake(reason: Reason, has_certificate: bool) -> Reason {
    let other = if has_certificate { reason } else { Reason::ClientCertMissing };
    let reasons = [
        (Reason::Revoked, Reason::ClientCertRevoked),
        (Reason::Expired, Reason::ClientCertExpired),
    ];
    let found = reasons.iter().find(|(of_session, _)| *of_session == reason);
    found.map_or(other, |(_, of_handshake)| *of_handshake)
}

/// Returns whether there is a backend for a session's device.
fn has_backend(snapshot: &Snapshot, session: &CheckedSession<'_>) -> bool {
    let route = snapshot.route(session.server_name, session.alpn.map(str::as_bytes));
    route.is_some() || snapshot.listener.backend.is_some()
}

#[cfg(test)]
mod tests;
