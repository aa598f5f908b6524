//! Certificates, listeners and snapshots for unit tests.
//!
//! **Not here.** The harness of the integration tests (`tests/support/`).

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::snapshot::Snapshot;
use crate::config::{BackendAddress, CertificateFiles, ClientAuth, ListenerConfig};

/// Writes a new certificate for localhost and its key, and returns the certificate.
pub(crate) fn certificate(dir: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(dir.join("key"), made.signing_key.serialize_pem()).unwrap();
    fs::write(dir.join("crt"), made.cert.pem()).unwrap();
    made.cert.der().clone()
}

/// Returns a listener with such a certificate.
pub(crate) fn listener(dir: &Path) -> ListenerConfig {
    certificate(dir);
    let pair = CertificateFiles { cert: dir.join("crt"), key: dir.join("key") };
    let backend = "127.0.0.1:1".parse::<BackendAddress>().unwrap();
    ListenerConfig::new("test", ([127, 0, 0, 1], 0).into(), backend, pair, ClientAuth::None)
}

/// Returns a snapshot of such a listener with these settings.
pub(crate) fn snapshot_with(set: impl FnOnce(&mut ListenerConfig)) -> Snapshot {
    let dir = tempfile::tempdir().unwrap();
    let mut listener = listener(dir.path());
    set(&mut listener);
    Snapshot::load(&listener, SystemTime::now()).unwrap().0
}

/// Returns a snapshot of such a listener, and a client that trusts it.
pub(crate) fn snapshot_and_client() -> (Snapshot, TlsConnector) {
    let snapshot = snapshot_with(|_| {});
    let mut roots = RootCertStore::empty();
    roots.add(snapshot.policy().certificates[0].leaf.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (snapshot, TlsConnector::from(Arc::new(client)))
}
