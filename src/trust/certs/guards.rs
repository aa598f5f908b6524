//! The differences between a renewed server certificate and the current one, for which devices may reject it.
//!
//! **Promises.** A renewal by the same CA with the same settings has no difference: signatures and serial numbers
//! vary by some bytes. Certificates that are added to a chain change no issuer.
//!
//! **Not here.** The choice of the two chains, and the validity of the new one (`chain.rs`).

use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::config::{GuardAction, Guards};
use crate::text::{listed, one_line};
use crate::trust::x509;
use crate::trust::x509::details::{Details, details, issuer_key_id};

/// Names that a message lists at most.
const MAX_NAMES: usize = 10;

/// Growth of the certificates that is no difference: signatures, serial numbers and a few names.
const SMALL_GROWTH: usize = 256;

/// Sizes of a Certificate message above which a device or the network treats it differently, in ascending order.
const LIMITS: [(usize, &str); 4] = [
    (4 << 10, "a receive buffer of 4 KiB"),
    (8 << 10, "a receive buffer of 8 KiB"),
    // 10 segments of 1460 bytes, less 1 KiB for the other messages of the flight: RFC 6928 section 2.
    (14_600 - (1 << 10), "the first TCP window: the handshake needs one more round trip"),
    // RFC 8446 section 5.1.
    (16 << 10, "one TLS record"),
];

/// A difference from the current chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Difference {
    #[error("the new certificate has another key type: {new}, and {old} before")]
    KeyType { old: String, new: String },
    #[error("the new certificate has another issuer: {new}, and {old} before")]
    Issuer { old: String, new: String },
    #[error(
        "the new certificate lacks the name(s) {}; it has {}",
        listed(missing, MAX_NAMES),
        listed(new, MAX_NAMES)
    )]
    Names { missing: Vec<String>, new: Vec<String> },
    #[error(
        "the new chain lacks the certificate of its issuer {issuer:?}: it has {new} certificate(s), and \
         {old} before"
    )]
    Intermediate { issuer: String, old: usize, new: usize },
    #[error(
        "the new chain is larger: {new} bytes in the handshake, and {old} before{}",
        exceeded(*old, *new).map_or_else(String::new, |limit| format!("; it exceeds {limit}"))
    )]
    Flight { old: usize, new: usize },
}

impl Difference {
    /// Returns the key of the guard.
    pub(crate) const fn key(&self) -> &'static str {
        match self {
            Self::KeyType { .. } => "key_type",
            Self::Issuer { .. } => "issuer",
            Self::Names { .. } => "names",
            Self::Intermediate { .. } => "intermediate",
            Self::Flight { .. } => "flight",
        }
    }

    /// Returns the configured treatment.
    pub(crate) const fn action(&self, guards: &Guards) -> GuardAction {
        // The notBefore is compared with the time, not with the current chain.
        let Guards { key_type, issuer, names, not_yet_valid: _, intermediate, flight } = guards;
        match self {
            Self::KeyType { .. } => *key_type,
            Self::Issuer { .. } => *issuer,
            Self::Names { .. } => *names,
            Self::Intermediate { .. } => *intermediate,
            Self::Flight { .. } => *flight,
        }
    }
}

/// A certificate of a chain.
struct Sent<'a> {
    der: &'a CertificateDer<'static>,
    details: Details,
}

