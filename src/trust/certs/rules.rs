//! The allow rules of a file, as loaded.
//!
//! **Promises.** A file is used whole, or keeps its earlier rules: an invalid rule admits and excludes nobody.
//!
//! **Not here.** The syntax (`config/file/allow.rs`), the evaluation (`trust/allow.rs`).

use std::path::PathBuf;
use std::sync::Arc;

use super::summary::FileSummary;
use crate::config::AllowRules;
use crate::config::file::parse_allow_file;
use crate::terms::labels::MaterialKind;
use crate::trust::digest::Digest;
use crate::trust::findings::{Cause, Findings, Warning};
use crate::trust::material::Material;

/// The content of an `allow.file`.
#[derive(Clone)]
pub(crate) struct LoadedRules {
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) rules: Arc<AllowRules>,
}

impl LoadedRules {
    /// Returns a summary of the file.
    pub(crate) fn summary(&self) -> FileSummary<'_> {
        let count = self.rules.count();
        FileSummary { role: MaterialKind::Allow, path: &self.path, digest: self.digest, count }
    }
}

/// Reads the rules of a file, or keeps the current ones.
pub(super) fn load(
    file: &Material,
    kept: Option<&LoadedRules>,
    findings: &mut Findings,
) -> Option<LoadedRules> {
    let mut own = Findings::default();
    let loaded = match (kept, own.take(file.digest())) {
        (Some(kept), Some(digest)) if kept.digest == digest => Some(kept.clone()),
        (_, Some(digest)) => read(file, &mut own).map(|rules| {
            let rules = Arc::new(rules);
            LoadedRules { path: file.path.clone(), digest, rules }
        }),
        (_, None) => None,
    };
    if loaded.as_ref().is_some_and(|loaded| loaded.rules.count() == 0) {
        own.warnings.push(Warning::NoAllowRules { file: file.path.clone() });
    }
    findings.choose(loaded, kept, own)
}

fn read(file: &Material, own: &mut Findings) -> Option<AllowRules> {
    let bytes = own.take(file.bytes())?;
    let text = std::str::from_utf8(bytes).map_err(|_| file.error(None, Cause::NotUtf8));
    let error = match parse_allow_file(own.take(text)?, &file.path) {
        Ok(rules) => return Some(rules),
        Err(error) => error,
    };
    for problem in error.problems {
        let line = problem.place.map(|(line, _)| line);
        let key = Some(problem.key).filter(|key| !key.is_empty());
        let rule = key.map_or_else(String::new, |key| format!("{key}: ")) + &problem.message;
        own.note(file.error(line, Cause::Rule(rule)));
    }
    if error.more > 0 {
        own.note(file.error(None, Cause::Rule(format!("and {} more", error.more))));
    }
    None
}
