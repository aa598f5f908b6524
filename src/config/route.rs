//! The selection of a route, by the server name and the protocol of a connection.
//!
//! **Promises.** The first matching route wins. The same function selects the route before the handshake and in a
//! re-check of live sessions.
//!
//! **Not here.** The file format (`config/file.rs`), the policies (`trust/snapshot.rs`).

use super::{ListenerConfig, Route, TlsConfig};
use crate::terms::labels::NoRouteCause;

impl Route {
    /// Returns whether one of its names matches. It need not have names.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.sni.iter().any(|pattern| pattern.matches(name))
    }

    fn matches(&self, server_name: Option<&str>, alpn: Option<&[u8]>) -> bool {
        let spoken = || alpn.is_some_and(|protocol| self.alpn.iter().any(|a| a == protocol));
        self.admits_name(server_name) && (self.alpn.is_empty() || spoken())
    }

    /// Returns whether the server name meets the route's condition on names.
    fn admits_name(&self, server_name: Option<&str>) -> bool {
        self.sni.is_empty() || server_name.is_some_and(|name| self.has_name(name))
    }
}

impl ListenerConfig {
    /// Returns the place of the first route that matches a server name and an ALPN protocol.
    pub(crate) fn route(&self, server_name: Option<&str>, alpn: Option<&[u8]>) -> Option<usize> {
        self.routes.iter().position(|route| route.matches(server_name, alpn))
    }

    /// Returns the condition that a client without a route does not meet.
    pub(crate) fn no_route_cause(&self, server_name: Option<&str>) -> NoRouteCause {
        if self.routes.iter().any(|route| route.admits_name(server_name)) {
            NoRouteCause::Alpn
        } else if server_name.is_none() {
            NoRouteCause::NoSni
        } else {
            NoRouteCause::UnknownName
        }
    }

    /// Returns the TLS of each policy: the listener's own, then that of each route that has its own, with the place of
    /// the route.
    pub(crate) fn policies(&self) -> impl Iterator<Item = (Option<usize>, &TlsConfig)> {
        let routes = self.routes.iter().enumerate();
        let of_routes = routes.filter_map(|(i, route)| Some((Some(i), route.tls.as_ref()?)));
        [(None, &self.tls)].into_iter().chain(of_routes)
    }

    /// Returns the place of a route's policy in [`Self::policies`]. A route without its own has the listener's.
    pub(crate) fn policy_of(&self, route: Option<usize>) -> usize {
        let own = route.filter(|&route| self.routes[route].tls.is_some());
        own.and_then(|own| self.policies().position(|(route, _)| route == Some(own))).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BackendAddress, CertificateFiles, ClientAuth};
    use crate::terms::name_pattern::NamePattern;

    fn listener(routes: &[(&[&str], &[&str], bool)]) -> ListenerConfig {
        let backend = || "unused:1".parse::<BackendAddress>().unwrap();
        let pair = CertificateFiles { cert: "crt".into(), key: "key".into() };
        let listen = ([127, 0, 0, 1], 0).into();
        let own = TlsConfig::new(vec![pair.clone()], ClientAuth::None);
        let route = |(sni, alpn, has_tls): &(&[&str], &[&str], bool)| Route {
            sni: sni.iter().map(|s| s.parse::<NamePattern>().unwrap()).collect(),
            alpn: alpn.iter().map(|a| a.as_bytes().to_vec()).collect(),
            backend: backend().into(),
            tls: has_tls.then(|| own.clone()),
        };
        let routes = routes.iter().map(route).collect();
        let listener = ListenerConfig::new("test", listen, backend(), pair, ClientAuth::None);
        ListenerConfig { routes, ..listener }
    }

    #[test]
    fn the_first_route_that_matches_name_and_protocol_wins() {
        let listener = listener(&[
            (&["a.example"], &["mqtt"], false),
            (&["a.example", "*.b.example"], &[], false),
            (&[], &["modbus"], false),
        ]);
        let route = |name, alpn: Option<&str>| listener.route(name, alpn.map(str::as_bytes));
        assert_eq!(route(Some("a.example"), Some("mqtt")), Some(0));
        assert_eq!(route(Some("a.example"), None), Some(1));
        assert_eq!(route(Some("X.b.example"), Some("mqtt")), Some(1));
        assert_eq!(route(None, Some("modbus")), Some(2));
        assert_eq!(route(None, None), None);
        assert_eq!(route(Some("c.example"), Some("mqtt")), None);
    }

    #[test]
    fn a_client_without_a_route_has_no_name_an_unknown_name_or_another_protocol() {
        let listener =
            listener(&[(&["a.example"], &["mqtt"], false), (&["b.example"], &[], false)]);
        let names = [None, Some("c.example"), Some("a.example")];
        assert_eq!(
            names.map(|name| listener.no_route_cause(name)),
            [NoRouteCause::NoSni, NoRouteCause::UnknownName, NoRouteCause::Alpn]
        );
    }

    #[test]
    fn a_route_without_tls_keys_has_the_policy_of_its_listener() {
        let all = [false, true, false, true].map(|has_tls| (&["a"][..], &[][..], has_tls));
        let listener = listener(&all);
        let places = [None, Some(0), Some(1), Some(2), Some(3)];
        assert_eq!(places.map(|route| listener.policy_of(route)), [0, 0, 1, 0, 2]);
        let routes: Vec<_> = listener.policies().map(|(route, _)| route).collect();
        assert_eq!(routes, [None, Some(1), Some(3)]);
    }
}
