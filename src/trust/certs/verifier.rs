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

use crate::trust::revocation::Revocation;
use crate::trust::x509::certificate::Certificate;
use crate::trust::x509::path::{self, Anchor, Anchors};

/// What a listener demands of client certificates.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub(super) mandatory: bool,
    pub(super) limits: ChainLimits,
    pub(super) trusted: TrustedClients,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
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

/// The certificates of `client_ca`.
#[derive(Debug, Default)]
pub(super) struct TrustedClients {
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

impl TrustedClients {
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
        let bytes = leaf.len() + rest.iter().map(|certificate| certificate.len()).sum::<usize>();
        if bytes > self.max_bytes {
            return Err(ChainError::TooManyBytes { sent: bytes, max: self.max_bytes });
        }
        Ok(())
    }
}

impl ClientVerifier {
    /// Verifies what a client has sent, and returns the certificates that count: its own first, then
    /// each one's issuer, without the CA.
    ///
    /// # Errors
    /// Why they are refused.
    pub(crate) fn verify<'a>(
        &'a self,
        leaf: &'a CertificateDer<'a>,
        rest: &'a [CertificateDer<'a>],
        now: UnixTime,
    ) -> Result<Vec<&'a CertificateDer<'a>>, CertificateError> {
        self.limits.check(leaf, rest)?;
        let own = Certificate::parse(leaf).map_err(|_| CertificateError::BadEncoding)?;
        if own.is_old() && !self.limits.allow_v1 {
            return Err(ChainError::Version1.into());
        }
        if self.trusted.themselves.contains(leaf) {
            path::check_pinned(&own, now)?;
            self.check_revocation(&[leaf])?;
            return Ok(vec![leaf]);
        }
        // One that cannot be read issues nothing. Devices send what they find in their files.
        let readable = rest.iter().filter_map(|der| Some((der, Certificate::parse(der).ok()?)));
        let (ders, sent): (Vec<_>, Vec<_>) = [(leaf, own)].into_iter().chain(readable).unzip();
        let found = path::find(&sent, &self.trusted.anchors, self.algorithms.all, now)?;
        found.check(&sent, now)?;
        let mut path: Vec<_> = found.places.iter().map(|&place| ders[place]).collect();
        path.push(found.anchor.der());
        self.check_revocation(&path)?;
        path.pop();
        Ok(path)
    }

    fn check_revocation(&self, path: &[&CertificateDer<'_>]) -> Result<(), CertificateError> {
        self.revocation.as_ref().map_or(Ok(()), |revocation| revocation.check(path))
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
        // RFC 5246 section 7.4.1.4.1: a scheme of TLS 1.2 does not fix the curve.
        let mut schemes = self.algorithms.mapping.iter();
        let fitting = schemes.find(|(scheme, _)| *scheme == signature.scheme);
        let (_, algorithms) =
            fitting.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let certificate = Certificate::parse(cert).map_err(|_| CertificateError::BadEncoding)?;
        certificate.key().verify(message, signature.signature(), algorithms)?;
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
        let key = SubjectPublicKeyInfoDer::from(certificate.key_der());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
