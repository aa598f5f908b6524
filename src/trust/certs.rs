//! Files → checked snapshot.
//!
//! **Promises.** A snapshot comes out whole or not at all. Its files are read as of one moment; it
//! is checked that they parse, that each key belongs to its certificate, that each chain is in
//! order, and that no certificate is put in force which is not valid now. Key bytes are wiped once
//! they are loaded, and no error quotes a file's content.
//!
//! One exception, for a plant that must not stay dark: at start, where there is nothing to keep
//! instead, a certificate that is expired or not yet valid is used, with a warning. Devices without
//! a clock do not mind it.
//!
//! **Not here.** When to load (`reload.rs`), which certificate a device gets (`resolver.rs`).

mod pem;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::crypto::aws_lc_rs::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{
    self, CipherSuite, RootCertStore, ServerConfig, SupportedCipherSuite, version,
};
use zeroize::Zeroize;

use self::pem::PemError;
use super::digest::Digest;
use super::files::{self, Files, ReadError};
use super::resolver::{Certificate, Resolver};
use super::snapshot::{ServerCertificate, ServerConfigs, Snapshot};
use super::tickets::Resumption;
use super::x509::{self, Facts, Malformed, Moment};
use crate::config::{self, CertificateFiles, ClientAuth, ClientTrust, TlsVersion};

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
    #[error("no CRL is from {ca:?} of {}: clients with its certificates are refused", .file.display())]
    CaWithoutCrl { file: PathBuf, ca: String },
}

/// Why no snapshot could be made.
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

/// aws-lc-rs, with AES-128-GCM before AES-256-GCM. Most clients put the other first by habit, and
/// with SHA-384 it costs a tenth of a handshake more, on small devices a good deal more. RFC 8446
/// section 9.1 makes AES-128-GCM the one that everybody has.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = default_provider();
    let aes_128_first = |suite: &SupportedCipherSuite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
        _ => 1,
    };
    // Stable: the rest stays in rustls's order.
    provider.cipher_suites.sort_by_key(aes_128_first);
    Arc::new(provider)
});

/// Builds the first snapshot of a listener from its files. It blocks on the disk.
///
/// # Errors
/// What is wrong with the first file that is wrong.
pub(crate) fn load(listener: &config::Listener, now: SystemTime) -> Result<Loaded, CertError> {
    let files = files::read(named_files(&listener.tls))?;
    let digest = digest(listener, &files);
    build(listener, &files, digest, None, now)
}

/// Builds the snapshot that is to replace `previous`; none if neither the configuration nor a file
/// has changed. It blocks on the disk.
///
/// # Errors
/// What is wrong with the first file that is wrong.
pub(crate) fn reload(
    listener: &config::Listener,
    previous: &Snapshot,
    now: SystemTime,
) -> Result<Option<Loaded>, CertError> {
    let files = files::read(named_files(&listener.tls))?;
    let digest = digest(listener, &files);
    if previous.files == digest && previous.listener == *listener {
        return Ok(None);
    }
    build(listener, &files, digest, Some(previous), now).map(Some)
}

fn digest(listener: &config::Listener, files: &Files) -> Digest {
    Digest::of(named_files(&listener.tls).map(|path| files.bytes(path)))
}

fn build(
    listener: &config::Listener,
    files: &Files,
    digest: Digest,
    previous: Option<&Snapshot>,
    now: SystemTime,
) -> Result<Loaded, CertError> {
    let tls = &listener.tls;
    let mut warnings = Vec::new();
    let chains = tls.certificates.iter().map(|pair| Chain::load(pair, files, &mut warnings));
    let chains = chains.collect::<Result<Vec<_>, _>>()?;
    for chain in &chains {
        chain.check_validity(previous, now, &mut warnings)?;
    }
    let client_verifier = match tls.client_auth.trust() {
        Some(trust) => Some(client_verifier(&tls.client_auth, trust, files, now, &mut warnings)?),
        None => None,
    };
    let policy = policy(tls, files, &chains);
    let resumption =
        Resumption::for_policy(policy, tls.tickets > 0, previous.map(|p| &p.resumption))?;
    let certificates = chains.iter().map(Chain::shown).collect();
    let server_configs = server_configs(tls, chains, client_verifier.clone(), &resumption)?;
    let snapshot = Snapshot {
        listener: listener.clone(),
        files: digest,
        server_configs,
        client_verifier,
        certificates,
        resumption,
    };
    Ok((snapshot, warnings))
}

