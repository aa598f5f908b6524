//! A certificate chain with its key.
//!
//! **Promises.** The certificate that belongs to the key is sent first, then the issuer of each, in whatever
//! order the file has them. Duplicates, and certificates that issued none of the chain, are left out with a
//! warning: programs renew chains in many shapes, and a TLS client would sort them as well.
//!
//! At start, when there is no earlier certificate, one that is expired or not yet valid is used with a
//! warning: devices without a clock accept it, and a restart must not take the plant offline.
//!
//! **Not here.** The choice of a certificate for a device (`resolver.rs`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio_rustls::rustls::crypto::aws_lc_rs::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::sign::{CertifiedKey, SigningKey};
use zeroize::Zeroize;

use super::guards;
use super::pem::{self, FoundSections};
use super::signing;
use super::summary::FileSummary;
use crate::config::{GuardAction, Guards};
use crate::terms::labels::MaterialKind;
use crate::text::Shown;
use crate::trust::digest::Digest;
use crate::trust::findings::{Cause, CertError, Findings, Ignored, Warning};
use crate::trust::material::Material;
use crate::trust::x509::{self, CertInfo};

/// A certificate chain with its key, checked to belong together.
#[derive(Clone)]
pub(crate) struct Chain {
    cert: LoadedPath,
    key_file: LoadedPath,
    pub(crate) info: CertInfo,
    pub(crate) key: Arc<CertifiedKey>,
    /// The file has other certificates, and none of them issued the first.
    lost_issuer: bool,
}

#[derive(Clone)]
struct LoadedPath {
    path: PathBuf,
    digest: Digest,
}

/// A certificate that devices are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerCertificate {
    /// The path of its file: its metric label.
    pub(crate) label: String,
    /// The path of its key's file.
    pub(crate) key_file: String,
    pub(crate) leaf: CertificateDer<'static>,
    pub(crate) info: CertInfo,
    /// Number of certificates that are sent: this one and its issuers.
    pub(crate) chain_length: usize,
}

/// A certificate of a file.
struct ChainEntry {
    /// The line on which it begins.
    line: usize,
    der: CertificateDer<'static>,
    info: CertInfo,
}

/// The current chains of a listener's policies, first those of the policy that is replaced.
#[derive(Clone, Copy, Default)]
pub(crate) struct ActiveChains<'a> {
    /// Those of their files.
    pub(crate) loaded: &'a [&'a Chain],
    /// Those that devices get: others in a rollout.
    pub(crate) served: &'a [&'a Chain],
}

/// Loads a chain, or keeps the one of the same two files in `active`. Returns none if there is neither.
/// `active` is none at start, and has the current chains later.
pub(crate) fn load(
    (cert, key): (&Material, &Material),
    active: Option<ActiveChains<'_>>,
    guards: &Guards,
    now: SystemTime,
    findings: &mut Findings,
) -> Option<Chain> {
    let mut own = Findings::default();
    let chain = Chain::read(cert, key, &mut own);
    if let Some(chain) = &chain {
        chain.check_validity(cert, active, (guards.not_yet_valid, now), &mut own);
        let ActiveChains { loaded, served } = active.unwrap_or_default();
        // A chain that is loaded already was compared then, perhaps with another one.
        let is_loaded = |old: &&Chain| old.cert.path == cert.path && old.sends_same(chain);
        if !loaded.iter().any(is_loaded) {
            chain.check_issuer(cert, served, &mut own);
            chain.check_differences(cert, served, guards, &mut own);
        }
    }
    let same_files =
        |chain: &&Chain| chain.cert.path == cert.path && chain.key_file.path == key.path;
    let kept = active.unwrap_or_default().loaded.iter().copied().find(same_files);
    findings.choose(chain, kept, own)
}

