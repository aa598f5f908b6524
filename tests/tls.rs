//! The choice of certificate, version, suite and protocol for a device.

use tlsidecar::config::{CertificateFiles, TlsVersion};
use tlsidecar::terms::reason::Reason;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::aws_lc_rs::{self, cipher_suite};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{AlertDescription, HandshakeKind, ProtocolVersion};

use crate::support::certs::Wish;
use crate::support::client::Session;
use crate::support::proxy::listener;
use crate::support::{Authority, Backend, Device, Pair, Proxy};

/// Returns whether the server certificate of the session is the one of `pair`.
fn shows(session: &Session, pair: &Pair) -> bool {
    shown(session) == pair.load().0[0]
}

fn shown(session: &Session) -> CertificateDer<'static> {
    session.get_ref().1.peer_certificates().unwrap()[0].clone()
}

fn kind(session: &Session) -> HandshakeKind {
    session.get_ref().1.handshake_kind().unwrap()
}

/// Returns the cryptography of a device that can only verify RSA.
pub(crate) fn rsa_only() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256],
        ..aws_lc_rs::default_provider()
    }
}

#[tokio::test]
async fn a_device_speaks_tls_1_2_or_1_3() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    for (version, name, cipher) in [
        (&TLS12, "1.2", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        (&TLS13, "1.3", "TLS_AES_128_GCM_SHA256"),
    ] {
        Device::speaking(&authority, version).echo(proxy.address).await.unwrap();
        let series = format!(
            "tlsidecar_handshakes_total{{cipher=\"{cipher}\",kind=\"full\",listener=\"test\",version=\"{name}\"}}"
        );
        assert_eq!(proxy.count(&series), 1, "{series}");
    }
}

#[tokio::test]
async fn one_file_can_hold_the_chain_and_the_key_whichever_comes_first() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let intermediate = authority.intermediate("below");
    let (chain, key) = intermediate.issue_pem(&Wish::default());
    let file = authority.dir().join("both.pem");
    for text in [format!("{chain}{key}"), format!("{key}{chain}")] {
        crate::support::certs::replace(&file, &text);
        let files = CertificateFiles { cert: file.clone(), key: file.clone() };
        let proxy = Proxy::start(backend.config(), &Pair { files });
        Device::new(&authority).echo(proxy.address).await.unwrap();
    }
}

#[tokio::test]
async fn a_listener_for_tls_1_3_alone_refuses_1_2_with_protocol_version() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    listener.tls.min_version = TlsVersion::Tls13;
    let proxy = Proxy::with(listener);
    let alert = Device::speaking(&authority, &TLS12).refused_with(proxy.address).await;
    assert_eq!(alert, AlertDescription::ProtocolVersion);
    proxy.ends_with(Reason::ClientTlsIncompatible).await;
    Device::speaking(&authority, &TLS13).echo(proxy.address).await.unwrap();
}

#[tokio::test]
async fn aes_128_goes_first_unless_the_device_has_no_hardware_for_aes() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let [aes_256, aes_128, chacha20] = [
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    for (offered, agreed) in [
        (vec![aes_256, aes_128, chacha20], aes_128),
        (vec![chacha20, aes_128, aes_256], chacha20),
        (vec![aes_256, chacha20], aes_256),
    ] {
        let provider = CryptoProvider { cipher_suites: offered, ..aws_lc_rs::default_provider() };
        let device = Device::with(authority.roots(), &[&TLS13], provider, None);
        let session = device.echo(proxy.address).await.unwrap();
        assert_eq!(session.get_ref().1.negotiated_cipher_suite().unwrap(), agreed);
    }
}

#[tokio::test]
async fn each_device_gets_the_kind_of_key_that_it_can_verify() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let rsa = authority.issue("rsa", &Wish { rsa: true, ..Wish::default() });
    let ecdsa = authority.issue("ecdsa", &Wish::default());
    // RSA is the default here. A device that supports ECDSA still gets ECDSA, which is cheaper.
    let mut listener = listener(backend.config(), &rsa);
    listener.tls.certificates.push(ecdsa.files.clone());
    let proxy = Proxy::with(listener);
    let old = Device::with(authority.roots(), &[&TLS12], rsa_only(), None);
    assert!(shows(&old.echo(proxy.address).await.unwrap(), &rsa));
    assert!(shows(&Device::new(&authority).echo(proxy.address).await.unwrap(), &ecdsa));
    let keys = ["rsa", "ecdsa"].map(|key| {
        let labels = format!("key={key:?},listener=\"test\"");
        proxy.count(&format!("tlsidecar_handshake_certificates_total{{{labels}}}"))
    });
    assert_eq!(
        keys,
        [1, 1],
        "each is counted, though both devices verify both kinds of signatures"
    );
}

