//! The differences in the trust in clients between two policies, for the log.
//!
//! **Not here.** The log lines (`reload/announce.rs`), their effect on live sessions (`recheck.rs`).

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::certs::loaded::LoadedFiles;
use super::revocation::Crl;
use super::x509::Timestamp;

/// A change of the trust in clients.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TrustChange {
    /// The certificates of `client_ca`.
    Cas { file: PathBuf, added: usize, removed: usize },
    /// A CRL that replaces one of the same issuer and scope, or is new.
    Crl { file: PathBuf, issuer: String, entries: Entries, next_update: Option<Timestamp> },
    /// The allow rules of the configuration and its file.
    Rules { all: usize, added: usize, removed: usize },
    /// A CRL that is no longer there.
    CrlRemoved { file: PathBuf, issuer: String, entries: usize },
}

/// The entries of a CRL, compared with those of its predecessor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entries {
    pub(crate) all: usize,
    pub(crate) added: usize,
    pub(crate) removed: usize,
}

/// Returns the changes from `old` to `new`.
pub(super) fn between(old: &LoadedFiles, new: &LoadedFiles) -> Vec<TrustChange> {
    let mut changes: Vec<_> = of_cas(old, new).into_iter().collect();
    let crls = |files: &LoadedFiles| {
        let crls = files.crls.iter().flat_map(|file| &file.items);
        crls.map(|(_, crl)| Arc::clone(crl)).collect::<Vec<_>>()
    };
    let (mut old, new) = (crls(old), crls(new));
    for crl in &new {
        let same = old.iter().position(|other| Arc::ptr_eq(other, crl));
        let before = same.or_else(|| old.iter().position(|other| other.is_for_the_same_as(crl)));
        let before = before.map(|place| old.swap_remove(place));
        if same.is_none() {
            changes.push(of_crl(before.as_deref(), crl));
        }
    }
    changes.extend(old.iter().map(|crl| TrustChange::CrlRemoved {
        file: crl.file.clone(),
        issuer: crl.info.issuer_text.clone(),
        entries: crl.count(),
    }));
    changes
}

fn of_cas(old: &LoadedFiles, new: &LoadedFiles) -> Option<TrustChange> {
    let certificates = |files: &LoadedFiles| {
        let items = files.client_ca.iter().flat_map(|file| &file.items);
        items.map(|(_, certificate)| certificate.clone()).collect::<HashSet<_>>()
    };
    let digest = |files: &LoadedFiles| files.client_ca.as_ref().map(|file| file.digest);
    if digest(old) == digest(new) {
        return None;
    }
    let (before, after) = (certificates(old), certificates(new));
    let (added, removed) = (after.difference(&before).count(), before.difference(&after).count());
    let file = new.client_ca.as_ref().or(old.client_ca.as_ref())?.path.clone();
    (added + removed > 0).then_some(TrustChange::Cas { file, added, removed })
}

fn of_crl(before: Option<&Crl>, crl: &Crl) -> TrustChange {
    let shared = before.map_or(0, |before| before.shared(crl));
    let entries = Entries {
        all: crl.count(),
        added: crl.count() - shared,
        removed: before.map_or(0, Crl::count) - shared,
    };
    TrustChange::Crl {
        file: crl.file.clone(),
        issuer: crl.info.issuer_text.clone(),
        entries,
        next_update: crl.info.next_update,
    }
}
