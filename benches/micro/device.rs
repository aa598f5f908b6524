//! A device: rustls's client, without a socket.

use std::io::{Read, Write};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use tokio_rustls::rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Returns the configuration of all devices of a run: TLS 1.3, AES-128-GCM, X25519, no tickets.
pub fn config(ca: CertificateDer<'static>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(ca).expect("the certificate is valid");
    let provider = CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
        // Without the post-quantum group, whose cost varies by chance.
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1],
        ..default_provider()
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let mut config = builder
        .with_protocol_versions(&[&TLS13])
        .expect("the provider supports TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
    config.into()
}

/// The session of one device.
pub struct Device(ClientConnection);

impl Device {
    pub fn new(config: &Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from("localhost").expect("the name is valid");
        let mut tls =
            ClientConnection::new(Arc::clone(config), name).expect("the configuration is valid");
        tls.set_buffer_limit(None);
        Self(tls)
    }

    /// Returns the records that the device sends without application data: its part of the handshake.
    pub fn outgoing(&mut self) -> Vec<u8> {
        let mut outgoing = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut outgoing).expect("writing to memory cannot fail");
        }
        outgoing
    }

    /// Seals `plain`.
    pub fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        self.0.writer().write_all(plain).expect("the buffer has no limit");
        self.outgoing()
    }

    /// Processes the server's records, and returns the number of plaintext bytes.
    pub fn receive(&mut self, mut bytes: &[u8]) -> usize {
        let mut plain = 0;
        let mut buffer = [0; 16 * 1024];
        while !bytes.is_empty() {
            self.0.read_tls(&mut bytes).expect("reading from memory cannot fail");
            self.0.process_new_packets().expect("the server's records are valid");
            while let Ok(read @ 1..) = self.0.reader().read(&mut buffer) {
                plain += read;
            }
        }
        plain
    }
}
