//! Connections by source, for a listener that limits them.
//!
//! **Promises.** The table has only live connections of listeners that have, or had, a limit; each is in it once, until
//! its record is closed. A limit that is set or lowered by a reload ends no connection by itself.
//!
//! **Not here.** The limit of all connections (`admission.rs`), sources whose handshakes fail (`handshake_slots/`).

use std::collections::{HashMap, HashSet};

use crate::lock::Lock;
use crate::proxy::source::ClientSource;
use crate::sessions::{Session, Sessions};
use crate::terms::reason::Reason;

/// The connections of one listener by source, as their numbers. None until there is a limit.
#[derive(Debug, Default)]
pub(crate) struct SourceTable(Lock<Option<Counted>>);

type Counted = HashMap<ClientSource, HashSet<u64>>;

/// The source of a connection has as many other connections as its listener allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its source has {0} other connection(s), which is the limit of the listener")]
pub(crate) struct SourceRefused(usize);

impl SourceRefused {
    /// Returns the stable reason for this end.
    pub(crate) const fn reason(self) -> Reason {
        Reason::OverSourceLimit
    }
}

impl SourceTable {
    /// Adds a connection. Takes the connections that were accepted before there was a limit from `all`.
    ///
    /// # Errors
    /// The source has `limit` other connections.
    pub(crate) fn admit(
        &self,
        session: &Session,
        limit: Option<usize>,
        all: &Sessions,
    ) -> Result<(), SourceRefused> {
        let mut table = self.0.lock();
        let counted = match (&mut *table, limit) {
            (None, None) => return Ok(()),
            (Some(counted), _) => counted,
            (new @ None, Some(_)) => {
                let counted = new.insert(Counted::default());
                for other in all.matching(|other| std::ptr::eq(&*other.metrics, &*session.metrics))
                {
                    counted.entry(source(&other)).or_default().insert(other.id);
                }
                counted
            }
        };
        forget(counted, session);
        let others = counted.entry(source(session)).or_default();
        match limit {
            Some(limit) if others.len() >= limit => Err(SourceRefused(others.len())),
            Some(_) | None => {
                others.insert(session.id);
                Ok(())
            }
        }
    }

    /// Removes a connection that has ended, after it was removed from the list of all sessions.
    pub(crate) fn remove(&self, session: &Session) {
        if let Some(counted) = &mut *self.0.lock() {
            forget(counted, session);
        }
    }
}

/// Removes a connection from the table. Until the header of a proxy before us was read, it was counted for that proxy.
fn forget(counted: &mut Counted, session: &Session) {
    for source in [ClientSource::of(session.socket_peer.ip()), source(session)] {
        let Some(connections) = counted.get_mut(&source) else { continue };
        connections.remove(&session.id);
        if connections.is_empty() {
            counted.remove(&source);
            // The table shrinks after a peak.
            if counted.len() < counted.capacity() / 4 {
                counted.shrink_to_fit();
            }
        }
    }
}

fn source(session: &Session) -> ClientSource {
    ClientSource::of(session.peer().ip())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::*;
    use crate::metrics::{ListenerMetrics, Metrics};
    use crate::sessions::ForwardedAddresses;

    fn listed(sessions: &Sessions, metrics: &Arc<ListenerMetrics>, id: u64) -> Arc<Session> {
        let peer = SocketAddr::from(([192, 0, 2, 1], 1));
        let session = Arc::new(Session::new(Arc::clone(metrics), id, peer));
        sessions.add(Arc::clone(&session));
        session
    }

    #[test]
    fn connections_from_before_the_limit_count() {
        let (sessions, metrics) = (Sessions::default(), Arc::new(Metrics::new().listener("a")));
        let table = SourceTable::default();
        let before = listed(&sessions, &metrics, 1);
        table.admit(&before, None, &sessions).unwrap();
        let next = listed(&sessions, &metrics, 2);
        assert_eq!(table.admit(&next, Some(1), &sessions), Err(SourceRefused(1)));
        sessions.remove(before.id);
        table.remove(&before);
        table.admit(&next, Some(1), &sessions).unwrap();
    }

    #[test]
    fn a_device_behind_a_proxy_is_no_longer_counted_for_the_proxy() {
        let (sessions, metrics) = (Sessions::default(), Arc::new(Metrics::new().listener("a")));
        let table = SourceTable::default();
        // Its header has not been read when the limit is set.
        let behind = listed(&sessions, &metrics, 1);
        let first = listed(&sessions, &metrics, 2);
        table.admit(&first, Some(9), &sessions).unwrap();
        let source = SocketAddr::from(([198, 51, 100, 7], 1));
        behind.set_forwarded(ForwardedAddresses { source, destination: source });
        table.admit(&behind, Some(9), &sessions).unwrap();
        for session in [first, behind] {
            table.remove(&session);
        }
        assert_eq!(table.0.lock().as_ref().map(HashMap::len), Some(0));
    }
}
