//! Which of a listener's certificates a device gets.
//!
//! **Promises.** A device that can use any of the certificates gets one: its signature schemes fit the
//! key, and in TLS 1.2 its suites and its groups as well (RFC 8422 section 5.1). The name that it asks for
//! decides first: an exact match, then a wildcard, then the default (the first certificate of the
//! configuration and those with the same names), then any. Among equals an ECDSA key goes before
//! an RSA key, since a handshake with it costs a third or less.
//!
//! **Not here.** Where the certificates come from (`certs.rs`).

use std::sync::Arc;

use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{
    NamedGroup, ProtocolVersion, SignatureAlgorithm, SignatureScheme, SupportedCipherSuite,
};

use super::provider::{HandshakeScope, PROVIDER};
use crate::ops::metrics::KeyKind;

/// The curve of an ECDSA key, by the one scheme that rustls signs with it.
const CURVES: [(SignatureScheme, NamedGroup); 3] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, NamedGroup::secp256r1),
    (SignatureScheme::ECDSA_NISTP384_SHA384, NamedGroup::secp384r1),
    (SignatureScheme::ECDSA_NISTP521_SHA512, NamedGroup::secp521r1),
];

const RSA_PKCS1: [SignatureScheme; 4] = [
    SignatureScheme::RSA_PKCS1_SHA1,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

/// The certificates of one listener, best first.
#[derive(Debug)]
pub(crate) struct Resolver {
    certificates: Vec<Certificate>,
    default_names: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Certificate {
    /// Lower-case DNS names, wildcards as they stand.
    pub(crate) names: Vec<String>,
    pub(crate) key: Arc<CertifiedKey>,
}

impl Resolver {
    /// Takes the certificates in the order of the configuration; the first is the default.
    pub(crate) fn new(mut certificates: Vec<Certificate>) -> Self {
        let default_names = certificates.first().map(|c| c.names.clone()).unwrap_or_default();
        // Stable: among keys of one kind the configuration's order stays.
        certificates.sort_by_key(|c| c.key.key.algorithm() == SignatureAlgorithm::RSA);
        Self { certificates, default_names }
    }

    /// What kind of key the certificate has that a device was shown which asked for `name`, verifies
    /// `schemes`, and got a suite for which the kind of key `fits`.
    pub(crate) fn key_kind(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
        fits: impl Fn(KeyKind) -> bool,
    ) -> KeyKind {
        let name = name.map(str::to_ascii_lowercase);
        let chosen = self.choose(name.as_deref(), |certificate| {
            certificate.suits(schemes) && fits(certificate.key_kind())
        });
        chosen.map_or(KeyKind::Other, Certificate::key_kind)
    }

    fn choose(
        &self,
        name: Option<&str>,
        is_usable: impl Fn(&Certificate) -> bool,
    ) -> Option<&Certificate> {
        let usable = || self.certificates.iter().filter(|certificate| is_usable(certificate));
        let wildcard =
            name.and_then(|n| n.split_once('.')).map(|(_, parent)| format!("*.{parent}"));
        let named = |wanted: Option<&str>| {
            usable().find(|c| wanted.is_some_and(|w| c.names.iter().any(|n| n == w)))
        };
        named(name)
            .or_else(|| named(wildcard.as_deref()))
            .or_else(|| usable().find(|c| c.names == self.default_names))
            .or_else(|| usable().next())
    }
}

impl Certificate {
    fn suits(&self, schemes: &[SignatureScheme]) -> bool {
        self.key.key.choose_scheme(schemes).is_some()
    }

    /// Whether a client with this ClientHello can use it in `version`; without one, in any.
    fn serves(&self, hello: &ClientHello<'_>, version: Option<ProtocolVersion>) -> bool {
        let schemes = hello.signature_schemes();
        match version {
            Some(ProtocolVersion::TLSv1_2) => {
                self.suits(schemes) && self.has_suite(hello) && self.has_group(hello)
            }
            Some(ProtocolVersion::TLSv1_3) => {
                // RSA with PKCS #1 is for certificates alone: RFC 8446 section 4.2.3.
                let is_signing = |s: &&SignatureScheme| !RSA_PKCS1.contains(s);
                let schemes: Vec<_> = schemes.iter().filter(is_signing).copied().collect();
                self.suits(&schemes)
            }
            _ => self.suits(schemes),
        }
    }

    /// Whether the client has one of our suites of TLS 1.2 for the key: RFC 5246 section 7.4.2.
    fn has_suite(&self, hello: &ClientHello<'_>) -> bool {
        PROVIDER.cipher_suites.iter().any(|suite| {
            matches!(suite, SupportedCipherSuite::Tls12(_))
                && suite.usable_for_signature_algorithm(self.key.key.algorithm())
                && hello.cipher_suites().contains(&suite.suite())
        })
    }

    /// Whether the client has the curve of the key. Without the extension it has any: RFC 8422 section 4.
    fn has_group(&self, hello: &ClientHello<'_>) -> bool {
        let curve = CURVES.iter().find(|(scheme, _)| self.suits(&[*scheme]));
        match (curve, hello.named_groups()) {
            (Some((_, curve)), Some(groups)) => groups.contains(curve),
            _ => true,
        }
    }

    fn key_kind(&self) -> KeyKind {
        match self.key.key.algorithm() {
            SignatureAlgorithm::ECDSA => KeyKind::Ecdsa,
            SignatureAlgorithm::RSA => KeyKind::Rsa,
            SignatureAlgorithm::ED25519 => KeyKind::Ed25519,
            _ => KeyKind::Other,
        }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let version = HandshakeScope::with_entered(|scope| scope.version).flatten();
        let chosen = self.choose(name.as_deref(), |c| c.serves(&hello, version));
        if chosen.is_none() {
            HandshakeScope::with_entered(|scope| scope.no_certificate_fits = true);
        }
        chosen.map(|c| Arc::clone(&c.key))
    }
}
