//! The verifier of client certificates that rustls asks in a handshake.
//!
//! **Promises.** What a client may send is bounded before any of it is read. A certificate of
//! `client_ca` that is no CA is *pinned*: it admits itself and issues nothing. So does a CA's own
//! where a device shows it as its own, byte by byte.
//!
//! **Not here.** What a certification path is (`trust/x509/path.rs`), how CAs and CRLs are loaded
//! (`clients.rs`).

use std::collections::HashSet;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved,
    SignatureScheme,
};

use crate::trust::provider::transcript;
use crate::trust::revocation::Revocation;
use crate::trust::x509::certificate::Certificate;
use crate::trust::x509::path::{self, Anchor, Anchors};
use crate::trust::x509::signature::{Algorithms, PublicKey};

/// What a listener demands of client certificates.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub(super) mandatory: bool,
    pub(super) limits: ChainLimits,
    pub(super) trusted: Arc<TrustedClients>,
    pub(super) revocation: Option<Revocation>,
}

/// What a client may send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChainLimits {
    pub(crate) max_certificates: usize,
    pub(crate) max_bytes: usize,
    /// Whether its own certificate may be of version 1.
    pub(crate) allow_v1: bool,
}

/// The certificates of `client_ca`, and what signatures are verified by.
#[derive(Debug)]
pub(crate) struct TrustedClients {
    algorithms: WebPkiSupportedAlgorithms,
    anchors: Anchors,
    /// All of them, CA or not: each admits itself.
    themselves: HashSet<CertificateDer<'static>>,
}

/// Why a client's certificates are refused for what they are, where rustls has no word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChainError {
    #[error("{sent} certificates were sent, and max_chain_certificates is {max}")]
    TooManyCertificates { sent: usize, max: usize },
    #[error("certificates of {sent} bytes were sent, and max_chain_bytes is {max}")]
    TooManyBytes { sent: usize, max: usize },
    #[error("the device's certificate is of X.509 version 1, and allow_v1 is false")]
    Version1,
    #[error("a certificate without a byte was sent")]
    Empty,
}

impl ChainError {
    /// The error in rustls's, if it is one of these.
    pub(crate) fn within(error: &CertificateError) -> Option<Self> {
        match error {
            CertificateError::Other(OtherError(error)) => error.downcast_ref().copied(),
            _ => None,
        }
    }
}

impl From<ChainError> for CertificateError {
    /// The alert is certificate_unknown: "some other (unspecified) issue arose in processing the
    /// certificate, rendering it unacceptable", RFC 8446 section 6.2.
    fn from(error: ChainError) -> Self {
        Self::Other(OtherError(Arc::new(error)))
    }
}

/// The certificates that count among those that a client has sent.
pub(crate) struct ClientPath<'a> {
    /// The client's own first, then each one's issuer, without the CA.
    pub(crate) ders: Vec<&'a CertificateDer<'a>>,
    /// The CA; none for a pinned device.
    anchor: Option<&'a CertificateDer<'static>>,
}

impl TrustedClients {
    /// Nobody yet.
    pub(super) fn new(algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { algorithms, anchors: Anchors::default(), themselves: HashSet::new() }
    }

    /// Finds the path from a client's certificate to a CA, and checks it.
    ///
    /// # Errors
    /// Why there is none, or why it is not good.
    pub(crate) fn path<'a>(
        &'a self,
        leaf: &'a CertificateDer<'a>,
        rest: &'a [CertificateDer<'a>],
        now: UnixTime,
    ) -> Result<ClientPath<'a>, CertificateError> {
        let own = Certificate::parse(leaf).map_err(|_| CertificateError::BadEncoding)?;
        self.path_of(leaf, own, rest, now)
    }

    fn path_of<'a>(
        &'a self,
        leaf: &'a CertificateDer<'a>,
        own: Certificate<'a>,
        rest: &'a [CertificateDer<'a>],
        now: UnixTime,
    ) -> Result<ClientPath<'a>, CertificateError> {
        if self.themselves.contains(leaf) {
            path::check_pinned(&own, now)?;
            return Ok(ClientPath { ders: vec![leaf], anchor: None });
        }
        // One that cannot be read issues nothing. Devices send what they find in their files.
        let readable = rest.iter().filter_map(|der| Some((der, Certificate::parse(der).ok()?)));
        let (ders, sent): (Vec<_>, Vec<_>) = [(leaf, own)].into_iter().chain(readable).unzip();
        let path = path::find(&sent, &self.anchors, self.algorithms.all, now)?;
        path.check(&sent, now)?;
        let ders = path.places.iter().map(|&place| ders[place]).collect();
        Ok(ClientPath { ders, anchor: Some(path.anchor.der()) })
    }

    /// Adds a CA.
    pub(super) fn add_anchor(&mut self, anchor: Anchor) {
        self.themselves.insert(anchor.der().clone());
        self.anchors.add(anchor);
    }

    /// Adds the certificate of a device.
    pub(super) fn add_pinned(&mut self, certificate: CertificateDer<'static>) {
        self.themselves.insert(certificate);
    }
}

