//! The verifier of client certificates that rustls calls in a handshake.
//!
//! **Promises.** The number and the bytes of the certificates that a client sends are checked before any of
//! them is parsed. A certificate of `client_ca` that is not a CA is *pinned*: it admits itself and issues
//! nothing. A CA's certificate admits itself as well, if a device sends it as its own, byte for byte.
//!
//! **Not here.** The certification path (`trust/x509/path.rs`), loading CAs and CRLs (`clients.rs`).

use std::collections::HashMap;
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

use crate::trust::allow::AllowList;
use crate::trust::authentication::Authentication;
use crate::trust::digest::Digest;
use crate::trust::identity::Identity;
use crate::trust::issuers::{Issuers, KnownIssuers};
use crate::trust::provider::{HandshakeScope, transcript};
use crate::trust::refused::{Hint, RefusedCertificate};
use crate::trust::revocation::Revocation;
use crate::trust::verified_path::{PathSource, VerifiedPath};
use crate::trust::x509::certificate::{Certificate, VerificationTime};
use crate::trust::x509::path::{self, Anchor, Anchors, CertificationPath};
use crate::trust::x509::signature::{Algorithms, PublicKey};

/// The requirements of a policy on client certificates.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub(super) mandatory: bool,
    /// Certificates past their notAfter are accepted.
    pub(crate) accepts_expired: bool,
    /// The names of the CAs that clients are sent.
    pub(super) ca_names: Vec<DistinguishedName>,
    pub(super) limits: ChainLimits,
    pub(crate) trusted: TrustedClients,
    pub(crate) revocation: Option<Revocation>,
    pub(crate) allow: AllowList,
    /// The issuers that clients of the listener have sent.
    pub(crate) issuers: Arc<KnownIssuers>,
}

/// The error for a valid certificate that no allow rule admits, and for nothing else. The alert is access_denied:
/// RFC 8446 section 6.2.
pub(crate) const NOT_ALLOWED: CertificateError = CertificateError::ApplicationVerificationFailure;

/// Bytes of a client's own certificate up to which it is parsed for the log although its chain exceeds a limit.
const MAX_NAMED_BYTES: usize = 8 << 10;

/// Limits of the certificates that a client may send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChainLimits {
    pub(crate) max_certificates: usize,
    pub(crate) max_bytes: usize,
    /// The client's own certificate may be of version 1.
    pub(crate) allow_v1: bool,
}

/// The certificates of `client_ca`, and the algorithms for verifying signatures.
#[derive(Debug)]
pub(crate) struct TrustedClients {
    algorithms: WebPkiSupportedAlgorithms,
    anchors: Anchors,
    /// All certificates, CAs or not: each admits itself.
    themselves: HashMap<Digest, CertificateDer<'static>>,
}

/// A reason to refuse a client's certificates for which rustls has no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChainError {
    #[error("{sent} certificates were sent, and max_chain_certificates is {max}")]
    TooManyCertificates { sent: usize, max: usize },
    #[error("certificates of {sent} bytes were sent, and max_chain_bytes is {max}")]
    TooManyBytes { sent: usize, max: usize },
    #[error("the device's certificate is of X.509 version 1, and allow_v1 is false")]
    Version1,
    #[error("a certificate of zero bytes was sent")]
    Empty,
    #[error("its RSA key has {bits} bits, and 2048 to 8192 are accepted")]
    RsaKey { bits: usize },
}

impl ChainError {
    /// Returns the error that a rustls error contains, if it is a `ChainError`.
    pub(crate) fn within(error: &CertificateError) -> Option<Self> {
        let CertificateError::Other(OtherError(error)) = error else { return None };
        error.downcast_ref().copied()
    }
}

impl From<ChainError> for CertificateError {
    /// The alert is certificate_unknown: "some other (unspecified) issue arose in processing the
    /// certificate, rendering it unacceptable", RFC 8446 section 6.2.
    fn from(error: ChainError) -> Self {
        Self::Other(OtherError(Arc::new(error)))
    }
}

/// The certificates that a client sent and that lead to a CA.
pub(crate) struct ClientPath<'a> {
    /// The client's own certificate first, then the issuer of each, without the CA.
    pub(crate) ders: Vec<&'a CertificateDer<'a>>,
    /// The same certificates, parsed.
    certificates: Vec<Certificate<'a>>,
    /// The CA; none for a pinned device.
    anchor: Option<&'a Anchor>,
}

/// A client whose certificates were verified.
pub(crate) struct VerifiedClient {
    pub(crate) identity: Identity,
    /// The last second in which all certificates of its path are valid, in Unix time.
    until: u64,
    issuers: Option<Arc<Issuers>>,
}

