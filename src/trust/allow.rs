//! Allow rules: which verified clients may connect.
//!
//! **Promises.** A client is admitted if there are no rules, or if any rule matches. A rule without a star costs
//! one look-up in a hash table, however many there are. The digest depends only on the set of rules, not on
//! their order or their place.
//!
//! **Not here.** The syntax of rules (`config/allow.rs`, `terms/rule_pattern.rs`), the verification before
//! them (`certs/verifier.rs`).

use std::collections::{BTreeSet, HashSet};

use super::digest::Digest;
use super::identity::{Identity, KeyId, key_id};
use super::x509::NameKind;
use crate::config::AllowRules;
use crate::terms::name_pattern::NamePattern;
use crate::terms::rule_pattern::{TextPattern, UriPattern, folded, text_matches, uri_matches};

/// The allow rules of a policy.
#[derive(Debug, Default)]
pub(crate) struct AllowList {
    /// None: every verified client is admitted.
    rules: Option<Rules>,
}

#[derive(Debug)]
struct Rules {
    uris: Names,
    dns: Names,
    common_names: Names,
    units: Names,
    keys: HashSet<KeyId>,
    digest: Digest,
}

/// The rules for one kind of names.
#[derive(Debug, Default)]
struct Names {
    exact: HashSet<Box<str>>,
    patterns: Vec<Box<str>>,
}

impl AllowList {
    /// Makes the list of the rules of the configuration and of its file. Without either, every verified client is
    /// admitted; with a file that has no rules, none is.
    pub(crate) fn new(own: &AllowRules, file: Option<&AllowRules>) -> Self {
        let has_rules = own.count() > 0 || file.is_some();
        let all = || [Some(own), file].into_iter().flatten();
        let rules = has_rules.then(|| {
            let uris = texts(all().flat_map(|rules| &rules.uri).map(UriPattern::as_str));
            let dns = texts(all().flat_map(|rules| &rules.dns).map(NamePattern::as_str));
            let common_names = texts(all().flat_map(|rules| &rules.cn).map(TextPattern::as_str));
            let units = texts(all().flat_map(|rules| &rules.ou).map(TextPattern::as_str));
            let keys: BTreeSet<_> =
                all().flat_map(|rules| &rules.spki_sha256).map(|key| key.0).collect();
            let digest = digest([&uris, &dns, &common_names, &units], &keys);
            Rules {
                uris: Names::new(uris),
                dns: Names::new(dns),
                common_names: Names::new(common_names),
                units: Names::new(units),
                keys: keys.iter().map(key_id).collect(),
                digest,
            }
        });
        Self { rules }
    }

    /// Returns whether a verified client is admitted.
    pub(crate) fn admits(&self, client: &Identity) -> bool {
        self.rules.as_ref().is_none_or(|rules| rules.admit(client))
    }

    /// Returns the number of rules.
    pub(crate) fn count(&self) -> usize {
        self.without(&Self::default())
    }

    /// Returns the number of rules that `other` has not.
    pub(crate) fn without(&self, other: &Self) -> usize {
        let Some(rules) = &self.rules else { return 0 };
        let other = other.rules.as_ref();
        let names = [
            (&rules.uris, other.map(|other| &other.uris)),
            (&rules.dns, other.map(|other| &other.dns)),
            (&rules.common_names, other.map(|other| &other.common_names)),
            (&rules.units, other.map(|other| &other.units)),
        ];
        let keys = rules.keys.iter().filter(|key| other.is_none_or(|o| !o.keys.contains(*key)));
        names.map(|(own, other)| own.without(other)).iter().sum::<usize>() + keys.count()
    }

    /// Returns the digest of the rules; none if every verified client is admitted.
    pub(crate) fn digest(&self) -> Option<&Digest> {
        self.rules.as_ref().map(|rules| &rules.digest)
    }
}

impl Rules {
    fn admit(&self, client: &Identity) -> bool {
        let by_name = |(kind, name): (NameKind, &str)| match kind {
            NameKind::Uri => self.uris.matches(name, uri_matches),
            // A star in a rule for DNS names is a whole label, which the syntax ensures.
            NameKind::Dns => self.dns.matches(&folded(name), text_matches),
            NameKind::CommonName => self.common_names.matches(&folded(name), text_matches),
            NameKind::SerialNumber => false,
        };
        self.keys.contains(&client.key)
            || client.ruled_names().any(by_name)
            || client.units.iter().any(|unit| self.units.matches(&folded(unit), text_matches))
    }
}

