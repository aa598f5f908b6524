//! Reads several files as of one moment.
//!
//! A certificate and its key change together: Kubernetes swaps a `..data` link under both, tools
//! rename one after the other. Read one by one, the pair can be of two generations.
//!
//! **Promises.** [`read`] returns contents that all stood in their places at one moment: where any
//! file changed while they were being read, it reads them again. Contents are wiped on drop, since
//! some are keys.
//!
//! **Not here.** What the contents mean (`certs.rs`), when to read again (`reload.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// How often a set of files that keeps changing is read before we give up.
const ATTEMPTS: usize = 20;

/// The contents of several files, all as of one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    contents: BTreeMap<PathBuf, Content>,
}

#[derive(Debug, PartialEq, Eq)]
struct Content {
    bytes: Zeroizing<Vec<u8>>,
    mode: u32,
}

/// Why a set of files could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {cause}", .file.display())]
pub(crate) struct ReadError {
    pub(crate) file: PathBuf,
    pub(crate) cause: io::Error,
}

impl Files {
    /// The content of one of the files that were asked for.
    pub(crate) fn bytes(&self, path: &Path) -> &[u8] {
        self.contents.get(path).map_or(&[], |content| &content.bytes)
    }

    /// Whether others than the owner and the group may read the file.
    pub(crate) fn is_open_to_all(&self, path: &Path) -> bool {
        self.contents.get(path).is_some_and(|content| content.mode & 0o004 != 0)
    }
}

/// Reads all of `paths` as of one moment. It blocks on the disk.
///
/// # Errors
/// The first file that cannot be read, or one that never stood still.
pub(crate) fn read<'a>(paths: impl Iterator<Item = &'a Path>) -> Result<Files, ReadError> {
    let paths: Vec<_> = paths.collect();
    let mut before = stamps(&paths)?;
    for _ in 0..ATTEMPTS {
        let contents = paths.iter().map(|path| Ok((path.to_path_buf(), content(path)?)));
        let contents = contents.collect::<Result<_, _>>();
        let after = stamps(&paths)?;
        if before == after {
            return Ok(Files { contents: contents? });
        }
        before = after;
    }
    let file = paths.first().map(|path| path.to_path_buf()).unwrap_or_default();
    let cause =
        io::Error::new(io::ErrorKind::ResourceBusy, "its files changed while they were read");
    Err(ReadError { file, cause })
}

fn content(path: &Path) -> Result<Content, ReadError> {
    let read = || {
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        // `fs::read` allocates once, by the file's length: no half-filled copies of a key.
        Ok(Content { bytes: Zeroizing::new(fs::read(path)?), mode: metadata.mode() })
    };
    read().map_err(|cause| ReadError { file: path.to_owned(), cause })
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

fn stamps(paths: &[&Path]) -> Result<Vec<Stamp>, ReadError> {
    let stamp = |path: &&Path| {
        let read = || {
            let target = fs::canonicalize(path)?;
            let m = fs::metadata(&target)?;
            Ok(Stamp {
                target,
                inode: (m.dev(), m.ino()),
                size: m.size(),
                modified: (m.mtime(), m.mtime_nsec()),
                changed: (m.ctime(), m.ctime_nsec()),
            })
        };
        read().map_err(|cause| ReadError { file: path.to_path_buf(), cause })
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
                if let Ok(files) = read(paths.iter().map(PathBuf::as_path)) {
                    assert_eq!(files.bytes(&paths[0]), files.bytes(&paths[1]));
                    reads += 1;
                }
            }
            assert!(reads > 0);
        });
    }

    #[test]
    fn a_missing_file_is_named() {
        let missing = Path::new("/nonexistent/tls.crt");
        let error = read([missing].into_iter()).unwrap_err();
        assert_eq!(error.file, missing);
        assert_eq!(error.cause.kind(), io::ErrorKind::NotFound);
    }
}
