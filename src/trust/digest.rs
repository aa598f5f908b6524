//! SHA-256: over files, to detect changes and to identify a policy; over certificates, as their fingerprint.
//!
//! **Not here.** All other cryptography, which is rustls's.

use aws_lc_rs::digest::{Context, SHA256, digest};

/// A SHA-256 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    /// Returns the digest of a sequence of parts. It depends on the boundaries between the parts.
    pub(crate) fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        Self(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Returns the digest with these bytes.
    pub(super) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns its bytes, for use as a part of another digest.
    pub(crate) const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Returns the plain SHA-256 of bytes, which tools show as the fingerprint of a certificate.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_equals_the_one_of_other_programs() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let digits = sha256(b"abc").map(|byte| format!("{byte:02x}"));
        assert_eq!(digits.concat(), expected);
    }

    #[test]
    fn moving_bytes_from_one_part_to_the_next_changes_the_digest() {
        assert_ne!(Digest::of([&b"ab"[..], b"c"]), Digest::of([&b"a"[..], b"bc"]));
    }
}
