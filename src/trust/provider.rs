//! The cryptography of rustls, with the ciphers of a handshake shared with the code that drives it.
//!
//! rustls keeps the ciphers of a handshake to itself. Without them, a record that rustls rejects
//! without an alert cannot be answered with one once records are encrypted, and rejected early data
//! cannot be distinguished from the client's next flight. Each cipher suite therefore wraps its cipher
//! factory: while a [`HandshakeScope`] is entered, the ciphers that rustls makes are shared with it.
//!
//! **Promises.** The ciphers, keys and hashes are those of rustls and AWS-LC. Outside of a scope (sessions,
//! `probe`) the wrapped suites return the original ciphers.
//!
//! **Not here.** The choice of the alert for a record (`proxy/tls/`), the transcript's hash
//! (`provider/transcript.rs`), the nonces of tickets (`provider/ticket_nonce.rs`), the shared data
//! (`provider/scope.rs`).

mod accepted;
mod aes_ccm;
mod disguise;
mod flight;
mod fragment_ack;
mod p521;
mod scope;
mod ticket_nonce;
pub(crate) mod transcript;

use std::sync::{Arc, LazyLock};

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, KeyBlockShape, MessageDecrypter,
    MessageEncrypter, OutboundChunks, OutboundOpaqueMessage, OutboundPlainMessage,
    Tls12AeadAlgorithm, Tls13AeadAlgorithm, UnsupportedOperationError,
};
use tokio_rustls::rustls::{
    AlertDescription, CipherSuite, CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error,
    HandshakeType, InvalidMessage, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite,
};

pub(crate) use self::accepted::{Accepted, label};
pub(crate) use self::disguise::{Change, Disguise};
pub(crate) use self::flight::FlightSizes;
pub(crate) use self::fragment_ack::FragmentAck;
use self::scope::HandshakeSealer;
pub(crate) use self::scope::{HandshakeScope, SecretsToScope, TrafficSecrets};
use self::ticket_nonce::{ShortNonceHkdf, ShortNonces};
use self::transcript::TranscriptHash;
use crate::config::TlsConfig;
use crate::lock::Lock;

/// aws-lc-rs with AES-128-GCM before AES-256-GCM. Most clients prefer AES-256 by default, and
/// with SHA-384 it costs a tenth of a handshake more, and considerably more on small devices. RFC 8446
/// section 9.1 requires every implementation to have AES-128-GCM.
pub(crate) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = default_provider();
    let is_aes_128 = |suite: &SupportedCipherSuite| {
        matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    // The sort is stable: the other suites stay in rustls's order.
    provider.cipher_suites.sort_by_key(|suite| !is_aes_128(suite));
    provider.cipher_suites.iter_mut().for_each(|suite| *suite = shared(*suite));
    Arc::new(provider)
});

/// The suites that only configurations have which name them.
static LEGACY_SUITES: LazyLock<Vec<SupportedCipherSuite>> =
    LazyLock::new(|| aes_ccm::suites().into_iter().map(shared).collect());

/// Returns the cryptography with the suites and groups of a policy.
pub(crate) fn offering(tls: &TlsConfig) -> Arc<CryptoProvider> {
    accepted::restricted(&PROVIDER, &LEGACY_SUITES, tls)
}

/// Returns the cryptography of a policy with the suites of ChaCha20 first and legacy ones last.
pub(crate) fn offering_chacha20_first(tls: &TlsConfig) -> Arc<CryptoProvider> {
    accepted::chacha20_first(&offering(tls))
}

/// Returns the suite with factories that share their ciphers with the entered scope. It is leaked, once for
/// the life of the process, because rustls takes suites by static references.
fn shared(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    match suite {
        SupportedCipherSuite::Tls13(suite) => {
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: hashed(&suite.common),
                hkdf_provider: Box::leak(Box::new(ShortNonceHkdf(suite.hkdf_provider))),
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

/// A cipher for our records that rustls shares with the scope.
struct SharedSealer {
    cipher: Arc<Lock<HandshakeSealer>>,
    nonces: ShortNonces,
}

impl MessageEncrypter for SharedSealer {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let (sizes, has_short_nonces) = HandshakeScope::with_entered(|scope| {
            scope.has_sealed = true;
            if message.typ == ContentType::Alert {
                let alert = message.payload.to_vec();
                scope.sent_alert = alert.get(1).copied().map(AlertDescription::from);
            }
            (scope.sealed_sizes, scope.has_short_nonces)
        })
        .unwrap_or_default();
        let short = (has_short_nonces && message.typ == ContentType::Handshake).then(|| {
            match message.payload {
                OutboundChunks::Single(record) => self.nonces.shorten(record),
                OutboundChunks::Multiple { .. } => self.nonces.shorten(&message.payload.to_vec()),
            }
        });
        let message = match &short {
            Some(short) => OutboundPlainMessage { payload: short[..].into(), ..message },
            None => message,
        };
        let sealed = self.cipher.lock().encrypt_divided(&message, sequence, sizes);
        let (before, last) = sealed?;
        HandshakeScope::with_entered(|scope| scope.sealed_before.push_back(before));
        Ok(last)
    }

    fn encrypted_payload_len(&self, length: usize) -> usize {
        let sealer = self.cipher.lock();
        sealer.cipher.encrypted_payload_len(length)
    }
}

/// A cipher for the client's records that rustls shares with the scope. It rejects records that rustls
/// ignores: an empty message (RFC 8446 section 5.1) and an unknown type. A Finished of the wrong length
/// is a decoding error here; rustls would treat it as a Finished with the wrong content.
struct SharedOpener {
    cipher: Arc<Lock<Box<dyn MessageDecrypter>>>,
    messages: Messages,
    /// None in TLS 1.2, where rustls checks it.
    finished_bytes: Option<usize>,
}

/// A parser that finds the starts of handshake messages in the plaintext of records.
#[derive(Default)]
struct Messages {
    /// The type and length of a message: RFC 8446 section 4.
    header: [u8; 4],
    have: usize,
    /// Bytes of the message that have not arrived yet.
    left: usize,
}

impl Messages {
    /// Returns false if a Finished begins in `bytes` whose length is not `finished_bytes`.
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
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other content type of TLS is refused"
    )]
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
        let sealer = Arc::new(Lock::new(HandshakeSealer { cipher, next: 0, added: 0 }));
        scope.sealer = Some(Arc::clone(&sealer));
        let sealer = SharedSealer { cipher: sealer, nonces: ShortNonces::default() };
        Some(Box::new(sealer) as Box<dyn MessageEncrypter>)
    });
    shared.flatten().or(cipher).expect("the cipher was shared, or is still here")
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
    shared.flatten().or(cipher).expect("the cipher was shared, or is still here")
}

/// A cipher factory for TLS 1.3.
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

/// A cipher factory for TLS 1.2.
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
