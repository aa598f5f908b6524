//! A certificate chain with its key.
//!
//! **Promises.** The certificates that are sent are the one that belongs to the key and then each one's
//! issuer, in whatever order the file has them. What is in the file twice or belongs to no issuer in it is
//! left out, with a warning: programs renew chains in many shapes, and a gateway must not go dark because
//! of one that a TLS client would sort out as well.
//!
//! **Not here.** Which certificate a device gets (`resolver.rs`).

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio_rustls::rustls::crypto::aws_lc_rs::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::sign::{CertifiedKey, SigningKey};
use zeroize::Zeroize;

use super::pem::{self, FoundSections, Ignored};
use super::{CertError, Findings, Warning};
use crate::config::CertificateFiles;
use crate::text::Shown;
use crate::trust::digest::Digest;
use crate::trust::files::{Files, ReadError};
use crate::trust::snapshot::ServerCertificate;
use crate::trust::x509::link::Link;
use crate::trust::x509::{self, CertInfo};

/// A certificate chain with its key, checked to be one.
#[derive(Clone)]
pub(crate) struct Chain {
    pub(super) files: CertificateFiles,
    pub(super) info: CertInfo,
    pub(super) key: Arc<CertifiedKey>,
    /// Whether there are other certificates in the file, and none of them issued the first.
    lost_issuer: bool,
}

