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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::metrics::Metrics;
    use crate::sessions::CompletedHandshake;
    use crate::terms::labels::{Cipher, ClientCertificate, Group, HandshakeKind, KeyKind};
    use crate::terms::negotiated::Negotiated;
    use crate::trust::identity;

    /// Returns sessions whose clients have this certificate.
    fn sessions(count: u64, client: &Identity) -> Sessions {
        let (sessions, metrics) = (Sessions::default(), Metrics::new().listener("test"));
        for id in 1..=count {
            let session = Session::new(Arc::clone(&metrics), id, ([192, 0, 2, 1], 1).into());
            assert!(session.identity.set(client.clone().into()).is_ok());
            // One is in its handshake.
            if id != 2 {
                let negotiated = Negotiated {
                    offer: OfferClass::default(),
                    cipher: Cipher::Tls13Aes128,
                    kind: HandshakeKind::Full,
                    group: Group::X25519,
                    key: KeyKind::Ecdsa,
                    client: ClientCertificate::Verified,
                    resumption: None,
                    alpn: None,
                };
                let handshake = CompletedHandshake { negotiated, took: Duration::ZERO };
                assert!(session.handshake.set(handshake).is_ok());
            }
            sessions.add(Arc::new(session));
        }
        sessions
    }

    /// Returns the ids on each page.
    fn pages(sessions: &Sessions, limit: usize) -> Vec<Vec<u64>> {
        let (mut pages, mut after) = (Vec::new(), Some(0));
        while let Some(last) = after {
            let page = FactsPage::of(sessions, last, limit);
            after = page.next;
            pages.push(page.sessions.iter().map(|session| session.id).collect());
        }
        pages
    }

    #[test]
    fn a_page_ends_at_its_number_of_sessions_and_at_its_bytes() {
        let names: Vec<_> = (0..8).map(|n| format!("{n}.{}.example", "long".repeat(60))).collect();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let sessions = sessions(1500, &identity::of(certificate.der()));
        let expected: Vec<_> = (1..=1500).filter(|id| *id != 2).collect();
        let by_number = pages(&sessions, 700);
        assert_eq!(by_number.iter().map(Vec::len).collect::<Vec<_>>(), [700, 700, 99]);
        assert_eq!(by_number.concat(), expected, "the oldest first");
        let by_bytes = pages(&sessions, usize::MAX);
        assert_eq!((by_bytes.len(), by_bytes.concat()), (2, expected));
    }

    #[test]
    fn a_page_of_another_format_is_refused() {
        let page = FactsPage::of(&Sessions::default(), 0, 1);
        let other = FactsPage { format: FORMAT + 1, ..page };
        assert!(matches!(other.into_sessions(), Err(BadPage::Format(2))));
    }
}
