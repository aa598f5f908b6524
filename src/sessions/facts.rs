//! The facts about live sessions that a re-check decides by, so that another process can do it with a candidate.
//!
//! **Promises.** A page has at most a number of sessions, and ends after the one whose names and path exceed
//! [`MAX_CLIENT_BYTES`]. The sessions are those that a re-check looks at: all with a complete handshake.
//!
//! **Not here.** The facts about a client (`trust/facts.rs`), the request (`control/admin/views.rs`), the judgement of a
//! candidate (`app/live.rs`).

use std::net::SocketAddr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Session, Sessions};
use crate::terms::offer_class::OfferClass;
use crate::time::unix_seconds;
use crate::trust::facts::{BadFacts, ClientFacts, PathFacts, SharedPaths};
use crate::trust::identity::Identity;
use crate::trust::recheck::CheckedSession;

/// The version of the format. Another version can have other facts.
const FORMAT: u32 = 1;

/// The bytes of the clients' names and paths after which a page ends.
const MAX_CLIENT_BYTES: usize = 2 << 20;

/// A page of facts.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FactsPage {
    format: u32,
    /// The time of the process, in Unix time.
    pub(crate) now: i64,
    /// The value of `after` for the next page, if there is one.
    pub(crate) next: Option<u64>,
    /// The paths of the clients on this page.
    paths: Vec<PathFacts>,
    sessions: Vec<SessionFacts>,
}

/// The facts about a session.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SessionFacts {
    pub(crate) id: u64,
    pub(crate) listener: String,
    pub(crate) peer: SocketAddr,
    pub(crate) sni: Option<String>,
    /// The protocol that was negotiated.
    pub(crate) alpn: Option<String>,
    /// The class of its offer.
    class: u64,
    /// None without a certificate.
    client: Option<ClientFacts>,
}

/// A session that another process has.
#[derive(Debug)]
pub(crate) struct RemoteSession {
    pub(crate) facts: SessionFacts,
    pub(crate) class: OfferClass,
    identity: Option<Identity>,
}

/// A page that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadPage {
    #[error("the sidecar has format {0} of the facts, and this program has {FORMAT}")]
    Format(u32),
    #[error("the facts about session {id} are invalid: {cause}")]
    Facts { id: u64, cause: BadFacts },
    #[error("the offer of session {id} is invalid")]
    Class { id: u64 },
    #[error("the path of a client is invalid: {0}")]
    Path(BadFacts),
}

impl FactsPage {
    /// Returns the facts about the oldest sessions after the one with the id `after`, `limit` of them at most.
    pub(crate) fn of(sessions: &Sessions, after: u64, limit: usize) -> Self {
        let mut all =
            sessions.matching(|session| session.id > after && session.handshake.get().is_some());
        let count = all.len();
        if count > limit {
            all.select_nth_unstable_by_key(limit, |session| session.id);
            all.truncate(limit);
        }
        all.sort_unstable_by_key(|session| session.id);
        let (mut paths, mut page) = (SharedPaths::default(), Vec::new());
        for session in &all {
            if paths.bytes() >= MAX_CLIENT_BYTES {
                break;
            }
            page.push(SessionFacts::of(session, &mut paths));
        }
        let next = page.last().map(|last| last.id).filter(|_| page.len() < count);
        let now = unix_seconds(SystemTime::now());
        Self { format: FORMAT, now, next, paths: paths.into_paths(), sessions: page }
    }

    /// Returns the sessions of the page.
    ///
    /// # Errors
    /// If the page has another format, or facts that cannot be.
    pub(crate) fn into_sessions(self) -> Result<Vec<RemoteSession>, BadPage> {
        if self.format != FORMAT {
            return Err(BadPage::Format(self.format));
        }
        let paths = self.paths.iter().map(PathFacts::path).collect::<Result<Vec<_>, _>>();
        let paths = paths.map_err(BadPage::Path)?;
        let session = |facts: SessionFacts| {
            let identity = facts.client.as_ref().map(|client| client.identity(&paths)).transpose();
            let identity = identity.map_err(|cause| BadPage::Facts { id: facts.id, cause })?;
            let class = OfferClass::from_number(facts.class);
            let class = class.ok_or(BadPage::Class { id: facts.id })?;
            Ok(RemoteSession { facts, class, identity })
        };
        self.sessions.into_iter().map(session).collect()
    }
}

impl SessionFacts {
    fn of(session: &Session, paths: &mut SharedPaths) -> Self {
        let CheckedSession { server_name, alpn, client } = session.checked();
        Self {
            id: session.id,
            listener: session.metrics.name().to_owned(),
            peer: session.peer(),
            sni: server_name.map(str::to_owned),
            alpn: alpn.map(str::to_owned),
            class: session
                .handshake
                .get()
                .map_or(0, |handshake| handshake.negotiated.offer.number()),
            client: client.map(|client| paths.facts(client)),
        }
    }

    /// Returns the first name of the client's certificate.
    pub(crate) fn identity(&self) -> Option<&str> {
        self.client.as_ref()?.names.first().map(AsRef::as_ref)
    }
}

impl RemoteSession {
    /// Returns the facts that decide whether it stays.
    pub(crate) fn checked(&self) -> CheckedSession<'_> {
        CheckedSession {
            server_name: self.facts.sni.as_deref(),
            alpn: self.facts.alpn.as_deref(),
            client: self.identity.as_ref(),
        }
    }
}
