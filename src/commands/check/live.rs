//! `tlsidecar check --live`: the devices of a running sidecar that a candidate would end or refuse.
//!
//! **Promises.** The sidecar is asked for facts and not changed; no file leaves this machine. Text has the first
//! [`MAX_LISTED`] devices and all counts, JSON has all of both. Text of devices is escaped.
//!
//! **Not here.** The judgement (`app/live.rs`), the facts (`sessions/facts.rs`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use hyper::Method;
use serde::Serialize;

use crate::app::live::{self, AffectedOffer, Effect, Judgement};
use crate::commands::admin_client::{AdminError, AdminPort, query};
use crate::commands::flags::admin::AdminArgs;
use crate::runtime::{self, RuntimeError};
use crate::sessions::facts::{BadPage, FactsPage, RemoteSession};
use crate::sessions::offer_facts::{OfferFacts, OffersPage};
use crate::terms::reason::Reason;
use crate::text::for_terminal;
use crate::trust::snapshot::Snapshot;

/// The devices that the text lists.
const MAX_LISTED: usize = 50;

/// The sessions that are judged: more than a process can have.
const MAX_SESSIONS: usize = 4_000_000;

/// A comparison that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum LiveError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("the facts about the live sessions cannot be used: {0}")]
    Page(#[from] BadPage),
    #[error("the admin port has more than {MAX_SESSIONS} live sessions")]
    TooMany,
}

/// The effects of a candidate on the devices of a running sidecar. The names in its JSON are public.
#[derive(Serialize)]
pub(super) struct LiveReport {
    /// The sessions that were judged.
    sessions: usize,
    ended: EffectCounts,
    refused: EffectCounts,
    affected: Vec<AffectedDevice>,
    offers: OffersReport,
    /// The sessions of each listener that the candidate does not have.
    unjudged: BTreeMap<String, usize>,
}

/// The devices with one effect.
#[derive(Default, Serialize)]
struct EffectCounts {
    count: usize,
    by_reason: BTreeMap<&'static str, usize>,
}

/// A connected device on which the candidate has an effect.
#[derive(Serialize)]
struct AffectedDevice {
    effect: &'static str,
    reason: &'static str,
    id: u64,
    listener: String,
    identity: Option<String>,
    peer: SocketAddr,
    sni: Option<String>,
    /// The cause of a refusal, if its reason has several.
    cause: Option<String>,
}

/// The offers of the last 24 hours.
#[derive(Serialize)]
struct OffersReport {
    /// The number of offers that were judged.
    count: usize,
    /// The number of offers that were not judged, by their listeners.
    unjudged: BTreeMap<String, usize>,
    /// The offers that were not counted, since the start of the sidecar.
    replaced: u64,
    refused: Vec<RefusedClass>,
}

/// An offer that the candidate refuses.
#[derive(Serialize)]
struct RefusedClass {
    reason: &'static str,
    cause: String,
    #[serde(flatten)]
    offer: OfferFacts,
}

/// Compares a candidate with the live sessions of a running sidecar.
///
/// # Errors
/// The admin port does not answer, or has other facts.
pub(super) fn compare(candidate: &[Snapshot], admin: &AdminArgs) -> Result<LiveReport, LiveError> {
    runtime::of_a_command()?.block_on(async {
        let port = AdminPort::of(admin)?;
        let (sessions, now) = sessions(&port).await?;
        let offers: OffersPage = port.json(Method::GET, "/offers").await?;
        let judgement = live::judge(candidate, &sessions, now).await;
        let (refused, unjudged) = live::judge_offers(candidate, &offers.offers).await;
        let offers = OffersReport::new(&refused, unjudged, &offers);
        Ok(LiveReport::new(&judgement, &sessions, offers))
    })
}

/// Returns all sessions, and the time of the sidecar.
async fn sessions(port: &AdminPort) -> Result<(Vec<RemoteSession>, SystemTime), LiveError> {
    let (mut all, mut after, mut now) = (Vec::new(), Some(0), 0);
    while let Some(last) = after {
        let path = query("/sessions/facts", &[("after", last.to_string())]);
        let page: FactsPage = port.json(Method::GET, &path).await?;
        let next = page.next;
        now = page.now;
        let sessions = page.into_sessions()?;
        after = port.next_page(Some(last), next, sessions.len())?;
        if sessions.len() > MAX_SESSIONS - all.len() {
            return Err(LiveError::TooMany);
        }
        all.extend(sessions);
    }
    let now = Duration::from_secs(u64::try_from(now).unwrap_or(0));
    Ok((all, SystemTime::UNIX_EPOCH + now))
}

