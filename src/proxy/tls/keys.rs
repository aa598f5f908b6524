//! The keys of a session: one opens its records, one seals them, and the next keys replace both.
//!
//! A cipher of AWS-LC has 592 bytes, for a key of 16 or 32. An idle session drops its ciphers, and rebuilds them from a
//! [`KeySource`].
//!
//! **Promises.** A sequence number is used once with a key, also by a cipher that was rebuilt. The ciphers, their nonces
//! and additional data, and HKDF are rustls's. Stored secrets are in types of rustls, which zero them.
//!
//! `KernelConnection` of rustls derives the next keys of TLS 1.3 as well. It is not used: it keeps all
//! certificates that the client has sent, up to 64 KiB, for its whole life.
//!
//! This file, `keys/saved.rs` and `negotiation/rustls_handshake.rs` are the only ones of `proxy/` that name rustls's
//! connections, ciphers and records. `docs/dependencies.md` states what the next rustls changes there.
//!
//! **Not here.** The limits and updates of keys (`record_layer.rs`), the time after which ciphers are dropped
//! (`relay/idle_ciphers.rs`).

mod saved;

use tokio_rustls::rustls::crypto::cipher::{
    InboundOpaqueMessage, InboundPlainMessage, MessageDecrypter, MessageEncrypter,
    OutboundPlainMessage,
};
use tokio_rustls::rustls::crypto::tls13::OkmBlock;
use tokio_rustls::rustls::internal::{derive_traffic_iv, derive_traffic_key};
use tokio_rustls::rustls::server::UnbufferedServerConnection;
use tokio_rustls::rustls::{
    ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, SupportedCipherSuite,
    Tls12CipherSuite, Tls13CipherSuite,
};

use self::saved::{Key, SavedKey};
use crate::trust::provider::TrafficSecrets;

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
    pub(super) source: Box<KeySource>,
}

