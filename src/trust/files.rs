//! Reads several files as of one moment.
//!
//! A certificate and its key change together: Kubernetes swaps a `..data` link under both, tools
//! rename one after the other. Read one by one, the two files can be of different generations.
//!
//! **Promises.** [`read`] returns contents that all existed at their paths at one moment: if any
//! file changes while they are read, all are read again. A file that cannot be read does not prevent the
//! others from being read. Contents are wiped on drop, since some are keys.
//!
//! **Not here.** The roles of files (`material.rs`), the time to read again (`reload.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::regular_file;

/// Attempts to read a set of files that keeps changing.
const ATTEMPTS: usize = 20;

/// The contents of several files, all as of one moment.
#[derive(Debug)]
pub(super) struct Files {
    contents: BTreeMap<PathBuf, Result<Arc<Content>, Arc<io::Error>>>,
}

/// The content of a file.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Type and permissions, as in stat(2).
    pub(super) mode: u32,
}

impl Files {
    /// Returns the content of one of the files that were read.
    ///
    /// # Errors
    /// If it could not be read, or was not requested.
    pub(super) fn content(&self, path: &Path) -> Result<Arc<Content>, Arc<io::Error>> {
        match self.contents.get(path) {
            Some(content) => content.clone(),
            None => Err(Arc::new(io::ErrorKind::NotFound.into())),
        }
    }
}

/// Reads all of `wanted` as of one moment, each up to its bound in bytes. Blocks on the disk.
///
/// # Errors
/// If the files changed during every attempt. The error of a single file is returned by
/// [`Files::content`].
pub(super) fn read<'a>(wanted: impl Iterator<Item = (&'a Path, u64)>) -> io::Result<Files> {
    // A file with two roles is read once, up to the larger bound.
    let mut bounds = BTreeMap::new();
    for (path, max) in wanted {
        let bound = bounds.entry(path).or_insert(max);
        *bound = max.max(*bound);
    }
    let paths: Vec<_> = bounds.keys().copied().collect();
    let mut before = stamps(&paths);
    for _ in 0..ATTEMPTS {
        let contents: Vec<_> = bounds.iter().map(|(path, max)| content(path, *max)).collect();
        let after = stamps(&paths);
        // A file that existed only in between is of another moment than the others.
        let appeared =
            after.iter().zip(&contents).any(|(s, content)| s.is_none() && content.is_ok());
        if before == after && !appeared {
            let named = paths.iter().map(|path| path.to_path_buf());
            let contents = contents.into_iter().map(|c| c.map(Arc::new).map_err(Arc::new));
            return Ok(Files { contents: named.zip(contents).collect() });
        }
        before = after;
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "the files changed while they were read"))
}

fn content(path: &Path, max: u64) -> io::Result<Content> {
    let (bytes, metadata) = regular_file::read(path, max)?;
    Ok(Content { bytes: Zeroizing::new(bytes), mode: metadata.mode() })
}

/// The attributes of a path that change when it leads to another file or its file is written: the path
/// with all links resolved, and the identity, size and times of the file.
#[derive(PartialEq, Eq)]
struct Stamp {
    target: PathBuf,
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Returns the stamp of each path; none for a file that cannot be reached.
fn stamps(paths: &[&Path]) -> Vec<Option<Stamp>> {
    let stamp = |path: &&Path| {
        let target = fs::canonicalize(path).ok()?;
        let m = fs::metadata(&target).ok()?;
        Some(Stamp {
            target,
            inode: (m.dev(), m.ino()),
            size: m.size(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        })
    };
    paths.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_read_during_a_stream_of_swaps_are_always_of_one_generation() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("..data");
        let paths = [data.join("a"), data.join("b")];
        let generation = |n: usize| {
            let version = dir.path().join(format!("..v{n}"));
            fs::create_dir(&version).unwrap();
            fs::write(version.join("a"), n.to_string()).unwrap();
            fs::write(version.join("b"), n.to_string()).unwrap();
            let tmp = dir.path().join("..data_tmp");
            std::os::unix::fs::symlink(&version, &tmp).unwrap();
            fs::rename(&tmp, &data).unwrap();
        };
        generation(0);
        std::thread::scope(|scope| {
            let swaps = scope.spawn(|| (1..200).for_each(generation));
            let mut reads = 0;
            while !swaps.is_finished() {
                // An error is correct if the files never stop changing. Mixed generations are not.
                if let Ok(files) = read(paths.iter().map(|path| (path.as_path(), 1 << 20))) {
                    let bytes = [0, 1].map(|i| files.content(&paths[i]).unwrap());
                    assert_eq!(bytes[0].bytes, bytes[1].bytes);
                    reads += 1;
                }
            }
            assert!(reads > 0);
        });
    }

    #[test]
    fn a_missing_file_does_not_prevent_the_others_from_being_read() {
        let missing = Path::new("/nonexistent/tls.crt");
        let there = tempfile::NamedTempFile::new().unwrap();
        fs::write(there.path(), "there").unwrap();
        let files = read([(missing, 1 << 20), (there.path(), 1 << 20)].into_iter()).unwrap();
        assert_eq!(files.content(missing).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(&files.content(there.path()).unwrap().bytes[..], b"there");
    }
}
