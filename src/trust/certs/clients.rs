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

use tokio_rustls::rustls::pki_types::CertificateDer;

use super::parts::{FilePart, Parts};
use super::pem::{self, FoundSections};
use super::verifier::{ChainLimits, ClientVerifier, TrustedClients};
use super::{CertError, Findings, Warning};
use crate::config::{self, ClientAuth, ClientTrust};
use crate::trust::files::Files;
use crate::trust::provider::PROVIDER;
use crate::trust::revocation::{Crl, Issuer, Revocation, UnusedReason};
use crate::trust::snapshot::{Snapshot, Trusted};
use crate::trust::x509::path::Anchor;
use crate::trust::x509::{self, CertInfo};

/// Whom a listener believes; nobody by default.
#[derive(Default)]
pub(super) struct Clients {
    pub(super) verifier: Option<Arc<ClientVerifier>>,
    pub(super) trusted: Trusted,
}

impl Clients {
    /// Loads them into `parts`; none if there can be no snapshot without what is wrong.
    pub(super) fn load(
        tls: &config::TlsConfig,
        trust: &ClientTrust,
        files: &Files,
        (previous, now): (Option<&Snapshot>, SystemTime),
        parts: &mut Parts,
        findings: &mut Findings,
    ) -> Option<Self> {
        let ca = load_ca(&trust.ca, files, previous, findings);
        let crls: Vec<_> =
            trust.crls.iter().map(|file| load_crls(file, files, previous, findings)).collect();
        let ca = ca?;
        // What is wrong with these certificates has been found already.
        let cas = Cas::new(&ca, findings);
        parts.crls = crls.into_iter().collect::<Option<_>>()?;
        let mut verifier = ClientVerifier {
            mandatory: matches!(tls.client_auth, ClientAuth::Required(_)),
            limits: ChainLimits {
                max_certificates: tls.max_chain_certificates,
                max_bytes: tls.max_chain_bytes,
                allow_v1: tls.allow_v1,
            },
            trusted: Arc::new(cas.trusted),
            revocation: None,
        };
        let mut due_dates = Vec::new();
        if !parts.crls.is_empty() {
            let revocation = revocation(&cas.issuers, previous, parts, findings)?;
            warn_of_cas_without_crl(&ca.file, &cas.names, &cas.issuers, &revocation, findings);
            due_dates = due(&revocation, now, findings);
            verifier.revocation = Some(revocation);
        }
        parts.ca = Some(ca);
        let trusted = Trusted { cas: cas.info, pinned: cas.devices.len(), crls: due_dates };
        Some(Self { verifier: Some(Arc::new(verifier)), trusted })
    }
}

/// The certificates of a bundle.
struct Cas {
    trusted: TrustedClients,
    info: Vec<CertInfo>,
    /// The CAs among them, as far as they sign CRLs.
    issuers: Vec<Issuer>,
    /// The names of these CAs, for people.
    names: Vec<String>,
    /// The names of the pinned devices, for people.
    devices: Vec<String>,
}

/// Reads a bundle, or keeps the one that is active.
fn load_ca(
    file: &Path,
    files: &Files,
    previous: Option<&Snapshot>,
    findings: &mut Findings,
) -> Option<FilePart<CertificateDer<'static>>> {
    let mut own = Findings::default();
    let found = own.take(pem::certificates(file, files));
    let digest = own.take(FilePart::<()>::digest(file, files));
    let part = found.zip(digest).map(|(FoundSections { items, ignored }, digest)| {
        let part = FilePart { file: file.to_owned(), digest, items, ignored };
        let _tried = Cas::new(&part, &mut own);
        own.warnings.clear();
        part
    });
    let kept = previous.and_then(|previous| previous.parts.ca(file));
    findings.choose(part, kept, own)
}

impl Cas {
    fn new(part: &FilePart<CertificateDer<'static>>, findings: &mut Findings) -> Self {
        let mut cas = Self {
            trusted: TrustedClients::new(PROVIDER.signature_verification_algorithms),
            info: Vec::new(),
            issuers: Vec::new(),
            names: Vec::new(),
            devices: Vec::new(),
        };
        let file = &part.file;
        findings.warnings.extend(part.ignored.iter().cloned().map(Warning::Ignored));
        for (line, der) in &part.items {
            let read =
                Anchor::new(der).and_then(|ca| Ok((ca, Issuer::read(der)?, x509::cert_info(der)?)));
            let malformed = |cause| CertError::X509 { file: file.clone(), line: *line, cause };
            let Some((anchor, issuer, info)) = findings.take(read.map_err(malformed)) else {
                continue;
            };
            let (file, name) = (file.clone(), info.subject_text.clone());
            cas.info.push(info);
            let Some(anchor) = anchor else {
                cas.devices.push(name);
                cas.trusted.add_pinned(der.clone());
                continue;
            };
            if !anchor.is_for_clients() {
                findings.warnings.push(Warning::CaNotForClients { file, ca: name.clone() });
            }
            cas.trusted.add_anchor(anchor);
            cas.issuers.push(issuer);
            cas.names.push(name);
        }
        if !cas.devices.is_empty() {
            let (file, names, devices) = (file.clone(), cas.names.clone(), cas.devices.clone());
            findings.warnings.push(Warning::Pinned { file, cas: names, devices });
        }
        cas
    }
}

