//! The token of the admin port: a secret in a file, which clients send as a Bearer token (RFC 6750).
//!
//! **Promises.** Only a digest of the token is kept, and a candidate is compared in a time that does not depend on it. A
//! file that becomes invalid keeps the last valid token. The file's content is in no message.
//!
//! **Not here.** The requests that need it (`control/admin/guard.rs`), the time of its reload (`reload.rs`).

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::digest::sha256;
use crate::lock::Lock;
use crate::regular_file;
use crate::text::Shown;

/// Largest token file. A token has some dozen characters.
const MAX_BYTES: u64 = 4096;

/// Shortest token. 128 random bits have 22 characters in base64; a shorter one is likely a placeholder.
const MIN_CHARS: usize = 16;

/// A token file, and the token that it had when it was last valid.
#[derive(Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
    digest: Lock<[u8; 32]>,
}

/// A token file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("admin.token_file {path}: {cause}")]
pub(crate) struct TokenError {
    path: String,
    cause: TokenFault,
}

#[derive(Debug, thiserror::Error)]
enum TokenFault {
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    #[error(
        "found {0} characters, expected one line of at least {MIN_CHARS} visible ASCII characters"
    )]
    Short(usize),
    #[error(
        "found a space, a control character or a character beyond ASCII, expected one line of visible ASCII characters"
    )]
    Characters,
}

impl TokenFile {
    /// Loads a token file. Returns a warning as well if other users can read it.
    ///
    /// # Errors
    /// The file cannot be read, or its content is no token.
    pub(crate) fn load(path: &Path) -> Result<(Self, Option<String>), TokenError> {
        let (token, mode) = read(path)?;
        let digest = Lock::new(sha256(token.as_bytes()));
        let readable = mode & 0o004 != 0;
        let warning =
            readable.then(|| format!("admin.token_file {} is readable by every user", Shown(path)));
        Ok((Self { path: path.to_owned(), digest }, warning))
    }

    /// Reads the file again. Returns true if it has another token.
    ///
    /// # Errors
    /// As [`Self::load`]. The token stays.
    pub(crate) fn reload(&self) -> Result<bool, TokenError> {
        let new = sha256(read(&self.path)?.0.as_bytes());
        let old = std::mem::replace(&mut *self.digest.lock(), new);
        Ok(old != new)
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns true if `candidate` is the token. The time depends on the length of the candidate alone.
    pub(crate) fn accepts(&self, candidate: &[u8]) -> bool {
        let (candidate, token) = (sha256(candidate), *self.digest.lock());
        candidate.iter().zip(&token).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
    }
}

/// Reads the token in a file.
///
/// # Errors
/// As [`TokenFile::load`].
pub(crate) fn token(path: &Path) -> Result<Zeroizing<String>, TokenError> {
    read(path).map(|(token, _)| token)
}

fn read(path: &Path) -> Result<(Zeroizing<String>, u32), TokenError> {
    let fault = |cause| TokenError { path: Shown(path).to_string(), cause };
    let read = regular_file::read(path, MAX_BYTES);
    let (bytes, metadata) = read.map_err(|error| fault(TokenFault::Unreadable(error)))?;
    let bytes = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes).map_err(|_| fault(TokenFault::Characters))?.trim();
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(fault(TokenFault::Characters));
    }
    if text.len() < MIN_CHARS {
        return Err(fault(TokenFault::Short(text.len())));
    }
    Ok((Zeroizing::new(text.to_owned()), metadata.mode()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_accepted_whole_and_reloaded_if_it_is_valid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let (file, warning) = TokenFile::load(&path).unwrap();
        assert_eq!(warning, None);
        assert!(file.accepts(b"0123456789abcdef") && !file.reload().unwrap());
        for other in ["", "0123456789abcde", "0123456789abcdef\n", "0123456789abcdeg"] {
            assert!(!file.accepts(other.as_bytes()), "{other:?}");
        }
        std::fs::write(&path, "fedcba9876543210").unwrap();
        assert!(file.reload().unwrap());
        assert!(file.accepts(b"fedcba9876543210") && !file.accepts(b"0123456789abcdef"));
        std::fs::write(&path, "").unwrap();
        file.reload().unwrap_err();
        assert!(file.accepts(b"fedcba9876543210"), "the last valid one stays");
    }

    #[test]
    fn a_file_that_is_no_token_is_refused_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        for (content, expected) in [
            ("", "found 0 characters"),
            ("tooshort-secret", "found 15 characters"),
            ("two words 0123456789abcdef", "visible ASCII"),
            ("two\nlines-0123456789abcdef", "visible ASCII"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = TokenFile::load(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(content.is_empty() || !error.contains(content), "{error}");
        }
        std::fs::write(&path, "0123456789abcdef").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(TokenFile::load(&path).unwrap().1.unwrap().contains("every user"));
    }
}
