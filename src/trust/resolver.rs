//! The choice of a certificate for a device.
//!
//! **Promises.** A device that can use any of the certificates gets one: its signature schemes fit the
//! key, and in TLS 1.2 its suites as well. The requested name decides first: an exact match, then a wildcard,
//! then the default (the first certificate of the configuration and those with the same names), then any.
//! Among these, in TLS 1.2, a key whose curve is in the device's groups is preferred. Among equals an ECDSA
//! key is preferred to an RSA key, because its handshake costs a third or less.
//!
//! **Not here.** Loading the certificates (`certs.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{
    NamedGroup, PeerIncompatible, ProtocolVersion, SignatureAlgorithm, SignatureScheme,
    SupportedCipherSuite,
};

use super::provider::HandshakeScope;
use crate::terms::labels::KeyKind;

/// The curve of an ECDSA key, by the only scheme that rustls signs with that key.
const CURVES: [(SignatureScheme, NamedGroup); 3] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, NamedGroup::secp256r1),
    (SignatureScheme::ECDSA_NISTP384_SHA384, NamedGroup::secp384r1),
    (SignatureScheme::ECDSA_NISTP521_SHA512, NamedGroup::secp521r1),
];

/// Returns the codes of the curves that a certificate's key can have.
pub(crate) fn certificate_curves() -> impl Iterator<Item = [u8; 2]> {
    CURVES.iter().map(|(_, curve)| u16::from(*curve).to_be_bytes())
}

/// Signature schemes of AWS-LC that all versions permit.
const SCHEMES: [SignatureScheme; 7] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

/// Signature schemes that only TLS 1.2 permits.
const RSA_PKCS1: [SignatureScheme; 4] = [
    SignatureScheme::RSA_PKCS1_SHA1,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

/// The certificates of one policy, preferred ones first.
#[derive(Debug)]
pub(crate) struct Resolver {
    certificates: Vec<NamedCertificate>,
    default_names: Vec<String>,
    /// The accepted suites of TLS 1.2.
    suites: Vec<SupportedCipherSuite>,
}

/// A certificate with its key and its names.
#[derive(Debug)]
pub(crate) struct NamedCertificate {
    /// Lower-case DNS names, with wildcards unchanged.
    pub(crate) names: Vec<String>,
    pub(crate) key: Arc<CertifiedKey>,
    /// Clients of both groups of a rollout get it.
    pub(crate) is_common: bool,
    /// A client has completed a full handshake with it.
    pub(crate) is_accepted: AtomicBool,
}

/// The certificates that a client was sent.
pub(crate) struct SentChain<'a> {
    /// The server's certificate, then those of its issuers.
    pub(crate) certificates: &'a [CertificateDer<'static>],
    /// The first one has the name that the client has sent; none if it has sent none.
    pub(crate) has_name: Option<bool>,
    /// Other clients have completed full handshakes with it.
    pub(crate) is_accepted: bool,
}

impl Resolver {
    /// Takes the certificates in the order of the configuration, of which the first is the default, and the accepted
    /// suites.
    pub(crate) fn new(
        mut certificates: Vec<NamedCertificate>,
        suites: &[SupportedCipherSuite],
    ) -> Self {
        let default_names = certificates.first().map(|c| c.names.clone()).unwrap_or_default();
        // The sort is stable: keys of one kind stay in the order of the configuration.
        certificates.sort_by_key(|c| c.key.key.algorithm() == SignatureAlgorithm::RSA);
        let is_tls12 =
            |suite: &&SupportedCipherSuite| matches!(suite, SupportedCipherSuite::Tls12(_));
        let suites = suites.iter().filter(is_tls12).copied().collect();
        Self { certificates, default_names, suites }
    }

