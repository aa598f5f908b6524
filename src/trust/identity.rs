//! The identity of a client, from its verified certificate, with the facts for checking it again.
//!
//! A client's identity is its certificate's first URI SAN, else its first DNS SAN, else its CN, else
//! the subject's serialNumber.
//!
//! **Promises.** An identity is bounded: [`MAX_NAMES`] names and as many organizational units of
//! [`MAX_NAME_CHARS`] characters, each on one line. A name that was changed for that matches no rule.
//!
//! **Not here.** The verification of the certificate (`certs/verifier.rs`), the rules (`allow.rs`), the check of a
//! live session (`recheck.rs`).

use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;

use super::verified_path::VerifiedPath;
use super::x509::certificate::Certificate;
use super::x509::{self, ClientCertInfo, NameKind};
use crate::terms::rule_pattern::MAX_NAME_CHARS;
use crate::text::one_line;

/// Names, and organizational units, that are kept at most.
const MAX_NAMES: usize = 8;

/// The names, the key and the end of validity of a verified client certificate. A session keeps it, so that it
/// can be compared with later rules.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// URIs, then DNS names, then common names. The first is the identity.
    pub(crate) names: Box<[Box<str>]>,
    /// The organizational units of the subject, as far as they are unchanged.
    pub(super) units: Box<[Box<str>]>,
    /// The end of validity in Unix time.
    pub(crate) not_after: i64,
    pub(super) key: KeyId,
    pub(super) serial: SerialNumber,
    /// The path that verified it; none for a certificate that is refused.
    pub(super) path: Option<Arc<VerifiedPath>>,
    pub(super) kinds: Kinds,
}

/// The first half of the SHA-256 of an encoded SubjectPublicKeyInfo: as hard to meet with another key as the
/// signature of a P-256 key is to forge.
pub(super) type KeyId = [u8; 16];

/// Returns the ID of the key with this SHA-256.
pub(super) fn key_id(sha256: &[u8; 32]) -> KeyId {
    *sha256.first_chunk().expect("SHA-256 has 32 bytes")
}

/// The content of a serial number's INTEGER. RFC 5280 section 4.1.2.2 permits 20 bytes at most, but some CAs
/// exceed that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SerialNumber {
    Short { bytes: [u8; 20], length: u8 },
    Long(Box<[u8]>),
}

impl SerialNumber {
    pub(super) fn of(serial: &[u8]) -> Self {
        let mut bytes = [0; 20];
        match (bytes.get_mut(..serial.len()), u8::try_from(serial.len())) {
            (Some(short), Ok(length)) => {
                short.copy_from_slice(serial);
                Self::Short { bytes, length }
            }
            _ => Self::Long(serial.into()),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { bytes, length } => &bytes[..usize::from(*length)],
            Self::Long(bytes) => bytes,
        }
    }
}

/// The kinds of up to [`MAX_NAMES`] names, two bits each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kinds(pub(super) u16);

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

/// Returns the identity in a certificate that was not verified, or is verified no longer.
pub(crate) fn of(leaf: &CertificateDer<'_>) -> Identity {
    x509::client_cert_info(leaf).map_or_else(
        // The client has no name and matches no rule.
        |_| Identity {
            names: Box::default(),
            units: Box::default(),
            not_after: i64::MAX,
            key: KeyId::default(),
            kinds: Kinds::default(),
            serial: SerialNumber::of(&[]),
            path: None,
        },
        |info| Identity::new(&info, &[], None),
    )
}

impl Identity {
    /// Returns the serial number in hexadecimal, as openssl prints it.
    pub(crate) fn serial_number(&self) -> String {
        x509::serial(self.serial.as_bytes())
    }

    /// Returns the identity in a certificate that was verified by `path`.
    pub(crate) fn verified(certificate: &Certificate<'_>, path: Arc<VerifiedPath>) -> Self {
        Self::new(&certificate.client_info(), certificate.serial(), Some(path))
    }

    fn new(info: &ClientCertInfo, serial: &[u8], path: Option<Arc<VerifiedPath>>) -> Self {
        let names = info.names.iter().filter(|(_, name)| !name.is_empty()).take(MAX_NAMES);
        let mut kinds = Kinds::default();
        let names = names.enumerate().map(|(i, (kind, name))| {
            let kept = bounded(name);
            kinds.set(i, Some(*kind).filter(|_| *kept == **name));
            kept
        });
        let units = info.units.iter().filter(|unit| *bounded(unit) == ***unit);
        Self {
            names: names.collect(),
            units: units.take(MAX_NAMES).map(|unit| unit.as_str().into()).collect(),
            not_after: info.not_after.timestamp(),
            key: key_id(&info.key),
            serial: SerialNumber::of(serial),
            path,
            kinds,
        }
    }

    /// Returns the Unix time after which the certificate or one of its intermediates is expired.
    pub(crate) fn expires(&self) -> i64 {
        let path = self.path.as_ref().map_or(i64::MAX, |path| path.until);
        self.not_after.min(path)
    }

    /// Returns the first common name, if it is among the kept names and unchanged.
    pub(crate) fn common_name(&self) -> Option<&str> {
        let mut names = self.ruled_names();
        names.find(|(kind, _)| *kind == NameKind::CommonName).map(|(_, name)| name)
    }

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
    fn serial_numbers_of_every_length_are_kept() {
        for length in [0, 1, 19, 20, 21, 40] {
            let serial = vec![7; length];
            assert_eq!(SerialNumber::of(&serial).as_bytes(), serial);
        }
    }

    #[test]
    fn an_identity_takes_ninety_six_bytes_and_its_texts() {
        // A session keeps one for weeks. Without what later checks need it would take 32: a size of the allocator.
        assert!(size_of::<Identity>() <= 96, "{}", size_of::<Identity>());
    }
}
