//! The summary of a loaded file, from which digests, counts and the list of watched files are made.
//!
//! **Not here.** The content (`loaded.rs`).

use std::path::Path;

use crate::terms::labels::MaterialKind;
use crate::trust::digest::Digest;

/// A summary of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSummary<'a> {
    pub(crate) role: MaterialKind,
    pub(crate) path: &'a Path,
    pub(crate) digest: Digest,
    /// Number of certificates, keys, CRLs or allow rules.
    pub(crate) count: usize,
}