impl Chain {
    fn read(cert: &Material, key: &Material, findings: &mut Findings) -> Option<Self> {
        let certificates = findings.take(pem::certificates(cert));
        let signer = findings.take(signer(key));
        let digests = cert.digest().ok().zip(key.digest().ok());
        let (FoundSections { items, ignored }, (signer, ignored_keys)) = (certificates?, signer?);
        let ignored = ignored.into_iter().chain(ignored_keys);
        findings.warnings.extend(ignored.map(Warning::Ignored));
        if key.is_open_to_all() {
            findings.warnings.push(Warning::KeyOpenToAll(key.path.clone()));
        }
        let entries = findings.take(entries(cert, items))?;
        let ordered = ordered((cert, key), entries, &*signer, &mut findings.warnings);
        let (chain, lost_issuer) = findings.take(ordered)?;
        let info = chain[0].info.clone();
        if chain.len() == 1 && !info.is_self_issued {
            let (file, issuer) = (cert.path.clone(), info.issuer_text.clone());
            findings.warnings.push(Warning::SentAlone { file, issuer });
        }
        let ders = chain.into_iter().map(|entry| entry.der).collect();
        let (cert_digest, key_digest) = digests?;
        Some(Self {
            cert: LoadedPath { path: cert.path.clone(), digest: cert_digest },
            key_file: LoadedPath { path: key.path.clone(), digest: key_digest },
            info,
            key: Arc::new(CertifiedKey::new(ders, signing::by_clients_order(signer))),
            lost_issuer,
        })
    }

    /// Returns the summaries of the certificate's file and of the key's.
    pub(crate) fn files<'a>(&'a self) -> [FileSummary<'a>; 2] {
        let summary = |role, file: &'a LoadedPath, count| FileSummary {
            role,
            path: &file.path,
            digest: file.digest,
            count,
        };
        [
            summary(MaterialKind::Certificate, &self.cert, self.key.cert.len()),
            summary(MaterialKind::Key, &self.key_file, 1),
        ]
    }

    /// Refuses to replace a chain that had its issuer by a certificate with the wrong issuer: devices that
    /// know only the root could not verify it.
    fn check_issuer(&self, cert: &Material, active: &[&Self], findings: &mut Findings) {
        let had_issuer = |old: &&Self| old.cert.path == self.cert.path && old.key.cert.len() > 1;
        if self.lost_issuer && active.iter().any(had_issuer) {
            findings.note(cert.error(None, Cause::LostIssuer));
        }
    }

    /// Refuses to replace a current certificate by one that is not valid now. Warns if there is nothing
    /// better: at start, or if the current certificate is the same.
    fn check_validity(
        &self,
        cert: &Material,
        active: Option<ActiveChains<'_>>,
        (not_yet_valid, now): (GuardAction, SystemTime),
        findings: &mut Findings,
    ) {
        let file = self.cert.path.clone();
        let CertInfo { not_before, not_after, .. } = self.info;
        let is_active = |active: ActiveChains<'_>| {
            active.loaded.iter().chain(active.served).any(|old| old.leaf() == self.leaf())
        };
        let nothing_better = active.is_none_or(is_active);
        match (not_after.has_passed(now), not_before.has_begun(now)) {
            (true, _) if nothing_better => {
                findings.warnings.push(Warning::Expired { file, not_after });
            }
            (true, _) => findings.note(cert.error(None, Cause::Expired(not_after))),
            (false, false) => match not_yet_valid {
                GuardAction::Ignore if !nothing_better => {}
                GuardAction::Refuse if !nothing_better => {
                    findings.note(cert.error(None, Cause::NotYetValid(not_before)));
                }
                GuardAction::Ignore | GuardAction::Warn | GuardAction::Refuse => {
                    findings.warnings.push(Warning::NotYetValid { file, not_before });
                }
            },
            (false, true) => {}
        }
    }

    /// Applies the guards to the differences from the current certificate of the same file.
    fn check_differences(
        &self,
        cert: &Material,
        active: &[&Self],
        guards: &Guards,
        findings: &mut Findings,
    ) {
        let Some(old) = active.iter().find(|old| old.cert.path == self.cert.path) else { return };
        for difference in guards::differences(&old.key.cert, &self.key.cert) {
            match difference.action(guards) {
                GuardAction::Ignore => {}
                GuardAction::Warn => {
                    let file = self.cert.path.clone();
                    findings.warnings.push(Warning::Guarded { file, difference });
                }
                GuardAction::Refuse => {
                    findings.note(cert.error(None, Cause::Guarded(difference)));
                }
            }
        }
    }

    /// Returns whether devices get the same certificates from both.
    pub(crate) fn sends_same(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }

    fn leaf(&self) -> &CertificateDer<'static> {
        &self.key.cert[0]
    }

    /// Returns the certificate that devices are sent.
    pub(crate) fn server_certificate(&self) -> ServerCertificate {
        ServerCertificate {
            label: Shown(&self.cert.path).to_string(),
            key_file: Shown(&self.key_file.path).to_string(),
            leaf: self.leaf().clone(),
            info: self.info.clone(),
            chain_length: self.key.cert.len(),
        }
    }
}

