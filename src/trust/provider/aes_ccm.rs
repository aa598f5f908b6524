//! The cipher suites with AES-CCM, for devices of RFC 7925 and IEEE 2030.5 (`tls.legacy_suites`).
//!
//! AWS-LC has AES-CCM, but no interface for it with the nonces of TLS. So the cipher is RustCrypto's: AES with the
//! processor's instructions or in bit slices, in constant time, and a comparison of tags in constant time. The hashes,
//! the key derivation and the key exchange stay those of AWS-LC.
//!
//! **Promises.** The nonces and the additional data are those of RFC 6655 section 3 and RFC 8446 sections 5.2 and 5.3. A
//! record that is not authentic leaves no plaintext. Expanded keys are wiped.
//!
//! **Not here.** The choice of these suites (`accepted.rs`), the end of a session at its first record that is not
//! authentic (`proxy/tls/record_layer.rs`): a tag of 64 bits stands one attempt.

use std::marker::PhantomData;

use aes::{Aes128Enc, Aes256Enc};
use ccm::Ccm;
use ccm::aead::array::typenum::Unsigned;
use ccm::aead::{AeadCore, AeadInOut, KeyInit, KeySizeUser, Tag};
use ccm::consts::{U8, U12, U16};
use tokio_rustls::rustls::crypto::aws_lc_rs::cipher_suite;
use tokio_rustls::rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, KeyBlockShape, MessageDecrypter,
    MessageEncrypter, Nonce, OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload,
    Tls12AeadAlgorithm, Tls13AeadAlgorithm, UnsupportedOperationError, make_tls12_aad,
    make_tls13_aad,
};
use tokio_rustls::rustls::{
    CipherSuite, CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion,
    SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite,
};

use crate::config::values::MAX_PLAIN_BYTES;

/// Records that one key may seal: RFC 9147 section 4.5.3. A record of TLS is as long as one of DTLS.
const CONFIDENTIALITY_LIMIT: u64 = 1 << 23;

/// The part of the nonce that the key exchange agrees on, and the part in each record: RFC 6655 section 3.
const FIXED_NONCE_BYTES: usize = 4;
const EXPLICIT_NONCE_BYTES: usize = 8;

/// Returns all suites, better ones first.
pub(super) fn suites() -> Vec<SupportedCipherSuite> {
    use CipherSuite as S;
    let (tls12, tls13) = match (
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_128_GCM_SHA256,
    ) {
        (SupportedCipherSuite::Tls12(tls12), SupportedCipherSuite::Tls13(tls13)) => (tls12, tls13),
        (SupportedCipherSuite::Tls13(_), _) | (_, SupportedCipherSuite::Tls12(_)) => {
            return Vec::new();
        }
    };
    let of_tls13 = |suite, aead_alg| {
        let common = with_ccm(&tls13.common, suite);
        SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
            common,
            aead_alg,
            quic: None,
            ..*tls13
        })))
    };
    let of_tls12 = |suite, aead_alg| {
        let common = with_ccm(&tls12.common, suite);
        SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
            common,
            aead_alg,
            ..*tls12
        })))
    };
    vec![
        of_tls13(S::TLS13_AES_128_CCM_SHA256, &Algorithm::<Ccm<Aes128Enc, U16, U12>>::NEW),
        of_tls13(S::TLS13_AES_128_CCM_8_SHA256, &Algorithm::<Ccm<Aes128Enc, U8, U12>>::NEW),
        of_tls12(S::TLS_ECDHE_ECDSA_WITH_AES_128_CCM, &Algorithm::<Ccm<Aes128Enc, U16, U12>>::NEW),
        of_tls12(S::TLS_ECDHE_ECDSA_WITH_AES_256_CCM, &Algorithm::<Ccm<Aes256Enc, U16, U12>>::NEW),
        of_tls12(S::TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8, &Algorithm::<Ccm<Aes128Enc, U8, U12>>::NEW),
        of_tls12(S::TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8, &Algorithm::<Ccm<Aes256Enc, U8, U12>>::NEW),
    ]
}

/// All of these suites have SHA-256: RFC 7251 section 2, RFC 8446 section B.4.
const fn with_ccm(common: &CipherSuiteCommon, suite: CipherSuite) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: CONFIDENTIALITY_LIMIT,
    }
}

/// AES-CCM with the nonce of TLS.
trait Cipher: AeadInOut + AeadCore<NonceSize = U12> + KeyInit + Send + Sync + 'static {}

impl<C: AeadInOut + AeadCore<NonceSize = U12> + KeyInit + Send + Sync + 'static> Cipher for C {}

fn tag_bytes<C: Cipher>() -> usize {
    <C as AeadCore>::TagSize::USIZE
}

