//! Connections by identity, for a listener that limits them.
//!
//! **Promises.** The table has only live sessions of listeners that have, or had, a limit. Each session is in it once,
//! from the end of its handshake until its record is closed. A device whose old connection is lost is not kept out by
//! it, unless the operator wants that: its next connection replaces the one that was silent longest, once the backend
//! has accepted the next one. A limit that is set or lowered by a reload ends no session by itself.
//!
//! **Not here.** The limit of all connections (`admission.rs`), the list of sessions (`sessions.rs`).

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::config::{IdentityLimit, OverIdentityLimit};
use crate::lock::Lock;
use crate::sessions::{Session, Sessions};
use crate::terms::reason::Reason;

/// The sessions of one listener by identity. None until there is a limit.
#[derive(Default)]
pub(crate) struct IdentityTable(Lock<Option<Tracked>>);

#[derive(Default)]
struct Tracked {
    /// By a hash of the identity, so that no name is stored twice. Different names can share a hash.
    sessions: HashMap<u64, Vec<Arc<Session>>>,
    hasher: RandomState,
}

/// The identity of a client has as many connections as its listener allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the identity has {0} other connection(s), which is the limit of the listener")]
pub(crate) struct IdentityRefused(usize);

impl IdentityRefused {
    /// Returns the stable reason for this end.
    pub(crate) const fn reason(self) -> Reason {
        Reason::OverLimit
    }
}

impl fmt::Debug for IdentityTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityTable").finish_non_exhaustive()
    }
}

impl IdentityTable {
    /// Adds a session whose handshake is complete. Takes the sessions that began before there was a limit from `all`.
    ///
    /// # Errors
    /// The session is over the limit, and the limit refuses such sessions.
    pub(crate) fn admit(
        &self,
        session: &Arc<Session>,
        limit: Option<IdentityLimit>,
        all: &Sessions,
    ) -> Result<(), IdentityRefused> {
        let Some(name) = session.identity() else { return Ok(()) };
        let mut table = self.0.lock();
        let tracked = match (&mut *table, limit) {
            (None, None) => return Ok(()),
            (Some(tracked), _) => tracked,
            (new @ None, Some(_)) => {
                let tracked = new.insert(Tracked::default());
                let before = |other: &Session| Arc::ptr_eq(&other.metrics, &session.metrics);
                all.matching(before).into_iter().for_each(|other| tracked.add(other));
                tracked
            }
        };
        if let Some(limit) = limit {
            tracked.refuse(session.id, name, limit)?;
        }
        tracked.add(Arc::clone(session));
        Ok(())
    }

    /// Stops the session that was silent longest of those with the same identity, if `session`, which was admitted and
    /// has its backend now, is over the limit. Of two that have been silent as long, the older one is stopped.
    pub(crate) fn replace(&self, session: &Session, limit: Option<IdentityLimit>) {
        let table = self.0.lock();
        let (Some(tracked), Some(name), Some(limit)) = (&*table, session.identity(), limit) else {
            return;
        };
        let siblings = tracked.siblings(session.id, name);
        if limit.over == OverIdentityLimit::Replace && siblings.len() >= limit.max {
            // A lost connection is silent.
            let lost = siblings.iter().max_by_key(|other| (other.silence(), other.age()));
            lost.map(|lost| lost.stop(Reason::OverLimit));
        }
    }

    /// Removes a session that has ended, after it was removed from the list of all sessions.
    pub(crate) fn remove(&self, session: &Session) {
        let Some(name) = session.identity() else { return };
        if let Some(tracked) = &mut *self.0.lock() {
            tracked.remove(name, session.id);
        }
    }
}

impl Tracked {
    /// Refuses the session `id` over a limit that refuses.
    fn refuse(&self, id: u64, name: &str, limit: IdentityLimit) -> Result<(), IdentityRefused> {
        let others = self.siblings(id, name).len();
        match limit.over {
            OverIdentityLimit::Refuse if others >= limit.max => Err(IdentityRefused(others)),
            OverIdentityLimit::Refuse | OverIdentityLimit::Replace => Ok(()),
        }
    }

    /// Returns the other sessions of an identity. One that has the order to stop no longer counts: to close it can take
    /// a second.
    fn siblings(&self, id: u64, name: &str) -> Vec<&Arc<Session>> {
        let counts = |other: &&Arc<Session>| {
            other.id != id && other.identity() == Some(name) && other.stop_order().given().is_none()
        };
        let listed = self.sessions.get(&self.hasher.hash_one(name)).into_iter().flatten();
        listed.filter(counts).collect()
    }

    /// Adds a session if it has an identity. Idempotent.
    fn add(&mut self, session: Arc<Session>) {
        let Some(name) = session.identity() else { return };
        let listed = self.sessions.entry(self.hasher.hash_one(name)).or_default();
        if listed.iter().all(|other| other.id != session.id) {
            listed.push(session);
        }
    }

