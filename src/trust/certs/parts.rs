//! What a snapshot is built from, file by file.
//!
//! **Promises.** A file that cannot be used keeps what it last held when it could, and holds up no other:
//! a renewal of the server's certificate that has stopped half way delays no revocation. At the start there
//! is nothing to keep, and every such file is an error.
//!
//! **Not here.** What makes a file's content good (`chain.rs`, `clients.rs`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;

use super::Findings;
use super::chain::Chain;
use super::pem::Ignored;
use crate::config::CertificateFiles;
use crate::terms::labels::MaterialKind;
use crate::trust::digest::Digest;
use crate::trust::files::{Files, ReadError};
use crate::trust::revocation::Crl;
use crate::trust::snapshot::FileDigests;

/// What a snapshot was built from.
#[derive(Clone, Default)]
pub(crate) struct Parts {
    /// In the order of the configuration.
    pub(super) chains: Vec<(Digest, Chain)>,
    pub(super) ca: Option<FilePart<CertificateDer<'static>>>,
    /// In the order of the configuration.
    pub(super) crls: Vec<FilePart<Arc<Crl>>>,
}

/// How much of what a file holds, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Material {
    pub(crate) file: PathBuf,
    pub(crate) kind: MaterialKind,
    pub(crate) count: usize,
}

/// What a file holds.
#[derive(Clone)]
pub(super) struct FilePart<T> {
    pub(super) file: PathBuf,
    pub(super) digest: Digest,
    /// Each with the line on which it begins.
    pub(super) items: Vec<(usize, T)>,
    pub(super) ignored: Vec<Ignored>,
}

impl Parts {
    pub(super) fn digests(&self) -> FileDigests {
        let chains = self.chains.iter().map(|(digest, _)| digest.as_bytes());
        FileDigests {
            certificates: Digest::of(chains),
            client_ca: Digest::of(self.ca.iter().map(|part| part.digest.as_bytes())),
            crls: Digest::of(self.crls.iter().map(|part| part.digest.as_bytes())),
        }
    }

    /// What each file holds, in the order of the configuration; CRLs last.
    pub(crate) fn material(&self) -> Vec<Material> {
        let chains = self.chains.iter().flat_map(|(_, chain)| {
            let CertificateFiles { cert, key } = &chain.files;
            [(cert, MaterialKind::Certificate, chain.key.cert.len()), (key, MaterialKind::Key, 1)]
        });
        let cas = self.ca.iter().map(|part| (&part.file, MaterialKind::ClientCa, part.items.len()));
        let crls = self.crls.iter().map(|part| (&part.file, MaterialKind::Crl, part.items.len()));
        let all = chains.chain(cas).chain(crls);
        all.map(|(file, kind, count)| Material { file: file.clone(), kind, count }).collect()
    }

    /// The digests of the CAs and CRLs.
    pub(super) fn trust(&self) -> impl Iterator<Item = &[u8]> {
        let crls = self.crls.iter().map(|part| part.digest.as_bytes());
        crls.chain(self.ca.iter().map(|part| part.digest.as_bytes()))
    }

    pub(super) fn chain(&self, like: &CertificateFiles) -> Option<&(Digest, Chain)> {
        self.chains.iter().find(|(_, chain)| chain.files == *like)
    }

    pub(super) fn ca(&self, file: &Path) -> Option<&FilePart<CertificateDer<'static>>> {
        self.ca.iter().find(|part| part.file == file)
    }

    pub(super) fn crls(&self, file: &Path) -> Option<&FilePart<Arc<Crl>>> {
        self.crls.iter().find(|part| part.file == file)
    }
}

impl<T> FilePart<T> {
    /// The digest of a file's content, by which a change is known.
    pub(super) fn digest(file: &Path, files: &Files) -> Result<Digest, ReadError> {
        Ok(Digest::of([files.bytes(file)?]))
    }
}

impl Findings {
    /// Takes what was found out about one part: the part, if it is good; what was kept of it, if there
    /// is something; else there can be no snapshot.
    pub(super) fn choose<T: Clone>(
        &mut self,
        new: Option<T>,
        kept: Option<&T>,
        own: Self,
    ) -> Option<T> {
        let is_good = own.errors.is_empty();
        own.errors.into_iter().for_each(|error| self.note(error));
        if is_good && new.is_some() {
            self.warnings.extend(own.warnings);
            return new;
        }
        self.is_fatal |= kept.is_none();
        kept.cloned()
    }
}
