//! The backends of the routes of a snapshot.
//!
//! **Promises.** A connection without a route gets the listener's own backend, if there is one.
//!
//! **Not here.** The selection of the route, which also decides the handshake (`handshake/selection.rs`), connecting
//! (`backend.rs`).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::backend::lookup::{self, KeptNames};
use super::backend::{Backend, Check, ConnectBounds, Pool};
use crate::config::{BackendAddress, BackendList};
use crate::metrics::ListenerMetrics;
use crate::sessions::Session;
use crate::sessions::stop::Stopped;
use crate::terms::labels::NoRouteCause;
use crate::terms::reason::Reason;
use crate::trust::recheck::{self, Verdicts};
use crate::trust::snapshot::Snapshot;

/// A snapshot and the backends of its routes.
pub(crate) struct Routes {
    pub(crate) snapshot: Arc<Snapshot>,
    /// In the order of [`crate::config::ListenerConfig::backends`].
    pools: Vec<Pool>,
    /// The backends of all pools, each once.
    backends: Vec<Arc<Backend>>,
    checks: Vec<Arc<Check>>,
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
        let config = &snapshot.listener;
        let (names, started) = lookup::keep(config.backends());
        let mut backends: BTreeMap<String, Arc<Backend>> = BTreeMap::new();
        let mut backend = |address: &BackendAddress| {
            let kept = || before.iter().flat_map(|before| &before.backends);
            let new = || Backend::of(address, metrics, kept());
            Arc::clone(backends.entry(address.to_string()).or_insert_with(new))
        };
        let mut pool = |list: &BackendList| {
            Pool::new(list.addresses().iter().map(&mut backend).collect(), config.balance)
        };
        let pools = config.backends().map(&mut pool).collect();
        let backends: Vec<_> = backends.into_values().collect();
        for backend in &backends {
            backend.set_limit(config.balance.max_connects_in_progress);
        }
        let before = before.map(|before| before.checks.as_slice());
        let interval = config.balance.check_interval;
        let checks = Check::all(&backends, interval, ConnectBounds::of(config, None), before);
        (Self { snapshot, pools, backends, checks, _names: names, latest }, started)
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
        let Verdicts { refused, valid_until, overdue: _ } =
            recheck::check(policy, &[identity], now);
        match refused.first() {
            Some((_, reason)) => Err(Stopped(*reason)),
            None => Ok(valid_until),
        }
    }

    /// Returns the backend of a route; without a route, the listener's own. `server_name` is that of the client.
    ///
    /// # Errors
    /// If there is no route, and the listener has no backend.
    pub(crate) fn backend(
        &self,
        route: Option<usize>,
        server_name: Option<&str>,
    ) -> Result<&Pool, NoRoute> {
        // The listener's own backend is the last one.
        let place = route.unwrap_or(self.snapshot.listener.routes.len());
        self.pools.get(place).ok_or_else(|| NoRoute(self.snapshot.no_route_cause(server_name)))
    }
}

/// No route matches, and the listener has no backend.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", description(*.0))]
pub(crate) struct NoRoute(pub(crate) NoRouteCause);

impl NoRoute {
    /// Returns the stable reason for this error.
    pub(crate) const fn reason(&self) -> Reason {
        Reason::NoRoute
    }
}

const fn description(cause: NoRouteCause) -> &'static str {
    match cause {
        NoRouteCause::NoSni => {
            "the client sent no server name, every route has names (`sni`), and the listener has no backend"
        }
        NoRouteCause::UnknownName => {
            "no route has the client's server name (`sni`), and the listener has no backend"
        }
        NoRouteCause::Alpn => {
            "the route for this server name has other protocols (`alpn`), and the listener has no backend"
        }
    }
}
