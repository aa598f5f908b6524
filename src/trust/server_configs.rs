//! rustls's configuration of a policy.
//!
//! **Not here.** The parts of a policy (`policy.rs`), the suites (`provider.rs`).

use std::sync::Arc;

use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{self, ServerConfig, version};

use super::certs::verifier::ClientVerifier;
use super::provider::{self, Accepted, SecretsToScope};
use super::resolver::Resolver;
use super::tickets::Resumption;
use crate::config::{self, AcceptedVersions};

/// rustls's configuration, with two orders of preference among cipher suites.
pub(crate) struct ServerConfigs {
    /// Our order: AES-128 first, or that of `tls.suites`.
    pub(crate) server_order: Arc<ServerConfig>,
    /// The client's order, for a client without hardware for AES; with `tls.suites`, its order.
    pub(crate) client_order: Arc<ServerConfig>,
    pub(crate) accepted: Accepted,
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
        let AcceptedVersions { tls12, tls13 } = tls.versions();
        let versions = [(tls13, &version::TLS13), (tls12, &version::TLS12)];
        let versions: Vec<_> = versions.iter().filter(|(is, _)| *is).map(|(_, v)| *v).collect();
        let provider = provider::offering(tls);
        let accepted = Accepted::of(&provider, tls);
        let verifier = client_verifier.map(|verifier| verifier as Arc<dyn ClientCertVerifier>);
        let verifier = verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
        let build = |provider| {
            let mut config = ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&versions)?
                .with_client_cert_verifier(Arc::clone(&verifier))
                .with_cert_resolver(Arc::clone(resolver) as Arc<_>);
            config.alpn_protocols.clone_from(&tls.alpn);
            // Our own record layer needs the secrets (`proxy/tls/record_layer.rs`). They do not leave the process.
            config.enable_secret_extraction = true;
            config.key_log = Arc::new(SecretsToScope);
            config.ignore_client_order = true;
            resumption.install(&mut config, tls.tickets);
            Ok::<_, rustls::Error>(config)
        };
        let server_order = build(provider)?;
        let client_order = match (&tls.suites[..], &tls.legacy_suites[..]) {
            ([], []) => {
                let mut config = server_order.clone();
                config.ignore_client_order = false;
                config
            }
            // The client's order could put a legacy suite first.
            ([], _) => build(provider::offering_chacha20_first(tls))?,
            // A list of the operator has an order.
            _ => server_order.clone(),
        };
        let (server_order, client_order) = (Arc::new(server_order), Arc::new(client_order));
        Ok(Self { server_order, client_order, accepted })
    }
}
