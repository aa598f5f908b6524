//! The identity of a client, from its verified certificate, with what allow rules need.
//!
//! A client's identity is its certificate's first URI SAN, else its first DNS SAN, else its CN, else
//! the subject's serialNumber.
//!
//! **Promises.** An identity is bounded: [`MAX_NAMES`] names and as many organizational units of
//! [`MAX_NAME_CHARS`] characters, each on one line. A name that was changed for that matches no rule.
//!
//! **Not here.** The verification of the certificate (`certs/verifier.rs`), the rules (`allow.rs`).

use tokio_rustls::rustls::pki_types::CertificateDer;

use super::x509::{self, NameKind};
use crate::terms::rule_pattern::MAX_NAME_CHARS;
use crate::text::one_line;

/// Names, and organizational units, that are kept at most.
const MAX_NAMES: usize = 8;

/// The names, the key and the end of validity of a verified client certificate. A session keeps it, so that it
/// can be compared with later rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// URIs, then DNS names, then common names. The first is the identity.
    pub(crate) names: Box<[Box<str>]>,
    /// The organizational units of the subject, as far as they are unchanged.
    pub(super) units: Box<[Box<str>]>,
    /// The end of validity in Unix time.
    pub(crate) not_after: i64,
    /// The SHA-256 of the encoded SubjectPublicKeyInfo.
    pub(super) key: [u8; 32],
    kinds: Kinds,
}

/// The kinds of up to [`MAX_NAMES`] names, two bits each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kinds(u16);

impl Kinds {
    /// Adds the kind of the name at this index. None is for a name that matches no rule.
    const fn set(&mut self, index: usize, kind: Option<NameKind>) {
        let bits = match kind {
            None | Some(NameKind::SerialNumber) => 0,
            Some(NameKind::Uri) => 1,
            Some(NameKind::Dns) => 2,
            Some(NameKind::CommonName) => 3,
        };
        self.0 |= bits << (2 * index);
    }

    const fn get(self, index: usize) -> Option<NameKind> {
        match self.0 >> (2 * index) & 3 {
            1 => Some(NameKind::Uri),
            2 => Some(NameKind::Dns),
            3 => Some(NameKind::CommonName),
            _ => None,
        }
    }
}

/// Returns the identity in a verified certificate.
pub(crate) fn of(leaf: &CertificateDer<'_>) -> Identity {
    // A verified certificate can be parsed. If not, the client has no name and matches no rule.
    let Ok(info) = x509::client_cert_info(leaf) else {
        let (names, units) = (Box::default(), Box::default());
        return Identity {
            names,
            units,
            not_after: i64::MAX,
            key: [0; 32],
            kinds: Kinds::default(),
        };
    };
    let names = info.names.iter().filter(|(_, name)| !name.is_empty()).take(MAX_NAMES);
    let mut kinds = Kinds::default();
    let names = names.enumerate().map(|(i, (kind, name))| {
        let kept = bounded(name);
        kinds.set(i, Some(*kind).filter(|_| *kept == **name));
        kept
    });
    let units = info.units.iter().filter(|unit| *bounded(unit) == ***unit);
    Identity {
        names: names.collect(),
        units: units.take(MAX_NAMES).map(|unit| unit.as_str().into()).collect(),
        not_after: info.not_after.timestamp(),
        key: info.key,
        kinds,
    }
}

impl Identity {
    /// Returns each name that a rule can match, with its kind.
    pub(super) fn ruled_names(&self) -> impl Iterator<Item = (NameKind, &str)> {
        let named = self.names.iter().enumerate();
        named.filter_map(|(i, name)| Some((self.kinds.get(i)?, &**name)))
    }
}

/// Returns a name on one line, cut to [`MAX_NAME_CHARS`] characters. An ellipsis would not match a filter.
fn bounded(name: &str) -> Box<str> {
    let end = name.char_indices().nth(MAX_NAME_CHARS).map_or(name.len(), |(end, _)| end);
    one_line(&name[..end]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_truncated_and_has_no_control_characters() {
        assert_eq!(&*bounded("sensor-1"), "sensor-1");
        assert_eq!(&*bounded("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(bounded(&"x".repeat(1000)).len(), MAX_NAME_CHARS);
    }

    #[test]
    fn the_kinds_of_eight_names_are_kept() {
        let kinds = [Some(NameKind::CommonName), None, Some(NameKind::Uri), Some(NameKind::Dns)];
        let mut kept = Kinds::default();
        (0..MAX_NAMES).for_each(|i| kept.set(i, kinds[i % kinds.len()]));
        assert!((0..MAX_NAMES).all(|i| kept.get(i) == kinds[i % kinds.len()]));
    }

    #[test]
    fn an_identity_takes_eighty_bytes_and_its_texts() {
        // A session keeps one for weeks.
        assert!(size_of::<Identity>() <= 80, "{}", size_of::<Identity>());
    }
}