impl ClientPath<'_> {
    /// Returns the client, and stores its issuers.
    fn client(&self, known: &KnownIssuers) -> VerifiedClient {
        let (own, above) =
            self.certificates.split_first().expect("a path begins with the device's certificate");
        let issuers = known.store(&self.ders[1..]);
        let source = match self.anchor {
            Some(anchor) => {
                PathSource::Ca { anchor: anchor.der().clone(), issuers: issuers.clone() }
            }
            None => PathSource::Pinned(Digest::of([self.ders[0].as_ref()])),
        };
        let until = above.iter().map(|one| one.not_after().timestamp()).min().unwrap_or(i64::MAX);
        let path = VerifiedPath { source, crl_points: own.crl_points(), until }.shared();
        let identity = Identity::verified(own, path);
        let until = u64::try_from(identity.expires()).unwrap_or(0);
        VerifiedClient { identity, until, issuers }
    }
}

impl TrustedClients {
    /// Makes an empty set.
    pub(super) fn new(algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { algorithms, anchors: Anchors::default(), themselves: HashMap::new() }
    }

    /// Finds the path from a client's certificate to a CA, and checks it.
    fn path<'a>(
        &'a self,
        leaf: &'a CertificateDer<'a>,
        own: Certificate<'a>,
        rest: &'a [CertificateDer<'a>],
        at: VerificationTime,
    ) -> Result<ClientPath<'a>, CertificateError> {
        if self.themselves.contains_key(&Digest::of([leaf.as_ref()])) {
            path::check_pinned(&own, at)?;
            let (ders, certificates) = (vec![leaf], vec![own]);
            return Ok(ClientPath { ders, certificates, anchor: None });
        }
        // A certificate that cannot be parsed issues nothing. Devices send whatever their files contain.
        let readable = rest.iter().filter_map(|der| Some((der, Certificate::parse(der).ok()?)));
        let (ders, sent): (Vec<_>, Vec<_>) = [(leaf, own)].into_iter().chain(readable).unzip();
        let path = path::find(&sent, &self.anchors, self.algorithms.all, at.now)?;
        path.check(&sent, at)?;
        let CertificationPath { places, anchor } = path;
        let mut sent: Vec<_> = sent.into_iter().map(Some).collect();
        Ok(ClientPath {
            ders: places.iter().map(|&place| ders[place]).collect(),
            certificates: places.iter().filter_map(|&place| sent[place].take()).collect(),
            anchor: Some(anchor),
        })
    }

    /// Finds the CA of a client that was verified by the CA `was`. Returns it with the intermediates in
    /// `certificates` that lead to it.
    ///
    /// # Errors
    /// If no CA leads to the client's issuer any longer.
    pub(crate) fn find_again<'a, 'b>(
        &'a self,
        certificates: &'b [Certificate<'b>],
        was: &Certificate<'_>,
        now: UnixTime,
    ) -> Result<(&'b [Certificate<'b>], &'a Anchor), CertificateError> {
        path::find_again(certificates, was, &self.anchors, self.algorithms.all, now)
    }

    /// Returns the certificate with this digest, if it admits itself.
    pub(crate) fn pinned(&self, digest: &Digest) -> Option<&CertificateDer<'static>> {
        self.themselves.get(digest)
    }

    /// Adds a CA.
    pub(super) fn add_anchor(&mut self, anchor: Arc<Anchor>) {
        self.add_pinned(anchor.der().clone());
        self.anchors.add(anchor);
    }

    /// Adds the certificate of a pinned device.
    pub(super) fn add_pinned(&mut self, certificate: CertificateDer<'static>) {
        self.themselves.insert(Digest::of([certificate.as_ref()]), certificate);
    }
}

impl ChainLimits {
    /// Checks the certificates that were sent, before they are parsed.
    fn check(
        self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
    ) -> Result<(), ChainError> {
        let (sent, max) = (1 + rest.len(), self.max_certificates);
        if sent > max {
            return Err(ChainError::TooManyCertificates { sent, max });
        }
        // A certificate has at least one byte: RFC 5246 section 7.4.2, RFC 8446 section 4.4.2.
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
    /// Returns whether a client without a certificate is refused.
    pub(crate) const fn is_mandatory(&self) -> bool {
        self.mandatory
    }

    /// Verifies the certificates that a client sent.
    ///
    /// # Errors
    /// The reason for which they are refused.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<VerifiedClient, CertificateError> {
        self.limits.check(leaf, rest)?;
        let own = Certificate::parse(leaf).map_err(|_| CertificateError::BadEncoding)?;
        if own.is_old() && !self.limits.allow_v1 {
            return Err(ChainError::Version1.into());
        }
        let at = VerificationTime { now, accepts_expired: self.accepts_expired };
        let path = self.trusted.path(leaf, own, rest, at)?;
        let (own, intermediates) =
            path.certificates.split_first().expect("a path begins with the device's certificate");
        if let Some(bits) = own.key().odd_rsa_bits() {
            return Err(ChainError::RsaKey { bits }.into());
        }
        match (&self.revocation, path.anchor) {
            (Some(revocation), Some(anchor)) => {
                revocation.check(own, intermediates, anchor, now)?;
            }
            (Some(revocation), None) => revocation.check_pinned(own)?,
            (None, _) => {}
        }
        let client = path.client(&self.issuers);
        if !self.allow.admits(&client.identity) {
            return Err(NOT_ALLOWED);
        }
        Ok(client)
    }
}