impl Names {
    fn new(rules: BTreeSet<&str>) -> Self {
        let (patterns, exact): (Vec<_>, Vec<_>) =
            rules.into_iter().partition(|rule| rule.contains('*'));
        Self {
            exact: exact.into_iter().map(Box::from).collect(),
            patterns: patterns.into_iter().map(Box::from).collect(),
        }
    }

    /// Returns the number of rules that `other` has not.
    fn without(&self, other: Option<&Self>) -> usize {
        let has = |rule: &str| {
            other.is_some_and(|o| o.exact.contains(rule) || o.patterns.iter().any(|p| **p == *rule))
        };
        self.exact.iter().chain(&self.patterns).filter(|rule| !has(rule)).count()
    }

    fn matches(&self, name: &str, matches: fn(&str, &str) -> bool) -> bool {
        self.exact.contains(name) || self.patterns.iter().any(|pattern| matches(pattern, name))
    }
}

fn texts<'a>(rules: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    rules.collect()
}

fn digest(names: [&BTreeSet<&str>; 4], keys: &BTreeSet<[u8; 32]>) -> Digest {
    let of_names = names.map(|names| Digest::of(names.iter().map(|name| name.as_bytes())));
    let of_keys = Digest::of(keys.iter().map(<[u8; 32]>::as_slice));
    Digest::of(of_names.iter().chain([&of_keys]).map(Digest::as_bytes))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData, SanType};
    use tokio_rustls::rustls::pki_types::CertificateDer;

    use super::*;
    use crate::config::SpkiSha256;
    use crate::trust::digest::sha256;
    use crate::trust::identity;

    /// Returns the certificate of a device, and the digest of its key.
    fn device() -> (CertificateDer<'static>, [u8; 32]) {
        let mut params = CertificateParams::new(vec!["pump-7.plant.example".to_owned()]).unwrap();
        let uri = "spiffe://plant-a/device/pump-7".try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        params.distinguished_name.push(DnType::CommonName, "Pump 7");
        params.distinguished_name.push(DnType::OrganizationalUnitName, "Line 2");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.der().clone(), sha256(&key.subject_public_key_info()))
    }

    fn rules(key: &str, value: &str) -> AllowRules {
        let text = format!("{key} = [{value:?}]");
        crate::config::file::parse_allow_file(&text, std::path::Path::new("")).unwrap()
    }

    #[test]
    fn each_kind_of_rule_matches_its_own_names_only() {
        let (leaf, key) = device();
        let client = identity::of(&leaf);
        let admits = |rules: &AllowRules| AllowList::new(rules, None).admits(&client);
        let hex = key.map(|byte| format!("{byte:02x}")).concat();
        let names = [
            ("uri", "spiffe://plant-a/device/*"),
            ("dns", "*.PLANT.example"),
            ("cn", "pump 7"),
            ("ou", "LINE *"),
            ("spki_sha256", &hex),
        ];
        for (kind, value) in names {
            assert!(admits(&rules(kind, value)), "{kind} {value}");
        }
        for (kind, value) in [
            ("uri", "spiffe://plant-b/device/*"),
            ("dns", "*.example"),
            ("dns", "plant.example"),
            ("cn", "pump-7.plant.example"),
            ("cn", "line 2"),
            ("ou", "pump 7"),
            ("spki_sha256", &"00".repeat(32)),
        ] {
            assert!(!admits(&rules(kind, value)), "{kind} {value}");
        }
    }

    #[test]
    fn without_rules_everyone_is_admitted_and_with_an_empty_file_nobody() {
        let client = identity::of(&device().0);
        let none = AllowRules::default();
        assert!(AllowList::new(&none, None).admits(&client));
        assert!(AllowList::new(&none, None).digest().is_none());
        assert!(!AllowList::new(&none, Some(&none)).admits(&client));
        let other = AllowRules { spki_sha256: vec![SpkiSha256([1; 32])], ..none };
        assert!(AllowList::new(&other, Some(&rules("cn", "Pump *"))).admits(&client));
        assert!(!AllowList::new(&other, None).admits(&client));
    }

    #[test]
    fn the_digest_depends_on_the_rules_and_not_on_their_order() {
        let digest = |text: &str| {
            let rules = crate::config::file::parse_allow_file(text, std::path::Path::new(""));
            *AllowList::new(&rules.unwrap(), None).digest().unwrap()
        };
        assert_eq!(digest("cn = [\"a\", \"b\"]"), digest("cn = [\"B\", \"a\", \"b\"]"));
        assert_ne!(digest("cn = [\"a\"]"), digest("ou = [\"a\"]"));
        assert_ne!(digest("cn = [\"a\"]"), digest("cn = [\"a\", \"b\"]"));
    }
}
