//! The backends of the routes of a snapshot.
//!
//! **Promises.** A connection without a route gets the listener's own backend, if there is one.
//!
//! **Not here.** The selection of the route, which also decides the handshake (`handshake/selection.rs`), connecting
//! (`backend.rs`).

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::backend::Backend;
use super::backend::lookup::{self, KeptNames};
use crate::metrics::ListenerMetrics;
use crate::sessions::Session;
use crate::sessions::stop::Stopped;
use crate::terms::reason::Reason;
use crate::trust::recheck::{self, Verdicts};
use crate::trust::snapshot::Snapshot;

/// A snapshot and the backends of its routes.
pub(crate) struct Routes {
    pub(crate) snapshot: Arc<Snapshot>,
    /// In the order of [`crate::config::ListenerConfig::backends`].
    backends: Vec<Arc<Backend>>,
    /// Keeps the backends' names resolved.
    _names: KeptNames,
    /// The current snapshot, which may be newer.
    latest: watch::Receiver<Arc<Snapshot>>,
}

impl Routes {
    /// Returns the routes of a snapshot, with the backends of `before` as far as they stay.
    ///
    /// # Errors
    /// If no thread can be started to resolve names. The routes are complete; names are resolved later.
    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        latest: watch::Receiver<Arc<Snapshot>>,
        metrics: &ListenerMetrics,
        before: Option<&Self>,
    ) -> (Self, io::Result<()>) {
        let (names, started) = lookup::keep(snapshot.listener.backends());
        let kept = || before.iter().flat_map(|before| &before.backends);
        let backend = |address| Backend::of(address, metrics, kept());
        let backends = snapshot.listener.backends().map(backend).collect();
        (Self { snapshot, backends, _names: names, latest }, started)
    }

    /// Checks the client of a complete handshake with the current snapshot. The check of live sessions after a reload may
    /// have come before the client was known, and its certificate may have expired since it was verified. Returns the
    /// last second in which the client's certificates are valid, in Unix time, if the session ends then.
    ///
    /// # Errors
    /// The current snapshot refuses the client.
    pub(crate) fn check_latest(&self, session: &Session) -> Result<Option<i64>, Stopped> {
        let latest = Arc::clone(&self.latest.borrow());
        let policy = latest.policy_of(session.route(&latest));
        if !policy.recheck {
            return Ok(None);
        }
        let (identity, now) = (session.identity.get().map(AsRef::as_ref), SystemTime::now());
        if Arc::ptr_eq(&latest, &self.snapshot) {
            let Some(identity) = identity else { return Ok(None) };
            return recheck::valid_until(policy, identity, now).map_err(Stopped);
        }
        let Verdicts { refused, valid_until } = recheck::check(policy, &[identity], now);
        match refused.first() {
            Some((_, reason)) => Err(Stopped(*reason)),
            None => Ok(valid_until),
        }
    }

    /// Returns the backend of a route; without a route, the listener's own.
    ///
    /// # Errors
    /// If there is no route, and the listener has no backend.
    pub(crate) fn backend(&self, route: Option<usize>) -> Result<&Arc<Backend>, NoRoute> {
        // The listener's own backend is the last one.
        let place = route.unwrap_or(self.snapshot.listener.routes.len());
        self.backends.get(place).ok_or(NoRoute)
    }
}

/// No route matches, and the listener has no backend.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no route for this server name and protocol")]
pub(crate) struct NoRoute;

impl NoRoute {
    /// Returns the stable reason for this error.
    pub(crate) const fn reason(&self) -> Reason {
        Reason::NoRoute
    }
}
