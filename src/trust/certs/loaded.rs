//! The content of a policy's files when each was last valid.
//!
//! **Promises.** The content of a file stays available after the file became invalid: a renewal of the
//! server's certificate that stopped half way delays no revocation.
//!
//! **Not here.** The checks of a file's content (`chain.rs`, `clients.rs`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;

use super::chain::Chain;
use super::rules::LoadedRules;
use super::summary::FileSummary;
use crate::terms::labels::{MaterialKind, ReloadObject};
use crate::trust::digest::Digest;
use crate::trust::findings::{self, Ignored};
use crate::trust::revocation::Crl;
use crate::trust::tickets::keys::MasterKey;

/// The content of one file.
#[derive(Clone)]
pub(crate) struct LoadedFile<T> {
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    /// Each item with the line on which it begins.
    pub(crate) items: Vec<(usize, T)>,
    pub(crate) ignored: Vec<Ignored>,
}

/// The content of all files of a policy.
#[derive(Clone, Default)]
pub(crate) struct LoadedFiles {
    /// In the order of the configuration.
    pub(crate) chains: Vec<Chain>,
    pub(crate) client_ca: Option<LoadedFile<CertificateDer<'static>>>,
    /// In the order of the configuration.
    pub(crate) crls: Vec<LoadedFile<Arc<Crl>>>,
    pub(crate) allow: Option<LoadedRules>,
    pub(crate) ticket_keys: Option<LoadedFile<MasterKey>>,
}

impl LoadedFiles {
    /// Returns a summary of each file, in the order of [`material::named`](crate::trust::material::named).
    pub(crate) fn files(&self) -> impl Iterator<Item = FileSummary<'_>> {
        let chains = self.chains.iter().flat_map(Chain::files);
        let cas = self.client_ca.iter().map(|file| file.summary(MaterialKind::ClientCa));
        let crls = self.crls.iter().map(|file| file.summary(MaterialKind::Crl));
        let rules = self.allow.iter().map(LoadedRules::summary);
        let keys = self.ticket_keys.iter().map(|file| file.summary(MaterialKind::TicketKeys));
        chains.chain(cas).chain(crls).chain(rules).chain(keys)
    }

    /// Returns the digest of all files of one kind of object.
    pub(crate) fn digest(&self, object: ReloadObject) -> Digest {
        let files: Vec<_> =
            self.files().filter(|file| findings::object(file.role) == object).collect();
        Digest::of(files.iter().map(|file| file.digest.as_bytes()))
    }

    pub(crate) fn ca_file(&self, path: &Path) -> Option<&LoadedFile<CertificateDer<'static>>> {
        self.client_ca.iter().find(|file| file.path == path)
    }

    pub(crate) fn crl_file(&self, path: &Path) -> Option<&LoadedFile<Arc<Crl>>> {
        self.crls.iter().find(|file| file.path == path)
    }

    pub(crate) fn allow_file(&self, path: &Path) -> Option<&LoadedRules> {
        self.allow.as_ref().filter(|file| file.path == path)
    }
}

impl<T> LoadedFile<T> {
    fn summary(&self, role: MaterialKind) -> FileSummary<'_> {
        FileSummary { role, path: &self.path, digest: self.digest, count: self.items.len() }
    }
}
