//! Connections by source, for a listener that limits them.
//!
//! A source is a network of the configured size (`limits.source_prefix`).
//!
//! **Promises.** The table has only live connections of listeners that have, or had, a limit; each is in it once, until
//! its record is closed. A limit that is set or lowered by a reload ends no connection by itself.
//!
//! **Not here.** The limit of all connections (`admission.rs`), sources whose handshakes fail (`handshake_slots/`).

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::config::SourcePrefix;
use crate::lock::Lock;
use crate::sessions::{Session, Sessions};
use crate::terms::reason::Reason;

/// The connections of one listener by source.
#[derive(Debug, Default)]
pub(crate) struct SourceTable(Lock<Table>);

#[derive(Debug, Default)]
struct Table {
    prefix: SourcePrefix,
    /// None until there is a limit.
    counted: Option<Counted>,
}

/// The numbers of connections by source.
type Counted = HashMap<IpAddr, HashSet<u64>>;

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
    /// Sets the size of a source. Another size counts all connections again.
    pub(super) fn set_prefix(&self, prefix: SourcePrefix) {
        let mut table = self.0.lock();
        if table.prefix != prefix {
            *table = Table { prefix, counted: None };
        }
    }

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
        let Table { prefix, counted } = &mut *self.0.lock();
        let source = |session: &Session| prefix.network(session.peer().ip());
        let counted = match (counted, limit) {
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
        forget(counted, *prefix, session);
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
        let table = &mut *self.0.lock();
        if let Some(counted) = &mut table.counted {
            forget(counted, table.prefix, session);
        }
    }
}

/// Removes a connection from the table. Until the header of a proxy before us was read, it was counted for that proxy.
fn forget(counted: &mut Counted, prefix: SourcePrefix, session: &Session) {
    let of = |address: IpAddr| prefix.network(address);
    for source in [of(session.socket_peer.ip()), of(session.peer().ip())] {
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
        assert_eq!(table.0.lock().counted.as_ref().map(HashMap::len), Some(0));
    }

    #[test]
    fn devices_of_one_network_share_its_limit_and_a_new_size_counts_all_again() {
        let (sessions, metrics) = (Sessions::default(), Arc::new(Metrics::new().listener("a")));
        let table = SourceTable::default();
        let from = |id: u8, address: [u8; 4]| {
            let peer = SocketAddr::from((address, 1));
            let session = Arc::new(Session::new(Arc::clone(&metrics), id.into(), peer));
            sessions.add(Arc::clone(&session));
            let admitted = table.admit(&session, Some(2), &sessions);
            if admitted.is_err() {
                sessions.remove(id.into());
            }
            admitted
        };
        table.set_prefix(SourcePrefix { v4: 24, v6: 64 });
        from(1, [192, 0, 2, 1]).unwrap();
        from(2, [192, 0, 2, 2]).unwrap();
        assert_eq!(from(3, [192, 0, 2, 3]), Err(SourceRefused(2)));
        from(4, [192, 0, 3, 3]).unwrap();
        table.set_prefix(SourcePrefix { v4: 23, v6: 64 });
        assert_eq!(from(5, [192, 0, 3, 4]), Err(SourceRefused(3)));
        table.set_prefix(SourcePrefix::default());
        from(6, [192, 0, 2, 1]).unwrap();
        assert_eq!(from(7, [192, 0, 2, 1]), Err(SourceRefused(2)));
    }
}
