//! The keys of a session: one opens its records, one seals them, and the next keys replace both.
//!
//! **Promises.** A sequence number is used once with a key. The ciphers, their nonces and additional data,
//! and HKDF are rustls's. Secrets go from one part of rustls to another, which zeroes them.
//!
//! `KernelConnection` of rustls derives the next keys of TLS 1.3 as well. It is not used: it keeps all
//! certificates that the client has sent, up to 64 KiB, for its whole life.
//!
//! This file and `negotiation/rustls_handshake.rs` are the only ones of `proxy/` that name rustls's connections, ciphers
//! and records. `docs/dependencies.md` states what the next rustls changes there.
//!
//! **Not here.** The limits and updates of keys (`record_layer.rs`).

use tokio_rustls::rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    OutboundPlainMessage,
};
use tokio_rustls::rustls::crypto::tls13::OkmBlock;
use tokio_rustls::rustls::internal::{derive_traffic_iv, derive_traffic_key};
use tokio_rustls::rustls::server::UnbufferedServerConnection;
use tokio_rustls::rustls::{
    ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, SupportedCipherSuite,
    Tls13CipherSuite,
};

use crate::trust::provider::TrafficSecrets;

/// A secret and the sequence number that it starts with, as rustls returns them.
pub(super) type Secret = (u64, ConnectionTrafficSecrets);

/// A record as the client has sent it.
pub(super) struct SealedRecord<'a> {
    pub(super) kind: ContentType,
    pub(super) version: ProtocolVersion,
    pub(super) payload: &'a mut [u8],
}

/// The content of a record, in the place of its ciphertext.
pub(super) struct OpenedRecord<'a> {
    pub(super) kind: ContentType,
    pub(super) payload: &'a [u8],
}

/// The keys that a handshake has agreed on.
pub(super) struct Keys {
    pub(super) opener: Opener,
    pub(super) sealer: Sealer,
    /// Records that one key may seal at most.
    pub(super) max_sealed: u64,
    /// The source of the next keys; none before TLS 1.3.
    pub(super) next: Option<Box<NextKeys>>,
}

impl Keys {
    /// Takes the keys of a handshake that is over and has nothing more to send. Our key has sealed `added` records
    /// that rustls has not counted. The next keys of TLS 1.3 are derived from `secrets`.
    ///
    /// # Errors
    /// If the handshake is not over, or rustls does not return its secrets: a fault of ours.
    pub(super) fn of(
        handshake: UnbufferedServerConnection,
        secrets: Option<TrafficSecrets>,
        added: u64,
    ) -> Result<Self, Error> {
        let (keys, kernel) = handshake.dangerous_into_kernel_connection()?;
        let suite = kernel.negotiated_cipher_suite();
        let (sequence, secret) = keys.tx;
        Ok(Self {
            opener: Opener::new(suite, keys.rx)?,
            sealer: Sealer::new(suite, (sequence + added, secret))?,
            max_sealed: confidentiality_limit(suite),
            next: NextKeys::new(suite, secrets)?.map(Box::new),
        })
    }
}

/// Records that one key may seal at most: RFC 8446 section 5.5.
fn confidentiality_limit(suite: SupportedCipherSuite) -> u64 {
    match suite {
        SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
        SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
    }
}

/// The secrets of TLS 1.3 that the next keys of a session are derived from.
pub(super) struct NextKeys {
    suite: &'static Tls13CipherSuite,
    secrets: TrafficSecrets,
}

impl NextKeys {
    /// Returns the source of the next keys of a session; none before TLS 1.3.
    ///
    /// # Errors
    /// If a session of TLS 1.3 has no secrets: a fault of ours.
    fn new(
        suite: SupportedCipherSuite,
        secrets: Option<TrafficSecrets>,
    ) -> Result<Option<Self>, Error> {
        match (suite, secrets) {
            (SupportedCipherSuite::Tls12(_), _) => Ok(None),
            (SupportedCipherSuite::Tls13(suite), Some(secrets)) => {
                Ok(Some(Self { suite, secrets }))
            }
            (SupportedCipherSuite::Tls13(_), None) => {
                Err(Error::General("a session without traffic secrets".to_owned()))
            }
        }
    }

    /// Derives the client's next key.
    pub(super) fn opener(&mut self) -> Result<Opener, Error> {
        let secret = next(self.suite, &mut self.secrets.client)?;
        Opener::new(SupportedCipherSuite::Tls13(self.suite), secret)
    }