impl ChainLimits {
    /// Checks what was sent, before it is read.
    fn check(
        self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
    ) -> Result<(), ChainError> {
        let (sent, max) = (1 + rest.len(), self.max_certificates);
        if sent > max {
            return Err(ChainError::TooManyCertificates { sent, max });
        }
        // RFC 5246 section 7.4.2, RFC 8446 section 4.4.2: a certificate has one byte at least.
        if leaf.is_empty() || rest.iter().any(|certificate| certificate.is_empty()) {
            return Err(ChainError::Empty);
        }
        let bytes = leaf.len() + rest.iter().map(|certificate| certificate.len()).sum::<usize>();
        if bytes > self.max_bytes {
            return Err(ChainError::TooManyBytes { sent: bytes, max: self.max_bytes });
        }
        Ok(())
    }
}

impl ClientVerifier {
    /// Whom it believes.
    pub(super) fn trusted(&self) -> Arc<TrustedClients> {
        Arc::clone(&self.trusted)
    }

    /// Verifies what a client has sent.
    ///
    /// # Errors
    /// Why it is refused.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        self.limits.check(leaf, rest)?;
        let own = Certificate::parse(leaf).map_err(|_| CertificateError::BadEncoding)?;
        if own.is_old() && !self.limits.allow_v1 {
            return Err(ChainError::Version1.into());
        }
        let mut path = self.trusted.path_of(leaf, own, rest, now)?;
        if let Some(revocation) = &self.revocation {
            path.ders.extend(path.anchor);
            revocation.check(&path.ders)?;
        }
        Ok(())
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// None: the names of the CAs help a client that has several certificates to choose; a device
    /// has one, and small devices cannot take a long flight.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = Certificate::parse(cert).map_err(|_| CertificateError::BadEncoding)?;
        // RFC 5246 section 7.4.1.4.1: a scheme of TLS 1.2 does not fix the curve.
        let algorithms = algorithms_of(&self.trusted.algorithms, signature.scheme);
        fit(algorithms, certificate.key())?;
        let message = transcript::as_sent(message);
        certificate.key().verify(&message, signature.signature(), algorithms)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // By its key: rustls cannot read a certificate of version 1.
        let certificate = Certificate::parse(cert).map_err(|_| CertificateError::BadEncoding)?;
        // RFC 8446 section 4.2.3: it does in TLS 1.3, and the first algorithm is the one of this curve.
        let algorithms = algorithms_of(&self.trusted.algorithms, signature.scheme);
        fit(algorithms.get(..1).unwrap_or_default(), certificate.key())?;
        let key = SubjectPublicKeyInfoDer::from(certificate.key_der());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.trusted.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trusted.algorithms.supported_schemes()
    }
}

/// The algorithms of a signature scheme; none where it was not offered.
fn algorithms_of(all: &WebPkiSupportedAlgorithms, scheme: SignatureScheme) -> &'static Algorithms {
    let found = all.mapping.iter().find(|(offered, _)| *offered == scheme);
    found.map_or(&[], |(_, algorithms)| algorithms)
}

/// Checks that one of a scheme's algorithms is for keys of this kind.
///
/// # Errors
/// If none is: an illegal_parameter (RFC 8446 section 4.4.3), and not a wrong signature.
fn fit(algorithms: &Algorithms, key: &PublicKey<'_>) -> Result<(), PeerMisbehaved> {
    let fits = key.is_for_any(algorithms);
    fits.then_some(()).ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PublicKeyData};

    use super::*;

    #[test]
    fn a_scheme_for_keys_of_another_kind_is_an_illegal_parameter() {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let info = key.subject_public_key_info();
        let key = PublicKey::parse(&info).unwrap();
        let supported = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms;
        let of = |scheme| algorithms_of(&supported, scheme);
        let (p256, p384) = (
            of(SignatureScheme::ECDSA_NISTP256_SHA256),
            of(SignatureScheme::ECDSA_NISTP384_SHA384),
        );
        assert_eq!(fit(&p256[..1], &key), Ok(()));
        // In TLS 1.2 the curve is free, in TLS 1.3 it is not.
        assert_eq!(fit(p384, &key), Ok(()));
        let misbehaved = Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme);
        assert_eq!(fit(&p384[..1], &key), misbehaved);
        assert_eq!(fit(of(SignatureScheme::ED25519), &key), misbehaved);
        assert_eq!(fit(of(SignatureScheme::Unknown(7)), &key), misbehaved);
    }
}
