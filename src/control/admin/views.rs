//! `GET /sessions` and `GET /top`: who is connected, and who stands out.
//!
//! **Promises.** An answer is at most a page. What devices have said of themselves is a JSON string,
//! and nowhere a key.
//!
//! **Not here.** What may be asked for (`query.rs`), the table itself (`sessions.rs`, `sessions/top.rs`).

use std::sync::Arc;

use serde_json::{Value, json};

use super::query::{Ranking, Wanted};
use crate::sessions::top::{By, Standing, What};
use crate::sessions::{Session, Sessions};
use crate::terms::labels::Direction;
use crate::time::unix_seconds;

/// The sessions that a query asks for, oldest first.
///
/// # Errors
/// What is wrong with the query, in a sentence.
pub(super) fn sessions(sessions: &Sessions, query: &str) -> Result<Value, String> {
    let wanted = Wanted::parse(query)?;
    let mut matching = sessions.matching(|session| wanted.includes(session));
    matching.sort_unstable_by_key(|session| session.id);
    let count = matching.len();
    matching.truncate(wanted.limit());
    let next = matching.last().filter(|_| matching.len() < count).map(|last| last.id);
    let page: Vec<_> = matching.iter().map(|session| told(session)).collect();
    Ok(json!({ "matching": count, "next": next, "sessions": page }))
}

fn told(session: &Session) -> Value {
    let tls = session.tls.get();
    let identity = session.identity.get();
    json!({
        "id": session.id,
        "listener": session.metrics.name(),
        "peer": session.peer.to_string(),
        "identity": session.identity(),
        "names": identity.map(|identity| &identity.names[..]).unwrap_or_default(),
        "certificate_not_after": identity.map(|identity| identity.not_after),
        "sni": session.server_name.get(),
        "alpn": tls.and_then(|tls| tls.alpn.as_deref()),
        "tls": tls.map(|tls| tls.cipher.version()),
        "cipher": tls.map(|tls| tls.cipher.as_str()),
        "handshake": tls.map(|tls| tls.kind.as_str()),
        "backend": session.backend.get().map(|backend| backend.address()),
        "age_seconds": session.age().as_secs(),
        "idle_seconds": session.silence().as_secs(),
        "bytes_to_backend": session.bytes(Direction::ToBackend),
        "bytes_to_client": session.bytes(Direction::ToClient),
    })
}

/// Those who count most, first the one who does most.
///
/// # Errors
/// What is wrong with the query, in a sentence.
pub(super) fn top(sessions: &Sessions, query: &str) -> Result<Value, String> {
    let Ranking { by, what, limit } = Ranking::parse(query)?;
    // Before the tables: one that ends meanwhile counts twice rather than not at all.
    let live = if what == What::Bytes { sessions.matching(|_| true) } else { Vec::new() };
    let mut standing = sessions.top.standing(by, what);
    add(&live, by, &mut standing);
    let mut entries: Vec<_> = standing.counts.into_iter().collect();
    entries.sort_unstable_by(|(a, most), (b, least)| least.cmp(most).then_with(|| a.cmp(b)));
    entries.truncate(limit);
    let entries: Vec<_> =
        entries.iter().map(|(name, count)| json!({ "name": name, "count": count })).collect();
    Ok(json!({
        "by": by.as_str(),
        "what": what.as_str(),
        "since": standing.since.map(unix_seconds),
        "error_at_most": standing.error_at_most,
        "entries": entries,
    }))
}

/// Adds what sessions that go on have moved since they began.
fn add(live: &[Arc<Session>], by: By, standing: &mut Standing) {
    for session in live {
        let bytes = session.bytes(Direction::ToBackend) + session.bytes(Direction::ToClient);
        let name: Option<Box<str>> = match by {
            By::Identity => session.identity().map(Box::from),
            By::Peer => Some(session.peer.ip().to_string().into()),
        };
        if let Some(name) = name.filter(|_| bytes > 0) {
            standing.add(name, bytes);
        }
    }
}
