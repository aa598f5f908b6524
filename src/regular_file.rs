//! Reading of regular files, up to a size limit, and writing of files that nobody else can read.
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
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::OFlags;
use rustix::process::geteuid;

const MIB: u64 = 1 << 20;

/// Mode of a file for secrets.
const PRIVATE: u32 = 0o600;

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

/// Opens a file for secrets at its end, or creates it.
///
/// # Errors
/// The file cannot be opened; it is a symbolic link or no regular file; others than this user can read or write it.
pub(crate) fn append_private(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let flags = i32::try_from(flags).map_err(io::Error::other)?;
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).mode(PRIVATE).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    regular(&metadata)?;
    let mode = metadata.mode() & 0o777;
    if mode & !PRIVATE != 0 {
        let fault = format!("its mode is {mode:03o}; allowed: {PRIVATE:o}, as it gets secrets");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, fault));
    }
    if metadata.uid() != geteuid().as_raw() {
        let fault = "it belongs to another user, who could read the secrets";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, fault));
    }
    Ok(file)
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
    fn a_file_for_secrets_is_made_private_and_one_that_others_can_read_is_refused() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("keys"), dir.path().join("link"));
        for line in ["a\n", "b\n"] {
            io::Write::write_all(&mut append_private(&path).unwrap(), line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"a\nb\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, PRIVATE);
        symlink(&path, &link).unwrap();
        assert!(append_private(&link).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = append_private(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(append_private(dir.path()).is_err());
    }

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
