//! A certificate as a link of a chain: who issued it, and whom it issues.
//!
//! **Not here.** Whether the chain holds: that is the verifier's.

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{KeyUsage, ParsedExtension, X509Certificate};

use super::crl::CrlScope;
use super::names::CanonicalName;
use super::{Malformed, parse};

/// A certificate that has been read.
pub(crate) struct Link<'a>(X509Certificate<'a>);

impl<'a> Link<'a> {
    /// Reads a certificate.
    ///
    /// # Errors
    /// If it is not X.509.
    pub(crate) fn read(der: &'a CertificateDer<'_>) -> Result<Self, Malformed> {
        parse(der).map(Self)
    }

    /// 1, 2 or 3.
    pub(crate) fn version(&self) -> u32 {
        self.0.version().0.saturating_add(1)
    }

    pub(crate) fn issuer(&self) -> CanonicalName {
        CanonicalName::of(self.0.issuer())
    }

    pub(crate) fn subject(&self) -> CanonicalName {
        CanonicalName::of(self.0.subject())
    }

    /// The content of the INTEGER.
    pub(crate) fn serial(&self) -> &[u8] {
        self.0.raw_serial()
    }

    /// The encoded SubjectPublicKeyInfo.
    pub(crate) fn key(&self) -> &[u8] {
        self.0.public_key().raw
    }

    /// The subjectKeyIdentifier.
    pub(crate) fn key_id(&self) -> Option<&[u8]> {
        self.0.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        })
    }

    /// Whether its key may sign CRLs: RFC 5280 section 6.3.3 (f).
    pub(crate) fn signs_crls(&self) -> bool {
        let mut usages =
            self.0.iter_extensions().filter_map(|extension| match extension.parsed_extension() {
                ParsedExtension::KeyUsage(usage) => Some(usage),
                _ => None,
            });
        usages.all(KeyUsage::crl_sign)
    }

    /// Whether a CRL of its issuer with this scope is about it.
    pub(crate) fn is_in(&self, scope: &CrlScope) -> bool {
        scope.covers(&self.0)
    }
}
