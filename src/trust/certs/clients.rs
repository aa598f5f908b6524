//! Whom a listener believes: the verifier of client certificates, from CAs and CRLs.
//!
//! **Promises.** As in HAProxy and nginx: with CRLs, the whole chain is checked, and a status that no
//! CRL tells is refused. A CRL past its nextUpdate stays in force, with a warning: refusing every
//! device because a file was not renewed in the night is no safer, only darker.
//!
//! **Not here.** The certificates that we show (`certs.rs`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateRevocationListDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;

use super::{CertError, Findings, PROVIDER, Warning, pem};
use crate::config::{ClientAuth, ClientTrust};
use crate::trust::files::Files;
use crate::trust::snapshot::Trusted;
use crate::trust::x509::{self, Facts};

/// Whom a listener believes; nobody by default.
#[derive(Default)]
pub(super) struct Clients {
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
    pub(super) trusted: Trusted,
}

/// CRLs, each with its file.
type Crls<'a> = Vec<(&'a Path, CertificateRevocationListDer<'static>)>;

impl Clients {
    pub(super) fn load(
        mode: &ClientAuth,
        trust: &ClientTrust,
        files: &Files,
        now: SystemTime,
        findings: &mut Findings,
    ) -> Self {
        let (roots, cas) = cas(&trust.ca, files, findings);
        let crls = crls(trust, files, findings);
        let due = look_at_crls(&trust.ca, &cas, &crls, now, findings);
        if !findings.errors.is_empty() {
            // Without all CAs and CRLs the verifier would only find fault with what is missing.
            return Self::default();
        }
        let provider = Arc::clone(&PROVIDER);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
            .with_crls(crls.into_iter().map(|(_, crl)| crl))
            // The names of the CAs help a client that has several certificates to choose; a device
            // has one, and small devices cannot take a long flight.
            .clear_root_hint_subjects();
        let verifier = findings.take(match mode {
            ClientAuth::Optional(_) => verifier.allow_unauthenticated().build(),
            ClientAuth::Required(_) | ClientAuth::None => verifier.build(),
        });
        Self { verifier, trusted: Trusted { cas, crls: due } }
    }
}

/// The CAs of a bundle, and what is known of each.
fn cas(file: &Path, files: &Files, findings: &mut Findings) -> (RootCertStore, Vec<Facts>) {
    let mut roots = RootCertStore::empty();
    let mut known = Vec::new();
    for ca in findings.take(pem::certificates(file, files)).iter().flatten() {
        let added = roots.add(ca.clone());
        findings.take(added.map_err(|cause| CertError::Ca { file: file.to_owned(), cause }));
        // What is a CA is rustls's to say. One that cannot be read here is only not told of.
        known.extend(x509::facts(ca));
    }
    (roots, known)
}

fn crls<'a>(trust: &'a ClientTrust, files: &Files, findings: &mut Findings) -> Crls<'a> {
    let mut crls = Vec::new();
    for file in &trust.crls {
        let found = findings.take(pem::revocation_lists(file, files));
        crls.extend(found.into_iter().flatten().map(|crl| (file.as_path(), crl)));
    }
    crls
}

/// When the next CRL of each file is due. Warns of those that are late, and of CAs that have none.
fn look_at_crls(
    ca_file: &Path,
    cas: &[Facts],
    crls: &Crls<'_>,
    now: SystemTime,
    findings: &mut Findings,
) -> Vec<(PathBuf, x509::Moment)> {
    let mut issuers = Vec::new();
    let mut due: Vec<(PathBuf, x509::Moment)> = Vec::new();
    for (file, crl) in crls {
        let file = file.to_path_buf();
        let facts = x509::crl_facts(crl);
        let facts = facts.map_err(|cause| CertError::X509 { file: file.clone(), cause });
        let Some(facts) = findings.take(facts) else { continue };
        issuers.push(facts.issuer);
        let Some(next_update) = facts.next_update else { continue };
        if next_update.has_passed(now) {
            findings.warnings.push(Warning::CrlStale { file: file.clone(), next_update });
        }
        match due.iter_mut().find(|(known, _)| *known == file) {
            Some((_, earliest)) => *earliest = next_update.min(*earliest),
            None => due.push((file, next_update)),
        }
    }
    for ca in cas.iter().filter(|_| !crls.is_empty()) {
        if !issuers.contains(&ca.subject) {
            let (file, ca) = (ca_file.to_owned(), ca.subject_text.clone());
            findings.warnings.push(Warning::CaWithoutCrl { file, ca });
        }
    }
    due
}