/// Reads the certificates of a file.
fn entries(
    cert: &Material,
    items: Vec<(usize, CertificateDer<'static>)>,
) -> Result<Vec<ChainEntry>, CertError> {
    let entry = |(line, der)| match x509::cert_info(&der) {
        Ok(info) => Ok(ChainEntry { line, der, info }),
        Err(cause) => Err(cert.error(Some(line), Cause::Malformed(cause))),
    };
    items.into_iter().map(entry).collect()
}

/// Returns the certificate that belongs to the key, then the issuer of each: at least one. Returns also
/// whether there are others, and none of them issued the first.
fn ordered(
    (cert, key): (&Material, &Material),
    mut rest: Vec<ChainEntry>,
    signer: &dyn SigningKey,
    warnings: &mut Vec<Warning>,
) -> Result<(Vec<ChainEntry>, bool), CertError> {
    let file = &cert.path;
    let public = signer.public_key();
    let is_leaf = |entry: &ChainEntry| {
        public.as_ref().is_none_or(|public| public.as_ref() == entry.info.public_key)
    };
    let leaf = rest.iter().position(is_leaf);
    let leaf = leaf.ok_or_else(|| cert.error(None, Cause::Mismatch { key: key.path.clone() }))?;
    let mut chain = vec![rest.remove(leaf)];
    if chain[0].info.version < 3 {
        warnings.push(Warning::Version1 { file: file.clone(), line: chain[0].line });
    }
    let mut in_order = leaf == 0;
    loop {
        let last = &chain[chain.len() - 1];
        if last.info.is_self_issued {
            break;
        }
        let issues =
            |other: &ChainEntry| x509::is_issued_by(&last.der, &other.der).unwrap_or(false);
        let Some(next) = rest.iter().position(issues) else { break };
        in_order &= next == 0;
        chain.push(rest.remove(next));
    }
    if !in_order {
        warnings.push(Warning::ChainSorted { file: file.clone() });
    }
    let lost_issuer = warn_of_unsent(file, rest, &chain, warnings);
    Ok((chain, lost_issuer))
}

/// Warns about the certificates that are not sent. Returns whether there are any that are not duplicates, and
/// none issued the first certificate of the chain.
fn warn_of_unsent(
    file: &Path,
    rest: Vec<ChainEntry>,
    chain: &[ChainEntry],
    warnings: &mut Vec<Warning>,
) -> bool {
    let lacks_issuer = chain.len() == 1 && !chain[0].info.is_self_issued;
    let mut lost_issuer = false;
    for ChainEntry { line, der, info } in rest {
        let is_known = chain.iter().any(|entry| entry.der == der);
        lost_issuer |= lacks_issuer && !is_known;
        let (file, subject) = (file.to_owned(), info.subject_text);
        warnings.push(match is_known {
            true => Warning::ChainDuplicate { file, line, subject },
            false => Warning::ChainStray { file, line, subject },
        });
    }
    lost_issuer
}

/// Returns the signer for the private key of a file, and the sections that are ignored. The key's bytes
/// are wiped.
///
/// # Errors
/// If the file could not be read, or has no key that is supported.
pub(crate) fn signer(key: &Material) -> Result<(Arc<dyn SigningKey>, Vec<Ignored>), CertError> {
    let FoundSections { items, ignored } = pem::private_key(key)?;
    let unusable = |line| key.error(Some(line), Cause::Key);
    let (line, mut private) = items.into_iter().next().ok_or_else(|| unusable(1))?;
    let signer = any_supported_type(&private);
    private.zeroize();
    // rustls has one error for every problem of a key.
    Ok((signer.map_err(|_| unusable(line))?, ignored))
}
