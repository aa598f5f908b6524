//! Checks of the rules in ARCHITECTURE.md and CONTRIBUTING.md, as far as a program can check them.
//!
//! Each check asserts that it found something to check.

mod causes;
mod documents;
mod flags;
mod imports;
mod language;
mod layers;
mod schema;
mod structure;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns every Rust file below `dir`, relative to the root.
fn rust_files(dir: &str) -> Vec<PathBuf> {
    files(dir, "rs")
}

/// Returns every page below `dir`, relative to the root.
fn pages(dir: &str) -> Vec<PathBuf> {
    files(dir, "md")
}

fn files(dir: &str, kind: &str) -> Vec<PathBuf> {
    let is_of_kind = |path: &PathBuf| path.extension().is_some_and(|extension| extension == kind);
    let found: Vec<_> = all_files(dir).into_iter().filter(is_of_kind).collect();
    assert!(!found.is_empty());
    found
}

/// Returns every file below `dir` that git does not ignore, relative to the root.
fn all_files(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut ahead = vec![root().join(dir)];
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if [".git", "target", "venv"].iter().any(|unseen| path.ends_with(unseen)) {
                continue;
            }
            if path.is_dir() {
                ahead.push(path);
            } else {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Returns the words in the first column of a page's tables: ``| `word` |``.
fn first_column(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect()
}
