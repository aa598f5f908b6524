//! rustls's cryptography, with the record ciphers of a handshake in reach of the code that drives it.
//!
//! rustls keeps the ciphers of a handshake to itself. Without them, a record that rustls rejects
//! without an alert cannot be answered by one once records are encrypted, and early data that is
//! rejected cannot be told from the client's next flight. So each cipher suite wraps the factory of
//! its ciphers: while a [`HandshakeScope`] is entered, the ciphers that rustls makes are shared with it.
//!
//! **Promises.** The ciphers, keys and hashes are rustls's and AWS-LC's. Outside of a scope (sessions,
//! `probe`) the wrapped suites return the original ciphers. A nonce is used once: an alert that is
//! sealed here takes the next sequence number of the cipher.
//!
//! **Not here.** Which record gets which alert (`proxy/tls/`), the transcript's hash
//! (`provider/transcript.rs`).

pub(crate) mod transcript;

use std::cell::RefCell;
use std::mem;
use std::sync::{Arc, LazyLock};

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, KeyBlockShape, MessageDecrypter,
    MessageEncrypter, OutboundOpaqueMessage, OutboundPlainMessage, Tls12AeadAlgorithm,
    Tls13AeadAlgorithm, UnsupportedOperationError,
};
use tokio_rustls::rustls::crypto::tls13::OkmBlock;
use tokio_rustls::rustls::{
    AlertDescription, CipherSuite, CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error,
    HandshakeType, InvalidMessage, KeyLog, PeerIncompatible, ProtocolVersion, SupportedCipherSuite,
    Tls12CipherSuite, Tls13CipherSuite,
};

use self::transcript::{Disguise, TranscriptHash};

use crate::lock::Lock;

/// aws-lc-rs, with AES-128-GCM before AES-256-GCM. Most clients put the other first by habit, and
/// with SHA-384 it costs a tenth of a handshake more, on small devices a good deal more. RFC 8446
/// section 9.1 makes AES-128-GCM the one that everybody has.
pub(crate) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = default_provider();
    let aes_128_first = |suite: &SupportedCipherSuite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
        _ => 1,
    };
    // Stable: the rest stays in rustls's order.
    provider.cipher_suites.sort_by_key(aes_128_first);
    provider.cipher_suites.iter_mut().for_each(|suite| *suite = shared(*suite));
    Arc::new(provider)
});

/// The suite with factories that share their ciphers with the current scope. It is made once for
/// the life of the process: rustls takes suites by static references.
fn shared(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    match suite {
        SupportedCipherSuite::Tls13(suite) => {
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: hashed(&suite.common),
                hkdf_provider: suite.hkdf_provider,
                aead_alg: Box::leak(Box::new(SharedTls13 {
                    ciphers: suite.aead_alg,
                    finished_bytes: suite.common.hash_provider.output_len(),
                })),
                quic: suite.quic,
            })))
        }
        SupportedCipherSuite::Tls12(suite) => {
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: hashed(&suite.common),
                prf_provider: suite.prf_provider,
                kx: suite.kx,
                sign: suite.sign,
                aead_alg: Box::leak(Box::new(SharedTls12(suite.aead_alg))),
            })))
        }
    }
}

fn hashed(common: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite: common.suite,
        hash_provider: Box::leak(Box::new(TranscriptHash(common.hash_provider))),
        confidentiality_limit: common.confidentiality_limit,
    }
}

/// Labels of rustls's `KeyLog`: draft-ietf-tls-keylogfile.
const CLIENT_SECRET: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER_SECRET: &str = "SERVER_TRAFFIC_SECRET_0";

thread_local! {
    /// The scope that is entered on this thread.
    static ENTERED: RefCell<Option<HandshakeScope>> = const { RefCell::new(None) };
}

/// What rustls's parts of one handshake know of each other, and share with the code that drives it.
#[derive(Default)]
pub(crate) struct HandshakeScope {
    /// The version that the ClientHello leads to.
    pub(crate) version: Option<ProtocolVersion>,
    /// The ClientHello differs from the one that the client sent.
    pub(crate) disguise: Option<Disguise>,
    /// Why the resolver has found no certificate that the client can use.
    pub(crate) no_certificate_fits: Option<PeerIncompatible>,
    sealer: Option<Arc<Lock<Sealer>>>,
    opener: Option<Arc<Lock<Box<dyn MessageDecrypter>>>>,
    has_sealed: bool,
    client_secret: Option<OkmBlock>,
    server_secret: Option<OkmBlock>,
}

