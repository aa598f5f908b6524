//! Guards: which requests to the admin port are refused before they are answered.
//!
//! A web page in a browser on this machine can send requests to a loopback port. Guards keep it from reading
//! anything and from triggering anything.
//!
//! **Promises.** curl, the kubelet and the command line pass every guard.
//!
//! **Not here.** The guard of each route (`admin.rs`), the token (`trust/token.rs`).

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;

use crate::trust::token::TokenFile;

/// Response to a Host header that may belong to a web page.
const FOREIGN_HOST: &str = "the admin port listens on this machine alone: ask for localhost, an address or a name without a dot\n";

/// Response to a request that a web page sent.
const FOREIGN_ORIGIN: &str = "not for web pages\n";

/// The requirement that a request has to meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// None: the kubelet chooses its own Host header.
    Open,
    /// On a loopback port, the Host header must belong to this machine.
    Host,
    /// As `Host`, and the request must not come from a web page.
    NotFromBrowser,
    /// As `Host`, and the request may come from no other web page than the status page.
    OwnPage,
}

/// The scheme of a token (RFC 6750 section 2.1); schemes ignore case (RFC 9110 section 11.1).
const SCHEME: &[u8] = b"bearer ";

/// Returns true if the request has the token, or if there is none.
pub(super) fn has_token(token: Option<&TokenFile>, headers: &HeaderMap) -> bool {
    let Some(token) = token else { return true };
    let Some(value) = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes) else { return false };
    let Some((scheme, candidate)) = value.split_at_checked(SCHEME.len()) else { return false };
    scheme.eq_ignore_ascii_case(SCHEME) && token.accepts(candidate.trim_ascii())
}

impl Guard {
    /// Checks the headers of a request.
    ///
    /// # Errors
    /// The text of the refusal.
    pub(super) fn check(
        self,
        is_local: bool,
        token: Option<&TokenFile>,
        headers: &HeaderMap,
    ) -> Result<(), &'static str> {
        if self == Self::Open {
            return Ok(());
        }
        if is_local && !may_be_this_machine(headers.get(HOST)) {
            return Err(FOREIGN_HOST);
        }
        // Browsers send Origin with every POST and DELETE; curl, the kubelet and `tlsidecar drain` send none.
        let is_from_page = headers.contains_key(ORIGIN);
        let refused = match self {
            Self::Open | Self::Host => false,
            Self::NotFromBrowser => is_from_page,
            // On an address that other machines reach, a page whose name was rebound has our origin as well. It does
            // not have the token.
            Self::OwnPage => {
                let is_ours = is_same_origin(headers) && (is_local || token.is_some());
                is_from_page && !is_ours
            }
        };
        if refused { Err(FOREIGN_ORIGIN) } else { Ok(()) }
    }
}

/// Returns true if the web page that sent a request was loaded from the host and port of the request.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let origin = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    let authority = origin.and_then(|origin| origin.split_once("://")).map(|(_, at)| at);
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    authority.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
}

/// Returns whether a request over loopback may be meant for this machine.
///
/// A page of `evil.example` whose name resolves to 127.0.0.1 (DNS rebinding) could read our answers as its own.
/// Its requests carry that name. No stranger can have a name of one label, below `localhost` (RFC 6761 section
/// 6.3) or below `internal`, by which containers reach their host.
fn may_be_this_machine(host: Option<&HeaderValue>) -> bool {
    // RFC 9112 section 3.2: every browser sends it.
    let Some(host) = host else { return true };
    let Some(host) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    let last = name.trim_end_matches('.').rsplit_once('.').map_or("localhost", |(_, last)| last);
    let is_private = ["localhost", "internal"].iter().any(|own| own.eq_ignore_ascii_case(last));
    is_private || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_stranger_can_have_is_not_ours() {
        let ours = |host: &str| may_be_this_machine(Some(&HeaderValue::from_str(host).unwrap()));
        for host in ["localhost", "LocalHost.:9901", "127.0.0.1", "[::1]:9901", "192.0.2.7:80"] {
            assert!(ours(host), "{host}");
        }
        for host in ["a.localhost", "gateway:9901", "host.docker.internal:9901", "ip6-localhost"] {
            assert!(ours(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:9901", "", "a b", "127.0.0.1.evil"] {
            assert!(!ours(host), "{host}");
        }
        assert!(may_be_this_machine(None));
    }

    #[test]
    fn a_web_page_passes_the_open_guard_alone() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        headers.insert(ORIGIN, HeaderValue::from_static("http://localhost"));
        assert_eq!(Guard::NotFromBrowser.check(true, None, &headers), Err(FOREIGN_ORIGIN));
        assert_eq!(Guard::Host.check(true, None, &headers), Ok(()));
        headers.insert(HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(Guard::Host.check(true, None, &headers), Err(FOREIGN_HOST));
        assert_eq!(
            Guard::Host.check(false, None, &headers),
            Ok(()),
            "it is reached by its own name"
        );
        assert_eq!(Guard::Open.check(true, None, &headers), Ok(()));
    }
    #[test]
    fn only_a_page_of_this_port_passes_the_guard_of_the_own_page() {
        let check = |is_local, token: Option<&TokenFile>, host: &'static str, origin| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(host));
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            Guard::OwnPage.check(is_local, token, &headers)
        };
        let at = "localhost:9901";
        assert_eq!(check(true, None, at, "http://localhost:9901"), Ok(()));
        for other in ["http://localhost:3000", "http://evil.example", "null", "localhost:9901"] {
            assert_eq!(check(true, None, at, other), Err(FOREIGN_ORIGIN), "{other}");
        }
        // A name that was rebound to this machine.
        let (evil, page) = ("evil.example:9901", "http://evil.example:9901");
        assert_eq!(check(true, None, evil, page), Err(FOREIGN_HOST));
        assert_eq!(check(false, None, evil, page), Err(FOREIGN_ORIGIN));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "0123456789abcdef").unwrap();
        let (token, _) = TokenFile::load(&path).unwrap();
        assert_eq!(check(false, Some(&token), evil, page), Ok(()), "the token is checked next");
        assert_eq!(Guard::OwnPage.check(true, None, &HeaderMap::new()), Ok(()), "no browser");
    }
}
