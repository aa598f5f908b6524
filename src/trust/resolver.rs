//! Which of a listener's certificates a device gets.
//!
//! **Promises.** A device that can use any of the certificates gets one. The name that it asks for
//! decides first: an exact match, then a wildcard, then the default (the first certificate of the
//! configuration and those with the same names), then any. Among equals an ECDSA key goes before
//! an RSA key, since a handshake with it costs a third or less.
//!
//! **Not here.** Where the certificates come from (`certs.rs`).

use std::sync::Arc;

use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{SignatureAlgorithm, SignatureScheme};

use crate::ops::metrics::KeyKind;

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
            // Of no use, but it makes rustls say so by handshake_failure.
            .or_else(|| self.certificates.first())
    }
}

impl Certificate {
    fn suits(&self, schemes: &[SignatureScheme]) -> bool {
        self.key.key.choose_scheme(schemes).is_some()
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
        // rustls has left those schemes that go with a suite which both sides have.
        let suits = |certificate: &Certificate| certificate.suits(hello.signature_schemes());
        self.choose(name.as_deref(), suits).map(|c| Arc::clone(&c.key))
    }
}
