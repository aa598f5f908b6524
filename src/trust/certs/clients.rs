//! Whom a listener believes: the verifier of client certificates, from CAs and CRLs.
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

use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    self, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
};

use super::{CertError, Findings, PROVIDER, Warning, pem};
use crate::config::{ClientAuth, ClientTrust};
use crate::trust::files::Files;
use crate::trust::revocation::{Crl, Issuer, Revocation};
use crate::trust::snapshot::Trusted;
use crate::trust::x509::{self, Facts};

/// Whom a listener believes; nobody by default.
#[derive(Default)]
pub(super) struct Clients {
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
    pub(super) trusted: Trusted,
}

impl Clients {
    pub(super) fn load(
        mode: &ClientAuth,
        trust: &ClientTrust,
        files: &Files,
        now: SystemTime,
        findings: &mut Findings,
    ) -> Self {
        let Cas { roots, certificates, facts, issuers } = cas(&trust.ca, files, findings);
        let crls = crls(trust, files, findings);
        if !findings.errors.is_empty() {
            // Without all CAs and CRLs the verifier would only find fault with what is missing.
            return Self::default();
        }
        let provider = Arc::clone(&PROVIDER);
        let algorithms = provider.signature_verification_algorithms;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
            // The names of the CAs help a client that has several certificates to choose; a device
            // has one, and small devices cannot take a long flight.
            .clear_root_hint_subjects();
        let verifier = findings.take(match mode {
            ClientAuth::Optional(_) => verifier.allow_unauthenticated().build(),
            ClientAuth::Required(_) | ClientAuth::None => verifier.build(),
        });
        if crls.is_empty() {
            return Self { verifier, trusted: Trusted { cas: facts, crls: Vec::new() } };
        }
        let (revocation, unused) = Revocation::new(crls, &issuers, algorithms);
        findings.warnings.extend(unused.into_iter().map(Warning::CrlUnused));
        warn_of_cas_without_crl(&trust.ca, &facts, &issuers, &revocation, findings);
        let due = due(&revocation, now, findings);
        let verifier = verifier.map(|verifier| {
            Arc::new(Revoking { inner: verifier, cas: certificates, revocation }) as Arc<_>
        });
        Self { verifier, trusted: Trusted { cas: facts, crls: due } }
    }
}

/// The CAs of a bundle.
struct Cas {
    roots: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
    facts: Vec<Facts>,
    issuers: Vec<Issuer>,
}

fn cas(file: &Path, files: &Files, findings: &mut Findings) -> Cas {
    let certificates = findings.take(pem::certificates(file, files)).unwrap_or_default();
    let mut roots = RootCertStore::empty();
    for ca in &certificates {
        let added = roots.add(ca.clone());
        findings.take(added.map_err(|cause| CertError::Ca { file: file.to_owned(), cause }));
    }
    // What is a CA is rustls's to say. One that cannot be read here is only not told of.
    let facts = certificates.iter().flat_map(x509::facts).collect();
    let issuers = certificates.iter().flat_map(Issuer::read).collect();
    Cas { roots, certificates, facts, issuers }
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
    facts: &[Facts],
    issuers: &[Issuer],
    revocation: &Revocation,
    findings: &mut Findings,
) {
    for (facts, issuer) in facts.iter().zip(issuers) {
        if !revocation.covers(issuer) {
            let (file, ca) = (file.to_owned(), facts.subject_text.clone());
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

/// Asks another verifier first, and the CRLs about the path then.
#[derive(Debug)]
struct Revoking {
    inner: Arc<dyn ClientCertVerifier>,
    cas: Vec<CertificateDer<'static>>,
    revocation: Revocation,
}

impl Revoking {
    /// The path from a certificate to a CA, among those that came with it.
    fn path<'a>(
        &'a self,
        leaf: &'a CertificateDer<'a>,
        sent: &'a [CertificateDer<'a>],
    ) -> Vec<&'a CertificateDer<'a>> {
        let mut path = vec![leaf];
        while path.len() <= sent.len() + 1 {
            let last = path[path.len() - 1];
            let issued = |issuer: &&CertificateDer<'_>| {
                x509::is_issued_by(last, issuer).is_ok_and(|issued| issued)
            };
            if let Some(anchor) = self.cas.iter().find(issued) {
                path.push(anchor);
                break;
            }
            let Some(next) = sent.iter().find(issued) else { break };
            path.push(next);
        }
        path
    }
}

impl ClientCertVerifier for Revoking {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(leaf, sent, now)?;
        self.revocation.check(&self.path(leaf, sent))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
