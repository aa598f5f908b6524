//! The TLS settings of the simulated device: trusted CAs, client certificate, name, ALPN protocols.
//!
//! **Promises.** The bytes of private keys are zeroed after loading. Errors do not quote the contents of files.
//!
//! **Not here.** The flags themselves (`commands/flags/probe.rs`).

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
use crate::terms::labels::MaterialKind;
use crate::trust::certs::{chain, pem};
use crate::trust::findings::{Cause, CertError};
use crate::trust::material::{self, Material};

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
        let named = [
            (MaterialKind::ClientCa, &args.ca),
            (MaterialKind::Certificate, &args.cert),
            (MaterialKind::Key, &args.key),
        ];
        let named = named.iter().filter_map(|(role, path)| Some((*role, path.as_deref()?)));
        let files = material::read(&named.collect::<Vec<_>>())?;
        let of = |role| files.iter().find(|file| file.role == role);
        let name = args.name.as_ref().unwrap_or(&target.host);
        let name = ServerName::try_from(name.clone())
            .map_err(|cause| ProfileError::Name { name: name.clone(), cause })?;
        let certificate = match (of(MaterialKind::Certificate), of(MaterialKind::Key)) {
            (Some(cert), Some(key)) => Some(Arc::new(certified(cert, key)?)),
            _ => None,
        };
        let ca = of(MaterialKind::ClientCa);
        let cas = match ca {
            Some(file) => pem::certificates(file)?.items,
            None => Vec::new(),
        };
        Ok(Self {
            provider: Arc::new(default_provider()),
            roots: ca.map(|file| roots(file, &cas)).transpose()?,
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
        let witness = Arc::new(CapturingVerifier::new(algorithms, self.certificate.clone()));
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&witness) as _)
            .with_client_cert_resolver(Arc::clone(&witness) as _);
        config.alpn_protocols.clone_from(&self.alpn);
        config.enable_sni = self.sends_name;
        config.resumption = Resumption::store(Arc::clone(&witness) as _);
        Ok((Arc::new(config), witness))
    }
}

fn roots(
    file: &Material,
    cas: &[(usize, CertificateDer<'static>)],
) -> Result<RootCertStore, CertError> {
    let mut roots = RootCertStore::empty();
    for (line, ca) in cas {
        roots.add(ca.clone()).map_err(|_| file.error(Some(*line), Cause::Ca))?;
    }
    Ok(roots)
}

fn certified(cert: &Material, key: &Material) -> Result<CertifiedKey, CertError> {
    let chain = pem::certificates(cert)?.items.into_iter().map(|(_, cert)| cert).collect();
    let (signer, _) = chain::signer(key)?;
    let certified = CertifiedKey::new(chain, signer);
    // Other faults of the certificate are for the server to find.
    let mismatch = rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch);
    if certified.keys_match() == Err(mismatch) {
        return Err(cert.error(None, Cause::Mismatch { key: key.path.clone() }));
    }
    Ok(certified)
}