#[tokio::test]
async fn in_tls_1_2_the_groups_of_a_device_decide_as_well() {
    // RFC 8422 section 5.1: the curve of an ECDSA key must be among the groups. In TLS 1.3 the groups are only
    // for the key exchange.
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let rsa = authority.issue("rsa", &Wish { rsa: true, ..Wish::default() });
    let ecdsa = authority.issue("ecdsa", &Wish::default());
    let mut listener = listener(backend.config(), &rsa);
    listener.tls.certificates.push(ecdsa.files.clone());
    let proxy = Proxy::with(listener);
    for (group, version, pair) in [
        (aws_lc_rs::kx_group::X25519, &TLS12, &rsa),
        (aws_lc_rs::kx_group::SECP384R1, &TLS12, &rsa),
        (aws_lc_rs::kx_group::SECP256R1, &TLS12, &ecdsa),
        (aws_lc_rs::kx_group::X25519, &TLS13, &ecdsa),
    ] {
        let kx_groups = vec![group];
        let provider = CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() };
        let device = Device::with(authority.roots(), &[version], provider, None);
        let session = device.echo(proxy.address).await.unwrap();
        assert!(shows(&session, pair), "{:?} {version:?}", group.name());
    }
}

#[tokio::test]
async fn a_device_that_can_use_no_certificate_is_refused_with_handshake_failure() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let old = Device::with(authority.roots(), &[&TLS12], rsa_only(), None);
    assert_eq!(old.refused_with(proxy.address).await, AlertDescription::HandshakeFailure);
    proxy.ends_with(Reason::ClientTlsIncompatible).await;
}

#[tokio::test]
async fn the_name_decides_exactly_then_by_wildcard_then_by_default() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let issue =
        |file: &str, names: &[&str]| authority.issue(file, &Wish { names, ..Wish::default() });
    let default = issue("default", &["localhost", "127.0.0.1", "unknown.example"]);
    let exact = issue("exact", &["a.plant.example"]);
    let wildcard = issue("wildcard", &["*.plant.example"]);
    let mut listener = listener(backend.config(), &default);
    listener.tls.certificates.extend([wildcard.files.clone(), exact.files.clone()]);
    let proxy = Proxy::with(listener);
    for (name, expected) in [
        ("a.plant.example", &exact),
        ("A.Plant.Example", &exact),
        ("b.plant.example", &wildcard),
        ("localhost", &default),
        ("unknown.example", &default),
        // With an IP address, no SNI is sent.
        ("127.0.0.1", &default),
    ] {
        let device = Device::new(&authority).asking_for(name);
        assert!(shows(&device.echo(proxy.address).await.unwrap(), expected), "{name}");
    }
}

#[tokio::test]
async fn intermediates_are_sent_along() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let pair = authority.intermediate("below").issue("server", &Wish::default());
    let proxy = Proxy::start(backend.config(), &pair);
    let session = Device::new(&authority).echo(proxy.address).await.unwrap();
    assert_eq!(session.get_ref().1.peer_certificates().unwrap().len(), 2);
}

#[tokio::test]
async fn alpn_agrees_on_the_listeners_first_and_refuses_strangers() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    listener.tls.alpn = vec![b"mqtt".to_vec(), b"modbus".to_vec()];
    let proxy = Proxy::with(listener);
    let device = Device::new(&authority);
    let agreed = |session: &Session| session.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let both = device.clone().offering(&["modbus", "mqtt"]).echo(proxy.address).await.unwrap();
    assert_eq!(agreed(&both).unwrap(), b"mqtt");
    let none = device.clone().echo(proxy.address).await.unwrap();
    assert_eq!(agreed(&none), None);
    drop((both, none));
    proxy.end_with(Reason::ClientTruncated, 2).await;
    let stranger = device.offering(&["h2"]);
    let alert = stranger.refused_with(proxy.address).await;
    assert_eq!(alert, AlertDescription::NoApplicationProtocol);
    let incompatible = || proxy.closed(Reason::ClientTlsIncompatible) > 0;
    crate::support::eventually("it is counted", incompatible).await;
}

#[tokio::test]
async fn a_device_that_comes_back_resumes_in_either_version() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    for (version, protocol) in
        [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)]
    {
        let device = Device::speaking(&authority, version).resuming();
        let first = device.echo(proxy.address).await.unwrap();
        assert_eq!(kind(&first), HandshakeKind::Full);
        let second = device.echo(proxy.address).await.unwrap();
        assert_eq!(kind(&second), HandshakeKind::Resumed);
        assert_eq!(second.get_ref().1.protocol_version(), Some(protocol));
    }
    let resumed = "tlsidecar_handshake_duration_seconds_count{kind=\"resumed\",listener=\"test\"}";
    assert_eq!(proxy.count(resumed), 2);
}

#[tokio::test]
async fn with_tickets_switched_off_nobody_resumes() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    listener.tls.tickets = 0;
    let proxy = Proxy::with(listener);
    for version in [&TLS12, &TLS13] {
        let device = Device::speaking(&authority, version).resuming();
        for _ in 0..2 {
            let session = device.echo(proxy.address).await.unwrap();
            assert_eq!(kind(&session), HandshakeKind::Full);
        }
    }
}
