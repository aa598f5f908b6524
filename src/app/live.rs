//! The judgement of a candidate configuration: the connected devices that it would end, or refuse when they return.
//!
//! **Promises.** The sessions that would be ended are exactly those that the re-check after a reload stops: the same
//! function decides, with the same facts (`trust/recheck.rs`). Whether a ClientHello is refused decides the handshake
//! itself (`proxy/rehearsal.rs`). Nothing is asked from a device, and nothing is changed.
//!
//! **Not here.** The facts (`sessions/facts.rs`, `sessions/offer_facts.rs`), the report (`commands/check/live.rs`).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use crate::proxy::rehearsal::{ImaginedClient, RefusedOffer, rehearse};
use crate::sessions::facts::RemoteSession;
use crate::sessions::offer_facts::OfferFacts;
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AffectedSession {
    /// Its place in the list that was judged.
    pub(crate) place: usize,
    pub(crate) effect: Effect,
    /// The reason with which it is ended, or with which its next connection is refused.
    pub(crate) reason: Reason,
    /// The cause, if the reason has several.
    pub(crate) cause: Option<String>,
}

/// An offer of the last 24 hours that a candidate would refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AffectedOffer {
    /// Its place in the list that was judged.
    pub(crate) place: usize,
    pub(crate) refused: RefusedOffer,
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
pub(crate) async fn judge(
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
        let Some(snapshot) = find(candidate, name) else {
            judgement.unjudged.insert(name.to_owned(), places.len());
            continue;
        };
        let of_listener: Vec<_> = places.iter().map(|place| &sessions[*place]).collect();
        for (index, (effect, reason, cause)) in effects(snapshot, &of_listener, now).await {
            let place = places[index];
            judgement.affected.push(AffectedSession { place, effect, reason, cause });
        }
    }
    judgement.affected.sort_unstable_by_key(|one| one.place);
    judgement
}

/// Judges offers by the snapshots of a candidate, each with the server name and the protocol of its example. Returns those
/// that it would refuse, and the number of those that it cannot judge by their listeners: the candidate has no such
/// listener, or the offer is of another version of the program.
pub(crate) async fn judge_offers(
    candidate: &[Snapshot],
    offers: &[OfferFacts],
) -> (Vec<AffectedOffer>, BTreeMap<String, usize>) {
    let (mut affected, mut unjudged) = (Vec::new(), BTreeMap::new());
    for (place, offer) in offers.iter().enumerate() {
        let (Some(snapshot), Some(class)) = (find(candidate, &offer.listener), offer.class())
        else {
            *unjudged.entry(offer.listener.clone()).or_default() += 1;
            continue;
        };
        let (server_name, alpn) = (offer.example.sni.as_deref(), offer.example.alpn.as_deref());
        let client = ImaginedClient { class, server_name, alpn };
        let refused = rehearse(snapshot, client).await.err();
        affected.extend(refused.map(|refused| AffectedOffer { place, refused }));
    }
    (affected, unjudged)
}

fn find<'a>(candidate: &'a [Snapshot], listener: &str) -> Option<&'a Snapshot> {
    candidate.iter().find(|one| one.listener.name == listener)
}

/// An effect with its reason and, if the reason has several, its cause.
type Caused = (Effect, Reason, Option<String>);

/// Returns the effect on each session of a listener that has one, by its place.
async fn effects(
    snapshot: &Snapshot,
    sessions: &[&RemoteSession],
    now: SystemTime,
) -> BTreeMap<usize, Caused> {
    let checked: Vec<_> = sessions.iter().map(|session| session.checked()).collect();
    let mut effects = BTreeMap::new();
    let ended = recheck::check_all(snapshot, &checked, now, |policy| policy.recheck);
    for (place, reason) in ended.iter().flat_map(recheck::PolicyVerdicts::refused) {
        effects.insert(place, (Effect::Ended, reason, None));
    }
    // In the order of a handshake: the ClientHello, the client's certificate, the route.
    for (place, RefusedOffer { reason, cause }) in refused_offers(snapshot, sessions).await {
        effects.entry(place).or_insert((Effect::Refused, reason, Some(cause)));
    }
    for (place, reason) in refusals(snapshot, &checked, now) {
        effects.entry(place).or_insert((Effect::Refused, reason, None));
    }
    effects
}

/// Returns the sessions whose devices would be refused for their ClientHello.
async fn refused_offers(
    snapshot: &Snapshot,
    sessions: &[&RemoteSession],
) -> Vec<(usize, RefusedOffer)> {
    let mut known: HashMap<ImaginedClient<'_>, Option<RefusedOffer>> = HashMap::new();
    let mut refused = Vec::new();
    for (place, RemoteSession { facts, class, .. }) in sessions.iter().enumerate() {
        let (server_name, alpn) = (facts.sni.as_deref(), facts.alpn.as_deref());
        let client = ImaginedClient { class: *class, server_name, alpn };
        let result = match known.entry(client) {
            Entry::Vacant(new) => new.insert(rehearse(snapshot, client).await.err()).clone(),
            Entry::Occupied(known) => known.get().clone(),
        };
        refused.extend(result.map(|refused| (place, refused)));
    }
    refused
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