/// Returns the differences of a `new` chain from the `old` one.
pub(super) fn differences(
    old: &[CertificateDer<'static>],
    new: &[CertificateDer<'static>],
) -> Vec<Difference> {
    if old == new {
        return Vec::new();
    }
    let flight = larger_flight(message_bytes(old), message_bytes(new));
    let (old, new) = (parsed(old), parsed(new));
    let ([old_leaf, ..], [new_leaf, ..]) = (&old[..], &new[..]) else { return Vec::new() };
    let all = [
        other_key_type(&old_leaf.details, &new_leaf.details),
        old.iter().zip(&new).find_map(|(old, new)| other_issuer(old, new)),
        missing_names(old_leaf, new_leaf),
        missing_intermediate(&old, &new),
        flight,
    ];
    all.into_iter().flatten().collect()
}

/// Parses the certificates of a chain, which have been parsed before.
fn parsed<'a>(chain: &'a [CertificateDer<'static>]) -> Vec<Sent<'a>> {
    chain.iter().filter_map(|der| Some(Sent { der, details: details(der).ok()? })).collect()
}

fn other_key_type(old: &Details, new: &Details) -> Option<Difference> {
    let differs = old.key != new.key;
    differs.then(|| Difference::KeyType { old: old.key.clone(), new: new.key.clone() })
}

/// Compares the issuers of two certificates by name and, if both state it, by the ID of the issuer's key.
fn other_issuer(old: &Sent<'_>, new: &Sent<'_>) -> Option<Difference> {
    let name = |sent: &Sent<'_>| format!("{:?}", one_line(&sent.details.issuer));
    if old.details.issuer != new.details.issuer {
        return Some(Difference::Issuer { old: name(old), new: name(new) });
    }
    let (old_key, new_key) = issuer_key_id(old.der).zip(issuer_key_id(new.der))?;
    (old_key != new_key).then(|| Difference::Issuer {
        old: format!("{} with the key ID {old_key}", name(old)),
        new: format!("{} with the key ID {new_key}", name(new)),
    })
}

/// Returns the names that the new certificate has not, also not through a wildcard.
fn missing_names(old: &Sent<'_>, new: &Sent<'_>) -> Option<Difference> {
    let (old, new) = (names(old), names(new));
    let is_covered = |name: &String| {
        let wildcard = name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        new.contains(name) || wildcard.is_some_and(|wildcard| new.contains(&wildcard))
    };
    let missing: Vec<_> = old.into_iter().filter(|name| !is_covered(name)).collect();
    let is_missing = !missing.is_empty();
    is_missing.then_some(Difference::Names { missing, new })
}

/// Returns the names of a certificate, in lower case: those of the SAN, or else the common name.
fn names(sent: &Sent<'_>) -> Vec<String> {
    if sent.details.names.is_empty() {
        return x509::cert_info(sent.der).map_or_else(|_| Vec::new(), |info| info.names);
    }
    sent.details.names.iter().map(|name| name.to_ascii_lowercase()).collect()
}

/// Returns a difference if an intermediate CA of the old chain issued the end of the new one and is not in it, or
/// if the new one has no issuer at all, and the old one had an intermediate CA.
fn missing_intermediate(old: &[Sent<'_>], new: &[Sent<'_>]) -> Option<Difference> {
    let is_root = |sent: &&Sent<'_>| sent.details.subject == sent.details.issuer;
    let last = new.last().filter(|last| !is_root(last))?;
    let mut intermediates = old.iter().skip(1).filter(|sent| !is_root(sent));
    let is_missing = match new {
        [_] => intermediates.next().is_some(),
        _ => intermediates.any(|ca| x509::is_issued_by(last.der, ca.der).unwrap_or(false)),
    };
    is_missing.then(|| Difference::Intermediate {
        issuer: one_line(&last.details.issuer).into_owned(),
        old: old.len(),
        new: new.len(),
    })
}

fn larger_flight(old: usize, new: usize) -> Option<Difference> {
    let is_larger = new > old.saturating_add(SMALL_GROWTH) || exceeded(old, new).is_some();
    is_larger.then_some(Difference::Flight { old, new })
}

/// Returns the highest limit that the new size exceeds and the old one does not.
fn exceeded(old: usize, new: usize) -> Option<&'static str> {
    let exceeded = LIMITS.iter().rfind(|(bytes, _)| (old..new).contains(bytes));
    exceeded.map(|(_, limit)| *limit)
}

/// Returns the size of the Certificate message of TLS 1.3: RFC 8446 section 4.4.2.
fn message_bytes(chain: &[CertificateDer<'_>]) -> usize {
    // The header, an empty context and the length of the list; for each certificate its length, and no extension.
    8 + chain.iter().map(|der| der.len().saturating_add(5)).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flight_is_larger_beyond_the_variation_of_signatures_or_across_a_limit() {
        let is_larger = |old, new| larger_flight(old, new).is_some();
        assert!(!is_larger(1000, 1256));
        assert!(is_larger(1000, 1257));
        assert!(!is_larger(4000, 4096));
        assert!(is_larger(4096, 4097), "the message no longer fits a buffer of 4 KiB");
        assert!(!is_larger(9000, 1000));
        assert_eq!(exceeded(4000, 9000), Some(LIMITS[1].1), "the highest limit is reported");
    }
}
