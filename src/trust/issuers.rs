//! The certificates between a client's own and a CA, stored once for all clients that send them.
//!
//! A ticket holds the ID of these certificates instead of their bytes: a fleet has few of them, and each device
//! would send them twice in every resumption.
//!
//! **Promises.** Only verified paths are stored. The number of paths and their bytes are bounded: the oldest
//! are removed first. A path that is in use stays until its last user drops it.
//!
//! **Not here.** The verification (`certs/verifier.rs`), tickets (`tickets.rs`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;

use super::digest::Digest;
use crate::lock::Lock;

/// Paths at most. A fleet has one for each of its issuing CAs.
const MAX_PATHS: usize = 1024;

/// Bytes of the certificates of all paths at most.
const MAX_BYTES: usize = 4 << 20;

/// The bytes of an ID. An attacker who wants two paths with the same ID needs 2^64 attempts and a CA that signs them.
pub(crate) const ID_BYTES: usize = 16;

/// Identifies a path by its content: the same in every process.
pub(crate) type IssuersId = [u8; ID_BYTES];

/// The verified certificates from the issuer of a client's own upwards, without the CA that is trusted: at
/// least one.
#[derive(Debug)]
pub(crate) struct Issuers {
    pub(crate) id: IssuersId,
    pub(crate) ders: Box<[CertificateDer<'static>]>,
}

/// The paths that clients of a listener have sent.
#[derive(Debug, Default)]
pub(crate) struct KnownIssuers(Lock<Table>);

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<IssuersId, Arc<Issuers>>,
    /// The oldest first.
    order: VecDeque<IssuersId>,
    bytes: usize,
}

impl Issuers {
    /// Takes a path that a client was verified with, which is not empty.
    pub(super) fn new(ders: Box<[CertificateDer<'static>]>) -> Self {
        Self { id: id(&ders), ders }
    }

    fn bytes(&self) -> usize {
        self.ders.iter().map(|der| der.len()).sum()
    }
}

impl KnownIssuers {
    /// Stores a verified path. Returns none if it is empty: a CA that is trusted issued the client's own
    /// certificate.
    pub(crate) fn store(&self, path: &[&CertificateDer<'_>]) -> Option<Arc<Issuers>> {
        if path.is_empty() {
            return None;
        }
        let id = id(path.iter().copied());
        let mut table = self.0.lock();
        if let Some(known) = table.by_id.get(&id) {
            return Some(Arc::clone(known));
        }
        let ders = path.iter().map(|der| (*der).clone().into_owned()).collect();
        let issuers = Arc::new(Issuers { id, ders });
        table.insert(Arc::clone(&issuers));
        Some(issuers)
    }

    /// Returns the path with this ID.
    pub(crate) fn get(&self, id: &IssuersId) -> Option<Arc<Issuers>> {
        self.0.lock().by_id.get(id).cloned()
    }
}

impl Table {
    fn insert(&mut self, issuers: Arc<Issuers>) {
        self.bytes += issuers.bytes();
        self.order.push_back(issuers.id);
        self.by_id.insert(issuers.id, issuers);
        while self.order.len() > MAX_PATHS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            let removed = self.by_id.remove(&oldest);
            self.bytes -= removed.map_or(0, |issuers| issuers.bytes());
        }
    }
}

fn id<'a>(path: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> IssuersId {
    let digest = Digest::of(path.into_iter().map(AsRef::as_ref));
    *digest.as_bytes().first_chunk().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(number: usize, bytes: usize) -> CertificateDer<'static> {
        let mut der = vec![7; bytes];
        der[..8].copy_from_slice(&number.to_be_bytes());
        der.into()
    }

    #[test]
    fn a_path_is_stored_once_and_found_by_its_id() {
        let (known, other) = (KnownIssuers::default(), KnownIssuers::default());
        let (one, two) = (der(1, 100), der(2, 100));
        let stored = known.store(&[&one, &two]).unwrap();
        assert!(Arc::ptr_eq(&stored, &known.store(&[&one, &two]).unwrap()));
        assert_eq!(known.get(&stored.id).unwrap().ders[..], [one.clone(), two.clone()]);
        assert_ne!(known.store(&[&two, &one]).unwrap().id, stored.id, "in another order");
        assert!(known.store(&[]).is_none());
        assert!(other.get(&stored.id).is_none());
        assert_eq!(other.store(&[&one, &two]).unwrap().id, stored.id, "in another process");
    }

    #[test]
    fn the_oldest_are_removed_by_count_and_by_bytes() {
        for size in [100, 60_000] {
            let known = KnownIssuers::default();
            let first = known.store(&[&der(0, size)]).unwrap();
            for number in 1..3 * MAX_PATHS {
                let stored = known.store(&[&der(number, size)]).unwrap();
                assert!(known.get(&stored.id).is_some());
            }
            let table = known.0.lock();
            let bytes: usize = table.by_id.values().map(|issuers| issuers.bytes()).sum();
            assert_eq!((table.bytes, table.order.len()), (bytes, table.by_id.len()));
            assert!(table.order.len() <= MAX_PATHS && bytes <= MAX_BYTES);
            assert!(table.order.len() == MAX_PATHS || bytes > MAX_BYTES - size);
            assert!(!table.by_id.contains_key(&first.id));
        }
    }
}
