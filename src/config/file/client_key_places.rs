//! The keys about client certificates that have no effect where none are requested.
//!
//! **Promises.** Such a key is a problem if it is written with another value than the default. A route may inherit it,
//! and a listener may have it for its routes.
//!
//! **Not here.** The client CA and the allow rules, without which nothing is verified (`client_auth.rs`).

use std::ops::Range;

use toml::Spanned;

use super::client_auth::{ClientKeys, without_client_auth};
use super::problem::Problems;
use super::sections::{ListenerSection, TlsSection};
use super::text::AuthChoice;
use crate::config::{ClientAuth, CrlRules, TlsConfig};

/// The places of these keys in a section; none for those that are not in it.
pub(super) struct ClientKeyPlaces {
    crls: Option<Range<usize>>,
    crl_check: Option<Range<usize>>,
    crl_unknown: Option<Range<usize>>,
    crl_expired: Option<Range<usize>>,
    accept_expired_client_certs: Option<Range<usize>>,
    send_ca_names: Option<Range<usize>>,
    max_chain_certificates: Option<Range<usize>>,
    max_chain_bytes: Option<Range<usize>>,
    allow_v1: Option<Range<usize>>,
    recheck: Option<Range<usize>>,
    recheck_spread: Option<Range<usize>>,
}

impl ClientKeyPlaces {
    pub(super) fn of(section: &TlsSection) -> Self {
        fn span<T>(written: Option<&Spanned<T>>) -> Option<Range<usize>> {
            written.map(Spanned::span)
        }
        Self {
            crls: section.crls.iter().flatten().next().map(Spanned::span),
            crl_check: span(section.crl_check.as_ref()),
            crl_unknown: span(section.crl_unknown.as_ref()),
            crl_expired: span(section.crl_expired.as_ref()),
            accept_expired_client_certs: span(section.accept_expired_client_certs.as_ref()),
            send_ca_names: span(section.send_ca_names.as_ref()),
            max_chain_certificates: span(section.max_chain_certificates.as_ref()),
            max_chain_bytes: span(section.max_chain_bytes.as_ref()),
            allow_v1: span(section.allow_v1.as_ref()),
            recheck: span(section.recheck.as_ref()),
            recheck_spread: span(section.recheck_spread.as_ref()),
        }
    }

    /// Adds a problem for each of them that has no effect, in the section `section` with these values.
    pub(super) fn check(
        self,
        (tls, clients): (&TlsConfig, &ClientKeys),
        section: &str,
        problems: &mut Problems<'_>,
    ) {
        if clients.choice != AuthChoice::None
            || problems.is_invalid(&format!("{section}.client_auth"))
        {
            return;
        }
        let (usual, rules) = (TlsConfig::new(Vec::new(), ClientAuth::None), CrlRules::default());
        let found = [
            ("crls", self.crls, true),
            ("crl_check", self.crl_check, clients.crl_rules.check != rules.check),
            ("crl_unknown", self.crl_unknown, clients.crl_rules.unknown != rules.unknown),
            ("crl_expired", self.crl_expired, clients.crl_rules.expired != rules.expired),
            (
                "accept_expired_client_certs",
                self.accept_expired_client_certs,
                clients.accept_expired,
            ),
            ("send_ca_names", self.send_ca_names, clients.send_ca_names),
            (
                "max_chain_certificates",
                self.max_chain_certificates,
                tls.max_chain_certificates != usual.max_chain_certificates,
            ),
            ("max_chain_bytes", self.max_chain_bytes, tls.max_chain_bytes != usual.max_chain_bytes),
            ("allow_v1", self.allow_v1, tls.allow_v1 != usual.allow_v1),
            ("recheck", self.recheck, tls.recheck != usual.recheck),
            ("recheck_spread", self.recheck_spread, tls.recheck_spread != usual.recheck_spread),
        ];
        for (key, place, has_no_effect) in found {
            if let Some(span) = place.filter(|_| has_no_effect) {
                without_client_auth(&format!("{section}.{key}"), key, span, problems);
            }
        }
    }
}

/// Returns whether a route of a listener requests client certificates by its own key. An invalid key counts as one.
pub(super) fn a_route_requests(
    section: &ListenerSection,
    key: &str,
    problems: &Problems<'_>,
) -> bool {
    let mut routes = section.route.iter().enumerate();
    routes.any(|(i, route)| {
        let tls = route.as_ref().tls.as_ref().map(Spanned::as_ref);
        requests(tls, &format!("{key}.route[{i}].tls"), problems)
    })
}

/// Adds a problem for a limit by identity where no client has one.
pub(super) fn check_identity_limit(
    section: &ListenerSection,
    key: &str,
    problems: &mut Problems<'_>,
) {
    let tls = section.tls.as_ref().map(Spanned::as_ref);
    // A listener without TLS has another problem.
    let has_clients = tls.is_none()
        || requests(tls, &format!("{key}.tls"), problems)
        || a_route_requests(section, key, problems);
    let limit = section.limits.max_connections_per_identity.as_ref();
    if let Some(limit) = limit.filter(|limit| limit.as_ref().0 > 0 && !has_clients) {
        let name = "max_connections_per_identity";
        without_client_auth(&format!("{key}.limits.{name}"), name, limit.span(), problems);
    }
}

fn requests(tls: Option<&TlsSection>, key: &str, problems: &Problems<'_>) -> bool {
    let choice = tls.and_then(|tls| tls.client_auth.as_ref()).map(|choice| choice.as_ref().0);
    choice.is_some_and(|choice| choice != AuthChoice::None)
        || problems.is_invalid(&format!("{key}.client_auth"))
}
