//! The description of a client certificate that was refused.
//!
//! Behind a NAT the address of a device identifies nobody, so the log and `/top` name its certificate.
//!
//! **Promises.** It is made only for a certificate that was refused, and is bounded: texts of [`MAX_CHARS`]
//! characters, each on one line. A certificate that cannot be parsed has a fingerprint and no names.
//!
//! **Not here.** The reason for the refusal (`certs/verifier.rs`).

use std::fmt;

use tokio_rustls::rustls::pki_types::CertificateDer;

use super::identity;
use super::x509::{self, CertInfo, Timestamp};
use crate::text::shortened;

/// Characters of a text at most.
const MAX_CHARS: usize = 128;

/// A client's own certificate, which was refused or whose chain was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedCertificate {
    /// The subject or, if it is empty, the first name of the SAN.
    pub(crate) subject: Option<Box<str>>,
    pub(crate) issuer: Option<Box<str>>,
    /// The serial number in hexadecimal, as openssl prints it.
    pub(crate) serial: Option<Box<str>>,
    /// The fingerprint in hexadecimal.
    pub(crate) sha256: Box<str>,
    /// The names of an identity, which nothing verifies.
    pub(crate) names: Box<[Box<str>]>,
    not_before: Option<Timestamp>,
    not_after: Option<Timestamp>,
    pub(crate) hint: Hint,
}

/// A cause of a refusal that the error of rustls does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    None,
    /// A CA of `client_ca` has the name of the issuer of the certificate, or of its chain, and another key.
    IssuerHasOtherKey,
    /// The signature of the handshake was not made with the key of the certificate.
    KeyNotHeld,
}

impl RefusedCertificate {
    /// Describes a certificate.
    pub(crate) fn new(leaf: &CertificateDer<'_>, hint: Hint) -> Self {
        let info = x509::cert_info(leaf).ok();
        let text = |text: &str| match text {
            "" => None,
            text => Some(Box::from(shortened(text, MAX_CHARS))),
        };
        let of = |part: fn(&CertInfo) -> &str| info.as_ref().and_then(|info| text(part(info)));
        let first_name = || {
            let info = x509::client_cert_info(leaf).ok()?;
            info.names.first().and_then(|(_, name)| text(name))
        };
        Self {
            subject: of(|info| &info.subject_text).or_else(first_name),
            issuer: of(|info| &info.issuer_text),
            serial: of(|info| &info.serial),
            sha256: x509::fingerprint(leaf, "").to_ascii_lowercase().into(),
            names: identity::of(leaf).names,
            not_before: info.as_ref().map(|info| info.not_before),
            not_after: info.as_ref().map(|info| info.not_after),
            hint,
        }
    }

    /// Describes a certificate by its fingerprint alone.
    pub(crate) fn unparsed(leaf: &CertificateDer<'_>) -> Self {
        Self {
            subject: None,
            issuer: None,
            serial: None,
            sha256: x509::fingerprint(leaf, "").to_ascii_lowercase().into(),
            names: Box::default(),
            not_before: None,
            not_after: None,
            hint: Hint::None,
        }
    }

    /// Returns whether its validity begins or ends at this time.
    pub(crate) fn changes_at(&self, time: Timestamp) -> bool {
        let ends = [self.not_before, self.not_after];
        ends.into_iter().flatten().any(|end| end.timestamp() == time.timestamp())
    }
}

impl fmt::Display for RefusedCertificate {
    /// Writes the name under which `/top` counts it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(subject) = &self.subject {
            write!(f, "{subject} ")?;
        }
        if let Some(serial) = &self.serial {
            write!(f, "serial {serial} ")?;
        }
        write!(f, "sha256 {}", self.sha256)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn described(params: &CertificateParams) -> RefusedCertificate {
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        RefusedCertificate::new(made.der(), Hint::None)
    }

    #[test]
    fn texts_are_cut_and_have_no_control_characters() {
        let mut params = CertificateParams::new(vec!["pump-7".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "\u{1b}[2J".to_owned() + &"x".repeat(500));
        let refused = described(&params);
        let subject = refused.subject.unwrap();
        assert!(subject.starts_with("CN=\\u{1b}[2Jxxx") && subject.ends_with('…'), "{subject}");
        assert!(subject.chars().count() <= MAX_CHARS + 1);
        assert_eq!(refused.sha256.len(), 64);
    }

    #[test]
    fn without_a_subject_the_first_name_stands_for_it() {
        let mut params = CertificateParams::new(vec!["pump-7".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        assert_eq!(described(&params).subject.as_deref(), Some("pump-7"));
    }

    #[test]
    fn a_certificate_that_cannot_be_parsed_has_a_fingerprint() {
        let refused = RefusedCertificate::new(&b"abc"[..].into(), Hint::None);
        assert_eq!(refused.subject, None);
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(refused.to_string(), format!("sha256 {sha256}"));
    }
}
