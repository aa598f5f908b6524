//! Problems found while a policy is built: errors, and warnings about material that still works.
//!
//! **Promises.** Each error names the role of its file. Every problem is reported, not only the first one,
//! and each once. No text quotes a file's content: it can be a key.
//!
//! **Not here.** The checks themselves (`certs/`).

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls;

use super::certs::guards::Difference;
use super::certs::pem::sections::PemFaultKind;
use super::revocation::UnusedCrl;
use super::tickets::key_file::KeyFileFault;
use super::x509::{Malformed, Timestamp};
use crate::terms::labels::{MaterialKind, ReloadObject};
use crate::text::{Shown, listed};

/// Names that a warning lists at most.
const MAX_NAMES: usize = 10;

/// A problem of one file, for which no policy can be built from it.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {cause}", Shown(file), at(*line))]
pub(crate) struct CertError {
    /// The role for which the file was read.
    pub(crate) role: MaterialKind,
    pub(crate) file: PathBuf,
    /// The line with the problem, where there is one.
    pub(crate) line: Option<usize>,
    pub(crate) cause: Cause,
}

fn at(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(" line {line}"))
}

/// The cause of a [`CertError`], without its file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error("cannot be read: {0}")]
    Unreadable(Arc<io::Error>),
    #[error("holds no {0} in PEM")]
    Empty(&'static str),
    #[error("is DER, and must be PEM: openssl {0} -inform DER converts it")]
    Der(&'static str),
    #[error("is UTF-16 text, and must be ASCII")]
    Utf16,
    #[error(
        "this is an encrypted private key, and there is no way to enter its passphrase: decrypt it, for \
         example with openssl pkey"
    )]
    EncryptedKey,
    #[error(transparent)]
    Pem(PemFaultKind),
    #[error("the section is not base64")]
    NotBase64,
    #[error("{label:?} is an unknown kind of section{hint}")]
    UnknownSection { label: String, hint: &'static str },
    #[error("not well-formed: {0}")]
    Malformed(Malformed),
    #[error(
        "the private key is damaged or of an unsupported kind; supported are RSA with 2048 to 8192 \
         bits, ECDSA on P-256, P-384 and P-521, and Ed25519"
    )]
    Key,
    #[error(
        "no other certificate in the file issued the one that belongs to the key; the current chain \
         has its issuer"
    )]
    LostIssuer,
    #[error("the key {} does not belong to this certificate", Shown(key))]
    Mismatch { key: PathBuf },
    #[error("expired on {0}")]
    Expired(Timestamp),
    #[error(
        "is not valid before {0} and is loaded then; guards.not_yet_valid = \"warn\" or a restart loads it now"
    )]
    NotYetValid(Timestamp),
    #[error("{0}; guards.{key} = \"warn\" or a restart accepts it", key = .0.key())]
    Guarded(Difference),
    #[error("this CA certificate is not well-formed")]
    Ca,
    #[error("{}; it is the CA's last CRL, so the current one is kept", .0.sentence())]
    CrlLost(Box<UnusedCrl>),
    #[error("is not UTF-8 text")]
    NotUtf8,
    #[error("{0}")]
    Rule(String),
    #[error(transparent)]
    TicketKeys(KeyFileFault),
    #[error(
        "no cipher suite of TLS 1.2 in tls.suites is for the key of a certificate (ECDHE-RSA for RSA, ECDHE-ECDSA \
         for ECDSA and Ed25519), and none of TLS 1.3 is there: no device could connect"
    )]
    NoSuite,
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl CertError {
    /// Returns the kind of object that the file belongs to, for the reload metrics.
    pub(crate) const fn object(&self) -> ReloadObject {
        object(self.role)
    }
}

/// Returns the kind of object that a file with this role belongs to.
pub(crate) const fn object(role: MaterialKind) -> ReloadObject {
    match role {
        MaterialKind::Certificate | MaterialKind::Key => ReloadObject::Certificate,
        MaterialKind::ClientCa => ReloadObject::ClientCa,
        MaterialKind::Crl => ReloadObject::Crl,
        MaterialKind::Allow => ReloadObject::Allow,
        MaterialKind::TicketKeys => ReloadObject::TicketKeys,
    }
}

