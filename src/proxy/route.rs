//! Selects the backend of a connection from its server name (SNI) and ALPN protocol.
//!
//! **Promises.** The first matching route wins. If none matches, the listener's own backend is used.
//!
//! **Not here.** Matching of names (`config.rs`), connecting (`backend.rs`).

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::backend::Backend;
use super::backend::lookup::{self, KeptNames};
use crate::config::{ListenerConfig, Route};
use crate::metrics::ListenerMetrics;
use crate::sessions::stop::Stopped;
use crate::terms::reason::Reason;
use crate::trust::identity::Identity;
use crate::trust::recheck;
use crate::trust::snapshot::Snapshot;

/// A snapshot and the backends of its routes.
pub(crate) struct Routes {
    pub(crate) snapshot: Arc<Snapshot>,
    /// In the order of [`ListenerConfig::backends`].
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

    /// Checks a client again if its handshake began before the last reload, whose check of live sessions may have
    /// come before the client was known. `identity` is the one that the session has.
    ///
    /// # Errors
    /// The current snapshot refuses the client.
    pub(crate) fn check_latest(&self, identity: Option<&Identity>) -> Result<(), Stopped> {
        let latest = self.latest.borrow();
        if Arc::ptr_eq(&latest, &self.snapshot) || !latest.listener.tls.recheck {
            return Ok(());
        }
        let refused = recheck::refused(latest.policy(), &[identity], SystemTime::now());
        refused.first().map_or(Ok(()), |(_, reason)| Err(Stopped(*reason)))
    }

    /// Returns the backend for a server name and an ALPN protocol.
    ///
    /// # Errors
    /// If no route matches and the listener has no backend.
    pub(crate) fn pick(
        &self,
        server_name: Option<&str>,
        alpn: Option<&[u8]>,
    ) -> Result<&Arc<Backend>, NoRoute> {
        pick(&self.snapshot.listener, server_name, alpn).map(|index| &self.backends[index])
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

/// Returns the index, in [`ListenerConfig::backends`], of the first route that matches, or else of the listener's own
/// backend.
fn pick(
    listener: &ListenerConfig,
    server_name: Option<&str>,
    alpn: Option<&[u8]>,
) -> Result<usize, NoRoute> {
    let matching = listener.routes.iter().position(|route| matches(route, server_name, alpn));
    let own = listener.backend.as_ref().map(|_| listener.routes.len());
    matching.or(own).ok_or(NoRoute)
}

fn matches(route: &Route, server_name: Option<&str>, alpn: Option<&[u8]>) -> bool {
    let named = || server_name.is_some_and(|name| route.sni.iter().any(|p| p.matches(name)));
    let spoken = || alpn.is_some_and(|protocol| route.alpn.iter().any(|a| a == protocol));
    (route.sni.is_empty() || named()) && (route.alpn.is_empty() || spoken())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BackendAddress, CertificateFiles, ClientAuth};
    use crate::terms::name_pattern::NamePattern;

    fn listener(backend: Option<&str>, routes: &[(&[&str], &[&str], &str)]) -> ListenerConfig {
        let address = |text: &str| text.parse::<BackendAddress>().unwrap();
        let pair = CertificateFiles { cert: "crt".into(), key: "key".into() };
        let listen = ([127, 0, 0, 1], 0).into();
        ListenerConfig {
            backend: backend.map(address),
            routes: routes
                .iter()
                .map(|(sni, alpn, backend)| Route {
                    sni: sni.iter().map(|s| s.parse::<NamePattern>().unwrap()).collect(),
                    alpn: alpn.iter().map(|a| a.as_bytes().to_vec()).collect(),
                    backend: address(backend),
                })
                .collect(),
            ..ListenerConfig::new("test", listen, address("unused:1"), pair, ClientAuth::None)
        }
    }

    fn picked(
        listener: &ListenerConfig,
        name: Option<&str>,
        alpn: Option<&str>,
    ) -> Result<String, NoRoute> {
        let index = pick(listener, name, alpn.map(str::as_bytes))?;
        Ok(listener.backends().nth(index).unwrap().to_string())
    }

    #[test]
    fn the_first_route_that_matches_name_and_protocol_wins() {
        let listener = listener(
            Some("own:1"),
            &[
                (&["a.example"], &["mqtt"], "a-mqtt:1"),
                (&["a.example", "*.b.example"], &[], "a-or-b:1"),
                (&[], &["modbus"], "modbus:1"),
            ],
        );
        assert_eq!(picked(&listener, Some("a.example"), Some("mqtt")).unwrap(), "a-mqtt:1");
        assert_eq!(picked(&listener, Some("a.example"), None).unwrap(), "a-or-b:1");
        assert_eq!(picked(&listener, Some("X.b.example"), Some("mqtt")).unwrap(), "a-or-b:1");
        assert_eq!(picked(&listener, None, Some("modbus")).unwrap(), "modbus:1");
        assert_eq!(picked(&listener, None, None).unwrap(), "own:1");
        assert_eq!(picked(&listener, Some("c.example"), Some("mqtt")).unwrap(), "own:1");
    }

    #[test]
    fn without_a_match_and_without_a_backend_there_is_no_route() {
        let listener = listener(None, &[(&["a.example"], &[], "a:1")]);
        assert_eq!(picked(&listener, Some("b.example"), None), Err(NoRoute));
        assert_eq!(picked(&listener, None, None), Err(NoRoute));
    }
}
