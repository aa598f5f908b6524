//! The bytes of a key, for a cipher that is rebuilt.
//!
//! **Promises.** The bytes, and copies of them, are zeroed on drop.
//!
//! **Not here.** Keys of TLS 1.3, which are derived from the secrets of the session (`keys.rs`).

use tokio_rustls::rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use tokio_rustls::rustls::crypto::cipher::{AeadKey, Iv};
use tokio_rustls::rustls::crypto::tls13::{HkdfExpander, OkmBlock, OutputLengthError};
use tokio_rustls::rustls::internal::derive_traffic_key;
use zeroize::Zeroizing;

/// A key and its first nonce.
pub(crate) type Key = (AeadKey, Iv);

/// Longest key of a cipher, in bytes.
const MAX_BYTES: usize = 32;

/// A key and its first nonce.
pub(crate) struct SavedKey {
    /// The key, and zeros behind it.
    padded: AeadKey,
    is_short: bool,
    iv: Iv,
}

impl SavedKey {
    /// Copies a key of 16 or 32 bytes.
    pub(super) fn of((key, iv): &Key) -> Self {
        let is_short = key.as_ref().len() < MAX_BYTES;
        Self { padded: padded(key.as_ref()), is_short, iv: Iv::copy(iv.as_ref()) }
    }

    /// Returns a copy of the key.
    pub(super) fn key(&self) -> Key {
        let bytes = self.padded.as_ref();
        let key = if self.is_short { short(bytes) } else { padded(bytes) };
        (key, Iv::copy(self.iv.as_ref()))
    }
}

/// Returns a key of 32 bytes: these, and zeros behind them.
fn padded(bytes: &[u8]) -> AeadKey {
    let mut padded = Zeroizing::new([0; MAX_BYTES]);
    padded[..bytes.len()].copy_from_slice(bytes);
    AeadKey::from(*padded)
}

/// Returns a key of the first 16 of these bytes. rustls has no public constructor for such keys but `derive_traffic_key`.
fn short(bytes: &[u8]) -> AeadKey {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("it is a suite of TLS 1.3");
    derive_traffic_key(&Copied(bytes), suite.aead_alg)
}

/// Expands to a copy of these bytes, whatever the label.
struct Copied<'a>(&'a [u8]);

impl HkdfExpander for Copied<'_> {
    fn expand_slice(&self, _info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        output.copy_from_slice(self.0.get(..output.len()).ok_or(OutputLengthError)?);
        Ok(())
    }

    fn expand_block(&self, _info: &[&[u8]]) -> OkmBlock {
        OkmBlock::new(self.0)
    }

    fn hash_len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_key_is_the_same_key_of_the_same_length() {
        let bytes: [u8; MAX_BYTES] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let iv = [7; 12];
        let long: Key = (bytes.into(), iv.into());
        let (key, saved_iv) = SavedKey::of(&long).key();
        assert_eq!((key.as_ref(), saved_iv.as_ref()), (&bytes[..], &iv[..]));

        let (key, _) = SavedKey::of(&(short(&bytes), iv.into())).key();
        assert_eq!(key.as_ref(), &bytes[..16]);
    }
}
