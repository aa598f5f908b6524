//! Reads PEM files.
//!
//! **Promises.** A file is loaded whole or not at all: a section that is not understood is an error with its
//! line, and a section that is understood but not used here is returned as [`Ignored`]. Keys that are not
//! requested are not decoded. No error quotes a file's content.
//!
//! rustls-pemfile is named only here, in one function: see docs/dependencies.md.
//!
//! **Not here.** The checks of the content (`chain.rs`, `clients.rs`).

pub(crate) mod sections;

use std::sync::LazyLock;

use data_encoding::{BASE64, Encoding};
use rustls_pemfile::Item;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};
use zeroize::Zeroizing;

use self::sections::{Section, sections};
use crate::trust::findings::{Cause, CertError, Ignored};
use crate::trust::material::Material;

/// The sections of a file that were requested, each with the line on which it begins.
pub(crate) struct FoundSections<T> {
    pub(crate) items: Vec<(usize, T)>,
    pub(crate) ignored: Vec<Ignored>,
}

/// The kind of a section, by its label.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SectionKind {
    /// With the current label, or the one that OpenSSL wrote before 1998.
    Certificate,
    Crl,
    Key,
    EncryptedKey,
    /// Parameters of a key: `openssl ecparam -genkey` writes them before it.
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
                ": it contains OpenSSL's trust settings; openssl x509 converts it to a CERTIFICATE",
            ),
            "PKCS7" | "CMS" => {
                Self::Unknown(": openssl pkcs7 -print_certs extracts its certificates")
            }
            "DSA PRIVATE KEY" | "OPENSSH PRIVATE KEY" => Self::Unknown(
                ": supported are RSA, ECDSA and Ed25519 keys in PKCS #1, PKCS #8 or SEC 1",
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

    /// Returns the openssl command that converts it.
    const fn command(self) -> &'static str {
        match self {
            Self::Certificate => "x509",
            Self::Crl => "crl",
            Self::Key
            | Self::EncryptedKey
            | Self::Parameters
            | Self::Request
            | Self::PublicKey
            | Self::Unknown(_) => "pkey",
        }
    }

    /// Returns whether a section of this kind is often in the same file as `wanted`, on purpose: many
    /// programs need certificate, key and parameters in one file.
    const fn goes_with(self, wanted: Self) -> bool {
        match wanted {
            Self::Certificate => {
                matches!(self, Self::Key | Self::EncryptedKey | Self::Parameters)
            }
            Self::Key => matches!(self, Self::Certificate | Self::Parameters),
            Self::Crl
            | Self::EncryptedKey
            | Self::Parameters
            | Self::Request
            | Self::PublicKey
            | Self::Unknown(_) => false,
        }
    }
}

/// Returns the certificates of a file, at least one.
///
/// # Errors
/// If the file could not be read, or has a fault.
pub(crate) fn certificates(
    file: &Material,
) -> Result<FoundSections<CertificateDer<'static>>, CertError> {
    load(file, SectionKind::Certificate, |item| {
        if let Item::X509Certificate(certificate) = item { Some(certificate) } else { None }
    })
}

/// Returns the CRLs of a file in PEM, at least one; or the CRL of a file in DER, the form in which CAs publish it.
/// `bytes` is the content of the file.
pub(super) fn revocation_lists(
    file: &Material,
    bytes: Vec<u8>,
) -> Result<FoundSections<CertificateRevocationListDer<'static>>, CertError> {
    if matches!(check_encoding(&bytes, SectionKind::Crl), Err(Cause::Der(_))) {
        return Ok(FoundSections { items: vec![(1, bytes.into())], ignored: Vec::new() });
    }
    let crl = |section: &Section<'_>| Some(TEXT.decode(section.body).ok()?.into());
    load_decoded(file, &bytes, SectionKind::Crl, crl)
}

/// The base64 of a section's body. rustls-pemfile copies the body before it decodes it: with a CRL of a million
/// entries that is as much as the file.
static TEXT: LazyLock<Encoding> = LazyLock::new(|| {
    let mut text = BASE64.specification();
    text.ignore.push_str(" \t\r\n");
    text.check_trailing_bits = false;
    text.encoding().expect("the ignored characters are no symbols")
});