    fn remove(&mut self, name: &str, id: u64) {
        let hash = self.hasher.hash_one(name);
        let Some(listed) = self.sessions.get_mut(&hash) else { return };
        listed.retain(|other| other.id != id);
        if listed.is_empty() {
            self.sessions.remove(&hash);
            // The table shrinks after a peak.
            if self.sessions.len() < self.sessions.capacity() / 4 {
                self.sessions.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::metrics::{ListenerMetrics, Metrics};
    use crate::sessions::stop::Stopped;
    use crate::terms::labels::Direction;
    use crate::trust::identity;

    const REPLACE: IdentityLimit = IdentityLimit { max: 2, over: OverIdentityLimit::Replace };
    const REFUSE: IdentityLimit = IdentityLimit { max: 2, over: OverIdentityLimit::Refuse };

    struct Scene {
        sessions: Sessions,
        table: IdentityTable,
        listener: Arc<ListenerMetrics>,
        next: u64,
    }

    impl Scene {
        fn new() -> Self {
            let listener = Metrics::new().listener("a");
            Self {
                sessions: Sessions::default(),
                table: IdentityTable::default(),
                listener,
                next: 1,
            }
        }

        /// Lists a session whose handshake is complete.
        fn session(&mut self, name: &str) -> Arc<Session> {
            let peer = SocketAddr::from(([192, 0, 2, 1], 1));
            let mut session = Session::new(Arc::clone(&self.listener), self.next, peer);
            self.next += 1;
            session.opened = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
            // Of an empty certificate: it has no names.
            let mut identity = identity::of(&Vec::new().into());
            identity.names = [Box::from(name)].into();
            let _set = session.identity.set(Box::new(identity));
            let session = Arc::new(session);
            self.sessions.add(Arc::clone(&session));
            session
        }

        /// Admits a session, and connects its backend.
        fn admit(&self, session: &Arc<Session>, limit: Option<IdentityLimit>) -> Result<(), usize> {
            let admitted = self.table.admit(session, limit, &self.sessions);
            admitted.map_err(|IdentityRefused(count)| count)?;
            self.table.replace(session, limit);
            Ok(())
        }

        fn end(&self, session: &Session) {
            self.sessions.remove(session.id);
            self.table.remove(session);
        }

        fn listed(&self) -> usize {
            let table = self.table.0.lock();
            table.iter().flat_map(|tracked| tracked.sessions.values()).map(Vec::len).sum()
        }
    }

    #[test]
    fn the_next_connection_replaces_the_one_that_was_silent_longest() {
        let mut scene = Scene::new();
        let (lost, busy, other) = (scene.session("a"), scene.session("a"), scene.session("b"));
        for session in [&busy, &lost, &other] {
            assert_eq!(scene.admit(session, Some(REPLACE)), Ok(()));
        }
        busy.on_activity(Direction::ToBackend, Instant::now());
        let next = scene.session("a");
        assert_eq!(scene.admit(&next, Some(REPLACE)), Ok(()));
        let stopped = [&lost, &busy, &other, &next].map(|session| session.stop_order().given());
        assert_eq!(stopped, [Some(Stopped(Reason::OverLimit)), None, None, None]);
        // The stopped one counts no longer, although it has not ended yet.
        let another = scene.session("a");
        assert_eq!(scene.admit(&another, Some(REPLACE)), Ok(()));
        assert_eq!(next.stop_order().given(), Some(Stopped(Reason::OverLimit)));
    }

    #[test]
    fn a_connection_without_its_backend_replaces_none() {
        let mut scene = Scene::new();
        let open = [scene.session("a"), scene.session("a")];
        for session in &open {
            assert_eq!(scene.admit(session, Some(REPLACE)), Ok(()));
        }
        let next = scene.session("a");
        assert_eq!(scene.table.admit(&next, Some(REPLACE), &scene.sessions), Ok(()));
        scene.end(&next);
        assert!(open.iter().all(|session| session.stop_order().given().is_none()));
    }

    #[test]
    fn a_connection_over_the_limit_is_refused_if_the_operator_wants_that() {
        let mut scene = Scene::new();
        let open = [scene.session("a"), scene.session("a")];
        for session in &open {
            assert_eq!(scene.admit(session, Some(REFUSE)), Ok(()));
        }
        let third = scene.session("a");
        assert_eq!(scene.admit(&third, Some(REFUSE)), Err(2));
        scene.end(&third);
        assert!(open.iter().all(|session| session.stop_order().given().is_none()));
        scene.end(&open[0]);
        let another = scene.session("a");
        assert_eq!(scene.admit(&another, Some(REFUSE)), Ok(()));
    }

    #[test]
    fn sessions_that_began_before_the_limit_count_and_the_table_lives_with_them() {
        let mut scene = Scene::new();
        let before = [scene.session("a"), scene.session("a"), scene.session("a")];
        for session in &before {
            assert_eq!(scene.admit(session, None), Ok(()));
        }
        assert_eq!(scene.listed(), 0, "no limit, no table");
        let next = scene.session("a");
        assert_eq!(scene.admit(&next, Some(REPLACE)), Ok(()));
        let stopped = before.iter().filter(|session| session.stop_order().given().is_some());
        assert_eq!(
            (scene.listed(), stopped.count()),
            (4, 1),
            "one is replaced, not all above the limit"
        );
        for session in before.iter().chain([&next]) {
            scene.end(session);
        }
        assert_eq!(scene.listed(), 0);
    }
}