/// The cipher factory of a suite.
struct Algorithm<C>(PhantomData<fn() -> C>);

impl<C: Cipher> Algorithm<C> {
    const NEW: Self = Self(PhantomData);

    fn cipher(key: &AeadKey) -> C {
        C::new_from_slice(key.as_ref()).expect("rustls asks for the length of the key")
    }

    /// Returns a key in a variant of rustls's that has the same length: there is none for CCM. `proxy/tls/keys.rs` knows
    /// the suite, and gives the key back to it.
    fn carried(key: AeadKey, iv: Iv) -> ConnectionTrafficSecrets {
        match <C as KeySizeUser>::key_size() {
            16 => ConnectionTrafficSecrets::Aes128Gcm { key, iv },
            _ => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
        }
    }
}

impl<C: Cipher> Tls13AeadAlgorithm for Algorithm<C> {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Tls13Records { cipher: Self::cipher(&key), iv })
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(Tls13Records { cipher: Self::cipher(&key), iv })
    }

    fn key_len(&self) -> usize {
        <C as KeySizeUser>::key_size()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Ok(Self::carried(key, iv))
    }
}

impl<C: Cipher> Tls12AeadAlgorithm for Algorithm<C> {
    fn encrypter(&self, key: AeadKey, fixed: &[u8], explicit: &[u8]) -> Box<dyn MessageEncrypter> {
        Box::new(Tls12Records { cipher: Self::cipher(&key), iv: joined(fixed, explicit) })
    }

    fn decrypter(&self, key: AeadKey, fixed: &[u8]) -> Box<dyn MessageDecrypter> {
        let iv = joined(fixed, &[0; EXPLICIT_NONCE_BYTES]);
        Box::new(Tls12Records { cipher: Self::cipher(&key), iv })
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        KeyBlockShape {
            enc_key_len: <C as KeySizeUser>::key_size(),
            fixed_iv_len: FIXED_NONCE_BYTES,
            explicit_nonce_len: EXPLICIT_NONCE_BYTES,
        }
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        fixed: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Ok(Self::carried(key, joined(fixed, explicit)))
    }
}

fn joined(fixed: &[u8], explicit: &[u8]) -> Iv {
    let mut iv = [0; FIXED_NONCE_BYTES + EXPLICIT_NONCE_BYTES];
    iv[..FIXED_NONCE_BYTES].copy_from_slice(fixed);
    iv[FIXED_NONCE_BYTES..].copy_from_slice(explicit);
    Iv::new(iv)
}

/// Encrypts `content` in place, and returns its tag.
fn seal<C: Cipher>(
    cipher: &C,
    nonce: [u8; 12],
    additional: &[u8],
    content: &mut [u8],
) -> Result<Tag<C>, Error> {
    let sealed = cipher.encrypt_inout_detached(&nonce.into(), additional, content.into());
    sealed.map_err(|_| Error::EncryptError)
}

/// Decrypts `content` in place, if its tag is authentic.
fn open<C: Cipher>(
    cipher: &C,
    nonce: [u8; 12],
    additional: &[u8],
    content: &mut [u8],
    tag: &[u8],
) -> Result<(), Error> {
    let tag = Tag::<C>::try_from(tag).map_err(|_| Error::DecryptError)?;
    let opened = cipher.decrypt_inout_detached(&nonce.into(), additional, content.into(), &tag);
    opened.map_err(|_| Error::DecryptError)
}

/// Seals or opens the records of TLS 1.3.
struct Tls13Records<C> {
    cipher: C,
    iv: Iv,
}

impl<C: Cipher> MessageEncrypter for Tls13Records<C> {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let bytes = self.encrypted_payload_len(message.payload.len());
        let mut record = PrefixedPayload::with_capacity(bytes);
        record.extend_from_chunks(&message.payload);
        record.extend_from_slice(&[message.typ.into()]);
        let nonce = Nonce::new(&self.iv, sequence).0;
        let tag = seal(&self.cipher, nonce, &make_tls13_aad(bytes), record.as_mut())?;
        record.extend_from_slice(&tag);
        let (kind, version) = (ContentType::ApplicationData, ProtocolVersion::TLSv1_2);
        Ok(OutboundOpaqueMessage::new(kind, version, record))
    }

    fn encrypted_payload_len(&self, length: usize) -> usize {
        length + 1 + tag_bytes::<C>()
    }
}

impl<C: Cipher> MessageDecrypter for Tls13Records<C> {
    fn decrypt<'a>(
        &mut self,
        mut record: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let bytes = record.payload.len();
        let end = bytes.checked_sub(tag_bytes::<C>()).ok_or(Error::DecryptError)?;
        let (content, tag) = record.payload.split_at_mut(end);
        let nonce = Nonce::new(&self.iv, sequence).0;
        open(&self.cipher, nonce, &make_tls13_aad(bytes), content, tag)?;
        record.payload.truncate(end);
        record.into_tls13_unpadded_message()
    }
}