/// A section that is understood, but not used in this file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ignored {
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    pub(crate) what: &'static str,
}

/// A problem with material that works, but not for long or not for every device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Warning {
    #[error("{} can be read by every user of this machine: chmod o= it", Shown(.0))]
    KeyOpenToAll(PathBuf),
    #[error("{} expired on {not_after}", Shown(file))]
    Expired { file: PathBuf, not_after: Timestamp },
    #[error(
        "{}: no cipher suite of TLS 1.2 in tls.suites is for its key (ECDHE-RSA for RSA, ECDHE-ECDSA for ECDSA and \
         Ed25519): devices without TLS 1.3 cannot get it",
        Shown(file)
    )]
    NoSuite { file: PathBuf },
    #[error(
        "TLS 1.3 has only suites of tls.legacy_suites: a device that offers TLS 1.3 without them is refused, even if it \
         offers TLS 1.2 as well; name a suite of TLS 1.3 in tls.suites"
    )]
    LegacyTls13,
    #[error("{} is not valid before {not_before}", Shown(file))]
    NotYetValid { file: PathBuf, not_before: Timestamp },
    #[error("{}: {difference}; devices may reject it (guards.{})", Shown(file), difference.key())]
    Guarded { file: PathBuf, difference: Difference },
    #[error(
        "{} line {line}: a version 1 certificate: it cannot name its hosts in a subjectAltName, and \
         many clients refuse it",
        Shown(file)
    )]
    Version1 { file: PathBuf, line: usize },
    #[error(
        "{}: the certificates are not in order; they are sent in order, the one that belongs to the \
         key first, then the issuer of each",
        Shown(file)
    )]
    ChainSorted { file: PathBuf },
    #[error(
        "{} line {line}: the certificate of {subject:?} is in the file twice; it is sent once",
        Shown(file)
    )]
    ChainDuplicate { file: PathBuf, line: usize, subject: String },
    #[error(
        "{} line {line}: the certificate of {subject:?} issued none of the chain and is not sent",
        Shown(file)
    )]
    ChainStray { file: PathBuf, line: usize, subject: String },
    #[error("{} line {}: this {} is not used in this file, and is ignored", Shown(&.0.file), .0.line, .0.what)]
    Ignored(Ignored),
    #[error(
        "{} line {line}: the CRL was due for an update on {next_update}; {}",
        Shown(file),
        if *denies { "it refuses all clients that it covers" } else { "it stays active" }
    )]
    CrlStale { file: PathBuf, line: usize, next_update: Timestamp, denies: bool },
    #[error("{} line {}: {}", Shown(&.0.file), .0.line, .0.sentence())]
    CrlUnused(UnusedCrl),
    #[error("{}", pinned(file, cas, devices))]
    Pinned { file: PathBuf, cas: Vec<String>, devices: Vec<String> },
    #[error(
        "{ca:?} of {} is not for clients, by its extKeyUsage: certificates that it issued are refused",
        Shown(file)
    )]
    CaNotForClients { file: PathBuf, ca: String },
    #[error(
        "{ca:?} of {} has an RSA key of {bits} bits, and 2048 to 8192 are accepted: certificates that it \
         issued are refused",
        Shown(file)
    )]
    CaWeakKey { file: PathBuf, ca: String, bits: usize },
    #[error(
        "no CRL is from {ca:?} of {}: clients with its certificates are {}",
        Shown(file),
        if *admitted { "admitted without a check" } else { "refused" }
    )]
    CaWithoutCrl { file: PathBuf, ca: String, admitted: bool },
    #[error(
        "accept_expired_client_certs = true: clients are admitted after the end of their certificates' \
         validity"
    )]
    AcceptsExpired,
    #[error(
        "the names of the CAs of {} have {bytes} bytes, and at most 16,384 are sent: send_ca_names has no \
         effect",
        Shown(file)
    )]
    CaNamesTooLong { file: PathBuf, bytes: usize },
    #[error(
        "{} holds one certificate, and not that of its issuer {issuer:?}: right only if devices hold this CA",
        Shown(file)
    )]
    SentAlone { file: PathBuf, issuer: String },
    #[error(
        "no certificate has an ECDSA key, which tls.legacy_suites needs for {}: no device can use them",
        suites.join(", ")
    )]
    NoKeyForLegacy { suites: Vec<&'static str> },
    #[error("{} has no rule: only the rules of the configuration admit clients", Shown(file))]
    NoAllowRules { file: PathBuf },
    #[error(
        "no rollout of the new certificate, all devices get it now: the earlier one expires on {not_after}, \
         before the end of the observation (rollout.observe)"
    )]
    NoRollout { not_after: Timestamp },
}