    /// Derives our next key.
    pub(super) fn sealer(&mut self) -> Result<Sealer, Error> {
        let secret = next(self.suite, &mut self.secrets.server)?;
        Sealer::new(SupportedCipherSuite::Tls13(self.suite), secret)
    }
}

/// Replaces a traffic secret by the next one, and returns its key: RFC 8446 sections 7.2 and 7.3.
fn next(suite: &Tls13CipherSuite, secret: &mut OkmBlock) -> Result<Secret, Error> {
    const LABEL: &[u8; 17] = b"tls13 traffic upd";
    let hkdf = suite.hkdf_provider;
    let expander = hkdf.expander_for_okm(secret);
    // HkdfLabel of section 7.1: the length, the label, no context.
    let length = u16::try_from(expander.hash_len()).unwrap_or(0).to_be_bytes();
    let label_length = [17];
    *secret = expander.expand_block(&[&length, &label_length, LABEL, &[0]]);
    let expander = hkdf.expander_for_okm(secret);
    let key = derive_traffic_key(expander.as_ref(), suite.aead_alg);
    let iv = derive_traffic_iv(expander.as_ref());
    let extracted = suite.aead_alg.extract_keys(key, iv);
    let keys =
        extracted.map_err(|_| Error::General("the provider does not return keys".to_owned()))?;
    Ok((0, keys))
}

/// Opens the client's records.
pub(super) struct Opener {
    decrypter: Box<dyn MessageDecrypter>,
    sequence: u64,
}

impl Opener {
    pub(super) fn new(suite: SupportedCipherSuite, secret: Secret) -> Result<Self, Error> {
        let (sequence, secret) = secret;
        let (key, iv) = parts(secret)?;
        let decrypter = match suite {
            SupportedCipherSuite::Tls13(suite) => suite.aead_alg.decrypter(key, iv),
            SupportedCipherSuite::Tls12(suite) => {
                let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
                suite.aead_alg.decrypter(key, &iv.as_ref()[..fixed])
            }
        };
        Ok(Self { decrypter, sequence })
    }

    /// Opens the next record in place.
    pub(super) fn open<'a>(&mut self, record: SealedRecord<'a>) -> Result<OpenedRecord<'a>, Error> {
        let SealedRecord { kind, version, payload } = record;
        let record = InboundOpaqueMessage::new(kind, version, payload);
        let InboundPlainMessage { typ, payload, .. } =
            self.decrypter.decrypt(record, self.sequence)?;
        self.sequence += 1;
        Ok(OpenedRecord { kind: typ, payload })
    }
}

/// Seals our records.
pub(super) struct Sealer {
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Sealer {
    pub(super) fn new(suite: SupportedCipherSuite, secret: Secret) -> Result<Self, Error> {
        let (sequence, secret) = secret;
        let (key, iv) = parts(secret)?;
        let encrypter = match suite {
            SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
            SupportedCipherSuite::Tls12(suite) => {
                let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
                let (fixed, explicit) = iv.as_ref().split_at(fixed);
                suite.aead_alg.encrypter(key, fixed, explicit)
            }
        };
        let mut sealer = Self { encrypter, sequence: 0 };
        // The handshake has sealed a few records already: its Finished, its tickets. AWS-LC's key takes
        // the first nonce that it sees for the first of all, and refuses a nonce that does not follow
        // (`aead_aes_gcm_tls13_seal_scatter`). So it seals as many records here, which are dropped.
        while sealer.sequence < sequence {
            let _dropped = sealer.seal(ContentType::Alert, &[])?;
        }
        Ok(sealer)
    }

    /// Returns the count of records that the key has sealed.
    pub(super) const fn used(&self) -> u64 {
        self.sequence
    }

    /// Seals the next record: at most 16 KiB.
    pub(super) fn seal(&mut self, kind: ContentType, plain: &[u8]) -> Result<Vec<u8>, Error> {
        // TLS 1.3 writes the version of TLS 1.2 as well: RFC 8446 section 5.1.
        let version = ProtocolVersion::TLSv1_2;
        let record = OutboundPlainMessage { typ: kind, version, payload: plain.into() };
        let sealed = self.encrypter.encrypt(record, self.sequence)?;
        self.sequence += 1;
        Ok(sealed.encode())
    }
}

fn parts(secret: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    use ConnectionTrafficSecrets as Secrets;
    match secret {
        Secrets::Aes128Gcm { key, iv }
        | Secrets::Aes256Gcm { key, iv }
        | Secrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        // rustls's list is open. Its provider has no other ciphers.
        _ => Err(Error::General("an unknown cipher".to_owned())),
    }
}