/// Returns the first private key of a file.
///
/// # Errors
/// If the file could not be read, has a fault, or no key.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls-pemfile's enum is non-exhaustive")]
pub(crate) fn private_key(
    file: &Material,
) -> Result<FoundSections<PrivateKeyDer<'static>>, CertError> {
    load(file, SectionKind::Key, |item| match item {
        Item::Pkcs1Key(key) => Some(PrivateKeyDer::from(key)),
        Item::Pkcs8Key(key) => Some(key.into()),
        Item::Sec1Key(key) => Some(key.into()),
        _ => None,
    })
}

/// Returns the sections of one kind; of keys, the first.
fn load<T>(
    file: &Material,
    wanted: SectionKind,
    take: impl Fn(Item) -> Option<T>,
) -> Result<FoundSections<T>, CertError> {
    load_decoded(file, file.bytes()?, wanted, |section| decoded(section).and_then(&take))
}

/// As [`load`], with the content of the file and the function that decodes a section.
fn load_decoded<T>(
    file: &Material,
    bytes: &[u8],
    wanted: SectionKind,
    decode: impl Fn(&Section<'_>) -> Option<T>,
) -> Result<FoundSections<T>, CertError> {
    check_encoding(bytes, wanted).map_err(|cause| file.error(None, cause))?;
    let sections =
        sections(bytes).map_err(|fault| file.error(Some(fault.line), Cause::Pem(fault.kind)))?;
    let mut found = FoundSections { items: Vec::new(), ignored: Vec::new() };
    let mut encrypted = None;
    for section in &sections {
        let (line, kind) = (section.line, SectionKind::of(section));
        let enough = wanted == SectionKind::Key && !found.items.is_empty();
        match kind {
            SectionKind::Unknown(hint) => {
                let label = section.label.chars().take(40).collect();
                return Err(file.error(Some(line), Cause::UnknownSection { label, hint }));
            }
            _ if kind == wanted && !enough => match decode(section) {
                Some(item) => found.items.push((line, item)),
                None => return Err(file.error(Some(line), Cause::NotBase64)),
            },
            SectionKind::EncryptedKey if wanted == SectionKind::Key && encrypted.is_none() => {
                encrypted = Some(line);
            }
            _ if kind.goes_with(wanted) => {}
            SectionKind::Certificate
            | SectionKind::Crl
            | SectionKind::Key
            | SectionKind::EncryptedKey
            | SectionKind::Parameters
            | SectionKind::Request
            | SectionKind::PublicKey => {
                found.ignored.push(Ignored { file: file.path.clone(), line, what: kind.name() });
            }
        }
    }
    match (found.items.is_empty(), encrypted) {
        (true, Some(line)) => Err(file.error(Some(line), Cause::EncryptedKey)),
        (true, None) => Err(file.error(None, Cause::Empty(wanted.name()))),
        (false, _) => Ok(found),
    }
}

/// Rejects a file that is not PEM, by its first bytes.
fn check_encoding(bytes: &[u8], wanted: SectionKind) -> Result<(), Cause> {
    match bytes {
        // Every certificate, key and CRL is a SEQUENCE, with a long length or a short one that fits.
        [0x30, 0x81..=0x84, ..] => Err(Cause::Der(wanted.command())),
        [0x30, length, content @ ..] if usize::from(*length) == content.len() => {
            Err(Cause::Der(wanted.command()))
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'-', 0, ..] | [0, b'-', ..] => Err(Cause::Utf16),
        _ => Ok(()),
    }
}

/// Decodes a section. Returns none if it is not base64.
fn decoded(section: &Section<'_>) -> Option<Item> {
    let current;
    let text = match section.label {
        // An old label for a certificate.
        "X509 CERTIFICATE" => {
            let (begin, end) = ("-----BEGIN CERTIFICATE-----\n", "\n-----END CERTIFICATE-----\n");
            current = Zeroizing::new([begin.as_bytes(), section.body, end.as_bytes()].concat());
            &current[..]
        }
        _ => section.whole,
    };
    rustls_pemfile::read_one_from_slice(text).ok().flatten().map(|(item, _)| item)
}
