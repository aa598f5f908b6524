//! The CRLs of the files of a listener, each file decoded once for all of its policies.
//!
//! **Promises.** The content of a file is freed before the entries of its lists are stored. While a list is loaded, it
//! needs 1.8 times the size of its PEM file, or 1.5 times in DER. (From 8 MiB of PEM on it is 2.1 times: jemalloc gives
//! back such a block only after a second, see `oversize_threshold`.) A file that has not changed keeps its lists, with
//! the results of their verification: they depend on the keys of CAs only.
//!
//! **Not here.** The choice among the lists, and their verification (`clients.rs`, `trust/revocation.rs`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::loaded::{LoadedFile, LoadedFiles};
use super::pem::{self, FoundSections};
use crate::terms::labels::MaterialKind;
use crate::trust::findings::{Cause, Findings};
use crate::trust::material::Material;
use crate::trust::revocation::Crl;

/// The CRLs of each file; none for a file with a problem.
#[derive(Default)]
pub(crate) struct CrlFiles(BTreeMap<PathBuf, Option<LoadedFile<Arc<Crl>>>>);

impl CrlFiles {
    /// Decodes the files of CRLs in `material`, and frees their content. `known` is the current content.
    pub(crate) fn decode(
        material: &mut [Material],
        known: &[&LoadedFiles],
        findings: &mut Findings,
    ) -> Self {
        let mut decoded = Self::default();
        for place in 0..material.len() {
            let (earlier, rest) = material.split_at_mut(place);
            let Some((file, later)) = rest.split_first_mut() else { break };
            if file.role != MaterialKind::Crl || decoded.0.contains_key(&file.path) {
                continue;
            }
            // A file of several routes.
            let same =
                |other: &&mut Material| other.role == MaterialKind::Crl && other.path == file.path;
            earlier.iter_mut().chain(later).filter(same).for_each(Material::release);
            let crls = read(file, known, findings);
            file.release();
            decoded.0.insert(file.path.clone(), crls);
        }
        decoded
    }

    /// Returns the CRLs of a file; none if it has a problem.
    pub(super) fn of(&self, path: &Path) -> Option<&LoadedFile<Arc<Crl>>> {
        self.0.get(path)?.as_ref()
    }
}

fn read(
    file: &mut Material,
    known: &[&LoadedFiles],
    findings: &mut Findings,
) -> Option<LoadedFile<Arc<Crl>>> {
    let digest = findings.take(file.digest())?;
    let mut known = known.iter().filter_map(|known| known.crl_file(&file.path));
    if let Some(same) = known.find(|known| known.digest == digest) {
        return Some(same.clone());
    }
    let bytes = findings.take(file.take_bytes())?;
    let FoundSections { items, ignored } = findings.take(pem::revocation_lists(file, bytes))?;
    let crls = items.into_iter().map(|(line, crl)| {
        let crl = Crl::read(&file.path, line, crl);
        let malformed = |cause| file.error(Some(line), Cause::Malformed(cause));
        findings.take(crl.map_err(malformed)).map(|crl| (line, Arc::new(crl)))
    });
    // Each faulty list is reported. One makes the file unusable.
    let crls: Vec<_> = crls.collect();
    let items = crls.into_iter().collect::<Option<Vec<_>>>()?;
    Some(LoadedFile { path: file.path.clone(), digest, items, ignored })
}