impl Keys {
    /// Takes the keys of a handshake that is over and has nothing more to send. Our key has sealed `added` records
    /// that rustls has not counted. The keys of TLS 1.3 are derived from `secrets`.
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
        let ((received, client), (sent, server)) = (keys.rx, keys.tx);
        let (client, server) = (key_of(client)?, key_of(server)?);
        let source = Box::new(KeySource::new(suite, secrets, [&client, &server])?);
        Ok(Self {
            opener: Opener::new(suite, client, received),
            sealer: Sealer::new(suite, server, sent + added)?,
            max_sealed: confidentiality_limit(suite),
            source,
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

/// The source of a session's keys: the current ones, for ciphers that are rebuilt, and the next ones of TLS 1.3. It always
/// has the keys that the sequence numbers of the session belong to.
pub(super) enum KeySource {
    Tls13 { suite: &'static Tls13CipherSuite, secrets: TrafficSecrets },
    Tls12 { suite: &'static Tls12CipherSuite, client: SavedKey, server: SavedKey },
}

impl KeySource {
    /// Returns the source of the keys of a session, whose current ones are those of the client and of us.
    ///
    /// # Errors
    /// If a session of TLS 1.3 has no secrets: a fault of ours.
    fn new(
        suite: SupportedCipherSuite,
        secrets: Option<TrafficSecrets>,
        [client, server]: [&Key; 2],
    ) -> Result<Self, Error> {
        match (suite, secrets) {
            (SupportedCipherSuite::Tls12(suite), _) => {
                let (client, server) = (SavedKey::of(client), SavedKey::of(server));
                Ok(Self::Tls12 { suite, client, server })
            }
            (SupportedCipherSuite::Tls13(suite), Some(secrets)) => {
                Ok(Self::Tls13 { suite, secrets })
            }
            (SupportedCipherSuite::Tls13(_), None) => {
                Err(Error::General("a session without traffic secrets".to_owned()))
            }
        }
    }

    pub(super) const fn is_tls13(&self) -> bool {
        matches!(self, Self::Tls13 { .. })
    }

    /// Returns the client's key.
    fn decrypter(&self) -> Box<dyn MessageDecrypter> {
        match self {
            Self::Tls13 { suite, secrets } => {
                decrypter(SupportedCipherSuite::Tls13(suite), derived(suite, &secrets.client))
            }
            Self::Tls12 { suite, client, .. } => {
                decrypter(SupportedCipherSuite::Tls12(suite), client.key())
            }
        }
    }

    /// Returns our key.
    fn encrypter(&self) -> Box<dyn MessageEncrypter> {
        match self {
            Self::Tls13 { suite, secrets } => {
                encrypter(SupportedCipherSuite::Tls13(suite), derived(suite, &secrets.server))
            }
            Self::Tls12 { suite, server, .. } => {
                encrypter(SupportedCipherSuite::Tls12(suite), server.key())
            }
        }
    }

    /// Derives the client's next key; none before TLS 1.3.
    pub(super) fn next_opener(&mut self) -> Option<Opener> {
        let Self::Tls13 { suite, secrets } = self else { return None };
        advance(suite, &mut secrets.client);
        Some(Opener { decrypter: Some(self.decrypter()), sequence: 0 })
    }

    /// Derives our next key; none before TLS 1.3.
    pub(super) fn next_sealer(&mut self) -> Option<Sealer> {
        let Self::Tls13 { suite, secrets } = self else { return None };
        advance(suite, &mut secrets.server);
        Some(Sealer { encrypter: Some(self.encrypter()), sequence: 0 })
    }
}

/// Replaces a traffic secret by the next one: RFC 8446 section 7.2.
fn advance(suite: &Tls13CipherSuite, secret: &mut OkmBlock) {
    const LABEL: &[u8; 17] = b"tls13 traffic upd";
    let expander = suite.hkdf_provider.expander_for_okm(secret);
    // HkdfLabel of section 7.1: the length, the label, no context.
    let length = u16::try_from(expander.hash_len()).unwrap_or(0).to_be_bytes();
    let label_length = [17];
    *secret = expander.expand_block(&[&length, &label_length, LABEL, &[0]]);
}

/// Returns the key of a traffic secret: RFC 8446 section 7.3.
fn derived(suite: &Tls13CipherSuite, secret: &OkmBlock) -> Key {
    let expander = suite.hkdf_provider.expander_for_okm(secret);
    (derive_traffic_key(expander.as_ref(), suite.aead_alg), derive_traffic_iv(expander.as_ref()))
}

fn decrypter(suite: SupportedCipherSuite, (key, iv): Key) -> Box<dyn MessageDecrypter> {
    match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.decrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
            suite.aead_alg.decrypter(key, &iv.as_ref()[..fixed])
        }
    }
}

fn encrypter(suite: SupportedCipherSuite, (key, iv): Key) -> Box<dyn MessageEncrypter> {
    match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
            let (fixed, explicit) = iv.as_ref().split_at(fixed);
            suite.aead_alg.encrypter(key, fixed, explicit)
        }
    }
}

/// Opens the client's records.
pub(super) struct Opener {
    /// None if it was dropped.
    decrypter: Option<Box<dyn MessageDecrypter>>,
    sequence: u64,
}

impl Opener {
    /// Returns an opener whose key has opened `sequence` records.
    pub(super) fn new(suite: SupportedCipherSuite, key: Key, sequence: u64) -> Self {
        Self { decrypter: Some(decrypter(suite, key)), sequence }
    }

    pub(super) const fn has_cipher(&self) -> bool {
        self.decrypter.is_some()
    }

    /// Drops the cipher. [`Self::rebuild`] has to be called before the next record.
    pub(super) fn drop_cipher(&mut self) {
        self.decrypter = None;
    }

    /// Rebuilds the cipher, if it was dropped.
    pub(super) fn rebuild(&mut self, source: &KeySource) {
        self.decrypter.get_or_insert_with(|| source.decrypter());
    }

