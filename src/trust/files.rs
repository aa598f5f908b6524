//! Reads several files as of one moment.
//!
//! A certificate and its key change together: Kubernetes swaps a `..data` link under both, tools
//! rename one after the other. Read one by one, the pair can be of two generations.
//!
//! **Promises.** [`read`] returns contents that all stood in their places at one moment: where any
//! file changed while they were being read, it reads them again. A file that cannot be read keeps
//! no other from being read, so that every problem is found at once. Contents are wiped on drop,
//! since some are keys.
//!
//! **Not here.** What the contents mean (`certs.rs`), when to read again (`reload.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::regular_file;
use crate::text::Shown;

/// The largest file with a certificate, a chain or a key that is read. Chains have some KiB; a Kubernetes
/// Secret is 1 MiB at most.
pub(crate) const MAX_CHAIN_BYTES: u64 = 4 << 20;

/// The largest bundle of CAs that is read. All CAs of the web take 0.2 MiB.
pub(crate) const MAX_CA_BYTES: u64 = 16 << 20;

/// The largest file with CRLs that is read: some 6 million entries.
pub(crate) const MAX_CRL_BYTES: u64 = 256 << 20;

/// How often a set of files that keeps changing is read before we give up.
const ATTEMPTS: usize = 20;

/// The contents of several files, all as of one moment.
#[derive(Debug)]
pub(crate) struct Files {
    contents: BTreeMap<PathBuf, Result<Content, Arc<io::Error>>>,
}

#[derive(Debug)]
struct Content {
    bytes: Zeroizing<Vec<u8>>,
    mode: u32,
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {cause}", Shown(file))]
pub(crate) struct ReadError {
    pub(crate) file: PathBuf,
    pub(crate) cause: Arc<io::Error>,
}

impl Files {
    /// The content of one of the files that were asked for.
    ///
    /// # Errors
    /// If it could not be read, or was not asked for.
    pub(crate) fn bytes(&self, path: &Path) -> Result<&[u8], ReadError> {
        let cause = match self.contents.get(path) {
            Some(Ok(content)) => return Ok(&content.bytes),
            Some(Err(cause)) => Arc::clone(cause),
            None => Arc::new(io::ErrorKind::NotFound.into()),
        };
        Err(ReadError { file: path.to_owned(), cause })
    }

    /// Whether others than the owner and the group may read the file.
    pub(crate) fn is_open_to_all(&self, path: &Path) -> bool {
        matches!(self.contents.get(path), Some(Ok(content)) if content.mode & 0o004 != 0)
    }
}

/// Reads all of `wanted` as of one moment, each with the bytes that it has at most. It blocks on the
/// disk.
///
/// # Errors
/// If they never stood still. Why a single file cannot be read is told by [`Files::bytes`].
pub(crate) fn read<'a>(wanted: impl Iterator<Item = (&'a Path, u64)>) -> Result<Files, ReadError> {
    // A file that is named for two purposes is read up to the larger bound.
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
        // What was there in between alone is of another moment than the rest.
        let appeared =
            after.iter().zip(&contents).any(|(s, content)| s.is_none() && content.is_ok());
        if before == after && !appeared {
            let named = paths.iter().map(|path| path.to_path_buf());
            let contents = contents.into_iter().map(|content| content.map_err(Arc::new));
            return Ok(Files { contents: named.zip(contents).collect() });
        }
        before = after;
    }
    let file = paths.first().map(|path| path.to_path_buf()).unwrap_or_default();
    let cause =
        io::Error::new(io::ErrorKind::ResourceBusy, "its files changed while they were read");
    Err(ReadError { file, cause: Arc::new(cause) })
}

fn content(path: &Path, max: u64) -> io::Result<Content> {
    let (bytes, metadata) = regular_file::read(path, max)?;
    Ok(Content { bytes: Zeroizing::new(bytes), mode: metadata.mode() })
}

/// What changes when a path leads elsewhere or its file is written: the file that it leads to
/// through all links, and that file's identity, size and times.
#[derive(PartialEq, Eq)]
struct Stamp {
    target: PathBuf,
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// None for a file that cannot be reached.
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
                // A set that never stood still is an honest answer; a mixed one is not.
                if let Ok(files) = read(paths.iter().map(|path| (path.as_path(), 1 << 20))) {
                    let bytes = [0, 1].map(|i| files.bytes(&paths[i]).unwrap());
                    assert_eq!(bytes[0], bytes[1]);
                    reads += 1;
                }
            }
            assert!(reads > 0);
        });
    }

    #[test]
    fn a_missing_file_is_named_and_keeps_no_other_from_being_read() {
        let missing = Path::new("/nonexistent/tls.crt");
        let there = tempfile::NamedTempFile::new().unwrap();
        fs::write(there.path(), "there").unwrap();
        let files = read([(missing, 1 << 20), (there.path(), 1 << 20)].into_iter()).unwrap();
        let error = files.bytes(missing).unwrap_err();
        assert_eq!(error.file, missing);
        assert_eq!(error.cause.kind(), io::ErrorKind::NotFound);
        assert_eq!(files.bytes(there.path()).unwrap(), b"there");
    }
}