impl Warning {
    /// Returns whether it is about something that is right in most plants, and only for an operator to know.
    pub(crate) const fn is_notice(&self) -> bool {
        matches!(self, Self::SentAlone { .. })
    }

    /// Returns the file, and the line in it, where there is one.
    pub(crate) fn place(&self) -> (Option<&Path>, Option<usize>) {
        match self {
            Self::KeyOpenToAll(file)
            | Self::Expired { file, .. }
            | Self::NoSuite { file }
            | Self::NotYetValid { file, .. }
            | Self::Guarded { file, .. }
            | Self::ChainSorted { file }
            | Self::Pinned { file, .. }
            | Self::CaNotForClients { file, .. }
            | Self::CaWeakKey { file, .. }
            | Self::CaWithoutCrl { file, .. }
            | Self::CaNamesTooLong { file, .. }
            | Self::SentAlone { file, .. }
            | Self::NoAllowRules { file } => (Some(file), None),
            Self::Version1 { file, line }
            | Self::ChainDuplicate { file, line, .. }
            | Self::ChainStray { file, line, .. }
            | Self::CrlStale { file, line, .. } => (Some(file), Some(*line)),
            Self::Ignored(Ignored { file, line, .. }) => (Some(file), Some(*line)),
            Self::CrlUnused(unused) => (Some(&unused.file), Some(unused.line)),
            Self::LegacyTls13
            | Self::AcceptsExpired
            | Self::NoKeyForLegacy { .. }
            | Self::NoRollout { .. } => (None, None),
        }
    }
}

/// Lists the certificates of a bundle that issue devices, and those that are devices.
fn pinned(file: &Path, cas: &[String], devices: &[String]) -> String {
    format!(
        "{} holds certificates that are not CAs. CAs, which admit the devices that they issued: {}. \
         Pinned, each of which admits its own device only: {}",
        Shown(file),
        listed(cas, MAX_NAMES),
        listed(devices, MAX_NAMES)
    )
}

/// The problems found so far.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) errors: Vec<CertError>,
    /// The texts of the errors.
    known: HashSet<String>,
    pub(crate) warnings: Vec<Warning>,
    /// A file has a problem, and no earlier content to keep.
    pub(crate) is_fatal: bool,
}

impl Findings {
    /// Returns the value, or records the error.
    pub(crate) fn take<T>(&mut self, result: Result<T, CertError>) -> Option<T> {
        result.map_err(|error| self.note(error)).ok()
    }

    /// Records an error, unless it is known: one file can hold a certificate and its key, and be missing
    /// for both.
    pub(crate) fn note(&mut self, error: CertError) {
        if self.known.insert(error.to_string()) {
            self.errors.push(error);
        }
    }

    /// Chooses the content of one file, whose problems are in `own`: the `new` content if it is good, or
    /// the `kept` content. With neither, no policy can be built.
    pub(crate) fn choose<T: Clone>(
        &mut self,
        new: Option<T>,
        kept: Option<&T>,
        own: Self,
    ) -> Option<T> {
        let is_good = own.errors.is_empty();
        own.errors.into_iter().for_each(|error| self.note(error));
        if is_good && new.is_some() {
            self.warnings.extend(own.warnings);
            return new;
        }
        self.is_fatal |= kept.is_none();
        kept.cloned()
    }
}