    /// A client has completed a full handshake with the certificate that `resolve` chose for this SNI, these signature
    /// schemes and the cipher suite, for which a key type `fits`. Returns its key type.
    pub(crate) fn accepted(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
        fits: impl Fn(KeyKind) -> bool,
    ) -> KeyKind {
        let Some(chosen) = self.chosen(name, schemes, fits) else { return KeyKind::Other };
        // Workers share it: a store would take it from the caches of the others.
        if !chosen.is_accepted.load(Ordering::Relaxed) {
            chosen.is_accepted.store(true, Ordering::Relaxed);
        }
        chosen.key_kind()
    }

    /// Returns the certificate that `resolve` chose, as [`Self::accepted`].
    pub(crate) fn certificate(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
        fits: impl Fn(KeyKind) -> bool,
    ) -> Option<&CertificateDer<'static>> {
        self.chosen(name, schemes, fits)?.key.cert.first()
    }

    /// Returns the certificates that a client got, as [`Self::accepted`].
    pub(crate) fn chain(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
        fits: impl Fn(KeyKind) -> bool,
    ) -> Option<SentChain<'_>> {
        let chosen = self.chosen(name, schemes, fits)?;
        Some(SentChain {
            certificates: &chosen.key.cert,
            has_name: name.map(|name| covers(&chosen.names, &name.to_ascii_lowercase())),
            is_accepted: chosen.is_accepted.load(Ordering::Relaxed),
        })
    }

    fn chosen(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
        fits: impl Fn(KeyKind) -> bool,
    ) -> Option<&NamedCertificate> {
        let name = name.map(str::to_ascii_lowercase);
        let usable = |c: &NamedCertificate| c.suits(schemes) && fits(c.key_kind());
        self.choose(name.as_deref(), usable, |_| true)
    }

    /// Returns whether a certificate has this name, which is in lower case.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.certificates.iter().any(|certificate| covers(&certificate.names, name))
    }

    /// Returns the reason for which no certificate fits a client.
    fn misfit(&self, client: &Usable) -> PeerIncompatible {
        let has_suite = self.certificates.iter().any(|c| c.has_suite(client));
        match has_suite {
            true => PeerIncompatible::NoSignatureSchemesInCommon,
            false => PeerIncompatible::NoCipherSuitesInCommon,
        }
    }

    /// Chooses the usable certificate that fits the name best; among equals, a preferred one.
    fn choose(
        &self,
        name: Option<&str>,
        is_usable: impl Fn(&NamedCertificate) -> bool,
        is_preferred: impl Fn(&NamedCertificate) -> bool,
    ) -> Option<&NamedCertificate> {
        let wildcard = || name.and_then(wildcard_of);
        let first = |fits_name: &dyn Fn(&NamedCertificate) -> bool| {
            let usable = || self.certificates.iter().filter(|c| fits_name(c) && is_usable(c));
            usable().find(|c| is_preferred(c)).or_else(|| usable().next())
        };
        let named = |wanted: Option<&str>| {
            wanted.and_then(|wanted| first(&|c| c.names.iter().any(|n| n == wanted)))
        };
        named(name)
            .or_else(|| named(wildcard().as_deref()))
            .or_else(|| first(&|c| c.names == self.default_names))
            .or_else(|| first(&|_| true))
    }
}

/// Returns whether one of these names is a name, which is in lower case, or covers it.
fn covers(names: &[String], name: &str) -> bool {
    let wildcard = wildcard_of(name);
    names.iter().any(|known| known == name || Some(known) == wildcard.as_ref())
}

/// Returns the wildcard name that covers a name.
fn wildcard_of(name: &str) -> Option<String> {
    name.split_once('.').map(|(_, parent)| format!("*.{parent}"))
}

/// The parts of a ClientHello that decide which of our certificates the client can use. Its lists can have
/// the maximal length, so they are searched once instead of once for each certificate.
struct Usable {
    schemes: Vec<SignatureScheme>,
    /// In TLS 1.2: the key types of the common cipher suites.
    algorithms: Option<Vec<SignatureAlgorithm>>,
    /// In TLS 1.2: the curves of ECDSA keys. A client without the extension supports any: RFC 8422 section 4.
    curves: Option<Vec<NamedGroup>>,
}