impl ClientVerifier {
    /// Describes a certificate for the log of the handshake that it was refused in.
    fn note_refused(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        cause: &CertificateError,
    ) {
        if leaf.len() > MAX_NAMED_BYTES && self.limits.check(leaf, rest).is_err() {
            // It is not parsed: a client without a valid certificate must not cause that work.
            let refused = Some(RefusedCertificate::unparsed(leaf).into());
            HandshakeScope::with_entered(|scope| scope.refused = refused);
            return;
        }
        let sent = || [leaf].into_iter().chain(rest);
        let has_name = *cause == CertificateError::UnknownIssuer
            && sent().any(|der| self.trusted.anchors.has_issuer_of(der));
        note(leaf, if has_name { Hint::IssuerHasOtherKey } else { Hint::None });
    }
}

/// Stores the description of a refused certificate in the scope of the handshake.
fn note(leaf: &CertificateDer<'_>, hint: Hint) {
    HandshakeScope::with_entered(|scope| {
        scope.refused = Some(RefusedCertificate::new(leaf, hint).into());
    });
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// Returns none by default. The names of the CAs help a client with several certificates to choose; a
    /// device has one, and small devices cannot receive a long flight.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.ca_names
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let VerifiedClient { identity, until, issuers } = self
            .verify(end_entity, intermediates, now)
            .inspect_err(|cause| self.note_refused(end_entity, intermediates, cause))?;
        let until = if self.accepts_expired { u64::MAX } else { until };
        let authentication = Authentication { at: now.as_secs(), until, issuers };
        HandshakeScope::with_entered(|scope| {
            scope.verified = Some(authentication);
            scope.client = Some(identity.into());
        });
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = Certificate::parse(cert).map_err(|_| CertificateError::BadEncoding)?;
        // A scheme of TLS 1.2 does not determine the curve: RFC 5246 section 7.4.1.4.1.
        let algorithms = algorithms_of(&self.trusted.algorithms, signature.scheme);
        check_fit(algorithms, certificate.key())?;
        let message = transcript::as_sent(message);
        let verified = certificate.key().verify(&message, signature.signature(), algorithms);
        verified.inspect_err(|_| note(cert, Hint::KeyNotHeld))?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // Verified with its key: rustls cannot parse a certificate of version 1.
        let certificate = Certificate::parse(cert).map_err(|_| CertificateError::BadEncoding)?;
        // A scheme of TLS 1.3 determines the curve (RFC 8446 section 4.2.3). The first algorithm has it.
        let algorithms = algorithms_of(&self.trusted.algorithms, signature.scheme);
        check_fit(algorithms.get(..1).unwrap_or_default(), certificate.key())?;
        let key = SubjectPublicKeyInfoDer::from(certificate.key_der());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.trusted.algorithms)
            .inspect_err(|_| note(cert, Hint::KeyNotHeld))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trusted.algorithms.supported_schemes()
    }
}

/// Returns the algorithms of a signature scheme; none if the scheme was not offered.
fn algorithms_of(all: &WebPkiSupportedAlgorithms, scheme: SignatureScheme) -> &'static Algorithms {
    let found = all.mapping.iter().find(|(offered, _)| *offered == scheme);
    found.map_or(&[], |(_, algorithms)| algorithms)
}

/// Checks that one of a scheme's algorithms is for keys of this kind.
///
/// # Errors
/// If none is. The alert is illegal_parameter (RFC 8446 section 4.4.3), unlike that of an invalid signature.
fn check_fit(algorithms: &Algorithms, key: &PublicKey<'_>) -> Result<(), PeerMisbehaved> {
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
        assert_eq!(check_fit(&p256[..1], &key), Ok(()));
        // TLS 1.2 permits any curve, TLS 1.3 one.
        assert_eq!(check_fit(p384, &key), Ok(()));
        let misbehaved = Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme);
        assert_eq!(check_fit(&p384[..1], &key), misbehaved);
        assert_eq!(check_fit(of(SignatureScheme::ED25519), &key), misbehaved);
        assert_eq!(check_fit(of(SignatureScheme::Unknown(7)), &key), misbehaved);
    }
}
