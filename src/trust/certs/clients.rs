//! The trust in client certificates: the CAs, pinned devices and CRLs of a verifier, from their files.
//!
//! **Promises.** By default as in HAProxy and nginx: with CRLs, the whole chain is checked, and a certificate whose
//! status no CRL states is refused. A CRL past its nextUpdate stays active, with a warning: an overdue list
//! still refuses the devices that it revokes, and refusing every device would stop the plant.
//!
//! **Not here.** The certificates that devices are sent (`chain.rs`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio_rustls::rustls::DistinguishedName;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::crl_files::CrlFiles;
use super::loaded::{LoadedFile, LoadedFiles};
use super::pem::{self, FoundSections};
use super::rules::{self, LoadedRules};
use super::verifier::{ChainLimits, ClientVerifier, TrustedClients};
use crate::config::{self, ClientAuth, CrlRules, ExpiredCrl, UnknownStatus};
use crate::terms::labels::MaterialKind;
use crate::trust::allow::AllowList;
use crate::trust::findings::{Cause, CertError, Findings, Warning};
use crate::trust::issuers::KnownIssuers;
use crate::trust::material::Material;
use crate::trust::provider::PROVIDER;
use crate::trust::revocation::{Crl, Revocation, UnusedCrl, UnusedReason};
use crate::trust::x509::certificate::Certificate;
use crate::trust::x509::path::Anchor;
use crate::trust::x509::{CertInfo, Timestamp};

/// Bytes of the names of CAs that are sent at most. A device has to receive them in each handshake; a list in
/// TLS has 65,535 bytes at most.
const MAX_CA_NAMES_BYTES: usize = 16 << 10;

/// The trust in client certificates, with the content of the files that it was made from.
pub(crate) struct LoadedTrust {
    pub(crate) verifier: ClientVerifier,
    pub(crate) summary: TrustSummary,
    pub(crate) client_ca: LoadedFile<CertificateDer<'static>>,
    pub(crate) crls: Vec<LoadedFile<Arc<Crl>>>,
    pub(crate) allow: Option<LoadedRules>,
}

/// The files of the trust, as read.
pub(crate) struct TrustMaterial<'a> {
    pub(crate) ca: &'a Material,
    pub(crate) crls: &'a CrlFiles,
    pub(crate) allow: Option<&'a Material>,
}

/// The CAs and CRLs of a policy, for logs and metrics.
#[derive(Default)]
pub(crate) struct TrustSummary {
    /// Certificates of the bundle: CAs and pinned devices.
    pub(crate) cas: Vec<CertInfo>,
    /// Number of pinned devices among them.
    pub(crate) pinned: usize,
    /// Each file of CRLs with the earliest date on which one of them is due for an update.
    pub(crate) crls: Vec<(PathBuf, Timestamp)>,
}

/// The content and the CRLs of the current policies; nothing at start.
#[derive(Clone, Copy, Default)]
pub(crate) struct ActiveTrust<'a> {
    /// The content of the listener's current policies. A file is looked up by its path in all of them.
    pub(crate) files: &'a [&'a LoadedFiles],
    pub(crate) revocation: Option<&'a Revocation>,
    pub(crate) issuers: Option<&'a Arc<KnownIssuers>>,
}

/// Loads the trust of a policy from its client CAs, CRLs and allow rules. Returns none if a file has a problem, and no
/// earlier content to keep.
pub(crate) fn load(
    tls: &config::TlsConfig,
    TrustMaterial { ca, crls, allow }: &TrustMaterial<'_>,
    active: ActiveTrust<'_>,
    now: SystemTime,
    findings: &mut Findings,
) -> Option<LoadedTrust> {
    let trust = tls.client_auth.trust()?;
    let known_ca = active.files.iter().find_map(|files| files.ca_file(&ca.path));
    let client_ca = load_ca(ca, known_ca, findings);
    let crls = trust.crls.iter().map(|path| load_crls(path, crls, active, findings));
    let crls: Vec<_> = crls.collect();
    let rules = allow.map(|file| {
        let kept = active.files.iter().find_map(|files| files.allow_file(&file.path));
        rules::load(file, kept, findings)
    });
    let client_ca = client_ca?;
    // Problems of these certificates were found when the bundle was loaded.
    let cas = Bundle::read(ca, &client_ca, findings);
    let mut crls = crls.into_iter().collect::<Option<Vec<_>>>()?;
    let rules = match rules {
        Some(loaded) => Some(loaded?),
        None => None,
    };
    let mut due_dates = Vec::new();
    let mut revocation = None;
    if !crls.is_empty() {
        let verified = verify_crls(&cas.anchors, trust.crl_rules, active, &mut crls, findings)?;
        warn_of_cas_without_crl(ca, &cas, trust.crl_rules, &verified, findings);
        due_dates = due(&verified, trust.crl_rules, now, findings);
        revocation = Some(verified);
    }
    if trust.accept_expired {
        findings.warnings.push(Warning::AcceptsExpired);
    }
    let ca_names = if trust.send_ca_names { ca_names(ca, &cas, findings) } else { Vec::new() };
    let verifier = ClientVerifier {
        accepts_expired: trust.accept_expired,
        ca_names,
        mandatory: matches!(tls.client_auth, ClientAuth::Required(_)),
        limits: ChainLimits {
            max_certificates: tls.max_chain_certificates,
            max_bytes: tls.max_chain_bytes,
            allow_v1: tls.allow_v1,
        },
        trusted: cas.trusted,
        revocation,
        allow: AllowList::new(&trust.allow.rules, rules.as_ref().map(|file| &*file.rules)),
        issuers: active.issuers.cloned().unwrap_or_default(),
    };
    let pinned = cas.devices.len();
    let summary = TrustSummary { cas: cas.infos, pinned, crls: due_dates };
    Some(LoadedTrust { verifier, summary, client_ca, crls, allow: rules })
}

