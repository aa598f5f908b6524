//! Reads PEM files.
//!
//! **Promises.** A file is loaded whole or not at all: what is not understood is an error with its line,
//! and what is understood but not used here is returned as [`Ignored`]. Keys that are not asked for are
//! not decoded. No error quotes a file's content.
//!
//! rustls-pemfile is named here alone, in one function: see docs/dependencies.md.
//!
//! **Not here.** Whether what a file holds is good: `certs.rs`.

pub(crate) mod sections;

use std::path::{Path, PathBuf};

use rustls_pemfile::Item;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};
use zeroize::Zeroizing;

use self::sections::{PemFault, Section, sections};
use crate::text::Shown;
use crate::trust::files::{Files, ReadError};

/// What a file holds, each with the line on which it begins.
pub(crate) struct FoundSections<T> {
    pub(crate) items: Vec<(usize, T)>,
    pub(crate) ignored: Vec<Ignored>,
}

/// A section that is understood, but is of no use in the file that it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ignored {
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    pub(crate) what: &'static str,
}

/// Why a PEM file does not hold what is wanted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PemError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{} holds no {wanted} in PEM", Shown(file))]
    Empty { file: PathBuf, wanted: &'static str },
    #[error("{} is DER, and has to be PEM: openssl {command} -inform DER converts it", Shown(file))]
    Der { file: PathBuf, command: &'static str },
    #[error("{} is text in UTF-16, and has to be ASCII", Shown(file))]
    Utf16 { file: PathBuf },
    #[error(
        "{} line {line}: this is an encrypted private key, and nobody is here to type its \
         passphrase: decrypt it, for instance with openssl pkey",
        Shown(file)
    )]
    EncryptedKey { file: PathBuf, line: usize },
    #[error("{} line {}: {}", Shown(file), fault.line, fault.what)]
    Malformed { file: PathBuf, fault: PemFault },
    #[error("{} line {line}: the section is not base64", Shown(file))]
    NotBase64 { file: PathBuf, line: usize },
    #[error(
        "{} line {line}: {label:?} is no kind of section that can be read here{hint}",
        Shown(file)
    )]
    Unknown { file: PathBuf, line: usize, label: String, hint: &'static str },
}

impl PemError {
    pub(crate) fn file(&self) -> &Path {
        match self {
            Self::Read(error) => &error.file,
            Self::Empty { file, .. }
            | Self::Der { file, .. }
            | Self::Utf16 { file }
            | Self::EncryptedKey { file, .. }
            | Self::Malformed { file, .. }
            | Self::NotBase64 { file, .. }
            | Self::Unknown { file, .. } => file,
        }
    }
}

/// What a section holds, by its label.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SectionKind {
    /// With the label that OpenSSL wrote before 1998, or today's.
    Certificate,
    Crl,
    Key,
    EncryptedKey,
    /// Those of a key: they stand in front of what `openssl ecparam -genkey` makes.
    Parameters,
    Request,
    PublicKey,
    Unknown(&'static str),
}

impl SectionKind {
    fn of(section: &Section<'_>) -> Self {
        match section.label {
            "CERTIFICATE" | "X509 CERTIFICATE" => Self::Certificate,
            "X509 CRL" => Self::Crl,
            "ENCRYPTED PRIVATE KEY" => Self::EncryptedKey,
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" if section.encrypted => {
                Self::EncryptedKey
            }
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => Self::Key,
            "EC PARAMETERS" | "DH PARAMETERS" | "X9.42 DH PARAMETERS" => Self::Parameters,
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Self::Request,
            "PUBLIC KEY" | "RSA PUBLIC KEY" => Self::PublicKey,
            "TRUSTED CERTIFICATE" => Self::Unknown(
                ": it comes with OpenSSL's own settings of trust; openssl x509 makes a CERTIFICATE of it",
            ),
            "PKCS7" | "CMS" => {
                Self::Unknown(": openssl pkcs7 -print_certs takes the certificates out of it")
            }
            "DSA PRIVATE KEY" | "OPENSSH PRIVATE KEY" => Self::Unknown(
                ": RSA, ECDSA and Ed25519 keys in PKCS #1, PKCS #8 or SEC 1 can be read",
            ),
            _ => Self::Unknown(""),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Crl => "CRL",
            Self::Key | Self::EncryptedKey => "private key",
            Self::Parameters => "set of parameters",
            Self::Request => "certificate request",
            Self::PublicKey => "public key",
            Self::Unknown(_) => "section",
        }
    }

    /// What openssl converts it with.
    const fn command(self) -> &'static str {
        match self {
            Self::Certificate => "x509",
            Self::Crl => "crl",
            _ => "pkey",
        }
    }

    /// Whether a section of this kind is often found beside those of another, on purpose: many
    /// programs want certificate, key and parameters in one file.
    const fn goes_with(self, wanted: Self) -> bool {
        match wanted {
            Self::Certificate => {
                matches!(self, Self::Key | Self::EncryptedKey | Self::Parameters)
            }
            Self::Key => matches!(self, Self::Certificate | Self::Parameters),
            _ => false,
        }
    }
}

