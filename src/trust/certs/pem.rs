//! What PEM files hold.
//!
//! **Promises.** Keys that are not asked for are wiped, and no error quotes a file's content.
//!
//! rustls-pemfile is named here alone: see docs/dependencies.md.
//!
//! **Not here.** Whether what a file holds is good: `certs.rs`.

use std::path::{Path, PathBuf};

use rustls_pemfile::Item;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};
use zeroize::Zeroize;

use crate::trust::files::{Files, ReadError};

/// Why a PEM file does not hold what is wanted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PemError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{} holds no {wanted} in PEM", .file.display())]
    Empty { file: PathBuf, wanted: &'static str },
    #[error("{} holds an encrypted private key: decrypt it, for instance with openssl pkey", .0.display())]
    EncryptedKey(PathBuf),
    #[error("{} is not well-formed PEM: {cause}", .file.display())]
    Malformed { file: PathBuf, cause: &'static str },
}

/// At least one certificate.
pub(crate) fn certificates(
    file: &Path,
    files: &Files,
) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates = take_all(file, files, |item| match item {
        Item::X509Certificate(certificate) => Ok(certificate),
        other => Err(other),
    })?;
    if certificates.is_empty() {
        return Err(PemError::Empty { file: file.to_owned(), wanted: "certificate" });
    }
    Ok(certificates)
}

/// At least one CRL.
pub(super) fn revocation_lists(
    file: &Path,
    files: &Files,
) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let crls = take_all(file, files, |item| match item {
        Item::Crl(crl) => Ok(crl),
        other => Err(other),
    })?;
    if crls.is_empty() {
        return Err(PemError::Empty { file: file.to_owned(), wanted: "CRL" });
    }
    Ok(crls)
}

/// The first private key.
pub(crate) fn private_key(file: &Path, files: &Files) -> Result<PrivateKeyDer<'static>, PemError> {
    let keys = take_all(file, files, |item| match item {
        Item::Pkcs1Key(key) => Ok(PrivateKeyDer::from(key)),
        Item::Pkcs8Key(key) => Ok(key.into()),
        Item::Sec1Key(key) => Ok(key.into()),
        other => Err(other),
    })?;
    let encrypted = || {
        files.bytes(file).is_ok_and(|bytes| bytes.windows(9).any(|window| window == b"ENCRYPTED"))
    };
    let mut keys = keys.into_iter();
    let first = keys.next();
    keys.for_each(|mut key| key.zeroize());
    match first {
        Some(key) => Ok(key),
        None if encrypted() => Err(PemError::EncryptedKey(file.to_owned())),
        None => Err(PemError::Empty { file: file.to_owned(), wanted: "private key" }),
    }
}

/// Whatever `take` takes of what a PEM file holds; keys that it does not take are wiped.
fn take_all<T>(
    file: &Path,
    files: &Files,
    take: impl Fn(Item) -> Result<T, Item>,
) -> Result<Vec<T>, PemError> {
    let mut rest = files.bytes(file)?;
    let mut taken = Vec::new();
    loop {
        match rustls_pemfile::read_one_from_slice(rest) {
            Ok(Some((item, after))) => {
                rest = after;
                match take(item) {
                    Ok(item) => taken.push(item),
                    Err(Item::Pkcs1Key(mut key)) => key.zeroize(),
                    Err(Item::Pkcs8Key(mut key)) => key.zeroize(),
                    Err(Item::Sec1Key(mut key)) => key.zeroize(),
                    Err(_) => {}
                }
            }
            Ok(None) => return Ok(taken),
            // The parser's own words can quote a line of the file, and that may be a key's.
            Err(error) => {
                let cause = match error {
                    rustls_pemfile::Error::MissingSectionEnd { .. } => "a section has no end",
                    rustls_pemfile::Error::IllegalSectionStart { .. } => "a section starts badly",
                    rustls_pemfile::Error::Base64Decode(_) => "a section is not base64",
                };
                return Err(PemError::Malformed { file: file.to_owned(), cause });
            }
        }
    }
}