/// Every file that a listener's TLS is built from.
pub(crate) fn named_files(tls: &config::Tls) -> impl Iterator<Item = &Path> {
    let pairs = tls.certificates.iter().flat_map(|pair| [&pair.cert, &pair.key]);
    let trust = tls.client_auth.trust().into_iter().flat_map(|t| t.crls.iter().chain([&t.ca]));
    pairs.chain(trust).map(PathBuf::as_path)
}

/// Who is believed, and who we are: what a ticket must not outlive.
fn policy(tls: &config::Tls, files: &Files, chains: &[Chain]) -> Digest {
    let mode: &[u8] = match tls.client_auth {
        ClientAuth::None => b"none",
        ClientAuth::Optional(_) => b"optional",
        ClientAuth::Required(_) => b"required",
    };
    let trust = tls.client_auth.trust().into_iter().flat_map(|t| t.crls.iter().chain([&t.ca]));
    let mut names: Vec<_> = chains.iter().flat_map(|chain| &chain.facts.names).collect();
    names.sort_unstable();
    names.dedup();
    let trust = trust.map(|path| files.bytes(path));
    Digest::of([mode].into_iter().chain(trust).chain(names.iter().map(|name| name.as_bytes())))
}

fn server_configs(
    tls: &config::Tls,
    chains: Vec<Chain>,
    client_verifier: Option<Arc<dyn ClientCertVerifier>>,
    resumption: &Resumption,
) -> Result<ServerConfigs, CertError> {
    let versions: &[_] = match tls.min_version {
        TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
        TlsVersion::Tls13 => &[&version::TLS13],
    };
    let verifier = client_verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
    let certificates = chains.into_iter().map(|c| Certificate { names: c.facts.names, key: c.key });
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Resolver::new(certificates.collect())));
    config.alpn_protocols.clone_from(&tls.alpn);
    resumption.install(&mut config, tls.tickets);
    let clients = Arc::new(config.clone());
    config.ignore_client_order = true;
    Ok(ServerConfigs { ours: Arc::new(config), clients })
}

fn client_verifier(
    mode: &ClientAuth,
    trust: &ClientTrust,
    files: &Files,
    now: SystemTime,
    warnings: &mut Vec<Warning>,
) -> Result<Arc<dyn ClientCertVerifier>, CertError> {
    let file = &trust.ca;
    let mut roots = RootCertStore::empty();
    let cas = pem::certificates(file, files)?;
    for ca in &cas {
        roots.add(ca.clone()).map_err(|cause| CertError::Ca { file: file.clone(), cause })?;
    }
    let crls = trust.crls.iter().map(|file| Ok((file, pem::revocation_lists(file, files)?)));
    let crls = crls.collect::<Result<Vec<_>, CertError>>()?;
    warn_about_crls(file, &cas, &crls, now, warnings)?;
    // As in HAProxy and nginx: with CRLs, the whole chain is checked and a status that no CRL tells
    // is refused. A CRL past its nextUpdate stays in force: refusing every device because a file
    // was not renewed in the night is no safer, only darker.
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&PROVIDER))
        .with_crls(crls.into_iter().flat_map(|(_, crls)| crls))
        // The names of the CAs help a client that has several certificates to choose; a device has
        // one, and small devices cannot take a long flight.
        .clear_root_hint_subjects();
    Ok(match mode {
        ClientAuth::Optional(_) => verifier.allow_unauthenticated().build()?,
        ClientAuth::Required(_) | ClientAuth::None => verifier.build()?,
    })
}