/// Seals or opens the records of TLS 1.2. For records that are opened, the explicit part of the nonce is not used.
struct Tls12Records<C> {
    cipher: C,
    iv: Iv,
}

impl<C: Cipher> MessageEncrypter for Tls12Records<C> {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let OutboundPlainMessage { typ, version, payload } = message;
        let mut record = PrefixedPayload::with_capacity(self.encrypted_payload_len(payload.len()));
        let nonce = Nonce::new(&self.iv, sequence).0;
        record.extend_from_slice(&nonce[FIXED_NONCE_BYTES..]);
        record.extend_from_chunks(&payload);
        let additional = make_tls12_aad(sequence, typ, version, payload.len());
        let content = &mut record.as_mut()[EXPLICIT_NONCE_BYTES..];
        let tag = seal(&self.cipher, nonce, &additional, content)?;
        record.extend_from_slice(&tag);
        Ok(OutboundOpaqueMessage::new(typ, version, record))
    }

    fn encrypted_payload_len(&self, length: usize) -> usize {
        EXPLICIT_NONCE_BYTES + length + tag_bytes::<C>()
    }
}

impl<C: Cipher> MessageDecrypter for Tls12Records<C> {
    fn decrypt<'a>(
        &mut self,
        mut record: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let added = EXPLICIT_NONCE_BYTES + tag_bytes::<C>();
        let length = record.payload.len().checked_sub(added).ok_or(Error::DecryptError)?;
        let additional = make_tls12_aad(sequence, record.typ, record.version, length);
        let end = EXPLICIT_NONCE_BYTES + length;
        let (head, tag) = record.payload.split_at_mut(end);
        let (explicit, content) = head.split_at_mut(EXPLICIT_NONCE_BYTES);
        let mut nonce = Nonce::new(&self.iv, 0).0;
        nonce[FIXED_NONCE_BYTES..].copy_from_slice(explicit);
        open(&self.cipher, nonce, &additional, content, tag)?;
        if length > MAX_PLAIN_BYTES {
            return Err(Error::PeerSentOversizedRecord);
        }
        Ok(record.into_plain_message_range(EXPLICIT_NONCE_BYTES..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Ccm8 = Ccm<Aes128Enc, U8, U12>;

    /// Returns the bytes from `first` on.
    fn counting<const N: usize>(first: usize) -> [u8; N] {
        std::array::from_fn(|i| u8::try_from(first + i).unwrap())
    }

    #[test]
    fn the_cipher_is_that_of_nist() {
        // SP 800-38C example 3: a nonce of 12 bytes, as in TLS, and a tag of 8.
        let cipher = Ccm8::new_from_slice(&counting::<16>(0x40)).unwrap();
        let mut content = counting::<24>(0x20);
        let tag = seal(&cipher, counting(0x10), &counting::<20>(0), &mut content).unwrap();
        let sealed = [
            0xe3, 0xb2, 0x01, 0xa9, 0xf5, 0xb7, 0x1a, 0x7a, 0x9b, 0x1c, 0xea, 0xec, 0xcd, 0x97,
            0xe7, 0x0b, 0x61, 0x76, 0xaa, 0xd9, 0xa4, 0x42, 0x8a, 0xa5,
        ];
        assert_eq!(content, sealed);
        assert_eq!(tag[..], [0x48, 0x43, 0x92, 0xfb, 0xc1, 0xb0, 0x99, 0x51]);
    }

    #[test]
    fn a_record_that_is_not_authentic_leaves_no_plaintext() {
        let cipher = Ccm8::new_from_slice(&[7; 16]).unwrap();
        let mut content = *b"attack at dawn";
        let tag = seal(&cipher, [1; 12], b"header", &mut content).unwrap();
        let sealed = content;
        for (additional, tag, good) in [
            (&b"header"[..], &tag[..], true),
            (b"Header", &tag, false),
            (b"header", &[0; 8], false),
        ] {
            let mut content = sealed;
            assert_eq!(open(&cipher, [1; 12], additional, &mut content, tag).is_ok(), good);
            assert_eq!(&content, if good { b"attack at dawn" } else { &[0; 14] });
        }
        let short = open(&cipher, [1; 12], b"header", &mut content, &tag[..7]);
        assert!(short.is_err(), "a shorter tag");
    }

    #[test]
    fn an_idle_session_keeps_little_more_than_the_expanded_keys() {
        assert!(size_of::<Tls13Records<Ccm8>>() <= 768, "{}", size_of::<Tls13Records<Ccm8>>());
    }
}
