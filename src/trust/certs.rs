//! Files → checked snapshot.
//!
//! **Promises.** A snapshot comes out whole or not at all. Its files are read as of one moment; it
//! is checked that they parse, that each key belongs to its certificate, that each chain is in
//! order, and that no certificate is put in force which is not valid now. Everything that is wrong
//! is told, not just the first. Key bytes are wiped once they are loaded, and no error quotes a
//! file's content.
//!
//! One exception, for a plant that must not stay dark: at start, where there is nothing to keep
//! instead, a certificate that is expired or not yet valid is used, with a warning. Devices without
//! a clock do not mind it.
//!
//! **Not here.** When to load (`reload.rs`), which certificate a device gets (`resolver.rs`).

mod clients;
pub(crate) mod pem;
pub(crate) mod verifier;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio_rustls::rustls::crypto::aws_lc_rs::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::{CertifiedKey, SigningKey};
use tokio_rustls::rustls::{self, ServerConfig, version};
use zeroize::Zeroize;

use self::clients::Clients;
use self::pem::PemError;
use self::verifier::ClientVerifier;
use super::digest::Digest;
use super::files::{self, Files, ReadError};
use super::provider::transcript::TranscriptVerifier;
use super::provider::{PROVIDER, SecretsToScope};
use super::resolver::{Certificate, Resolver};
use super::revocation::Unused;
use super::snapshot::{FileDigests, ServerCertificate, ServerConfigs, Snapshot};
use super::tickets::Resumption;
use super::x509::{self, Facts, Malformed, Moment};
use crate::config::{self, CertificateFiles, ClientAuth, TlsVersion};
use crate::ops::metrics::ReloadObject;

/// A snapshot to put in force, and what its operator should know of it.
pub(crate) type Loaded = (Snapshot, Vec<Warning>);

/// Something that works, but not for long or not for all.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Warning {
    #[error("{} can be read by every user of this machine: chmod o= it", .0.display())]
    KeyOpenToAll(PathBuf),
    #[error("{} expired on {not_after}", .file.display())]
    Expired { file: PathBuf, not_after: Moment },
    #[error("{} is not valid before {not_before}", .file.display())]
    NotYetValid { file: PathBuf, not_before: Moment },
    #[error("{} was due for an update on {next_update}; it stays in force", .file.display())]
    CrlStale { file: PathBuf, next_update: Moment },
    #[error("{}", crl_unused(.0))]
    CrlUnused(Unused),
    #[error("{device:?} of {} is no CA: it is pinned, which admits it alone", .file.display())]
    Pinned { file: PathBuf, device: String },
    #[error("{ca:?} of {} is not for clients, by its extKeyUsage: what it issues is refused", .file.display())]
    CaNotForClients { file: PathBuf, ca: String },
    #[error("no CRL is from {ca:?} of {}: clients with its certificates are refused", .file.display())]
    CaWithoutCrl { file: PathBuf, ca: String },
}

fn crl_unused(Unused { file, line, issuer_text, why, .. }: &Unused) -> String {
    format!("{} line {line}: the CRL of {issuer_text:?} is not used: {why}", file.display())
}

/// One thing for which no snapshot can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("{} holds a certificate or CRL that is not well-formed: {cause}", .file.display())]
    X509 { file: PathBuf, cause: Malformed },
    #[error("{} holds a private key that cannot be used: {cause}", .file.display())]
    Key { file: PathBuf, cause: rustls::Error },
    #[error("the key {} does not belong to the certificate {}", .key.display(), .cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error(
        "{}: certificate {} of the chain did not issue certificate {position}; the order is the \
         server's own, then each one's issuer", .file.display(), .position + 1
    )]
    Order { file: PathBuf, position: usize },
    #[error("{} expired on {not_after}", .file.display())]
    Expired { file: PathBuf, not_after: Moment },
    #[error("{} is not valid before {not_before}", .file.display())]
    NotYetValid { file: PathBuf, not_before: Moment },
    #[error("{} holds a CA certificate that cannot be a trust anchor: {cause}", .file.display())]
    Ca { file: PathBuf, cause: rustls::Error },
    #[error("the client CAs and CRLs cannot be used: {0}")]
    Verifier(#[from] VerifierBuilderError),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl CertError {
    /// What of a listener's TLS it keeps from being loaded.
    pub(crate) fn object(&self, tls: &config::Tls) -> ReloadObject {
        let file = match self {
            Self::Read(error) | Self::Pem(PemError::Read(error)) => &error.file,
            Self::Pem(PemError::Empty { file, .. } | PemError::Malformed { file, .. })
            | Self::Pem(PemError::EncryptedKey(file))
            | Self::X509 { file, .. } => file,
            Self::Verifier(VerifierBuilderError::InvalidCrl(_)) => return ReloadObject::Crl,
            Self::Ca { .. } | Self::Verifier(_) => return ReloadObject::ClientCa,
            Self::Key { .. }
            | Self::Mismatch { .. }
            | Self::Order { .. }
            | Self::Expired { .. }
            | Self::NotYetValid { .. }
            | Self::Tls(_) => return ReloadObject::Certificate,
        };
        match tls.client_auth.trust() {
            Some(trust) if trust.crls.contains(file) => ReloadObject::Crl,
            Some(trust) if trust.ca == *file => ReloadObject::ClientCa,
            _ => ReloadObject::Certificate,
        }
    }
}

