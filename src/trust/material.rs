//! The files of a policy, each with its role and its content.
//!
//! **Promises.** [`named`] is the one list of the files of a policy. [`read`] reads files as of one moment,
//! each up to the bound of its role. A file that cannot be read does not prevent the others from being read,
//! so that every problem is found at once.
//!
//! **Not here.** The reading (`files.rs`), the meaning of the content (`certs/`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::digest::Digest;
use super::files::{self, Content};
use super::findings::{Cause, CertError};
use crate::config;
use crate::terms::labels::MaterialKind;

/// Bound of a file with a certificate, a chain or a key. Chains have some KiB; a Kubernetes Secret
/// is 1 MiB at most.
const MAX_CHAIN_BYTES: u64 = 4 << 20;

/// Bound of a bundle of CAs. All CAs of the web take 0.2 MiB.
const MAX_CA_BYTES: u64 = 16 << 20;

/// Bound of a file with ticket keys: some 600 keys.
const MAX_TICKET_KEY_BYTES: u64 = 64 << 10;

/// Bound of a file with CRLs: some 6 million entries.
const MAX_CRL_BYTES: u64 = 256 << 20;

/// Bound of a file with allow rules: some 200,000 keys.
const MAX_ALLOW_BYTES: u64 = 16 << 20;

/// A file that was read for one role.
#[derive(Debug)]
pub(crate) struct Material {
    pub(crate) role: MaterialKind,
    pub(crate) path: PathBuf,
    content: Result<Arc<Content>, Arc<io::Error>>,
}

/// Returns the files of a policy, each with its role, in the order of the configuration: certificates each
/// followed by its key, then the client CAs, the CRLs, the allow rules and the ticket keys.
pub(crate) fn named(tls: &config::TlsConfig) -> impl Iterator<Item = (MaterialKind, &Path)> {
    let pairs = tls.certificates.iter().flat_map(|pair| {
        [(MaterialKind::Certificate, pair.cert.as_path()), (MaterialKind::Key, pair.key.as_path())]
    });
    let trust = || tls.client_auth.trust().into_iter();
    let cas = trust().map(|trust| (MaterialKind::ClientCa, trust.ca.as_path()));
    let crls = trust().flat_map(|trust| &trust.crls);
    let crls = crls.map(|crl| (MaterialKind::Crl, crl.as_path()));
    let rules = trust().filter_map(|trust| trust.allow.file.as_ref());
    let rules = rules.map(|file| (MaterialKind::Allow, file.as_path()));
    let keys = tls.ticket_keys.iter().map(|keys| (MaterialKind::TicketKeys, keys.as_path()));
    pairs.chain(cas).chain(crls).chain(rules).chain(keys)
}

/// Reads files, each for a role, all as of one moment. Blocks on the disk.
///
/// # Errors
/// If they changed during every attempt. The error of a single file is returned by its
/// [`Material::bytes`].
pub(crate) fn read(wanted: &[(MaterialKind, &Path)]) -> Result<Vec<Material>, CertError> {
    let bounded = wanted.iter().map(|&(role, path)| (path, max_bytes(role)));
    let files = files::read(bounded).map_err(|error| {
        let empty = Path::new("");
        let (role, file) = wanted.first().copied().unwrap_or((MaterialKind::Certificate, empty));
        let cause = Cause::Unreadable(Arc::new(error));
        CertError { role, file: file.to_owned(), line: None, cause }
    })?;
    let material = |&(role, path): &(MaterialKind, &Path)| Material {
        role,
        path: path.to_owned(),
        content: files.content(path),
    };
    Ok(wanted.iter().map(material).collect())
}

/// Returns the state of a file after its content was taken.
fn taken() -> Result<Arc<Content>, Arc<io::Error>> {
    Err(Arc::new(io::Error::other("its content was taken")))
}

const fn max_bytes(role: MaterialKind) -> u64 {
    match role {
        MaterialKind::Certificate | MaterialKind::Key => MAX_CHAIN_BYTES,
        MaterialKind::ClientCa => MAX_CA_BYTES,
        MaterialKind::Crl => MAX_CRL_BYTES,
        MaterialKind::Allow => MAX_ALLOW_BYTES,
        MaterialKind::TicketKeys => MAX_TICKET_KEY_BYTES,
    }
}

impl Material {
    /// Returns the content.
    ///
    /// # Errors
    /// If the file could not be read.
    pub(crate) fn bytes(&self) -> Result<&[u8], CertError> {
        match &self.content {
            Ok(content) => Ok(&content.bytes),
            Err(error) => Err(self.error(None, Cause::Unreadable(Arc::clone(error)))),
        }
    }

    /// Takes the content out of it. It is copied only if another role has the same file.
    ///
    /// # Errors
    /// If the file could not be read.
    pub(crate) fn take_bytes(&mut self) -> Result<Vec<u8>, CertError> {
        match std::mem::replace(&mut self.content, taken()) {
            Ok(content) => Ok(Arc::try_unwrap(content).map_or_else(
                |shared| shared.bytes.to_vec(),
                |mut content| std::mem::take(&mut *content.bytes),
            )),
            Err(error) => Err(self.error(None, Cause::Unreadable(error))),
        }
    }

    /// Frees the content.
    pub(crate) fn release(&mut self) {
        self.content = taken();
    }

    /// Returns the digest of the content, by which a change is detected. A key that becomes readable by
    /// all users is a change as well, so that it is warned about.
    ///
    /// # Errors
    /// If the file could not be read.
    pub(crate) fn digest(&self) -> Result<Digest, CertError> {
        let is_secret = matches!(self.role, MaterialKind::Key | MaterialKind::TicketKeys);
        let is_open = is_secret && self.is_open_to_all();
        let mode: &[u8] = if is_open { b"open" } else { b"" };
        Ok(Digest::of([self.bytes()?, mode]))
    }

    /// Returns whether users other than the owner and the group may read the file.
    pub(crate) fn is_open_to_all(&self) -> bool {
        matches!(&self.content, Ok(content) if content.mode & 0o004 != 0)
    }

    /// Makes an error of this file.
    pub(crate) fn error(&self, line: Option<usize>, cause: Cause) -> CertError {
        CertError { role: self.role, file: self.path.clone(), line, cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_role_for_which_its_file_was_read() {
        let missing = Path::new("/nonexistent/both.pem");
        let wanted = [(MaterialKind::ClientCa, missing), (MaterialKind::Crl, missing)];
        let material = read(&wanted).unwrap();
        let roles = material.iter().map(|material| material.bytes().unwrap_err().role);
        assert_eq!(roles.collect::<Vec<_>>(), [MaterialKind::ClientCa, MaterialKind::Crl]);
    }
}