/// The certificates of a bundle.
struct Bundle {
    trusted: TrustedClients,
    infos: Vec<CertInfo>,
    /// The CAs.
    anchors: Vec<Arc<Anchor>>,
    /// The names of these CAs, for logs.
    names: Vec<String>,
    /// The names of the pinned devices, for logs.
    devices: Vec<String>,
}

/// Reads a bundle, or keeps the current one.
fn load_ca(
    ca: &Material,
    kept: Option<&LoadedFile<CertificateDer<'static>>>,
    findings: &mut Findings,
) -> Option<LoadedFile<CertificateDer<'static>>> {
    let mut own = Findings::default();
    let found = own.take(pem::certificates(ca));
    let file = found.zip(ca.digest().ok()).map(|(FoundSections { items, ignored }, digest)| {
        let file = LoadedFile { path: ca.path.clone(), digest, items, ignored };
        let _checked = Bundle::read(ca, &file, &mut own);
        // They are found again when the chosen bundle is read.
        own.warnings.clear();
        file
    });
    findings.choose(file, kept, own)
}

impl Bundle {
    fn read(
        ca: &Material,
        file: &LoadedFile<CertificateDer<'static>>,
        findings: &mut Findings,
    ) -> Self {
        let mut bundle = Self {
            trusted: TrustedClients::new(PROVIDER.signature_verification_algorithms),
            infos: Vec::new(),
            anchors: Vec::new(),
            names: Vec::new(),
            devices: Vec::new(),
        };
        findings.warnings.extend(file.ignored.iter().cloned().map(Warning::Ignored));
        for (line, der) in &file.items {
            let certificate = Certificate::parse(der);
            let malformed = |cause| ca.error(Some(*line), Cause::Malformed(cause));
            if let Some(certificate) = findings.take(certificate.map_err(malformed)) {
                bundle.add(ca, &certificate, der, findings);
            }
        }
        if !bundle.devices.is_empty() {
            let (cas, devices) = (bundle.names.clone(), bundle.devices.clone());
            findings.warnings.push(Warning::Pinned { file: ca.path.clone(), cas, devices });
        }
        bundle
    }

    fn add(
        &mut self,
        ca: &Material,
        certificate: &Certificate<'_>,
        der: &CertificateDer<'static>,
        findings: &mut Findings,
    ) {
        let info = certificate.info();
        let name = info.subject_text.clone();
        self.infos.push(info);
        let Some(anchor) = Anchor::new(certificate, der) else {
            self.devices.push(name);
            self.trusted.add_pinned(der.clone());
            return;
        };
        if !anchor.is_for_clients() {
            let file = ca.path.clone();
            findings.warnings.push(Warning::CaNotForClients { file, ca: name.clone() });
        }
        if let Some(bits) = anchor.key().odd_rsa_bits() {
            let (file, ca) = (ca.path.clone(), name.clone());
            findings.warnings.push(Warning::CaWeakKey { file, ca, bits });
        }
        let anchor = Arc::new(anchor);
        self.trusted.add_anchor(Arc::clone(&anchor));
        self.anchors.push(anchor);
        self.names.push(name);
    }
}

/// Returns the CRLs of a file, or the current ones if it has a problem.
fn load_crls(
    path: &Path,
    crls: &CrlFiles,
    active: ActiveTrust<'_>,
    findings: &mut Findings,
) -> Option<LoadedFile<Arc<Crl>>> {
    let mut own = Findings::default();
    let new = crls.of(path).cloned();
    let ignored = new.iter().flat_map(|file| &file.ignored).cloned();
    own.warnings.extend(ignored.map(Warning::Ignored));
    let kept = active.files.iter().find_map(|files| files.crl_file(path));
    findings.choose(new, kept, own)
}

