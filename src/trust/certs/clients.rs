//! Whom a listener believes: the CAs, pinned devices and CRLs of its verifier, from their files.
//!
//! **Promises.** As in HAProxy and nginx: with CRLs, the whole chain is checked, and a status that no
//! CRL tells is refused. A CRL past its nextUpdate stays in force, with a warning: refusing every
//! device because a file was not renewed in the night is no safer, only darker.
//!
//! **Not here.** The certificates that we show (`certs.rs`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::verifier::{ChainLimits, ClientVerifier, TrustedClients};
use super::{CertError, Findings, Warning, pem};
use crate::config::{self, ClientAuth, ClientTrust};
use crate::trust::files::Files;
use crate::trust::provider::PROVIDER;
use crate::trust::revocation::{Crl, Issuer, Revocation};
use crate::trust::snapshot::Trusted;
use crate::trust::x509::path::Anchor;
use crate::trust::x509::{self, Facts};

/// Whom a listener believes; nobody by default.
#[derive(Default)]
pub(super) struct Clients {
    pub(super) verifier: Option<Arc<ClientVerifier>>,
    pub(super) trusted: Trusted,
}

impl Clients {
    pub(super) fn load(
        tls: &config::Tls,
        trust: &ClientTrust,
        files: &Files,
        now: SystemTime,
        findings: &mut Findings,
    ) -> Self {
        let Cas { trusted, facts, issuers, names } = cas(&trust.ca, files, findings);
        let crls = crls(trust, files, findings);
        if !findings.errors.is_empty() {
            // Without all CAs and CRLs the verifier would only find fault with what is missing.
            return Self::default();
        }
        let algorithms = PROVIDER.signature_verification_algorithms;
        let mut verifier = ClientVerifier {
            mandatory: matches!(tls.client_auth, ClientAuth::Required(_)),
            limits: ChainLimits {
                max_certificates: tls.max_chain_certificates,
                max_bytes: tls.max_chain_bytes,
                allow_v1: tls.allow_v1,
            },
            trusted: Arc::new(trusted),
            revocation: None,
        };
        let mut due_dates = Vec::new();
        if !crls.is_empty() {
            let (revocation, unused) = Revocation::new(crls, &issuers, algorithms);
            findings.warnings.extend(unused.into_iter().map(Warning::CrlUnused));
            warn_of_cas_without_crl(&trust.ca, &names, &issuers, &revocation, findings);
            due_dates = due(&revocation, now, findings);
            verifier.revocation = Some(revocation);
        }
        let trusted = Trusted { cas: facts, crls: due_dates };
        Self { verifier: Some(Arc::new(verifier)), trusted }
    }
}

/// The certificates of a bundle.
struct Cas {
    trusted: TrustedClients,
    facts: Vec<Facts>,
    /// The CAs among them, as far as they sign CRLs.
    issuers: Vec<Issuer>,
    /// The names of these CAs, for people.
    names: Vec<String>,
}

fn cas(file: &Path, files: &Files, findings: &mut Findings) -> Cas {
    let mut cas = Cas {
        trusted: TrustedClients::new(PROVIDER.signature_verification_algorithms),
        facts: Vec::new(),
        issuers: Vec::new(),
        names: Vec::new(),
    };
    for der in findings.take(pem::certificates(file, files)).into_iter().flatten() {
        let read =
            Anchor::new(&der).and_then(|ca| Ok((ca, Issuer::read(&der)?, x509::facts(&der)?)));
        let read = read.map_err(|cause| CertError::X509 { file: file.to_owned(), cause });
        let Some((anchor, issuer, facts)) = findings.take(read) else { continue };
        let (file, name) = (file.to_owned(), facts.subject_text.clone());
        cas.facts.push(facts);
        let Some(anchor) = anchor else {
            findings.warnings.push(Warning::Pinned { file, device: name });
            cas.trusted.add_pinned(der);
            continue;
        };
        if !anchor.is_for_clients() {
            findings.warnings.push(Warning::CaNotForClients { file, ca: name.clone() });
        }
        cas.trusted.add_anchor(anchor);
        cas.issuers.push(issuer);
        cas.names.push(name);
    }
    cas
}

fn crls(trust: &ClientTrust, files: &Files, findings: &mut Findings) -> Vec<Arc<Crl>> {
    let mut crls = Vec::new();
    for file in &trust.crls {
        for crl in findings.take(pem::revocation_lists(file, files)).into_iter().flatten() {
            let crl = Crl::read(file, 1, &crl);
            let crl = crl.map_err(|cause| CertError::X509 { file: file.clone(), cause });
            crls.extend(findings.take(crl).map(Arc::new));
        }
    }
    crls
}

fn warn_of_cas_without_crl(
    file: &Path,
    names: &[String],
    issuers: &[Issuer],
    revocation: &Revocation,
    findings: &mut Findings,
) {
    for (ca, issuer) in names.iter().zip(issuers) {
        if !revocation.covers(issuer) {
            let (file, ca) = (file.to_owned(), ca.clone());
            findings.warnings.push(Warning::CaWithoutCrl { file, ca });
        }
    }
}

/// The dates on which the next CRL of each file is due. Warns of those that are late.
fn due(
    revocation: &Revocation,
    now: SystemTime,
    findings: &mut Findings,
) -> Vec<(PathBuf, x509::Moment)> {
    let mut due: BTreeMap<PathBuf, x509::Moment> = BTreeMap::new();
    for crl in revocation.crls() {
        let file = crl.file.clone();
        let Some(next_update) = crl.facts.next_update else { continue };
        if next_update.has_passed(now) {
            findings.warnings.push(Warning::CrlStale { file: file.clone(), next_update });
        }
        let earliest = due.entry(file).or_insert(next_update);
        *earliest = next_update.min(*earliest);
    }
    due.into_iter().collect()
}