/// The secrets of TLS 1.3 that the keys of a session are made from: RFC 8446 section 7.1.
pub(crate) struct TrafficSecrets {
    pub(crate) client: OkmBlock,
    pub(crate) server: OkmBlock,
}

impl HandshakeScope {
    /// Runs `work`, in which rustls takes a step of this handshake.
    pub(crate) fn enter<R>(&mut self, work: impl FnOnce() -> R) -> R {
        /// Leaves also by a panic.
        struct Leave<'a>(&'a mut HandshakeScope);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                *self.0 = ENTERED.take().unwrap_or_default();
            }
        }
        ENTERED.replace(Some(mem::take(self)));
        let _leave = Leave(self);
        work()
    }

    /// Gives `look` the scope that is entered on this thread, if one is.
    pub(crate) fn with_entered<R>(look: impl FnOnce(&mut Self) -> R) -> Option<R> {
        ENTERED.with_borrow_mut(|entered| entered.as_mut().map(look))
    }

    /// Returns the secrets of the session that the handshake was for; none before TLS 1.3.
    pub(crate) fn take_traffic_secrets(&mut self) -> Option<TrafficSecrets> {
        let (client, server) = (self.client_secret.take(), self.server_secret.take());
        client.zip(server).map(|(client, server)| TrafficSecrets { client, server })
    }

    /// Whether our records are encrypted.
    pub(crate) const fn is_sealing(&self) -> bool {
        self.has_sealed
    }

    /// Whether the keys for the client's records are known.
    pub(crate) const fn can_open(&self) -> bool {
        self.opener.is_some()
    }

    /// Seals a fatal alert as our next record.
    pub(crate) fn seal_alert(&self, description: AlertDescription) -> Option<Vec<u8>> {
        let mut sealer = self.sealer.as_ref()?.lock();
        let alert = [2, u8::from(description)];
        let message = OutboundPlainMessage {
            typ: ContentType::Alert,
            version: ProtocolVersion::TLSv1_2,
            payload: alert[..].into(),
        };
        let next = sealer.next;
        sealer.encrypt(message, next).ok().map(OutboundOpaqueMessage::encode)
    }

    /// Whether `payload`, a copy of an application_data record, is the first that the client has
    /// sealed with its handshake keys.
    pub(crate) fn opens_first(&self, payload: &mut [u8]) -> bool {
        let Some(opener) = &self.opener else { return false };
        let version = ProtocolVersion::TLSv1_2;
        let record = InboundOpaqueMessage::new(ContentType::ApplicationData, version, payload);
        opener.lock().decrypt(record, 0).is_ok()
    }
}

/// Shares the secrets of a session with the scope in which they are made. Nothing is written.
#[derive(Debug)]
pub(crate) struct SecretsToScope;

impl KeyLog for SecretsToScope {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        HandshakeScope::with_entered(|scope| match label {
            CLIENT_SECRET => scope.client_secret = Some(OkmBlock::new(secret)),
            SERVER_SECRET => scope.server_secret = Some(OkmBlock::new(secret)),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        [CLIENT_SECRET, SERVER_SECRET].contains(&label)
    }
}

/// A cipher for our records.
struct Sealer {
    cipher: Box<dyn MessageEncrypter>,
    /// The sequence number of the next record.
    next: u64,
}

impl Sealer {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        self.next = sequence + 1;
        self.cipher.encrypt(message, sequence)
    }
}

/// rustls's share of a cipher for our records.
struct SharedSealer(Arc<Lock<Sealer>>);

impl MessageEncrypter for SharedSealer {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        HandshakeScope::with_entered(|scope| scope.has_sealed = true);
        self.0.lock().encrypt(message, sequence)
    }

    fn encrypted_payload_len(&self, length: usize) -> usize {
        let sealer = self.0.lock();
        sealer.cipher.encrypted_payload_len(length)
    }
}

