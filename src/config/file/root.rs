//! The directory below which the absolute paths of a configuration are looked up, such as the root of a container.
//!
//! **Not here.** Relative paths, which are relative to the file (`problem.rs`).

use std::path::{Path, PathBuf};

/// Returns a path below `root`, if there is one and the path is absolute.
#[must_use]
pub fn below(root: Option<&Path>, path: &Path) -> PathBuf {
    match (root, path.strip_prefix("/")) {
        (Some(root), Ok(path)) => root.join(path),
        (Some(_) | None, _) => path.to_owned(),
    }
}
