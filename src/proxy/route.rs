//! Which backend a connection goes to: pure, from the routes, the server name and ALPN.
//!
//! **Promises.** The first route that matches wins; without one, the listener's own backend.
//!
//! **Not here.** How a pattern matches a name (`config.rs`), dialling (`backend.rs`).

use crate::config::{BackendAddress, ListenerConfig, Route};
use crate::terms::reason::Reason;

/// No route takes the connection and the listener has no backend of its own.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no route for this server name and protocol")]
pub(crate) struct NoRoute;

impl NoRoute {
    /// The stable reason for this error.
    pub(crate) const fn reason(&self) -> Reason {
        Reason::NoRoute
    }
}

/// The backend of the first route that matches, or else the listener's own.
///
/// # Errors
/// If there is neither.
pub(crate) fn pick<'a>(
    listener: &'a ListenerConfig,
    server_name: Option<&str>,
    alpn: Option<&[u8]>,
) -> Result<&'a BackendAddress, NoRoute> {
    let matching = listener.routes.iter().find(|route| matches(route, server_name, alpn));
    matching.map(|route| &route.backend).or(listener.backend.as_ref()).ok_or(NoRoute)
}

fn matches(route: &Route, server_name: Option<&str>, alpn: Option<&[u8]>) -> bool {
    let named = || server_name.is_some_and(|name| route.sni.iter().any(|p| p.matches(name)));
    let spoken = || alpn.is_some_and(|protocol| route.alpn.iter().any(|a| a == protocol));
    (route.sni.is_empty() || named()) && (route.alpn.is_empty() || spoken())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CertificateFiles, ClientAuth};
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
        pick(listener, name, alpn.map(str::as_bytes)).map(ToString::to_string)
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
    fn without_a_match_and_a_backend_of_its_own_there_is_no_route() {
        let listener = listener(None, &[(&["a.example"], &[], "a:1")]);
        assert_eq!(picked(&listener, Some("b.example"), None), Err(NoRoute));
        assert_eq!(picked(&listener, None, None), Err(NoRoute));
    }
}
