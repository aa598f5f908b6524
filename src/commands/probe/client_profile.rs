//! The TLS settings of the simulated device: trusted CAs, client certificate, name, ALPN protocols.
//!
//! **Promises.** The bytes of private keys are zeroed after loading. Errors do not quote the contents of files.
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
use crate::commands::flags::probe::{ProbeArgs, ProbeTarget};
use crate::config::TlsVersion;
use crate::trust::certs::{self, CertError, pem};
use crate::trust::files::{self, Files};

/// The TLS settings of the simulated device.
pub(super) struct ClientProfile {
    pub(super) provider: Arc<CryptoProvider>,
    /// The trusted CAs. None if the chain is not verified.
    pub(super) roots: Option<RootCertStore>,
    /// The certificates of the trusted CAs.
    pub(super) cas: Vec<CertificateDer<'static>>,
    /// The name that the certificate must contain.
    pub(super) name: ServerName<'static>,
    /// True if the name is sent as SNI. An IP address is not (RFC 6066 section 3).
    pub(super) sends_name: bool,
    certificate: Option<Arc<CertifiedKey>>,
    alpn: Vec<Vec<u8>>,
}

/// Invalid settings.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProfileError {
    #[error(transparent)]
    Files(#[from] CertError),
    #[error("{name:?} is not a valid server name: {cause}")]
    Name { name: String, cause: InvalidDnsNameError },
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl ClientProfile {
    /// Loads the settings of the flags. Blocks on the disk.
    pub(super) fn load(args: &ProbeArgs, target: &ProbeTarget) -> Result<Self, ProfileError> {
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

    /// Returns a configuration that offers one TLS version or all, and its verifier.
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
    // Other faults of the certificate are for the server to find.
    let mismatch = rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch);
    if certified.keys_match() == Err(mismatch) {
        return Err(CertError::Mismatch { cert: cert.to_owned(), key: key.to_owned() });
    }
    Ok(certified)
}
