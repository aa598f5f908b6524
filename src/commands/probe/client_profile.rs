//! What a device brings along: whom it believes, what it shows, what it offers.
//!
//! **Promises.** Keys are wiped once loaded, and errors never quote a file's content.
//!
//! **Not here.** The flags themselves (`commands/flags/probe.rs`).

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ClientConfig, InconsistentKeys, RootCertStore, version};

use super::capturing_verifier::CapturingVerifier;
use crate::commands::flags::probe::{Probe, ProbeTarget};
use crate::config::TlsVersion;
use crate::trust::certs::{self, CertError, pem};
use crate::trust::files::{self, Files};

/// What a device brings along.
pub(super) struct ClientProfile {
    pub(super) provider: Arc<CryptoProvider>,
    /// Whom it believes; none if the chain is not to be verified.
    pub(super) roots: Option<RootCertStore>,
    /// The same as they stand in the file.
    pub(super) cas: Vec<CertificateDer<'static>>,
    /// The name that the certificate is compared with.
    pub(super) name: ServerName<'static>,
    /// Whether the name is sent as well: an IP address never is (RFC 6066 section 3).
    pub(super) sends_name: bool,
    certificate: Option<Arc<CertifiedKey>>,
    alpn: Vec<Vec<u8>>,
}

/// Why a probe cannot begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProfileError {
    #[error(transparent)]
    Files(#[from] CertError),
    #[error("{name:?} is not a name that can be asked for: {cause}")]
    Name { name: String, cause: InvalidDnsNameError },
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl ClientProfile {
    /// Loads what the flags name. It blocks on the disk.
    pub(super) fn load(args: &Probe, target: &ProbeTarget) -> Result<Self, ProfileError> {
        let bounds =
            [files::MAX_CA_BYTES, files::MAX_CHAIN_BYTES, files::MAX_CHAIN_BYTES].into_iter();
        let named = [&args.ca, &args.cert, &args.key].into_iter().zip(bounds);
        let named = named.filter_map(|(file, max)| Some((file.as_deref()?, max)));
        let files = files::read(named).map_err(CertError::from)?;
        let name = args.name.as_ref().unwrap_or(&target.host);
        let name = ServerName::try_from(name.clone())
            .map_err(|cause| ProfileError::Name { name: name.clone(), cause })?;
        let certificate = match (&args.cert, &args.key) {
            (Some(cert), Some(key)) => Some(Arc::new(certified(cert, key, &files)?)),
            _ => None,
        };
        let cas = match &args.ca {
            Some(file) => pem::certificates(file, &files).map_err(CertError::from)?.items,
            None => Vec::new(),
        };
        Ok(Self {
            provider: Arc::new(default_provider()),
            roots: args.ca.as_deref().map(|file| roots(file, &cas)).transpose()?,
            cas: cas.into_iter().map(|(_, ca)| ca).collect(),
            sends_name: matches!(name, ServerName::DnsName(_)) && !args.no_sni,
            name,
            certificate,
            alpn: args.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect(),
        })
    }

    /// A configuration that offers one version or all, with somebody to watch it.
    pub(super) fn config(
        &self,
        version: Option<TlsVersion>,
    ) -> Result<(Arc<ClientConfig>, Arc<CapturingVerifier>), ProfileError> {
        let versions: &[_] = match version {
            None => &[&version::TLS13, &version::TLS12],
            Some(TlsVersion::Tls12) => &[&version::TLS12],
            Some(TlsVersion::Tls13) => &[&version::TLS13],
        };
        let algorithms = self.provider.signature_verification_algorithms;
        let verifier = Arc::new(CapturingVerifier::new(algorithms, self.certificate.clone()));
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
            .with_client_cert_resolver(Arc::clone(&verifier) as _);
        config.alpn_protocols.clone_from(&self.alpn);
        config.enable_sni = self.sends_name;
        config.resumption = Resumption::store(Arc::clone(&verifier) as _);
        Ok((Arc::new(config), verifier))
    }
}

fn roots(
    file: &Path,
    cas: &[(usize, CertificateDer<'static>)],
) -> Result<RootCertStore, CertError> {
    let mut roots = RootCertStore::empty();
    for (line, ca) in cas {
        let malformed = |_| CertError::Ca { file: file.to_owned(), line: *line };
        roots.add(ca.clone()).map_err(malformed)?;
    }
    Ok(roots)
}

fn certified(cert: &Path, key: &Path, files: &Files) -> Result<CertifiedKey, CertError> {
    let chain = pem::certificates(cert, files)?.items.into_iter().map(|(_, cert)| cert).collect();
    let (signer, _) = certs::signer(key, files)?;
    let certified = CertifiedKey::new(chain, signer);
    // Another fault of the certificate is the server's to find: that is what is tried.
    let mismatch = rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch);
    if certified.keys_match() == Err(mismatch) {
        return Err(CertError::Mismatch { cert: cert.to_owned(), key: key.to_owned() });
    }
    Ok(certified)
}