impl Usable {
    /// Compares a ClientHello with the accepted suites of TLS 1.2.
    fn of(
        hello: &ClientHello<'_>,
        version: Option<ProtocolVersion>,
        suites: &[SupportedCipherSuite],
    ) -> Self {
        let is_tls12 = version == Some(ProtocolVersion::TLSv1_2);
        // In TLS 1.3, RSA with PKCS #1 is only for certificates: RFC 8446 section 4.2.3.
        let is_tls13 = version == Some(ProtocolVersion::TLSv1_3);
        let signing = SCHEMES.iter().chain(RSA_PKCS1.iter().filter(|_| !is_tls13));
        let offered = |scheme: &&SignatureScheme| hello.signature_schemes().contains(scheme);
        let mut schemes = Vec::with_capacity(SCHEMES.len() + RSA_PKCS1.len());
        schemes.extend(signing.filter(offered));
        Self {
            schemes,
            algorithms: is_tls12.then(|| {
                // RFC 5246 section 7.4.2.
                let is_common =
                    |suite: &&SupportedCipherSuite| hello.cipher_suites().contains(&suite.suite());
                let common: Vec<_> = suites.iter().filter(is_common).collect();
                let algorithms = [
                    SignatureAlgorithm::ECDSA,
                    SignatureAlgorithm::ED25519,
                    SignatureAlgorithm::RSA,
                ];
                let fits = |algorithm: &SignatureAlgorithm| {
                    common.iter().any(|suite| suite.usable_for_signature_algorithm(*algorithm))
                };
                algorithms.into_iter().filter(fits).collect()
            }),
            curves: hello.named_groups().filter(|_| is_tls12).map(|groups| {
                let curves = CURVES.iter().map(|(_, curve)| *curve);
                curves.filter(|curve| groups.contains(curve)).collect()
            }),
        }
    }
}

impl NamedCertificate {
    fn suits(&self, schemes: &[SignatureScheme]) -> bool {
        self.key.key.choose_scheme(schemes).is_some()
    }

    /// Returns whether the client can verify the key's signature.
    fn serves(&self, client: &Usable) -> bool {
        self.suits(&client.schemes) && self.has_suite(client)
    }

    /// Returns whether a common cipher suite is for the key.
    fn has_suite(&self, client: &Usable) -> bool {
        let algorithm = self.key.key.algorithm();
        client.algorithms.as_ref().is_none_or(|known| known.contains(&algorithm))
    }

    /// Returns whether the client supports the curve of the key.
    fn has_curve(&self, client: &Usable) -> bool {
        let curve = CURVES.iter().find(|(scheme, _)| self.suits(&[*scheme]));
        match (curve, &client.curves) {
            (Some((_, curve)), Some(curves)) => curves.contains(curve),
            _ => true,
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum is non-exhaustive")]
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
        let client = Usable::of(&hello, version, &self.suites);
        // RFC 8422 section 5.1 requires the curve. If there is no other certificate, this one is sent anyway:
        // some clients verify a curve that they do not list, and the others refuse it.
        let chosen = self.choose(name.as_deref(), |c| c.serves(&client), |c| c.has_curve(&client));
        if chosen.is_none() {
            let why = self.misfit(&client);
            HandshakeScope::with_entered(|scope| scope.no_certificate_fits = Some(why));
        }
        let chosen = chosen?;
        let mut in_order = hello.signature_schemes().iter();
        let first = in_order.find(|s| client.schemes.contains(s) && chosen.suits(&[**s])).copied();
        HandshakeScope::with_entered(|scope| {
            scope.is_common_certificate = chosen.is_common;
            scope.first_scheme = first;
        });
        Some(Arc::clone(&chosen.key))
    }
}
