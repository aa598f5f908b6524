//! The transcript of a handshake whose ClientHello rustls gets in disguise.
//!
//! rustls rejects a server_name that is no DNS name (`10.0.0.1:8883`, `[::1]`, a bare number, UTF-8).
//! HAProxy, nginx and stunnel serve such devices as if they had sent none. So rustls gets the
//! ClientHello with that extension's type changed to one that it ignores, while every hash and
//! signature over the transcript is over the bytes that the client sent.
//!
//! **Promises.** Two bytes differ, the type of one extension, and its length and place stay. A
//! handshake without a [`Disguise`] uses the original hash.
//!
//! **Not here.** Which names need it (`proxy/hello/`).

use std::borrow::Cow;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::HandshakeScope;

/// The start of a ClientHello that no other has: its type, length and version, and its random.
const HEAD_BYTES: usize = 38;

/// How a ClientHello that rustls gets differs from the one that the client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disguise {
    head: [u8; HEAD_BYTES],
    /// Where the two bytes are that differ.
    at: usize,
    /// What the client sent there.
    sent: [u8; 2],
}

impl Disguise {
    /// Changes the two bytes of a ClientHello at `at` to `shown`; none if there are none.
    pub(crate) fn put_on(message: &mut [u8], at: usize, shown: [u8; 2]) -> Option<Self> {
        let head = *message.first_chunk()?;
        let place: &mut [u8; 2] = message.get_mut(at..at + 2)?.try_into().ok()?;
        let sent = std::mem::replace(place, shown);
        Some(Self { head, at, sent })
    }

    /// The parts of `data` around the two bytes, if it is this ClientHello, or a start of it.
    fn parts<'a>(&self, data: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let is_this = data.starts_with(&self.head) && data.len() >= self.at + 2;
        is_this.then(|| (&data[..self.at], &data[self.at + 2..]))
    }

    /// What the client sent, where `data` starts with this ClientHello.
    fn taken_off<'a>(&self, data: &'a [u8]) -> Cow<'a, [u8]> {
        match self.parts(data) {
            Some((before, behind)) => Cow::Owned([before, &self.sent, behind].concat()),
            None => Cow::Borrowed(data),
        }
    }

    fn entered() -> Option<Self> {
        HandshakeScope::with_entered(|scope| scope.disguise).flatten()
    }
}

/// A hash for transcripts.
pub(super) struct TranscriptHash(pub(super) &'static dyn Hash);

impl Hash for TranscriptHash {
    fn start(&self) -> Box<dyn Context> {
        let context = self.0.start();
        match Disguise::entered() {
            Some(_) => Box::new(Undisguised(context)),
            None => context,
        }
    }

    fn hash(&self, data: &[u8]) -> Output {
        self.0.hash(data)
    }

    fn output_len(&self) -> usize {
        self.0.output_len()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.0.algorithm()
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

/// Hashes what the client sent.
struct Undisguised(Box<dyn Context>);

impl Context for Undisguised {
    fn fork_finish(&self) -> Output {
        self.0.fork_finish()
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(Self(self.0.fork()))
    }

    fn finish(self: Box<Self>) -> Output {
        self.0.finish()
    }

    fn update(&mut self, data: &[u8]) {
        // Of a second ClientHello it may be another one than that of the start.
        let disguise = Disguise::entered();
        match disguise.as_ref().and_then(|d| Some((d, d.parts(data)?))) {
            Some((disguise, (before, behind))) => {
                self.0.update(before);
                self.0.update(&disguise.sent);
                self.0.update(behind);
            }
            None => self.0.update(data),
        }
    }
}

/// Verifies signatures over what the client sent: in TLS 1.2 they are over the messages themselves
/// (RFC 5246 section 7.4.8).
#[derive(Debug)]
pub(crate) struct TranscriptVerifier(pub(crate) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for TranscriptVerifier {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let message = match Disguise::entered() {
            Some(disguise) => disguise.taken_off(message),
            None => Cow::Borrowed(message),
        };
        self.0.verify_tls12_signature(&message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }
}
