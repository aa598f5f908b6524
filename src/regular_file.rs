//! Reading of regular files, up to a size limit.
//!
//! **Promises.** Anything else (FIFO, device, socket, directory) is an error before it is opened, so that nothing
//! blocks. A replacement between the check and the open is an error too. At most the limit is read, whatever size
//! the file system reports.
//!
//! In a confined process, the error of a file outside of the readable directories names the cause.
//!
//! **Not here.** The paths and the limits: each caller has its own. The confinement (`control/confine.rs`).

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::OFlags;

const MIB: u64 = 1 << 20;

/// The directories that a confined process can read. Empty: it is not confined.
static READABLE: OnceLock<Vec<PathBuf>> = OnceLock::new();

/// Notes the directories that this process can read from now on.
pub(crate) fn confine(readable: Vec<PathBuf>) {
    // A process is confined once.
    let _confined_before = READABLE.set(readable);
}

/// Opens a file for reading.
///
/// # Errors
/// The file cannot be opened, or is not a regular file.
pub(crate) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    regular(&fs::metadata(path)?)?;
    // O_NONBLOCK, so that the open does not wait if the file was replaced by a FIFO.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let flags = i32::try_from(flags).map_err(io::Error::other)?;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| explained(error, path))?;
    let metadata = file.metadata()?;
    regular(&metadata)?;
    Ok((file, metadata))
}

/// Reads a file of at most `max` bytes. Blocks on the disk.
///
/// # Errors
/// The file cannot be read, is not a regular file, or is larger.
pub(crate) fn read(path: &Path, max: u64) -> io::Result<(Vec<u8>, Metadata)> {
    let (file, metadata) = open(path)?;
    let expected = metadata.len();
    if expected > max {
        return Err(too_large(max));
    }
    // With one more byte the buffer never grows, which would leave a copy of a private key in freed memory.
    let capacity = usize::try_from(expected).unwrap_or(0).saturating_add(1);
    let mut bytes = Vec::with_capacity(capacity);
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > max) {
        return Err(too_large(max));
    }
    Ok((bytes, metadata))
}

/// Returns the error of an open, with its cause if that is the confinement of the process.
fn explained(error: io::Error, path: &Path) -> io::Error {
    let readable = READABLE.get().map_or(&[][..], Vec::as_slice);
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let is_outside = !readable.is_empty() && !readable.iter().any(|dir| target.starts_with(dir));
    if error.kind() != io::ErrorKind::PermissionDenied || !is_outside {
        return error;
    }
    let cause = "outside of the directories that the process can read since its start: \
                 restart it (process.landlock)";
    io::Error::new(error.kind(), format!("{error}, {cause}"))
}

fn regular(metadata: &Metadata) -> io::Result<()> {
    match metadata.is_file() {
        true => Ok(()),
        false => Err(io::Error::other("not a regular file")),
    }
}

fn too_large(max: u64) -> io::Error {
    let kind = io::ErrorKind::FileTooLarge;
    io::Error::new(kind, format!("larger than {} MiB, the limit for this file", max / MIB))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_larger_than_the_limit_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vec![7; 1 << 20]).unwrap();
        assert_eq!(read(file.path(), MIB).unwrap().0.len(), 1 << 20);
        assert_eq!(read(file.path(), MIB - 1).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        file.as_file().set_len(1 << 40).unwrap();
        assert_eq!(read(file.path(), MIB).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn anything_but_a_regular_file_is_an_error_and_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [socket.as_path(), dir.path(), Path::new("/dev/zero")] {
            let error = read(path, MIB).unwrap_err();
            assert_eq!(error.to_string(), "not a regular file", "{}", path.display());
        }
    }
}
