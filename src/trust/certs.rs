//! Files → checked snapshot.
//!
//! **Promises.** A snapshot comes out whole or not at all. Its files are read as of one moment; it
//! is checked that they parse, that each key belongs to its certificate, and that no certificate is
//! put in force which is not valid now. A file that fails keeps what it held, and holds up no other. Everything that is wrong
//! is told, not just the first. Key bytes are wiped once they are loaded, and no error quotes a
//! file's content.
//!
//! One exception, for a plant that must not stay dark: at start, where there is nothing to keep
//! instead, a certificate that is expired or not yet valid is used, with a warning. Devices without
//! a clock do not mind it.
//!
//! **Not here.** When to load (`reload.rs`), which certificate a device gets (`resolver.rs`).

mod chain;
mod clients;
pub(crate) mod parts;
pub(crate) mod pem;
pub(crate) mod verifier;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, ServerConfig, version};

use self::chain::Chain;
pub(crate) use self::chain::signer;
use self::clients::Clients;
use self::parts::Parts;
use self::pem::{Ignored, PemError};
use self::verifier::ClientVerifier;
use super::digest::Digest;
use super::files::{self, Files, MAX_CA_BYTES, MAX_CHAIN_BYTES, MAX_CRL_BYTES, ReadError};
use super::provider::{PROVIDER, SecretsToScope};
use super::resolver::{NamedCertificate, Resolver};
use super::revocation::UnusedCrl;
use super::snapshot::{ServerConfigs, Snapshot};
use super::tickets::Resumption;
use super::x509::{Malformed, Timestamp};
use crate::config::{self, CertificateFiles, ClientAuth, TlsVersion};
use crate::terms::labels::ReloadObject;
use crate::text::Shown;

/// A snapshot to put in force, and what its operator should know of it.
pub(crate) type Loaded = (Snapshot, Vec<Warning>);

/// Something that works, but not for long or not for all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Warning {
    #[error("{} can be read by every user of this machine: chmod o= it", Shown(.0))]
    KeyOpenToAll(PathBuf),
    #[error("{} expired on {not_after}", Shown(file))]
    Expired { file: PathBuf, not_after: Timestamp },
    #[error("{} is not valid before {not_before}", Shown(file))]
    NotYetValid { file: PathBuf, not_before: Timestamp },
    #[error(
        "{} line {line}: a version 1 certificate: it cannot name its hosts in a subjectAltName, and \
         many clients refuse it",
        Shown(file)
    )]
    Version1 { file: PathBuf, line: usize },
    #[error(
        "{}: the certificates are not in order; they are sent in order, the one that belongs to the \
         key and then each one's issuer",
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
    #[error("{} line {}: this {} is of no use in this file, and is ignored", Shown(&.0.file), .0.line, .0.what)]
    Ignored(Ignored),
    #[error(
        "{} line {line}: the CRL was due for an update on {next_update}; it stays active",
        Shown(file)
    )]
    CrlStale { file: PathBuf, line: usize, next_update: Timestamp },
    #[error("{}", crl_unused(.0))]
    CrlUnused(UnusedCrl),
    #[error("{}", pinned(file, cas, devices))]
    Pinned { file: PathBuf, cas: Vec<String>, devices: Vec<String> },
    #[error(
        "{ca:?} of {} is not for clients, by its extKeyUsage: what it issues is refused",
        Shown(file)
    )]
    CaNotForClients { file: PathBuf, ca: String },
    #[error("no CRL is from {ca:?} of {}: clients with its certificates are refused", Shown(file))]
    CaWithoutCrl { file: PathBuf, ca: String },
}

fn crl_unused(UnusedCrl { file, line, issuer_text, why, .. }: &UnusedCrl) -> String {
    format!("{} line {line}: the CRL of {issuer_text:?} is not used: {why}", Shown(file))
}

/// Which certificates of a bundle issue devices, and which are devices.
fn pinned(file: &Path, cas: &[String], devices: &[String]) -> String {
    const MOST: usize = 10;
    let some = |names: &[String]| {
        let shown: Vec<_> = names.iter().take(MOST).map(|name| format!("{name:?}")).collect();
        match names.len().saturating_sub(MOST) {
            _ if names.is_empty() => "none".to_owned(),
            0 => shown.join(", "),
            more => format!("{} and {more} more", shown.join(", ")),
        }
    };
    format!(
        "{} holds certificates that are no CAs. CAs, which admit what they have issued: {}. Pinned, \
         each of which admits its own device alone: {}",
        Shown(file),
        some(cas),
        some(devices)
    )
}

/// How an attempt to replace a snapshot ended.
#[derive(Default)]
pub(crate) struct Reloaded {
    /// The snapshot to put in force, if there is anything new.
    pub(crate) loaded: Option<Loaded>,
    /// What could not be loaded, and stays as it was.
    pub(crate) errors: Vec<CertError>,
}

