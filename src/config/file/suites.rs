//! The keys `suites`, `legacy_suites` and `groups` of the TLS keys.
//!
//! **Promises.** A value that occurs twice is a problem, and so is a choice with which no client could connect.
//!
//! **Not here.** The names (`config/suites.rs`), suites that fit no certificate (`trust/policy.rs`).

use std::fmt;
use std::ops::Range;

use toml::Spanned;

use super::problem::Problems;
use super::sections::TlsSection;
use super::text::Texts;
use crate::config::suites::{LegacySuite, UsualSuite};
use crate::config::{AcceptedVersions, KeyGroup, TlsConfig};
use crate::terms::labels::Cipher;

/// Returns the suites of the section `section`, or those of `base` without the key.
pub(super) fn suites(
    written: Texts<UsualSuite>,
    base: &[Cipher],
    section: &str,
    problems: &mut Problems<'_>,
) -> Vec<Cipher> {
    list(written, base, &format!("{section}.suites"), |UsualSuite(cipher)| cipher, problems)
}

/// Returns the legacy suites of the section `section`, or those of `base` without the key.
pub(super) fn legacy(
    written: Texts<LegacySuite>,
    base: &[Cipher],
    section: &str,
    problems: &mut Problems<'_>,
) -> Vec<Cipher> {
    list(written, base, &format!("{section}.legacy_suites"), |LegacySuite(suite)| suite, problems)
}

/// Returns the groups of the section `section`, or those of `base` without the key.
pub(super) fn groups(
    written: Texts<KeyGroup>,
    base: &[KeyGroup],
    section: &str,
    problems: &mut Problems<'_>,
) -> Vec<KeyGroup> {
    list(written, base, &format!("{section}.groups"), |group| group, problems)
}

fn list<T, V: Copy + PartialEq + fmt::Display>(
    written: Texts<T>,
    base: &[V],
    key: &str,
    value: impl Fn(T) -> V,
    problems: &mut Problems<'_>,
) -> Vec<V> {
    let Some(written) = written else { return base.to_vec() };
    let mut values = Vec::new();
    for name in written.into_inner() {
        let span = name.span();
        let named = value(name.into_inner().0);
        if values.contains(&named) {
            problems.at(span, key, &format!("found {named} twice"));
        } else {
            values.push(named);
        }
    }
    values
}

/// The places of the keys in a section that decide about versions.
pub(super) struct VersionPlaces {
    suites: Option<Range<usize>>,
    groups: Option<Range<usize>>,
    min_version: Option<Range<usize>>,
}

impl VersionPlaces {
    pub(super) fn of(section: &TlsSection) -> Self {
        Self {
            suites: section.suites.as_ref().map(Spanned::span),
            groups: section.groups.as_ref().map(Spanned::span),
            min_version: section.min_version.as_ref().map(Spanned::span),
        }
    }

    /// Adds a problem if no version is left, at the first of these keys that the section has.
    pub(super) fn check(self, tls: &TlsConfig, section: &str, problems: &mut Problems<'_>) {
        let AcceptedVersions { tls12, tls13 } = tls.versions();
        if tls12 || tls13 {
            return;
        }
        let keys =
            [("suites", self.suites), ("groups", self.groups), ("min_version", self.min_version)];
        let written = keys.into_iter().find_map(|(key, place)| Some((key, place?)));
        // An invalid value has its own problem; without it the section may be another one.
        if let Some((key, place)) = written.filter(|_| !is_invalid(section, problems)) {
            let message = format!(
                "found no version of TLS that has min_version = \"{}\", one of the suites and one of the groups; \
                 expected a suite of TLS 1.3 or, from \"1.2\" on, one of TLS 1.2 with a group other than \
                 X25519MLKEM768",
                tls.min_version
            );
            problems.at(place, &format!("{section}.{key}"), &message);
        }
    }
}

fn is_invalid(section: &str, problems: &Problems<'_>) -> bool {
    ["suites", "groups", "min_version"]
        .iter()
        .any(|key| problems.is_invalid(&format!("{section}.{key}")))
}