    /// Opens the next record in place.
    ///
    /// # Errors
    /// If the record is not authentic, or there is no cipher: a fault of ours.
    pub(super) fn open<'a>(&mut self, record: SealedRecord<'a>) -> Result<OpenedRecord<'a>, Error> {
        let SealedRecord { kind, version, payload } = record;
        let record = InboundOpaqueMessage::new(kind, version, payload);
        let decrypter = self.decrypter.as_mut().ok_or_else(no_cipher)?;
        let InboundPlainMessage { typ, payload, .. } = decrypter.decrypt(record, self.sequence)?;
        self.sequence += 1;
        Ok(OpenedRecord { kind: typ, payload })
    }
}

/// Seals our records.
pub(super) struct Sealer {
    /// None if it was dropped.
    encrypter: Option<Box<dyn MessageEncrypter>>,
    sequence: u64,
}

impl Sealer {
    /// Returns a sealer whose key has sealed `sequence` records.
    ///
    /// # Errors
    /// The cipher's: a fault of ours.
    pub(super) fn new(suite: SupportedCipherSuite, key: Key, sequence: u64) -> Result<Self, Error> {
        let encrypter = started(encrypter(suite, key), sequence)?;
        Ok(Self { encrypter: Some(encrypter), sequence })
    }

    pub(super) const fn has_cipher(&self) -> bool {
        self.encrypter.is_some()
    }

    /// Drops the cipher. [`Self::rebuild`] has to be called before the next record.
    pub(super) fn drop_cipher(&mut self) {
        self.encrypter = None;
    }

    /// Rebuilds the cipher, if it was dropped.
    ///
    /// # Errors
    /// The cipher's: a fault of ours.
    pub(super) fn rebuild(&mut self, source: &KeySource) -> Result<(), Error> {
        if self.encrypter.is_none() {
            self.encrypter = Some(started(source.encrypter(), self.sequence)?);
        }
        Ok(())
    }

    /// Returns the count of records that the key has sealed.
    pub(super) const fn used(&self) -> u64 {
        self.sequence
    }

    /// Seals the next record: at most 16 KiB.
    ///
    /// # Errors
    /// The cipher's, or if there is none: a fault of ours.
    pub(super) fn seal(&mut self, kind: ContentType, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let encrypter = self.encrypter.as_mut().ok_or_else(no_cipher)?;
        let sealed = encrypter.encrypt(plain_record(kind, plain), self.sequence)?;
        self.sequence += 1;
        Ok(sealed.encode())
    }
}

/// Returns a new cipher for a key that has sealed `sequence` records. AWS-LC's cipher takes the first nonce that it sees for
/// that of sequence number 0, and then refuses those that do not increase (`aead_aes_gcm_tls13_seal_scatter`). So it seals an
/// empty record with that number. The result must never leave this function: it has a nonce that was used before.
fn started(
    mut encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
) -> Result<Box<dyn MessageEncrypter>, Error> {
    if sequence > 0 {
        let _dropped = encrypter.encrypt(plain_record(ContentType::Alert, &[]), 0)?;
    }
    Ok(encrypter)
}

fn plain_record(kind: ContentType, plain: &[u8]) -> OutboundPlainMessage<'_> {
    // TLS 1.3 writes the version of TLS 1.2 as well: RFC 8446 section 5.1.
    OutboundPlainMessage { typ: kind, version: ProtocolVersion::TLSv1_2, payload: plain.into() }
}

fn no_cipher() -> Error {
    Error::General("a cipher that was dropped".to_owned())
}

/// Returns the key that rustls has extracted.
pub(super) fn key_of(secret: ConnectionTrafficSecrets) -> Result<Key, Error> {
    use ConnectionTrafficSecrets as Secrets;
    match secret {
        Secrets::Aes128Gcm { key, iv }
        | Secrets::Aes256Gcm { key, iv }
        | Secrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        // rustls's list is open. Its provider has no other ciphers.
        _ => Err(Error::General("an unknown cipher".to_owned())),
    }
}