fn warn_about_crls(
    ca_file: &Path,
    cas: &[CertificateDer<'static>],
    crls: &[(&PathBuf, Vec<CertificateRevocationListDer<'static>>)],
    now: SystemTime,
    warnings: &mut Vec<Warning>,
) -> Result<(), CertError> {
    let mut issuers = Vec::new();
    for (file, crl) in crls.iter().flat_map(|(file, crls)| crls.iter().map(move |c| (*file, c))) {
        let facts =
            x509::crl_facts(crl).map_err(|cause| CertError::X509 { file: file.clone(), cause })?;
        if let Some(next_update) = facts.next_update.filter(|next| next.has_passed(now)) {
            warnings.push(Warning::CrlStale { file: file.clone(), next_update });
        }
        issuers.push(facts.issuer);
    }
    for ca in cas.iter().filter(|_| !crls.is_empty()) {
        let facts = facts(ca_file, ca)?;
        if !issuers.contains(&facts.subject) {
            let file = ca_file.to_owned();
            warnings.push(Warning::CaWithoutCrl { file, ca: facts.subject_text });
        }
    }
    Ok(())
}

/// A certificate chain with its key, checked to be one.
struct Chain {
    file: PathBuf,
    facts: Facts,
    key: Arc<CertifiedKey>,
}

impl Chain {
    fn load(
        pair: &CertificateFiles,
        files: &Files,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, CertError> {
        let chain = pem::certificates(&pair.cert, files)?;
        let facts = facts(&pair.cert, &chain[0])?;
        for (i, two) in chain.windows(2).enumerate() {
            let in_order = x509::is_issued_by(&two[0], &two[1])
                .map_err(|cause| CertError::X509 { file: pair.cert.clone(), cause })?;
            if !in_order {
                return Err(CertError::Order { file: pair.cert.clone(), position: i + 1 });
            }
        }
        let mut private = pem::private_key(&pair.key, files)?;
        let signer = any_supported_type(&private);
        private.zeroize();
        let signer = signer.map_err(|cause| CertError::Key { file: pair.key.clone(), cause })?;
        let key = CertifiedKey::new(chain, signer);
        key.keys_match()
            .map_err(|_| CertError::Mismatch { cert: pair.cert.clone(), key: pair.key.clone() })?;
        if files.is_open_to_all(&pair.key) {
            warnings.push(Warning::KeyOpenToAll(pair.key.clone()));
        }
        Ok(Self { file: pair.cert.clone(), facts, key: Arc::new(key) })
    }

    /// Refuses to replace what is in force by what is not valid now.
    fn check_validity(
        &self,
        previous: Option<&Snapshot>,
        now: SystemTime,
        warnings: &mut Vec<Warning>,
    ) -> Result<(), CertError> {
        let (file, facts) = (self.file.clone(), &self.facts);
        let shown = self.shown();
        let nothing_better =
            previous.is_none_or(|p| p.certificates.iter().any(|c| c.leaf == shown.leaf));
        let expired = facts.not_after.has_passed(now);
        let valid = !expired && facts.not_before.has_begun(now);
        match (valid, nothing_better) {
            (true, _) => Ok(()),
            (false, true) if expired => {
                warnings.push(Warning::Expired { file, not_after: facts.not_after });
                Ok(())
            }
            (false, true) => {
                warnings.push(Warning::NotYetValid { file, not_before: facts.not_before });
                Ok(())
            }
            (false, false) if expired => {
                Err(CertError::Expired { file, not_after: facts.not_after })
            }
            (false, false) => Err(CertError::NotYetValid { file, not_before: facts.not_before }),
        }
    }

    fn shown(&self) -> ServerCertificate {
        ServerCertificate {
            label: self.file.display().to_string(),
            leaf: self.key.cert[0].clone(),
            not_after: self.facts.not_after,
        }
    }
}

fn facts(file: &Path, certificate: &CertificateDer<'_>) -> Result<Facts, CertError> {
    x509::facts(certificate).map_err(|cause| CertError::X509 { file: file.to_owned(), cause })
}