/// Verifies the CRLs. Where a file would take away the last valid CRL of a CA for a scope, its current CRLs are kept.
fn verify_crls(
    cas: &[Arc<Anchor>],
    rules: CrlRules,
    active: ActiveTrust<'_>,
    files: &mut [LoadedFile<Arc<Crl>>],
    findings: &mut Findings,
) -> Option<Revocation> {
    let algorithms = PROVIDER.signature_verification_algorithms.all;
    let verify = |files: &[LoadedFile<Arc<Crl>>]| {
        let crls = files.iter().flat_map(|file| &file.items).map(|(_, crl)| Arc::clone(crl));
        Revocation::new(crls, cas, rules, algorithms)
    };
    let (mut revocation, mut unused) = verify(files);
    let at_fault = match active.revocation {
        Some(active) => last_of_a_ca(&unused, cas, active, &revocation),
        None => Vec::new(),
    };
    for unused in &at_fault {
        let kept = active.files.iter().find_map(|files| files.crl_file(&unused.file));
        match (kept, files.iter_mut().find(|file| file.path == unused.file)) {
            (Some(kept), Some(file)) => *file = kept.clone(),
            _ => findings.is_fatal = true,
        }
        findings.note(CertError {
            role: MaterialKind::Crl,
            file: unused.file.clone(),
            line: Some(unused.line),
            cause: Cause::CrlLost(Box::new(unused.clone())),
        });
    }
    if !at_fault.is_empty() {
        (revocation, unused) = verify(files);
    }
    findings.warnings.extend(unused.into_iter().map(Warning::CrlUnused));
    (!findings.is_fatal).then_some(revocation)
}

/// Returns the unused CRLs in whose place `active` has a CRL of a CA, and `new` has none of that CA and scope.
fn last_of_a_ca(
    unused: &[UnusedCrl],
    cas: &[Arc<Anchor>],
    active: &Revocation,
    new: &Revocation,
) -> Vec<UnusedCrl> {
    let lost: Vec<_> = cas.iter().flat_map(|ca| active.lost_in(new, ca)).collect();
    let is_at_fault = |unused: &&UnusedCrl| {
        !matches!(unused.reason, UnusedReason::Superseded { .. })
            && lost.iter().any(|lost| unused.is_in_place_of(lost))
    };
    unused.iter().filter(is_at_fault).cloned().collect()
}

fn warn_of_cas_without_crl(
    ca: &Material,
    cas: &Bundle,
    rules: CrlRules,
    revocation: &Revocation,
    findings: &mut Findings,
) {
    for (name, anchor) in cas.names.iter().zip(&cas.anchors) {
        if !revocation.covers(anchor) {
            let (file, ca) = (ca.path.clone(), name.clone());
            let admitted = rules.unknown == UnknownStatus::Allow;
            findings.warnings.push(Warning::CaWithoutCrl { file, ca, admitted });
        }
    }
}

/// Returns the names of the CAs; none if they are too long for one message.
fn ca_names(ca: &Material, cas: &Bundle, findings: &mut Findings) -> Vec<DistinguishedName> {
    let names: Vec<_> = cas.anchors.iter().map(|anchor| anchor.encoded_name().clone()).collect();
    let bytes = names.iter().map(|name| 2 + name.as_ref().len()).sum::<usize>();
    if bytes <= MAX_CA_NAMES_BYTES {
        return names;
    }
    findings.warnings.push(Warning::CaNamesTooLong { file: ca.path.clone(), bytes });
    Vec::new()
}

/// Returns, for each file, the earliest date on which one of its CRLs is due for an update. Warns about
/// those that are overdue.
fn due(
    revocation: &Revocation,
    rules: CrlRules,
    now: SystemTime,
    findings: &mut Findings,
) -> Vec<(PathBuf, Timestamp)> {
    let mut due: BTreeMap<PathBuf, Timestamp> = BTreeMap::new();
    for crl in revocation.crls() {
        let file = crl.file.clone();
        let Some(next_update) = crl.info.next_update else { continue };
        if next_update.has_passed(now) {
            let line = crl.line;
            let (file, denies) = (file.clone(), rules.expired == ExpiredCrl::Deny);
            findings.warnings.push(Warning::CrlStale { file, line, next_update, denies });
        }
        let earliest = due.entry(file).or_insert(next_update);
        *earliest = next_update.min(*earliest);
    }
    due.into_iter().collect()
}
