//! Signatures of certificates and CRLs, verified with rustls's algorithms.
//!
//! **Promises.** The algorithm is the one that both the signed object and the key name. NULL parameters of
//! an ECDSA signature, which Java writes, are ignored as in OpenSSL (RFC 5758 section 3.2 forbids them, but
//! CAs write them).
//!
//! **Not here.** The permission to sign (`path.rs`).

use std::borrow::Cow;
use std::ops::RangeInclusive;

use tokio_rustls::rustls::CertificateError;
use tokio_rustls::rustls::pki_types::SignatureVerificationAlgorithm;
use x509_parser::asn1_rs::{Any, BitString, FromDer, Oid};

use super::{Malformed, known_signatures};
use crate::trust::digest::Digest;

/// The algorithms with which signatures are verified.
pub(crate) type Algorithms = [&'static dyn SignatureVerificationAlgorithm];

/// The start of the object identifiers of `ecdsa-with-SHA2`: RFC 5758 section 3.2.
const ECDSA_WITH_SHA2: [u8; 9] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];

/// The object identifier of `rsaEncryption`: RFC 3279 section 2.3.1.
const RSA_ENCRYPTION: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// Sizes of RSA keys, in bits, that the algorithms of rustls accept.
const RSA_BITS: RangeInclusive<usize> = 2048..=8192;

/// An encoded NULL.
const NULL: [u8; 2] = [0x05, 0x00];

/// The signed bytes, the signature and its algorithm: RFC 5280 sections 4.1.1 and 5.1.1.
#[derive(Clone, Debug)]
pub(crate) struct Signed<'a> {
    message: &'a [u8],
    /// The content of an AlgorithmIdentifier.
    algorithm: &'a [u8],
    signature: Cow<'a, [u8]>,
}

/// A public key with its algorithm.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PublicKey<'a> {
    /// The content of an AlgorithmIdentifier.
    algorithm: Cow<'a, [u8]>,
    key: Cow<'a, [u8]>,
}

impl<'a> Signed<'a> {
    /// Splits a certificate or CRL into its three parts.
    ///
    /// # Errors
    /// If it does not have these parts, to its last byte.
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, Malformed> {
        let (behind, whole) = any(der)?;
        let (rest, _) = any(whole)?;
        let message = &whole[..whole.len() - rest.len()];
        let (rest, algorithm) = any(rest)?;
        let signature = last_bits(rest)?;
        if !behind.is_empty() {
            return Err(Malformed("bytes follow its end".to_owned()));
        }
        Ok(Self { message, algorithm, signature })
    }

    /// Returns the content of the AlgorithmIdentifier of the signature.
    pub(super) const fn algorithm(&self) -> &'a [u8] {
        self.algorithm
    }

    /// Verifies the signature with the signer's key, once: [`Self::verify`] is not called again for the same bytes. All
    /// callers have the same algorithms.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub(super) fn verify_once(
        &self,
        key: &PublicKey<'_>,
        algorithms: &Algorithms,
    ) -> Result<(), CertificateError> {
        let inputs = [&*key.algorithm, &*key.key, self.algorithm, self.message, &*self.signature];
        known_signatures::check_once(&inputs, || self.verify(key, algorithms))
    }

    /// Verifies the signature with the signer's key.
    ///
    /// # Errors
    /// If it is not valid for the key, or its algorithm is not in `algorithms`.
    pub(crate) fn verify(
        &self,
        key: &PublicKey<'_>,
        algorithms: &Algorithms,
    ) -> Result<(), CertificateError> {
        let named = match self.algorithm.strip_suffix(&NULL) {
            Some(oid) if oid.starts_with(&ECDSA_WITH_SHA2) => oid,
            _ => self.algorithm,
        };
        let known = || algorithms.iter().filter(|a| *a.signature_alg_id() == *named);
        if known().next().is_none() {
            return Err(CertificateError::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: self.algorithm.to_vec(),
                supported_algorithms: Vec::new(),
            });
        }
        let Some(fitting) = known().find(|a| *a.public_key_alg_id() == *key.algorithm) else {
            return Err(key.unfit(self.algorithm));
        };
        let verified = fitting.verify_signature(&key.key, self.message, &self.signature);
        verified.map_err(|_| CertificateError::BadSignature)
    }
}

