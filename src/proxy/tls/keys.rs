//! The two keys of a session: what opens and what seals its records.
//!
//! **Promises.** A sequence number is used once with a key. The ciphers, and how they make nonces and
//! additional data, are rustls's: secrets go from one part of it to another, and are zeroed there.
//!
//! **Not here.** When a key is used up or renewed (`session.rs`).

use tokio_rustls::rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    OutboundPlainMessage,
};
use tokio_rustls::rustls::{
    ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, SupportedCipherSuite,
};

/// A secret and the sequence number that it starts with, as rustls hands them out.
pub(super) type Secret = (u64, ConnectionTrafficSecrets);

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
    pub(super) fn open<'a>(
        &mut self,
        record: InboundOpaqueMessage<'a>,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let opened = self.decrypter.decrypt(record, self.sequence)?;
        self.sequence += 1;
        Ok(opened)
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
        // The handshake has sealed a few already: its Finished, its tickets. AWS-LC's key takes the
        // first nonce that it sees for the first of all, and refuses what does not follow on it
        // (`aead_aes_gcm_tls13_seal_scatter`): so it sees them. What it makes of them goes nowhere.
        while sealer.sequence < sequence {
            let _goes_nowhere = sealer.seal(ContentType::Alert, &[])?;
        }
        Ok(sealer)
    }

    /// How many records the key has sealed.
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
        // rustls's list is open; these are all that its provider has.
        _ => Err(Error::General("a cipher that is not known here".to_owned())),
    }
}