/// Builds the first snapshot of a listener from its files. It blocks on the disk.
///
/// # Errors
/// Everything that is wrong with its files.
pub(crate) fn load(listener: &config::Listener, now: SystemTime) -> Result<Loaded, Vec<CertError>> {
    let files = read(listener)?;
    build(listener, &files, None, now)
}

/// Builds the snapshot that is to replace `previous`; none if neither the configuration nor a file
/// has changed. It blocks on the disk.
///
/// # Errors
/// Everything that is wrong with its files.
pub(crate) fn reload(
    listener: &config::Listener,
    previous: &Snapshot,
    now: SystemTime,
) -> Result<Option<Loaded>, Vec<CertError>> {
    let files = read(listener)?;
    let unchanged = digests(listener, &files).is_ok_and(|digests| digests == previous.files);
    if unchanged && previous.listener == *listener {
        return Ok(None);
    }
    build(listener, &files, Some(previous), now).map(Some)
}

fn read(listener: &config::Listener) -> Result<Files, Vec<CertError>> {
    files::read(named_files(&listener.tls)).map_err(|error| vec![error.into()])
}

fn digests(listener: &config::Listener, files: &Files) -> Result<FileDigests, ReadError> {
    let mut pairs: Vec<&[u8]> = Vec::new();
    for pair in &listener.tls.certificates {
        pairs.extend([files.bytes(&pair.cert)?, files.bytes(&pair.key)?]);
        // A key that becomes open to all is a change as well, so that it is warned of.
        pairs.push(if files.is_open_to_all(&pair.key) { b"open" } else { b"closed" });
    }
    let trust = listener.tls.client_auth.trust();
    let ca = trust.map(|trust| files.bytes(&trust.ca)).transpose()?;
    let crls = trust.iter().flat_map(|trust| &trust.crls).map(|crl| files.bytes(crl));
    Ok(FileDigests {
        certificates: Digest::of(pairs),
        client_ca: Digest::of(ca),
        crls: Digest::of(crls.collect::<Result<Vec<_>, _>>()?),
    })
}

/// What is found while a snapshot is being built.
#[derive(Default)]
struct Findings {
    errors: Vec<CertError>,
    warnings: Vec<Warning>,
}

impl Findings {
    /// Passes a value on, or notes why there is none.
    fn take<T>(&mut self, result: Result<T, impl Into<CertError>>) -> Option<T> {
        result.map_err(|error| self.note(error.into())).ok()
    }

    /// Notes an error, unless it is known: a file can hold a certificate and its key, and be missed
    /// for both.
    fn note(&mut self, error: CertError) {
        if self.errors.iter().all(|known| known.to_string() != error.to_string()) {
            self.errors.push(error);
        }
    }
}

fn build(
    listener: &config::Listener,
    files: &Files,
    previous: Option<&Snapshot>,
    now: SystemTime,
) -> Result<Loaded, Vec<CertError>> {
    let client_auth = &listener.tls.client_auth;
    let mut findings = Findings::default();
    let mut chains = Vec::new();
    for pair in &listener.tls.certificates {
        if let Some(chain) = Chain::load(pair, files, &mut findings) {
            chain.check_validity(previous, now, &mut findings);
            chains.push(chain);
        }
    }
    let trust = client_auth.trust();
    let tls = &listener.tls;
    let clients = trust.map(|trust| Clients::load(tls, trust, files, now, &mut findings));
    if !findings.errors.is_empty() {
        return Err(findings.errors);
    }
    let snapshot = snapshot(listener, files, chains, clients.unwrap_or_default(), previous);
    snapshot.map(|snapshot| (snapshot, findings.warnings)).map_err(|error| vec![error])
}

/// Joins the parts of a snapshot, each of which is good.
fn snapshot(
    listener: &config::Listener,
    files: &Files,
    chains: Vec<Chain>,
    clients: Clients,
    previous: Option<&Snapshot>,
) -> Result<Snapshot, CertError> {
    let tls = &listener.tls;
    let policy = policy(tls, files, &chains)?;
    let certificates = chains.iter().map(Chain::shown).collect();
    let named = chains.into_iter().map(|c| Certificate { names: c.facts.names, key: c.key });
    let resolver = Arc::new(Resolver::new(named.collect()));
    let Clients { verifier, trusted } = clients;
    let believed = verifier.as_ref().map(|verifier| verifier.trusted());
    let earlier = previous.map(|previous| &previous.resumption);
    let resumption = Resumption::for_policy(policy, tls.tickets > 0, believed, earlier)?;
    let server_configs = server_configs(tls, &resolver, verifier.clone(), &resumption)?;
    Ok(Snapshot {
        listener: listener.clone(),
        files: digests(listener, files)?,
        server_configs,
        resolver,
        client_verifier: verifier,
        certificates,
        trusted,
        resumption,
    })
}

