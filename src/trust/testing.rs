//! A snapshot for unit tests.

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::certs::{self, Loaded};
use super::snapshot::Snapshot;
use crate::config::{BackendAddress, CertificateFiles, ClientAuth, Listener};

/// A snapshot with a certificate for localhost, and a client that trusts it.
pub(crate) fn snapshot_and_client() -> (Snapshot, TlsConnector) {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pair = CertificateFiles { cert: dir.path().join("crt"), key: dir.path().join("key") };
    fs::write(&pair.cert, made.cert.pem()).unwrap();
    fs::write(&pair.key, made.signing_key.serialize_pem()).unwrap();
    let backend = BackendAddress::parse("127.0.0.1:1").unwrap();
    let listen = ([127, 0, 0, 1], 0).into();
    let listener = Listener::new("test", listen, backend, pair, ClientAuth::None);
    let Ok(Loaded::New(snapshot, _)) = certs::load(&listener, None, SystemTime::now()) else {
        panic!("the certificate was just made");
    };
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (*snapshot, TlsConnector::from(Arc::new(client)))
}
