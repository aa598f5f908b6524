//! `GET /sessions`, `GET /sessions/facts`, `GET /offers` and `GET /top`: the live sessions, the facts that a re-check
//! decides by, the offers of the last 24 hours, and the devices that stand out.
//!
//! **Promises.** A response has at most one page. Text that devices chose is a JSON string, never a key.
//!
//! **Not here.** The queries (`query.rs`), the tables (`sessions.rs`, `sessions/top.rs`).

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::query::{self, FactsQuery, SessionQuery, Sort, TopQuery};
use super::response::to_json;
use crate::metrics::BackendUse;
use crate::sessions::facts::FactsPage;
use crate::sessions::offer_facts::OffersPage;
use crate::sessions::top::{By, Counts, What};
use crate::sessions::{Session, Sessions};
use crate::terms::labels::Direction;
use crate::time::unix_seconds;

#[derive(Serialize)]
struct SessionsView<'a> {
    matching: usize,
    /// The value of `after` for the next page, if there is one.
    next: Option<u64>,
    sessions: Vec<SessionView<'a>>,
}

#[derive(Serialize)]
struct SessionView<'a> {
    id: u64,
    listener: &'a str,
    peer: String,
    /// The address of the proxy before tlsidecar, if it has stated the device's.
    via: Option<String>,
    identity: Option<&'a str>,
    names: &'a [Box<str>],
    certificate_not_after: Option<i64>,
    sni: Option<&'a str>,
    alpn: Option<&'a str>,
    tls: Option<&'static str>,
    cipher: Option<&'static str>,
    handshake: Option<&'static str>,
    backend: Option<&'a str>,
    age_seconds: u64,
    idle_seconds: u64,
    bytes_to_backend: u64,
    bytes_to_client: u64,
}

#[derive(Serialize)]
struct TopView {
    by: &'static str,
    what: &'static str,
    since: Option<i64>,
    error_at_most: u64,
    entries: Vec<TopEntry>,
}

#[derive(Serialize)]
struct TopEntry {
    name: Box<str>,
    count: u64,
}

/// Returns the sessions that a query selects, in its order.
///
/// # Errors
/// A sentence about the mistake in the query.
pub(super) fn sessions(sessions: &Sessions, query: &str) -> Result<String, String> {
    let query = SessionQuery::parse(query)?;
    let mut matching = sessions.matching(|session| query.includes(session));
    match query.sort {
        Sort::Age => matching.sort_unstable_by_key(|session| session.id),
        // Cached, because a key that moves while it is compared is no order.
        Sort::Idle => matching.sort_by_cached_key(|session| Reverse(session.silence())),
        Sort::Bytes => matching.sort_by_cached_key(|session| Reverse(bytes(session))),
        Sort::Identity => {
            matching.sort_by_cached_key(|session| session.identity().map(str::to_owned));
        }
    }
    let count = matching.len();
    matching.truncate(query.limit());
    let has_next = query.sort == Sort::Age && matching.len() < count;
    let next = matching.last().filter(|_| has_next).map(|last| last.id);
    let page = matching.iter().map(|session| view(session)).collect();
    Ok(to_json(&SessionsView { matching: count, next, sessions: page }))
}

fn view(session: &Session) -> SessionView<'_> {
    let tls = session.handshake.get().map(|handshake| &handshake.negotiated);
    let identity = session.identity.get();
    SessionView {
        id: session.id,
        listener: session.metrics.name(),
        peer: session.peer().to_string(),
        via: session.forwarded().map(|_| session.socket_peer.to_string()),
        identity: session.identity(),
        names: identity.map(|identity| &identity.names[..]).unwrap_or_default(),
        certificate_not_after: identity.map(|identity| identity.not_after),
        sni: session.server_name.get().map(AsRef::as_ref),
        alpn: tls.and_then(|tls| tls.alpn.as_deref()),
        tls: tls.map(|tls| tls.cipher.version()),
        cipher: tls.map(|tls| tls.cipher.as_str()),
        handshake: tls.map(|tls| tls.kind.as_str()),
        backend: session.backend.get().map(BackendUse::address),
        age_seconds: session.age().as_secs(),
        idle_seconds: session.silence().as_secs(),
        bytes_to_backend: session.bytes(Direction::ToBackend),
        bytes_to_client: session.bytes(Direction::ToClient),
    }
}

/// Returns the facts about sessions, the oldest first.
///
/// # Errors
/// A sentence about the mistake in the query.
pub(super) fn facts(sessions: &Sessions, query: &str) -> Result<String, String> {
    let FactsQuery { after, limit } = FactsQuery::parse(query)?;
    Ok(to_json(&FactsPage::of(sessions, after, limit)))
}

/// Returns the offers of the last 24 hours, the most frequent first.
///
/// # Errors
/// The query has a key.
pub(super) fn offers(sessions: &Sessions, query: &str) -> Result<String, String> {
    query::none(query).map(|()| to_json(&OffersPage::of(sessions)))
}

/// Returns the devices with the highest counts, highest first.
///
/// # Errors
/// A sentence about the mistake in the query.
pub(super) fn top(sessions: &Sessions, query: &str) -> Result<String, String> {
    let TopQuery { by, what, limit } = TopQuery::parse(query)?;
    // Read before the tables: a session that ends in between counts twice, rather than not at all.
    let live = if what == What::Bytes { sessions.matching(|_| true) } else { Vec::new() };
    let mut counts = sessions.top.counts(by, what);
    add(&live, by, &mut counts);
    let mut entries: Vec<_> = counts.counts.into_iter().collect();
    entries.sort_unstable_by(|(a, most), (b, least)| least.cmp(most).then_with(|| a.cmp(b)));
    entries.truncate(limit);
    Ok(to_json(&TopView {
        by: by.as_str(),
        what: what.as_str(),
        since: counts.since.map(|since| unix_seconds(SystemTime::now() - since.elapsed())),
        error_at_most: counts.error_at_most,
        entries: entries.into_iter().map(|(name, count)| TopEntry { name, count }).collect(),
    }))
}

/// Returns the bytes in both directions.
fn bytes(session: &Session) -> u64 {
    session.bytes(Direction::ToBackend) + session.bytes(Direction::ToClient)
}

/// Adds the bytes of live sessions, since each began.
fn add(live: &[Arc<Session>], by: By, counts: &mut Counts) {
    for session in live {
        let bytes = bytes(session);
        let name: Option<Box<str>> = match by {
            By::Identity => session.identity().map(Box::from),
            By::Certificate => None,
            By::Peer => Some(session.peer().ip().to_string().into()),
        };
        if let Some(name) = name.filter(|_| bytes > 0) {
            counts.add(name, bytes);
        }
    }
}
