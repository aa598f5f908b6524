//! Sessions of real handshakes between rustls's own connections.
//!
//! **Not here.** The same over a socket: tests/client_auth.rs.

use std::fs;
use std::time::SystemTime;

use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::client::{Resumption as ClientResumption, Tls12Resumption};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::TLS12;
use tokio_rustls::rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::{ClientAuth, ClientTrust};
use crate::trust::snapshot::Snapshot;
use crate::trust::testing;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Makes two handshakes of a device that sends its own certificate, an intermediate's, and `junk`. Returns the
/// bytes that are remembered, and the kind of the second handshake.
async fn remembered(junk: Vec<CertificateDer<'static>>) -> (usize, Option<HandshakeKind>) {
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<_> = (0..3).map(|_| KeyPair::generate().unwrap()).collect();
    let (mut root, mut below) = (params("root"), params("below"));
    root.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    below.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = root.self_signed(&keys[0]).unwrap();
    let intermediate = below.signed_by(&keys[1], &Issuer::from_params(&root, &keys[0])).unwrap();
    let leaf = params("device").signed_by(&keys[2], &Issuer::from_params(&below, &keys[1]));
    let mut chain = vec![leaf.unwrap().der().clone()];
    chain.extend(junk);
    chain.push(intermediate.der().clone());

    let mut listener = testing::listener(dir.path());
    fs::write(dir.path().join("ca"), ca.pem()).unwrap();
    let trust = ClientTrust::new(dir.path().join("ca"));
    listener.tls.client_auth = ClientAuth::Required(trust);
    let (snapshot, _) = Snapshot::load(&listener, SystemTime::now()).unwrap();
    let acceptor = TlsAcceptor::from(snapshot.policy().server_configs.server_order.clone());

    let mut roots = RootCertStore::empty();
    roots.add(snapshot.policy().certificates[0].leaf.clone()).unwrap();
    let key = PrivateKeyDer::try_from(keys[2].serialize_der()).unwrap();
    let mut config = ClientConfig::builder_with_provider(default_provider().into())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.resumption =
        ClientResumption::in_memory_sessions(8).tls12_resumption(Tls12Resumption::SessionIdOnly);
    let connector = TlsConnector::from(std::sync::Arc::new(config));
    let mut kind = None;
    for _ in 0..2 {
        let (client, server) = tokio::io::duplex(1 << 20);
        let name = ServerName::try_from("localhost").unwrap();
        let (client, server) =
            tokio::join!(connector.connect(name, client), acceptor.accept(server));
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        kind = server.get_ref().1.handshake_kind();
    }
    let store = snapshot.policy().resumption.store.as_ref().unwrap();
    (store.remembered.inner.bytes(), kind)
}

#[tokio::test]
async fn unused_certificates_are_not_remembered_and_the_session_is_resumed() {
    let (usual, kind) = remembered(Vec::new()).await;
    assert_eq!(kind, Some(HandshakeKind::Resumed));
    let junk = (0..7).map(|_| CertificateDer::from(vec![0x30; 8000])).collect();
    let (with_junk, kind) = remembered(junk).await;
    assert_eq!(kind, Some(HandshakeKind::Resumed));
    // Signatures and serial numbers differ in length.
    assert!(with_junk.abs_diff(usual) < 20, "{with_junk} bytes, without junk {usual}");
}