/// A certificate, and the line of its file on which it begins.
type Numbered = (usize, CertificateDer<'static>);

impl Chain {
    pub(super) fn load(
        pair: &CertificateFiles,
        files: &Files,
        findings: &mut Findings,
    ) -> Option<Self> {
        let certificates = findings.take(pem::certificates(&pair.cert, files));
        let signer = findings.take(signer(&pair.key, files));
        let (FoundSections { items, ignored }, (signer, ignored_keys)) = (certificates?, signer?);
        let ignored = ignored.into_iter().chain(ignored_keys);
        findings.warnings.extend(ignored.map(Warning::Ignored));
        if files.is_open_to_all(&pair.key) {
            findings.warnings.push(Warning::KeyOpenToAll(pair.key.clone()));
        }
        let chain = ordered(pair, items, &*signer, findings);
        let (chain, lost_issuer) = findings.take(chain)?;
        let info = findings.take(info(&pair.cert, &chain[0]))?;
        let chain = chain.into_iter().map(|(_, certificate)| certificate).collect();
        let key = Arc::new(CertifiedKey::new(chain, signer));
        Some(Self { files: pair.clone(), info, key, lost_issuer })
    }

    /// The digest of its files, by which a change is known.
    pub(super) fn digest(pair: &CertificateFiles, files: &Files) -> Result<Digest, ReadError> {
        // A key that becomes open to all is a change as well, so that it is warned of.
        let open: &[u8] = if files.is_open_to_all(&pair.key) { b"open" } else { b"closed" };
        Ok(Digest::of([files.bytes(&pair.cert)?, files.bytes(&pair.key)?, open]))
    }

    /// Refuses to replace a chain by a certificate alone that came with the wrong issuer: devices that
    /// know the root alone could not verify it.
    pub(super) fn check_issuer(&self, active: &[ServerCertificate], findings: &mut Findings) {
        let shown = self.shown();
        let had_issuer = |old: &ServerCertificate| old.label == shown.label && old.chain_length > 1;
        if self.lost_issuer && active.iter().any(had_issuer) {
            findings.note(CertError::LostIssuer { file: self.files.cert.clone() });
        }
    }

    /// Refuses to replace what is active by what is not valid now. `expected` is what is active under
    /// the same name; none at the start, where there is nothing better.
    pub(super) fn check_validity(
        &self,
        active: Option<&[ServerCertificate]>,
        now: SystemTime,
        findings: &mut Findings,
    ) {
        let file = self.files.cert.clone();
        let CertInfo { not_before, not_after, .. } = self.info;
        let leaf = &self.key.cert[0];
        let nothing_better =
            active.is_none_or(|active| active.iter().any(|active| active.leaf == *leaf));
        match (not_after.has_passed(now), not_before.has_begun(now)) {
            (true, _) if nothing_better => {
                findings.warnings.push(Warning::Expired { file, not_after });
            }
            (true, _) => findings.note(CertError::Expired { file, not_after }),
            (false, false) if nothing_better => {
                findings.warnings.push(Warning::NotYetValid { file, not_before });
            }
            (false, false) => findings.note(CertError::NotYetValid { file, not_before }),
            (false, true) => {}
        }
    }

    pub(super) fn shown(&self) -> ServerCertificate {
        ServerCertificate {
            label: Shown(&self.files.cert).to_string(),
            leaf: self.key.cert[0].clone(),
            info: self.info.clone(),
            chain_length: self.key.cert.len(),
        }
    }
}

/// The certificate that belongs to the key, and then each one's issuer: at least one. And whether there
/// are others, and none of them issued the first.
fn ordered(
    pair: &CertificateFiles,
    mut rest: Vec<Numbered>,
    signer: &dyn SigningKey,
    findings: &mut Findings,
) -> Result<(Vec<Numbered>, bool), CertError> {
    let file = &pair.cert;
    let leaf = find_leaf(pair, &rest, signer, findings)?;
    let mut chain = vec![rest.remove(leaf)];
    let mut in_order = leaf == 0;
    loop {
        let last = &chain[chain.len() - 1].1;
        let issues = |(_, other): &Numbered| x509::is_issued_by(last, other).unwrap_or(false);
        if is_self_issued(last) {
            break;
        }
        let Some(next) = rest.iter().position(issues) else { break };
        in_order &= next == 0;
        chain.push(rest.remove(next));
    }
    if !in_order {
        findings.warnings.push(Warning::ChainSorted { file: file.clone() });
    }
    let mut lost_issuer = false;
    for (line, certificate) in rest {
        let known = chain.iter().any(|(_, known)| *known == certificate);
        lost_issuer |= !known && chain.len() == 1 && !is_self_issued(&chain[0].1);
        let subject = x509::cert_info(&certificate).map(|info| info.subject_text);
        let (file, subject) = (file.clone(), subject.unwrap_or_default());
        findings.warnings.push(match known {
            true => Warning::ChainDuplicate { file, line, subject },
            false => Warning::ChainStray { file, line, subject },
        });
    }
    Ok((chain, lost_issuer))
}

/// The place of the certificate that belongs to the key.
fn find_leaf(
    pair: &CertificateFiles,
    certificates: &[Numbered],
    signer: &dyn SigningKey,
    findings: &mut Findings,
) -> Result<usize, CertError> {
    let public = signer.public_key();
    let mut found = None;
    for (i, (line, certificate)) in certificates.iter().enumerate() {
        let malformed = |cause| CertError::X509 { file: pair.cert.clone(), line: *line, cause };
        let link = Link::read(certificate).map_err(malformed)?;
        let is_leaf = public.as_ref().is_none_or(|public| public.as_ref() == link.key());
        if found.is_none() && is_leaf {
            found = Some(i);
            if link.version() < 3 {
                let (file, line) = (pair.cert.clone(), *line);
                findings.warnings.push(Warning::Version1 { file, line });
            }
        }
    }
    found.ok_or_else(|| {
        let CertificateFiles { cert, key } = pair.clone();
        CertError::Mismatch { cert, key }
    })
}

fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    Link::read(certificate).is_ok_and(|link| link.issuer() == link.subject())
}

/// What signs with the private key of a file, and what else is in the file. The key's bytes are wiped.
pub(crate) fn signer(
    file: &Path,
    files: &Files,
) -> Result<(Arc<dyn SigningKey>, Vec<Ignored>), CertError> {
    let FoundSections { items, ignored } = pem::private_key(file, files)?;
    let unusable = |line| CertError::Key { file: file.to_owned(), line };
    let (line, mut private) = items.into_iter().next().ok_or_else(|| unusable(1))?;
    let signer = any_supported_type(&private);
    private.zeroize();
    // rustls has one sentence for whatever is wrong with a key.
    Ok((signer.map_err(|_| unusable(line))?, ignored))
}

fn info(file: &Path, (line, certificate): &Numbered) -> Result<CertInfo, CertError> {
    x509::cert_info(certificate).map_err(|cause| CertError::X509 {
        file: file.to_owned(),
        line: *line,
        cause,
    })
}
