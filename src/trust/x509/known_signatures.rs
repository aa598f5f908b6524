//! Signatures of certificates that this process has verified.
//!
//! A device returns with the same certificate, and its resumed session is verified like a new one. The check of the signature,
//! which is most of that, always has the same result for the same certificate and key, so it is done once.
//!
//! **Promises.** Only valid signatures are stored, by the SHA-256 of everything that the check depends on. Their number is
//! bounded: at most [`PARTS`] times twice [`MOST`], some 6 MiB. Those that were not needed for longest are removed first.
//!
//! **Not here.** Validity, revocation and rules, which change: they are checked in every handshake (`certs/verifier.rs`).

use std::collections::HashSet;

use crate::lock::Lock;
use crate::trust::digest::Digest;

/// Parts of the table, each with its own lock: a part that grows holds up nobody for long.
const PARTS: usize = 16;

/// Signatures in one generation of a part. Both generations of all parts have 131,072.
const MOST: usize = 4096;

/// The signatures of the process.
static KNOWN: KnownSignatures = KnownSignatures::new();

/// Signatures, by the digest of all inputs of their check.
struct KnownSignatures([Lock<Option<Part>>; PARTS]);

#[derive(Default)]
struct Part {
    current: HashSet<Digest>,
    /// The generation before.
    before: HashSet<Digest>,
}

/// Does `check`, unless a check of the same inputs has succeeded.
///
/// # Errors
/// Those of the check.
pub(super) fn check_once<E>(
    inputs: &[&[u8]],
    check: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    KNOWN.check_once(inputs, check)
}

impl KnownSignatures {
    const fn new() -> Self {
        Self([const { Lock::new(None) }; PARTS])
    }

    fn check_once<E>(
        &self,
        inputs: &[&[u8]],
        check: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let digest = Digest::of(inputs.iter().copied());
        let place = digest.as_bytes().first().map_or(0, |byte| usize::from(*byte) % PARTS);
        let part = &self.0[place];
        if part.lock().get_or_insert_default().find(&digest) {
            return Ok(());
        }
        // Not under the lock: it takes a tenth of a millisecond.
        check()?;
        part.lock().get_or_insert_default().add(digest);
        Ok(())
    }
}

impl Part {
    fn find(&mut self, digest: &Digest) -> bool {
        let is_old = !self.current.contains(digest) && self.before.contains(digest);
        if is_old {
            self.add(*digest);
        }
        self.current.contains(digest)
    }

    fn add(&mut self, digest: Digest) {
        if self.current.len() >= MOST {
            self.before = std::mem::take(&mut self.current);
        }
        self.current.insert(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether the check was done.
    fn is_checked(known: &KnownSignatures, inputs: &[&[u8]], result: Result<(), ()>) -> bool {
        let mut is_checked = false;
        let found = known.check_once(inputs, || {
            is_checked = true;
            result
        });
        assert_eq!(found, if is_checked { result } else { Ok(()) });
        is_checked
    }

    #[test]
    fn a_valid_signature_is_checked_once_and_an_invalid_one_each_time() {
        let known = KnownSignatures::new();
        assert!(is_checked(&known, &[b"key", b"certificate"], Err(())));
        assert!(is_checked(&known, &[b"key", b"certificate"], Ok(())));
        assert!(!is_checked(&known, &[b"key", b"certificate"], Err(())));
        assert!(is_checked(&known, &[b"other key", b"certificate"], Err(())));
        assert!(
            is_checked(&known, &[b"ke", b"ycertificate"], Err(())),
            "the boundary between the inputs counts"
        );
    }

    #[test]
    fn the_signatures_are_bounded_and_those_in_use_stay() {
        let mut part = Part::default();
        let digest = |n: usize| Digest::of([&n.to_be_bytes()[..]]);
        for n in 0..20 * MOST {
            part.add(digest(n));
            assert!(part.find(&digest(7)) || n < 7, "it is used all the time");
        }
        assert!(part.current.len() <= MOST && part.before.len() <= MOST);
        assert!(!part.find(&digest(8)));
    }
}
