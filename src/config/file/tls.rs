//! The TLS keys of a listener, and those with which a route overrides them.
//!
//! **Promises.** Each key of a route replaces that key of its listener; a section of allow rules replaces the whole
//! section. The keys are checked together after that, and a problem is reported once, with the key that causes it.
//!
//! **Not here.** The keys about client certificates (`client_auth.rs`), the types of values (`config/values.rs`).

use toml::Spanned;

use super::allow::AllowSection;
use super::client_auth::{ClientKeys, WrittenClientKeys};
use super::client_key_places::ClientKeyPlaces;
use super::problem::Problems;
use super::rollout::into_rollout;
use super::sections::{CertificateSection, TlsSection};
use super::suites::{self, VersionPlaces};
use crate::config::{CertificateFiles, ClientAuth, TlsConfig};

/// The TLS of a listener or of a route, with the keys that a route can inherit.
pub(super) struct TlsKeys {
    pub(super) tls: TlsConfig,
    clients: ClientKeys,
}

/// The place of a section of TLS keys.
pub(super) struct TlsPlace<'a> {
    /// The key of its listener or route.
    pub(super) key: &'a str,
    /// The TLS of the listener, for a route.
    pub(super) base: Option<&'a TlsKeys>,
    /// A route that requests client certificates inherits the keys of this place.
    pub(super) is_inherited: bool,
}

impl TlsPlace<'_> {
    /// Converts the sections at this place.
    pub(super) fn read(
        &self,
        section: Spanned<TlsSection>,
        allow: Option<Spanned<AllowSection>>,
        problems: &mut Problems<'_>,
    ) -> TlsKeys {
        let key = &format!("{}.tls", self.key);
        self.check(&section, key, problems);
        let section = section.into_inner();
        let places = ClientKeyPlaces::of(&section);
        let versions = VersionPlaces::of(&section);
        let default = TlsConfig::new(Vec::new(), ClientAuth::None);
        let base = self.base.map_or(&default, |base| &base.tls);
        let certificates = match section.certificates {
            Some(pairs) => into_certificates(pairs, key, problems),
            None => base.certificates.clone(),
        };
        let written = WrittenClientKeys {
            choice: section.client_auth,
            ca: section.client_ca,
            crls: section.crls,
            crl_check: section.crl_check.map(|check| check.into_inner().0),
            crl_unknown: section.crl_unknown.map(|unknown| unknown.into_inner().0),
            crl_expired: section.crl_expired.map(|expired| expired.into_inner().0),
            accept_expired: section.accept_expired_client_certs.map(Spanned::into_inner),
            send_ca_names: section.send_ca_names.map(Spanned::into_inner),
            allow,
        };
        let clients = self.base.map(|base| &base.clients);
        let (clients, client_auth) = written.resolve(clients, self.key, problems);
        let alpn = section.alpn.map(|alpn| alpn.into_inner().into_iter().map(|a| a.0.into()));
        let ticket_keys = section.ticket_keys;
        let ticket_keys =
            ticket_keys.map(|keys| problems.named_file(&keys, &format!("{key}.ticket_keys")));
        let tls = TlsConfig {
            certificates,
            guards: section.guards.over(base.guards),
            rollout: match section.rollout {
                Some(rollout) => into_rollout(rollout, key, problems),
                None => base.rollout,
            },
            min_version: section.min_version.map_or(base.min_version, |v| v.into_inner().0),
            suites: suites::suites(section.suites, &base.suites, key, problems),
            legacy_suites: suites::legacy(
                section.legacy_suites,
                &base.legacy_suites,
                key,
                problems,
            ),
            groups: suites::groups(section.groups, &base.groups, key, problems),
            client_auth,
            alpn: alpn.map_or_else(|| base.alpn.clone(), Iterator::collect),
            max_record_bytes: section
                .max_record_bytes
                .map_or(base.max_record_bytes, |bytes| bytes.0),
            small_first_records: section.small_first_records.unwrap_or(base.small_first_records),
            tickets: section
                .tickets
                .map_or(base.tickets, |t| u8::try_from(t.0).expect("Whole<0, 4> fits in a u8")),
            ticket_keys: ticket_keys.or_else(|| base.ticket_keys.clone()),
            max_session_age: section.max_session_age.map_or(base.max_session_age, |age| age.0.0),
            max_chain_certificates: section
                .max_chain_certificates
                .map_or(base.max_chain_certificates, |most| most.into_inner().0 as usize),
            max_chain_bytes: section
                .max_chain_bytes
                .map_or(base.max_chain_bytes, |most| most.into_inner().0.0),
            allow_v1: section.allow_v1.map_or(base.allow_v1, Spanned::into_inner),
            recheck: section.recheck.map_or(base.recheck, Spanned::into_inner),
            recheck_spread: section
                .recheck_spread
                .map_or(base.recheck_spread, |spread| spread.into_inner().0.0),
        };
        versions.check(&tls, key, problems);
        if !self.is_inherited {
            places.check((&tls, &clients), key, problems);
        }
        TlsKeys { tls, clients }
    }

    /// Adds problems about keys that are missing here, or not allowed.
    fn check(&self, section: &Spanned<TlsSection>, key: &str, problems: &mut Problems<'_>) {
        let (span, section) = (section.span(), section.as_ref());
        let has_none = match (&section.certificates, self.base) {
            (None, base) => base.is_none(),
            (Some(pairs), _) => pairs.is_empty(),
        };
        if has_none {
            let allowed = "a list such as [{ cert = \"tls.crt\", key = \"tls.key\" }]";
            problems.missing(&span, key, "certificates", allowed);
        }
        if let (Some(alpn), Some(_)) = (&section.alpn, self.base) {
            let message = "found alpn in a route, expected it in [listener.tls]: the protocol is \
                           selected before the route";
            problems.at(alpn.span(), &format!("{key}.alpn"), message);
        }
    }
}

fn into_certificates(
    pairs: Vec<Spanned<CertificateSection>>,
    key: &str,
    problems: &mut Problems<'_>,
) -> Vec<CertificateFiles> {
    let pairs = pairs.into_iter().enumerate();
    let pair = |(i, pair)| into_files(pair, &format!("{key}.certificates[{i}]"), problems);
    pairs.filter_map(pair).collect()
}

fn into_files(
    section: Spanned<CertificateSection>,
    key: &str,
    problems: &mut Problems<'_>,
) -> Option<CertificateFiles> {
    let span = section.span();
    let section = section.into_inner();
    // `crt = "tls.crt"` is one problem, not an unknown key and a missing one.
    if problems.has_unknown(key, &["cert", "key"]) {
        return None;
    }
    let cert = problems.required(section.cert, &span, key, "cert", "a PEM file");
    let private = problems.required(section.key, &span, key, "key", "a PEM file");
    Some(CertificateFiles {
        cert: problems.named_file(&cert?, &format!("{key}.cert")),
        key: problems.named_file(&private?, &format!("{key}.key")),
    })
}