/// rustls's share of a cipher for the client's records. It rejects what rustls passes over: an empty
/// message (RFC 8446 section 5.1), and a type that does not exist. A Finished of the wrong length, which
/// rustls takes for a wrong one, cannot be decoded.
struct SharedOpener {
    cipher: Arc<Lock<Box<dyn MessageDecrypter>>>,
    messages: Messages,
    /// None in TLS 1.2, where rustls checks it.
    finished_bytes: Option<usize>,
}

/// Where handshake messages begin in the plaintext of records.
#[derive(Default)]
struct Messages {
    /// The type and length of a message: RFC 8446 section 4.
    header: [u8; 4],
    have: usize,
    /// How much of the message is still to come.
    left: usize,
}

impl Messages {
    /// Whether no Finished begins in `bytes`, or one of so many bytes.
    fn have_finished_of(&mut self, finished_bytes: usize, mut bytes: &[u8]) -> bool {
        while let [byte, rest @ ..] = bytes {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                self.left -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            self.header[self.have] = *byte;
            self.have += 1;
            bytes = rest;
            if self.have == self.header.len() {
                let [kind, high, middle, low] = self.header;
                self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.have = 0;
                if HandshakeType::from(kind) == HandshakeType::Finished
                    && self.left != finished_bytes
                {
                    return false;
                }
            }
        }
        true
    }
}

impl MessageDecrypter for SharedOpener {
    fn decrypt<'a>(
        &mut self,
        record: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let mut cipher = self.cipher.lock();
        let opened = cipher.decrypt(record, sequence)?;
        if let (ContentType::Handshake, Some(bytes)) = (opened.typ, self.finished_bytes)
            && !self.messages.have_finished_of(bytes, opened.payload)
        {
            return Err(InvalidMessage::TrailingData("Finished").into());
        }
        match opened.typ {
            ContentType::ApplicationData => Ok(opened),
            ContentType::Handshake | ContentType::Alert if !opened.payload.is_empty() => Ok(opened),
            got_type => Err(Error::InappropriateMessage {
                expect_types: vec![ContentType::Handshake, ContentType::Alert],
                got_type,
            }),
        }
    }
}

fn share_sealer(cipher: Box<dyn MessageEncrypter>) -> Box<dyn MessageEncrypter> {
    let mut cipher = Some(cipher);
    let shared = HandshakeScope::with_entered(|scope| {
        let cipher = cipher.take()?;
        let sealer = Arc::new(Lock::new(Sealer { cipher, next: 0 }));
        scope.sealer = Some(Arc::clone(&sealer));
        Some(Box::new(SharedSealer(sealer)) as Box<dyn MessageEncrypter>)
    });
    shared.flatten().or(cipher).expect("it was shared or it is still here")
}

fn share_opener(
    cipher: Box<dyn MessageDecrypter>,
    finished_bytes: Option<usize>,
) -> Box<dyn MessageDecrypter> {
    let mut cipher = Some(cipher);
    let shared = HandshakeScope::with_entered(|scope| {
        let cipher = Arc::new(Lock::new(cipher.take()?));
        scope.opener = Some(Arc::clone(&cipher));
        let messages = Messages::default();
        let opener = SharedOpener { cipher, messages, finished_bytes };
        Some(Box::new(opener) as Box<dyn MessageDecrypter>)
    });
    shared.flatten().or(cipher).expect("it was shared or it is still here")
}

/// A factory of ciphers for TLS 1.3.
struct SharedTls13 {
    ciphers: &'static dyn Tls13AeadAlgorithm,
    /// The length of a Finished: RFC 8446 section 4.4.4.
    finished_bytes: usize,
}

impl Tls13AeadAlgorithm for SharedTls13 {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        share_sealer(self.ciphers.encrypter(key, iv))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        share_opener(self.ciphers.decrypter(key, iv), Some(self.finished_bytes))
    }

    fn key_len(&self) -> usize {
        self.ciphers.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.ciphers.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.ciphers.fips()
    }
}

/// A factory of ciphers for TLS 1.2.
struct SharedTls12(&'static dyn Tls12AeadAlgorithm);

impl Tls12AeadAlgorithm for SharedTls12 {
    fn encrypter(&self, key: AeadKey, iv: &[u8], extra: &[u8]) -> Box<dyn MessageEncrypter> {
        share_sealer(self.0.encrypter(key, iv, extra))
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        share_opener(self.0.decrypter(key, iv), None)
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        self.0.key_block_shape()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv, explicit)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}