/// Every file that a listener's TLS is built from.
pub(crate) fn named_files(tls: &config::Tls) -> impl Iterator<Item = &Path> {
    let pairs = tls.certificates.iter().flat_map(|pair| [&pair.cert, &pair.key]);
    let trust = tls.client_auth.trust().into_iter().flat_map(|t| t.crls.iter().chain([&t.ca]));
    pairs.chain(trust).map(PathBuf::as_path)
}

/// Who is believed, and who we are: what a ticket must not outlive.
fn policy(tls: &config::Tls, files: &Files, chains: &[Chain]) -> Result<Digest, ReadError> {
    let mode: &[u8] = match tls.client_auth {
        ClientAuth::None => b"none",
        ClientAuth::Optional(_) => b"optional",
        ClientAuth::Required(_) => b"required",
    };
    let trust = tls.client_auth.trust().into_iter().flat_map(|t| t.crls.iter().chain([&t.ca]));
    let mut names: Vec<_> = chains.iter().flat_map(|chain| &chain.facts.names).collect();
    names.sort_unstable();
    names.dedup();
    let mut parts = vec![mode];
    for path in trust {
        parts.push(files.bytes(path)?);
    }
    parts.extend(names.iter().map(|name| name.as_bytes()));
    Ok(Digest::of(parts))
}

fn server_configs(
    tls: &config::Tls,
    resolver: &Arc<Resolver>,
    client_verifier: Option<Arc<ClientVerifier>>,
    resumption: &Resumption,
) -> Result<ServerConfigs, CertError> {
    let versions: &[_] = match tls.min_version {
        TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
        TlsVersion::Tls13 => &[&version::TLS13],
    };
    let verifier = client_verifier.map(|verifier| verifier as Arc<dyn ClientCertVerifier>);
    let verifier = verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(Arc::new(TranscriptVerifier(verifier)))
        .with_cert_resolver(Arc::clone(resolver) as Arc<_>);
    config.alpn_protocols.clone_from(&tls.alpn);
    // For our own record layer (`proxy/tls/session.rs`): they do not leave the process.
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(SecretsToScope);
    resumption.install(&mut config, tls.tickets);
    let clients = Arc::new(config.clone());
    config.ignore_client_order = true;
    Ok(ServerConfigs { ours: Arc::new(config), clients })
}

/// A certificate chain with its key, checked to be one.
struct Chain {
    file: PathBuf,
    facts: Facts,
    key: Arc<CertifiedKey>,
}

impl Chain {
    fn load(pair: &CertificateFiles, files: &Files, findings: &mut Findings) -> Option<Self> {
        let chain = findings.take(chain_in_order(&pair.cert, files));
        let signer = findings.take(signer(&pair.key, files));
        let ((chain, facts), signer) = (chain?, signer?);
        let key = CertifiedKey::new(chain, signer);
        let (cert, private) = (pair.cert.clone(), pair.key.clone());
        if files.is_open_to_all(&private) {
            findings.warnings.push(Warning::KeyOpenToAll(private.clone()));
        }
        let matching = key.keys_match();
        findings.take(matching.map_err(|_| CertError::Mismatch { cert, key: private }))?;
        Some(Self { file: pair.cert.clone(), facts, key: Arc::new(key) })
    }

    /// Refuses to replace what is in force by what is not valid now.
    fn check_validity(
        &self,
        previous: Option<&Snapshot>,
        now: SystemTime,
        findings: &mut Findings,
    ) {
        let file = self.file.clone();
        let Facts { not_before, not_after, .. } = self.facts;
        let leaf = &self.key.cert[0];
        let nothing_better =
            previous.is_none_or(|p| p.certificates.iter().any(|c| c.leaf == *leaf));
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

    fn shown(&self) -> ServerCertificate {
        ServerCertificate {
            label: self.file.display().to_string(),
            leaf: self.key.cert[0].clone(),
            facts: self.facts.clone(),
        }
    }
}

/// The certificates of a chain, each issued by the next, and the facts of the first.
fn chain_in_order(
    file: &Path,
    files: &Files,
) -> Result<(Vec<CertificateDer<'static>>, Facts), CertError> {
    let chain = pem::certificates(file, files)?;
    let facts = facts(file, &chain[0])?;
    for (i, two) in chain.windows(2).enumerate() {
        let in_order = x509::is_issued_by(&two[0], &two[1])
            .map_err(|cause| CertError::X509 { file: file.to_owned(), cause })?;
        if !in_order {
            return Err(CertError::Order { file: file.to_owned(), position: i + 1 });
        }
    }
    Ok((chain, facts))
}

/// What signs with a private key, whose bytes are wiped.
pub(crate) fn signer(file: &Path, files: &Files) -> Result<Arc<dyn SigningKey>, CertError> {
    let mut private = pem::private_key(file, files)?;
    let signer = any_supported_type(&private);
    private.zeroize();
    signer.map_err(|cause| CertError::Key { file: file.to_owned(), cause })
}

fn facts(file: &Path, certificate: &CertificateDer<'_>) -> Result<Facts, CertError> {
    x509::facts(certificate).map_err(|cause| CertError::X509 { file: file.to_owned(), cause })
}