impl LiveReport {
    fn new(judgement: &Judgement, sessions: &[RemoteSession], offers: OffersReport) -> Self {
        let unjudged = judgement.unjudged.clone();
        let mut report = Self {
            sessions: sessions.len() - unjudged.values().sum::<usize>(),
            ended: EffectCounts::default(),
            refused: EffectCounts::default(),
            affected: Vec::new(),
            offers,
            unjudged,
        };
        for affected in &judgement.affected {
            match affected.effect {
                Effect::Ended => report.ended.add(affected.reason),
                Effect::Refused => report.refused.add(affected.reason),
            }
            let facts = &sessions[affected.place].facts;
            report.affected.push(AffectedDevice {
                effect: affected.effect.as_str(),
                reason: affected.reason.as_str(),
                id: facts.id,
                listener: facts.listener.clone(),
                identity: facts.identity().map(str::to_owned),
                peer: facts.peer,
                sni: facts.sni.clone(),
                cause: affected.cause.clone(),
            });
        }
        report
    }

    /// Returns the number of connected devices, and of offers, on which the candidate has an effect.
    pub(super) const fn affected(&self) -> (usize, usize) {
        (self.affected.len(), self.offers.refused.len())
    }

    /// Returns the lines of text for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let Self { sessions, ended, refused, affected, offers, unjudged } = self;
        let mut lines = vec![format!(
            "live: {sessions} session(s): {} would be ended{}; {} more would be refused at the next connection{}",
            ended.count,
            ended.reasons(),
            refused.count,
            refused.reasons()
        )];
        lines.extend(listed(affected, AffectedDevice::line));
        lines.extend(offers.lines());
        lines.extend(unjudged.iter().map(|(listener, count)| {
            let listener = for_terminal(listener);
            format!("live: {count} session(s) of listener \"{listener}\", which is not in this configuration, were not judged")
        }));
        lines
    }
}

impl EffectCounts {
    fn add(&mut self, reason: Reason) {
        self.count += 1;
        *self.by_reason.entry(reason.as_str()).or_default() += 1;
    }

    /// Returns the number for each reason in brackets; nothing if there is none.
    fn reasons(&self) -> String {
        let each: Vec<_> =
            self.by_reason.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) }
    }
}

impl OffersReport {
    fn new(
        refused: &[AffectedOffer],
        unjudged: BTreeMap<String, usize>,
        offers: &OffersPage,
    ) -> Self {
        let refused = refused.iter().map(|affected| RefusedClass {
            reason: affected.refused.reason.as_str(),
            cause: affected.refused.cause.clone(),
            offer: offers.offers[affected.place].clone(),
        });
        let count = offers.offers.len() - unjudged.values().sum::<usize>();
        Self { count, unjudged, replaced: offers.replaced, refused: refused.collect() }
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let Self { count, unjudged, refused, .. } = self;
        let handshakes = refused.iter().map(|one| one.offer.handshakes);
        let handshakes = handshakes.fold(0, u64::saturating_add);
        let first = format!(
            "live: {count} offer(s) in the last 24 h: {} would be refused, of {handshakes} handshake(s)",
            refused.len()
        );
        let unjudged = unjudged.iter().map(|(listener, count)| {
            let listener = for_terminal(listener);
            format!("live: {count} offer(s) of listener \"{listener}\" were not judged")
        });
        [first].into_iter().chain(listed(refused, RefusedClass::line)).chain(unjudged)
    }
}

impl RefusedClass {
    fn line(&self) -> String {
        let Self { reason, cause, offer } = self;
        let OfferFacts { listener, handshakes, versions, example, .. } = offer;
        let (identity, peer) = (quoted(example.identity.as_deref()), example.peer);
        let (versions, listener) = (for_terminal(&versions.join(" and ")), for_terminal(listener));
        let cause = for_terminal(cause);
        format!(
            "live: refused: {reason}: {handshakes} handshake(s) with TLS {versions} on listener \"{listener}\", such as \
             {identity} from {peer}: {cause}"
        )
    }
}

impl AffectedDevice {
    fn line(&self) -> String {
        let Self { effect, reason, id, listener, identity, peer, sni: _, cause } = self;
        let (identity, listener) = (quoted(identity.as_deref()), for_terminal(listener));
        let cause = cause.as_ref().map(|cause| format!(": {}", for_terminal(cause)));
        let cause = cause.unwrap_or_default();
        format!(
            "live: {effect}: {reason}: {identity} from {peer}, session {id} of listener \"{listener}\"{cause}"
        )
    }
}

/// Returns the lines of the first items, and how many more there are.
fn listed<T>(items: &[T], line: fn(&T) -> String) -> impl Iterator<Item = String> {
    let more = items.len().saturating_sub(MAX_LISTED);
    let more = (more > 0).then(|| format!("live: and {more} more, which --output json lists"));
    items.iter().take(MAX_LISTED).map(line).chain(more)
}

/// Returns an identity in quotation marks, which a device can choose together with a CA; a dash without one.
fn quoted(identity: Option<&str>) -> String {
    identity.map_or_else(|| "-".to_owned(), |name| format!("\"{}\"", for_terminal(name)))
}
