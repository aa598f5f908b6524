//! Who a client is, by its verified certificate.
//!
//! A client's identity is its certificate's first URI SAN, else its first DNS SAN, else its CN, else
//! the subject's serialNumber.
//!
//! **Promises.** What a certificate says is bounded: [`MAX_NAMES`] names of [`MAX_NAME_CHARS`]
//! characters, each on one line.
//!
//! **Not here.** Whether the certificate is believed (`certs/clients.rs`).

use tokio_rustls::rustls::pki_types::CertificateDer;

use super::x509;

/// More names than this are not kept.
const MAX_NAMES: usize = 8;

/// A longer name is cut. URIs of devices (SPIFFE's, RFC 8141's) have some hundred characters.
const MAX_NAME_CHARS: usize = 256;

/// The names and the end of a verified client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The names, best first: URIs, DNS names, the common name. The first is the identity.
    pub(crate) names: Box<[Box<str>]>,
    /// In Unix time.
    pub(crate) not_after: i64,
}

/// The identity in a certificate that has been verified.
pub(crate) fn of(leaf: &CertificateDer<'_>) -> Identity {
    // What rustls has verified can be read; if not, there is a client without a name.
    let Ok(info) = x509::client_cert_info(leaf) else {
        return Identity { names: Box::default(), not_after: i64::MAX };
    };
    let names = info.names.iter().filter(|name| !name.is_empty());
    Identity {
        names: names.take(MAX_NAMES).map(|name| bounded(name)).collect(),
        not_after: info.not_after.timestamp(),
    }
}

/// What of a name is kept: nothing that draws on a terminal, and not more than enough.
fn bounded(name: &str) -> Box<str> {
    let visible = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    name.chars().take(MAX_NAME_CHARS).map(visible).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_and_cannot_draw_on_a_terminal() {
        assert_eq!(&*bounded("sensor-1"), "sensor-1");
        assert_eq!(&*bounded("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(bounded(&"x".repeat(1000)).len(), MAX_NAME_CHARS);
    }
}