/// Reads the CRLs of a file, or keeps those that are active: where the file has not changed, what has
/// been verified of them stays so.
fn load_crls(
    file: &Path,
    files: &Files,
    previous: Option<&Snapshot>,
    findings: &mut Findings,
) -> Option<FilePart<Arc<Crl>>> {
    let mut own = Findings::default();
    let kept = previous.and_then(|previous| previous.parts.crls(file));
    let digest = own.take(FilePart::<()>::digest(file, files));
    let part = match (kept, digest) {
        (Some(kept), Some(digest)) if kept.digest == digest => Some(kept.clone()),
        (_, Some(digest)) => own.take(pem::revocation_lists(file, files)).map(|found| {
            let FoundSections { items, ignored } = found;
            let read = |(line, crl)| {
                let crl = Crl::read(file, line, crl);
                let malformed = |cause| CertError::X509 { file: file.to_owned(), line, cause };
                own.take(crl.map_err(malformed)).map(|crl| (line, Arc::new(crl)))
            };
            let items = items.into_iter().filter_map(read).collect();
            FilePart { file: file.to_owned(), digest, items, ignored }
        }),
        (_, None) => None,
    };
    let ignored = part.iter().flat_map(|part| &part.ignored).cloned();
    own.warnings.extend(ignored.map(Warning::Ignored));
    findings.choose(part, kept, own)
}

/// Verifies the CRLs, and keeps those of a file that would take a CA's last good one away.
fn revocation(
    cas: &[Issuer],
    previous: Option<&Snapshot>,
    parts: &mut Parts,
    findings: &mut Findings,
) -> Option<Revocation> {
    let algorithms = PROVIDER.signature_verification_algorithms.all;
    let new = |parts: &Parts| {
        let crls = parts.crls.iter().flat_map(|part| &part.items).map(|(_, crl)| Arc::clone(crl));
        Revocation::new(crls, cas, algorithms)
    };
    let (mut revocation, mut unused) = new(parts);
    let active = previous.and_then(|previous| previous.client_verifier.as_ref());
    if let Some(active) = active.and_then(|verifier| verifier.revocation.as_ref()) {
        let lost = |ca: &&Issuer| active.covers(ca) && !revocation.covers(ca);
        let lost: Vec<_> = cas.iter().filter(lost).collect();
        let at_fault = unused.iter().filter(|unused| {
            let is_lost = |ca: &&Issuer| ca.subject == unused.issuer;
            !matches!(unused.why, UnusedReason::Superseded { .. }) && lost.iter().any(is_lost)
        });
        let at_fault: Vec<_> = at_fault.cloned().collect();
        for unused in at_fault.iter().cloned() {
            let kept = previous.and_then(|previous| previous.parts.crls(&unused.file));
            match (kept, parts.crls.iter_mut().find(|part| part.file == unused.file)) {
                (Some(kept), Some(part)) => *part = kept.clone(),
                _ => findings.is_fatal = true,
            }
            findings.note(CertError::CrlLost(unused));
        }
        if !at_fault.is_empty() {
            (revocation, unused) = new(parts);
        }
    }
    findings.warnings.extend(unused.into_iter().map(Warning::CrlUnused));
    (!findings.is_fatal).then_some(revocation)
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
) -> Vec<(PathBuf, x509::Timestamp)> {
    let mut due: BTreeMap<PathBuf, x509::Timestamp> = BTreeMap::new();
    for crl in revocation.crls() {
        let file = crl.file.clone();
        let Some(next_update) = crl.info.next_update else { continue };
        if next_update.has_passed(now) {
            let line = crl.line;
            findings.warnings.push(Warning::CrlStale { file: file.clone(), line, next_update });
        }
        let earliest = due.entry(file).or_insert(next_update);
        *earliest = next_update.min(*earliest);
    }
    due.into_iter().collect()
}