impl<'a> PublicKey<'a> {
    /// Parses a SubjectPublicKeyInfo: RFC 5280 section 4.1.2.7.
    pub(crate) fn parse(info: &'a [u8]) -> Result<Self, Malformed> {
        let (_, whole) = any(info)?;
        let (rest, algorithm) = any(whole)?;
        Ok(Self { algorithm: algorithm.into(), key: last_bits(rest)? })
    }

    /// Verifies the signature over a message with the first algorithm for keys of this kind.
    ///
    /// # Errors
    /// If it is not valid for this key, or none of `algorithms` is for keys of this kind.
    pub(crate) fn verify(
        &self,
        message: &[u8],
        signature: &[u8],
        algorithms: &Algorithms,
    ) -> Result<(), CertificateError> {
        match algorithms.iter().find(|a| *a.public_key_alg_id() == *self.algorithm) {
            Some(fitting) => fitting
                .verify_signature(&self.key, message, signature)
                .map_err(|_| CertificateError::BadSignature),
            None => Err(self.unfit(&[])),
        }
    }

    /// Returns whether one of the algorithms is for keys of this kind.
    pub(crate) fn is_for_any(&self, algorithms: &Algorithms) -> bool {
        algorithms.iter().any(|a| *a.public_key_alg_id() == *self.algorithm)
    }

    /// Returns the size of an RSA key that no algorithm accepts; none for other keys.
    pub(crate) fn odd_rsa_bits(&self) -> Option<usize> {
        let is_rsa = self.algorithm.starts_with(&RSA_ENCRYPTION);
        let (_, numbers) = any(&self.key).ok().filter(|_| is_rsa)?;
        let (_, modulus) = any(numbers).ok()?;
        let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
        Some(8 * (modulus.len() - zeros)).filter(|bits| !RSA_BITS.contains(bits))
    }

    /// Returns a digest that identifies the key.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of([&*self.algorithm, &*self.key])
    }

    /// Returns the same key, without a reference to the bytes that it was read from.
    pub(super) fn into_owned(self) -> PublicKey<'static> {
        let Self { algorithm, key } = self;
        PublicKey { algorithm: algorithm.into_owned().into(), key: key.into_owned().into() }
    }

    fn unfit(&self, signature_algorithm: &[u8]) -> CertificateError {
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: signature_algorithm.to_vec(),
            public_key_algorithm_id: self.algorithm.to_vec(),
        }
    }
}

/// Returns the dotted form of the object identifier at the start of an AlgorithmIdentifier's content.
pub(crate) fn algorithm_name(content: &[u8]) -> String {
    Oid::from_der(content).map_or_else(|_| "unknown".to_owned(), |(_, oid)| oid.to_id_string())
}

/// Returns the bytes after the first value, and the content of that value.
fn any(der: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (rest, value) = Any::from_der(der).map_err(|error| Malformed(error.to_string()))?;
    Ok((rest, value.data))
}

/// Returns the bytes of a bit string that is the last value and has no unused bits.
fn last_bits(der: &[u8]) -> Result<Cow<'_, [u8]>, Malformed> {
    match BitString::from_der(der) {
        Ok(([], bits)) if bits.unused_bits == 0 => Ok(bits.data),
        _ => Err(Malformed("its key or signature is not a string of whole bytes".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;

    #[test]
    fn null_parameters_of_an_ecdsa_signature_are_taken_for_absent() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let der = made.cert.der();
        let algorithms = default_provider().signature_verification_algorithms.all;
        let signed = Signed::parse(der).unwrap();
        let certificate = super::super::certificate::Certificate::parse(der).unwrap();
        signed.verify(certificate.key(), algorithms).unwrap();
        let with_null = [signed.algorithm, &NULL].concat();
        let signed = Signed { algorithm: &with_null, ..signed };
        signed.verify(certificate.key(), algorithms).unwrap();
        let with_more = [&with_null[..], &NULL].concat();
        assert!(
            Signed { algorithm: &with_more, ..signed }
                .verify(certificate.key(), algorithms)
                .is_err()
        );
        assert_eq!(algorithm_name(&with_null), "1.2.840.10045.4.3.2");
    }
}