/// At least one certificate.
pub(crate) fn certificates(
    file: &Path,
    files: &Files,
) -> Result<FoundSections<CertificateDer<'static>>, PemError> {
    load(file, files, SectionKind::Certificate, |item| match item {
        Item::X509Certificate(certificate) => Some(certificate),
        _ => None,
    })
}

/// At least one CRL.
pub(super) fn revocation_lists(
    file: &Path,
    files: &Files,
) -> Result<FoundSections<CertificateRevocationListDer<'static>>, PemError> {
    load(file, files, SectionKind::Crl, |item| match item {
        Item::Crl(crl) => Some(crl),
        _ => None,
    })
}

/// The first private key.
pub(crate) fn private_key(
    file: &Path,
    files: &Files,
) -> Result<FoundSections<PrivateKeyDer<'static>>, PemError> {
    load(file, files, SectionKind::Key, |item| match item {
        Item::Pkcs1Key(key) => Some(PrivateKeyDer::from(key)),
        Item::Pkcs8Key(key) => Some(key.into()),
        Item::Sec1Key(key) => Some(key.into()),
        _ => None,
    })
}

/// The sections of one kind; of keys, the first.
fn load<T>(
    file: &Path,
    files: &Files,
    wanted: SectionKind,
    take: impl Fn(Item) -> Option<T>,
) -> Result<FoundSections<T>, PemError> {
    let bytes = files.bytes(file)?;
    let file = file.to_owned();
    check_encoding(&file, bytes, wanted)?;
    let sections = sections(bytes);
    let sections = sections.map_err(|fault| PemError::Malformed { file: file.clone(), fault })?;
    let mut found = FoundSections { items: Vec::new(), ignored: Vec::new() };
    let mut encrypted = None;
    for section in &sections {
        let (line, kind) = (section.line, SectionKind::of(section));
        let enough = wanted == SectionKind::Key && !found.items.is_empty();
        match kind {
            SectionKind::Unknown(hint) => {
                let label = section.label.chars().take(40).collect();
                return Err(PemError::Unknown { file, line, label, hint });
            }
            _ if kind == wanted && !enough => match decoded(section).and_then(&take) {
                Some(item) => found.items.push((line, item)),
                None => return Err(PemError::NotBase64 { file, line }),
            },
            SectionKind::EncryptedKey if wanted == SectionKind::Key && encrypted.is_none() => {
                encrypted = Some(line);
            }
            _ if kind.goes_with(wanted) => {}
            _ => found.ignored.push(Ignored { file: file.clone(), line, what: kind.name() }),
        }
    }
    match (found.items.is_empty(), encrypted) {
        (true, Some(line)) => Err(PemError::EncryptedKey { file, line }),
        (true, None) => Err(PemError::Empty { file, wanted: wanted.name() }),
        (false, _) => Ok(found),
    }
}

/// Refuses what is no PEM by its first bytes.
fn check_encoding(file: &Path, bytes: &[u8], wanted: SectionKind) -> Result<(), PemError> {
    let file = file.to_owned();
    match bytes {
        // A SEQUENCE, as every certificate, key and CRL is: with a long length, or a short one that fits.
        [0x30, 0x81..=0x84, ..] => Err(PemError::Der { file, command: wanted.command() }),
        [0x30, length, content @ ..] if usize::from(*length) == content.len() => {
            Err(PemError::Der { file, command: wanted.command() })
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'-', 0, ..] | [0, b'-', ..] => {
            Err(PemError::Utf16 { file })
        }
        _ => Ok(()),
    }
}

/// Decodes a section; none if it is not base64.
fn decoded(section: &Section<'_>) -> Option<Item> {
    let today;
    let text = match section.label {
        // The name of old for the same.
        "X509 CERTIFICATE" => {
            let (begin, end) = ("-----BEGIN CERTIFICATE-----\n", "\n-----END CERTIFICATE-----\n");
            today = Zeroizing::new([begin.as_bytes(), section.body, end.as_bytes()].concat());
            &today[..]
        }
        _ => section.whole,
    };
    rustls_pemfile::read_one_from_slice(text).ok().flatten().map(|(item, _)| item)
}