/// One thing for which no snapshot can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("{} line {line}: this is not well-formed: {cause}", Shown(file))]
    X509 { file: PathBuf, line: usize, cause: Malformed },
    #[error(
        "{} line {line}: the private key is damaged or of a kind that is not supported; RSA with 2048 \
         to 8192 bits, ECDSA on P-256, P-384 and P-521, and Ed25519 are",
        Shown(file)
    )]
    Key { file: PathBuf, line: usize },
    #[error(
        "{}: none of the other certificates in the file issued that of the key, as it is in the chain \
         that is active",
        Shown(file)
    )]
    LostIssuer { file: PathBuf },
    #[error("the key {} does not belong to the certificate {}", Shown(key), Shown(cert))]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error("{} expired on {not_after}", Shown(file))]
    Expired { file: PathBuf, not_after: Timestamp },
    #[error("{} is not valid before {not_before}", Shown(file))]
    NotYetValid { file: PathBuf, not_before: Timestamp },
    #[error("{} line {line}: this CA certificate is not well-formed", Shown(file))]
    Ca { file: PathBuf, line: usize },
    #[error("the client CAs and CRLs cannot be used: {0}")]
    Verifier(#[from] VerifierBuilderError),
    #[error("{}: it is the last one of a CA; the one that is active is kept", crl_unused(.0))]
    CrlLost(UnusedCrl),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl CertError {
    /// What of a listener's TLS it keeps from being loaded.
    pub(crate) fn object(&self, tls: &config::TlsConfig) -> ReloadObject {
        let file = match self {
            Self::Read(error) => &error.file,
            Self::Pem(error) => error.file(),
            Self::X509 { file, .. } => file,
            Self::Verifier(VerifierBuilderError::InvalidCrl(_)) => return ReloadObject::Crl,
            Self::CrlLost(_) => return ReloadObject::Crl,
            Self::Ca { .. } | Self::Verifier(_) => return ReloadObject::ClientCa,
            Self::Key { .. }
            | Self::Mismatch { .. }
            | Self::LostIssuer { .. }
            | Self::Expired { .. }
            | Self::NotYetValid { .. }
            | Self::Tls(_) => return ReloadObject::Certificate,
        };
        match tls.client_auth.trust() {
            Some(trust) if trust.crls.iter().any(|crl| crl == file) => ReloadObject::Crl,
            Some(trust) if trust.ca == file => ReloadObject::ClientCa,
            _ => ReloadObject::Certificate,
        }
    }
}

/// Builds the first snapshot of a listener from its files. It blocks on the disk.
///
/// # Errors
/// Everything that is wrong with its files.
pub(crate) fn load(
    listener: &config::ListenerConfig,
    now: SystemTime,
) -> Result<Loaded, Vec<CertError>> {
    let Reloaded { loaded, errors } = build(listener, None, now)?;
    loaded.ok_or(errors)
}

/// Builds the snapshot that is to replace `previous`; none if neither the configuration nor a file
/// that is good has changed. A file that is not good keeps what it held. It blocks on the disk.
pub(crate) fn reload(
    listener: &config::ListenerConfig,
    previous: &Snapshot,
    now: SystemTime,
) -> Reloaded {
    let errors = match build(listener, Some(previous), now) {
        Ok(reloaded) => return reloaded,
        Err(errors) => errors,
    };
    // A new configuration comes whole or not at all, and holds up no renewal under the active one.
    let kept = if previous.listener == *listener {
        None
    } else {
        build(&previous.listener, Some(previous), now).ok()
    };
    let Reloaded { loaded, errors: more } = kept.unwrap_or_default();
    Reloaded { loaded, errors: errors.into_iter().chain(more).collect() }
}

/// What is found while a snapshot is being built.
#[derive(Default)]
struct Findings {
    errors: Vec<CertError>,
    /// The sentences of the errors.
    known: HashSet<String>,
    warnings: Vec<Warning>,
    /// Whether there can be no snapshot without what is wrong.
    is_fatal: bool,
}

impl Findings {
    /// Passes a value on, or notes why there is none.
    fn take<T>(&mut self, result: Result<T, impl Into<CertError>>) -> Option<T> {
        result.map_err(|error| self.note(error.into())).ok()
    }

    /// Notes an error, unless it is known: a file can hold a certificate and its key, and be missed
    /// for both.
    fn note(&mut self, error: CertError) {
        if self.known.insert(error.to_string()) {
            self.errors.push(error);
        }
    }
}

/// Builds a snapshot, or finds that it would be `previous` again.
fn build(
    listener: &config::ListenerConfig,
    previous: Option<&Snapshot>,
    now: SystemTime,
) -> Result<Reloaded, Vec<CertError>> {
    let tls = &listener.tls;
    let files = files::read(bounded_files(tls)).map_err(|error| vec![error.into()])?;
    let mut findings = Findings::default();
    let mut parts = Parts::default();
    for pair in &tls.certificates {
        parts.chains.extend(load_chain(pair, &files, previous, now, &mut findings));
    }
    let trust = tls.client_auth.trust();
    let clients = trust.and_then(|trust| {
        Clients::load(tls, trust, &files, (previous, now), &mut parts, &mut findings)
    });
    let Findings { errors, warnings, is_fatal, .. } = findings;
    if is_fatal {
        return Err(errors);
    }
    let same =
        |previous: &Snapshot| previous.files == parts.digests() && previous.listener == *listener;
    if previous.is_some_and(same) {
        return Ok(Reloaded { loaded: None, errors });
    }
    match snapshot(listener, parts, clients.unwrap_or_default(), previous) {
        Ok(snapshot) => Ok(Reloaded { loaded: Some((snapshot, warnings)), errors }),
        Err(error) => Err(errors.into_iter().chain([error]).collect()),
    }
}

/// Loads a chain, or keeps the one that is active.
fn load_chain(
    pair: &CertificateFiles,
    files: &Files,
    previous: Option<&Snapshot>,
    now: SystemTime,
    findings: &mut Findings,
) -> Option<(Digest, Chain)> {
    let mut own = Findings::default();
    let chain = Chain::load(pair, files, &mut own);
    if let Some(chain) = &chain {
        let active = previous.map(|previous| &previous.certificates[..]);
        chain.check_validity(active, now, &mut own);
        chain.check_issuer(active.unwrap_or_default(), &mut own);
    }
    let digest = own.take(Chain::digest(pair, files));
    let kept = previous.and_then(|previous| previous.parts.chain(pair));
    findings.choose(digest.zip(chain), kept, own)
}

/// Joins the parts of a snapshot, each of which is good.
fn snapshot(
    listener: &config::ListenerConfig,
    parts: Parts,
    clients: Clients,
    previous: Option<&Snapshot>,
) -> Result<Snapshot, CertError> {
    let tls = &listener.tls;
    let policy = policy(tls, &parts);
    let chains = || parts.chains.iter().map(|(_, chain)| chain);
    let certificates = chains().map(Chain::shown).collect();
    let named = chains().map(|chain| NamedCertificate {
        names: chain.info.names.clone(),
        key: Arc::clone(&chain.key),
    });
    let resolver = Arc::new(Resolver::new(named.collect()));
    let Clients { verifier, trusted } = clients;
    let believed = verifier.as_ref().map(|verifier| verifier.trusted());
    let earlier = previous.map(|previous| &previous.resumption);
    let resumption = Resumption::for_policy(policy, tls.tickets > 0, believed, earlier)?;
    let server_configs = server_configs(tls, &resolver, verifier.clone(), &resumption)?;
    Ok(Snapshot {
        listener: listener.clone(),
        files: parts.digests(),
        server_configs,
        resolver,
        client_verifier: verifier,
        certificates,
        trusted,
        resumption,
        parts,
    })
}

/// Every file that a listener's TLS is built from.
pub(crate) fn named_files(tls: &config::TlsConfig) -> impl Iterator<Item = &Path> {
    bounded_files(tls).map(|(file, _)| file)
}

/// The same, each with the bytes that it has at most.
fn bounded_files(tls: &config::TlsConfig) -> impl Iterator<Item = (&Path, u64)> {
    let pairs = tls.certificates.iter().flat_map(|pair| [&pair.cert, &pair.key]);
    let trust = || tls.client_auth.trust().into_iter();
    let crls = trust().flat_map(|trust| &trust.crls).map(|crl| (crl.as_path(), MAX_CRL_BYTES));
    let cas = trust().map(|trust| (trust.ca.as_path(), MAX_CA_BYTES));
    pairs.map(|file| (file.as_path(), MAX_CHAIN_BYTES)).chain(crls).chain(cas)
}

/// Who is believed, and who we are: what a ticket must not outlive.
fn policy(tls: &config::TlsConfig, parts: &Parts) -> Digest {
    let mode: &[u8] = match tls.client_auth {
        ClientAuth::None => b"none",
        ClientAuth::Optional(_) => b"optional",
        ClientAuth::Required(_) => b"required",
    };
    let chains = parts.chains.iter().map(|(_, chain)| chain);
    let mut names: Vec<_> = chains.flat_map(|chain| &chain.info.names).collect();
    names.sort_unstable();
    names.dedup();
    let mut policy = vec![mode];
    policy.extend(parts.trust());
    policy.extend(names.iter().map(|name| name.as_bytes()));
    Digest::of(policy)
}

fn server_configs(
    tls: &config::TlsConfig,
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
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::clone(resolver) as Arc<_>);
    config.alpn_protocols.clone_from(&tls.alpn);
    // For our own record layer (`proxy/tls/session.rs`): they do not leave the process.
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(SecretsToScope);
    resumption.install(&mut config, tls.tickets);
    let client_order = Arc::new(config.clone());
    config.ignore_client_order = true;
    Ok(ServerConfigs { server_order: Arc::new(config), client_order })
}
