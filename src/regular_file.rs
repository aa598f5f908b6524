//! Reads regular files, up to a size.
//!
//! **Promises.** A path that leads to anything else (a FIFO, a device, a socket, a directory) is refused
//! before it is opened, and so never waited for; what takes its place in between is refused once it is
//! open. No more than the bound is read, whatever a file's size says.
//!
//! **Not here.** Which files are read and how large they may be: that is each reader's.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

const MIB: u64 = 1 << 20;

/// Opens a file for reading.
///
/// # Errors
/// If it cannot be opened or is no regular file.
pub(crate) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    regular(&fs::metadata(path)?)?;
    // O_NONBLOCK, so that a FIFO which has taken the file's place is not waited for.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let flags = i32::try_from(flags).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    regular(&metadata)?;
    Ok((file, metadata))
}

/// Reads a file of at most `max` bytes. It blocks on the disk.
///
/// # Errors
/// If it cannot be read, is no regular file or is larger.
pub(crate) fn read(path: &Path, max: u64) -> io::Result<(Vec<u8>, Metadata)> {
    let (file, metadata) = open(path)?;
    let expected = metadata.len();
    if expected > max {
        return Err(too_large(max));
    }
    // One byte more, and so no half-filled copy of a key is left behind by a buffer that grows.
    let capacity = usize::try_from(expected).unwrap_or(0).saturating_add(1);
    let mut bytes = Vec::with_capacity(capacity);
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > max) {
        return Err(too_large(max));
    }
    Ok((bytes, metadata))
}

fn regular(metadata: &Metadata) -> io::Result<()> {
    match metadata.is_file() {
        true => Ok(()),
        false => Err(io::Error::other("not a regular file")),
    }
}

fn too_large(max: u64) -> io::Error {
    let kind = io::ErrorKind::FileTooLarge;
    io::Error::new(kind, format!("larger than {} MiB, the most that is read here", max / MIB))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_bound_is_read_of_a_file_and_nothing_of_a_larger_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vec![7; 1 << 20]).unwrap();
        assert_eq!(read(file.path(), MIB).unwrap().0.len(), 1 << 20);
        assert_eq!(read(file.path(), MIB - 1).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        file.as_file().set_len(1 << 40).unwrap();
        assert_eq!(read(file.path(), MIB).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_being_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [socket.as_path(), dir.path(), Path::new("/dev/zero")] {
            let error = read(path, MIB).unwrap_err();
            assert_eq!(error.to_string(), "not a regular file", "{}", path.display());
        }
    }
}
