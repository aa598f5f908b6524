//! The record layer after the handshake: correctly sealed records of any inner type and content, and raw bytes.

#![no_main]

use std::io;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use libfuzzer_sys::fuzz_target;
use tlsidecar_fuzz::{Material, Script, with_server};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, ConnectionTrafficSecrets, RootCertStore};

fuzz_target!(|data: &[u8]| {
    with_server(async |server| {
        let (client, device) = tokio::io::duplex(1 << 18);
        let backend = Script::new(b"hello".to_vec(), &[]);
        tokio::join!(server.serve(device, backend), async {
            // The server refuses input by an error.
            let _refused = speak(client, data).await;
        });
    });
});

async fn speak(tcp: DuplexStream, data: &[u8]) -> io::Result<()> {
    let name = ServerName::try_from("localhost").expect("the name is valid");
    let session = connector().connect(name, tcp).await.expect("the server serves localhost");
    let (mut tcp, connection) = session.into_inner();
    let secrets = connection.dangerous_extract_secrets().map_err(io::Error::other)?;
    let (mut sequence, ConnectionTrafficSecrets::Aes128Gcm { key, iv }) = secrets.tx else {
        panic!("another suite than was offered");
    };
    let key = UnboundKey::new(&AES_128_GCM, key.as_ref()).expect("the key has the right size");
    let key = LessSafeKey::new(key);
    let mut rest = data;
    // Each record: its type, its length in two bytes, its content.
    while let [how, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (content, after) = after.split_at(length);
        rest = after;
        if *how >= 0xf0 {
            tcp.write_all(content).await?;
            continue;
        }
        let nonce = nonce(iv.as_ref(), sequence);
        sequence += 1;
        let mut inner = content.to_vec();
        inner.push(*how);
        let size = u16::try_from(inner.len() + 16).unwrap_or(u16::MAX);
        let head = [&[23, 3, 3][..], &size.to_be_bytes()].concat();
        key.seal_in_place_append_tag(nonce, Aad::from(head.clone()), &mut inner)
            .expect("the record is short");
        tcp.write_all(&[head, inner].concat()).await?;
    }
    tcp.shutdown().await
}

fn nonce(iv: &[u8], sequence: u64) -> Nonce {
    let mut nonce: [u8; 12] = iv.try_into().expect("the nonce of AES-GCM has twelve bytes");
    for (byte, other) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
        *byte ^= other;
    }
    Nonce::assume_unique_for_key(nonce)
}

fn connector() -> &'static TlsConnector {
    static CONNECTOR: OnceLock<TlsConnector> = OnceLock::new();
    CONNECTOR.get_or_init(|| {
        let mut provider = default_provider();
        provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(Material::get().file("ca.crt"));
        roots.add(ca.expect("the file was written")).expect("the file has a CA");
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("the suite belongs to TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.enable_secret_extraction = true;
        TlsConnector::from(Arc::new(config))
    })
}
