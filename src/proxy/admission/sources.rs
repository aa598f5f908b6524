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
        let others = counted.entry(source(session)).or_default();
        others.remove(&session.id);
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
        let mut table = self.0.lock();
        let Some(counted) = &mut *table else { return };
        let source = source(session);
        let Some(connections) = counted.get_mut(&source) else { return };
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
