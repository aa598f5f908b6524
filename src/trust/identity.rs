//! The identity of a client, from its verified certificate.
//!
//! A client's identity is its certificate's first URI SAN, else its first DNS SAN, else its CN, else
//! the subject's serialNumber.
//!
//! **Promises.** An identity is bounded: [`MAX_NAMES`] names of [`MAX_NAME_CHARS`] characters, each on one
//! line.
//!
//! **Not here.** The verification of the certificate (`certs/verifier.rs`).

use tokio_rustls::rustls::pki_types::CertificateDer;

use super::x509;
use crate::text::one_line;

/// Names that are kept at most.
const MAX_NAMES: usize = 8;

/// Characters of a name at most. URIs of devices (SPIFFE, RFC 8141) have some hundred characters.
const MAX_NAME_CHARS: usize = 256;

/// The names and the end of validity of a verified client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// URIs, then DNS names, then common names. The first is the identity.
    pub(crate) names: Box<[Box<str>]>,
    /// The end of validity in Unix time.
    pub(crate) not_after: i64,
}

/// Returns the identity in a verified certificate.
pub(crate) fn of(leaf: &CertificateDer<'_>) -> Identity {
    // A verified certificate can be parsed. If not, the client has no name.
    let Ok(info) = x509::client_cert_info(leaf) else {
        return Identity { names: Box::default(), not_after: i64::MAX };
    };
    let names = info.names.iter().filter(|name| !name.is_empty());
    Identity {
        names: names.take(MAX_NAMES).map(|name| bounded(name)).collect(),
        not_after: info.not_after.timestamp(),
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
}
