//! SHA-256 over files and certificates: have they changed, which policy do they make?
//!
//! **Not here.** Any other cryptography: that is rustls's.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256, digest};

/// A SHA-256 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    /// The digest of a sequence of parts; where one ends and the next begins makes a difference.
    pub(crate) fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        Self(context.finish().as_ref().try_into().expect(BYTES))
    }

    /// The digest of just these bytes, as others make it: a certificate's fingerprint.
    pub(crate) fn plain(bytes: &[u8]) -> Self {
        Self(digest(&SHA256, bytes).as_ref().try_into().expect(BYTES))
    }
}

const BYTES: &str = "SHA-256 has 32 bytes";

impl fmt::Display for Digest {
    /// In hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_that_of_every_other_program() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::plain(b"abc").to_string(), expected);
    }

    #[test]
    fn moving_bytes_from_one_part_to_the_next_changes_the_digest() {
        assert_ne!(Digest::of([&b"ab"[..], b"c"]), Digest::of([&b"a"[..], b"bc"]));
    }
}
