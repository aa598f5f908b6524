//! rustls's configuration of a policy.
//!
//! **Not here.** The parts of a policy (`policy.rs`), the suites (`provider.rs`).

use std::sync::Arc;

use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{self, ServerConfig, version};

use super::certs::verifier::ClientVerifier;
use super::provider::{PROVIDER, SecretsToScope};
use super::resolver::Resolver;
use super::tickets::Resumption;
use crate::config::{self, TlsVersion};

/// rustls's configuration, with two orders of preference among cipher suites.
pub(crate) struct ServerConfigs {
    /// Our order: AES-128 first.
    pub(crate) server_order: Arc<ServerConfig>,
    /// The client's order, for a client without hardware for AES.
    pub(crate) client_order: Arc<ServerConfig>,
}

impl ServerConfigs {
    /// Builds the configurations with the certificates of a resolver.
    ///
    /// # Errors
    /// If rustls refuses a setting.
    pub(super) fn new(
        tls: &config::TlsConfig,
        resolver: &Arc<Resolver>,
        client_verifier: Option<Arc<ClientVerifier>>,
        resumption: &Resumption,
    ) -> Result<Self, rustls::Error> {
        let versions: &[_] = match tls.min_version {
            TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
            TlsVersion::Tls13 => &[&version::TLS13],
        };
        let verifier = client_verifier.map(|verifier| verifier as Arc<dyn ClientCertVerifier>);
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(
                verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth),
            )
            .with_cert_resolver(Arc::clone(resolver) as Arc<_>);
        config.alpn_protocols.clone_from(&tls.alpn);
        // Our own record layer needs the secrets (`proxy/tls/record_layer.rs`). They do not leave the process.
        config.enable_secret_extraction = true;
        config.key_log = Arc::new(SecretsToScope);
        resumption.install(&mut config, tls.tickets);
        let client_order = Arc::new(config.clone());
        config.ignore_client_order = true;
        Ok(Self { server_order: Arc::new(config), client_order })
    }
}
