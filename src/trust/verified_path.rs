//! The paths by which live clients were verified: one value for all sessions with the same issuers.
//!
//! A live session is checked again when the CAs or CRLs change. A device's chain takes some KiB, and devices differ
//! in their own certificates only.
//!
//! **Promises.** Equal paths share one allocation, which is freed with the last session that has it.
//!
//! **Not here.** The facts of the client itself (`identity.rs`), the check (`recheck.rs`), the issuers that tickets
//! name (`issuers.rs`).

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tokio_rustls::rustls::pki_types::CertificateDer;

use super::digest::Digest;
use super::issuers::Issuers;
use crate::lock::Lock;

/// Paths whose entries may be those of ended sessions before they are removed.
const MIN_PURGE: usize = 64;

/// The paths of all live sessions.
static PATHS: Lock<Option<Paths>> = Lock::new(None);

/// The certificates that verified a client's own.
#[derive(Debug)]
pub(crate) struct VerifiedPath {
    pub(crate) source: PathSource,
    /// The names of the CRL distribution points in the client's own certificate.
    pub(crate) crl_points: Vec<Vec<u8>>,
    /// The last second in which all certificates of the path are valid, in Unix time. The CA's does not count.
    pub(crate) until: i64,
}

/// The reason for which a client's own certificate is trusted.
#[derive(Debug)]
pub(crate) enum PathSource {
    /// A CA, by these intermediates.
    Ca { anchor: CertificateDer<'static>, issuers: Option<Arc<Issuers>> },
    /// The certificate itself, by its digest: each pinned device has another one, and the policy has it.
    Pinned(Digest),
}

#[derive(Default)]
struct Paths {
    by_digest: HashMap<Digest, Weak<VerifiedPath>>,
    /// The number of entries at which those of ended sessions are removed.
    purge_at: usize,
}

impl VerifiedPath {
    /// Returns this path, or the equal one that other sessions have.
    pub(crate) fn shared(self) -> Arc<Self> {
        let (kind, trusted, issuers): (&[u8], &[u8], &[u8]) = match &self.source {
            PathSource::Ca { anchor, issuers } => {
                (b"ca", anchor, issuers.as_ref().map_or(&[], |issuers| &issuers.id[..]))
            }
            PathSource::Pinned(own) => (b"pinned", own.as_bytes(), &[]),
        };
        let until = self.until.to_be_bytes();
        let points = self.crl_points.iter().map(Vec::as_slice);
        let digest = Digest::of([kind, trusted, issuers, &until].into_iter().chain(points));
        let mut paths = PATHS.lock();
        let paths = paths.get_or_insert_default();
        if let Some(known) = paths.by_digest.get(&digest).and_then(Weak::upgrade) {
            return known;
        }
        let path = Arc::new(self);
        paths.add(digest, &path);
        path
    }
}

impl Paths {
    fn add(&mut self, digest: Digest, path: &Arc<VerifiedPath>) {
        if self.by_digest.len() >= self.purge_at.max(MIN_PURGE) {
            self.by_digest.retain(|_, path| path.strong_count() > 0);
            self.purge_at = 2 * self.by_digest.len();
        }
        self.by_digest.insert(digest, Arc::downgrade(path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(der: &[u8]) -> VerifiedPath {
        let source = PathSource::Ca { anchor: der.to_vec().into(), issuers: None };
        VerifiedPath { source, crl_points: Vec::new(), until: 7 }
    }

    #[test]
    fn equal_paths_are_shared() {
        let one = path(b"one").shared();
        assert!(Arc::ptr_eq(&one, &path(b"one").shared()));
        assert!(!Arc::ptr_eq(&one, &path(b"two").shared()));
        let pinned =
            VerifiedPath { source: PathSource::Pinned(Digest::of([&b"one"[..]])), ..path(b"") };
        assert!(!Arc::ptr_eq(&one, &pinned.shared()));
    }

    #[test]
    fn the_path_of_a_pinned_device_takes_less_than_a_small_certificate() {
        // The reference counts of `Arc`, and the entry in `PATHS`. A certificate has 300 bytes and more.
        let entry = size_of::<(Digest, Weak<VerifiedPath>)>();
        let bytes = 2 * size_of::<usize>() + size_of::<VerifiedPath>() + entry;
        assert!(bytes <= 136, "{bytes}");
    }

    #[test]
    fn the_paths_of_ended_sessions_are_forgotten() {
        let mut paths = Paths::default();
        for number in 0..10_000_u32 {
            paths.add(Digest::of([&number.to_be_bytes()[..]]), &Arc::new(path(b"ended")));
        }
        assert!(paths.by_digest.len() <= MIN_PURGE, "{}", paths.by_digest.len());
    }
}
