//! Tests of rehearsed handshakes, against those of real clients.
//!
//! **Not here.** The same over sockets: tests/live.rs.

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

use super::*;
use crate::config::{KeyGroup, ListenerConfig, TlsVersion, UnknownName};
use crate::terms::labels::Cipher;
use crate::trust::testing;

/// Suites, groups and schemes of an ordinary client.
const SUITES: [u16; 3] = [0x1301, 0xc02b, 0xc02f];
const GROUPS: [u16; 2] = [0x001d, 0x0017];
const SCHEMES: [u16; 2] = [0x0403, 0x0804];

fn class(versions: &[u16], suites: &[u16], groups: &[u16], schemes: &[u16]) -> OfferClass {
    let mut class = OfferClass::default();
    class.add(OfferList::Versions, versions.iter().copied());
    class.add(OfferList::Suites, suites.iter().copied());
    class.add(OfferList::Groups, groups.iter().copied());
    class.add(OfferList::Schemes, schemes.iter().copied());
    class
}

async fn refusal(
    set: impl FnOnce(&mut ListenerConfig),
    class: OfferClass,
    server_name: Option<&str>,
    alpn: Option<&str>,
) -> Option<Reason> {
    let snapshot = testing::snapshot_with(set);
    let client = ImaginedClient { class, server_name, alpn };
    rehearse(&snapshot, client).await.err().map(|refused| refused.reason)
}

#[tokio::test]
async fn a_client_that_shares_all_parameters_is_answered_in_each_version() {
    for versions in [&[0x0304, 0x0303][..], &[0x0304], &[0x0303]] {
        let class = class(versions, &SUITES, &GROUPS, &SCHEMES);
        assert_eq!(refusal(|_| {}, class, Some("localhost"), None).await, None, "{versions:?}");
    }
}

#[tokio::test]
async fn a_client_without_a_common_parameter_is_refused() {
    let both = [0x0304, 0x0303];
    let incompatible = Some(Reason::ClientTlsIncompatible);
    let tls12 = || class(&[0x0303], &SUITES, &GROUPS, &SCHEMES);
    let tls13 = || class(&[0x0304], &SUITES, &GROUPS, &SCHEMES);
    for (class, what) in [
        (class(&[0x0302], &SUITES, &GROUPS, &SCHEMES), "a version"),
        (class(&both, &[], &GROUPS, &SCHEMES), "a suite"),
        (class(&both, &SUITES, &[], &SCHEMES), "a group"),
        (class(&both, &SUITES, &GROUPS, &[0x0804]), "a scheme for the key of the certificate"),
        (class(&[0x0303], &[0xc02f], &GROUPS, &SCHEMES), "a suite for the certificate"),
    ] {
        assert_eq!(refusal(|_| {}, class, None, None).await, incompatible, "{what}");
    }
    let only_p384 = |listener: &mut ListenerConfig| listener.tls.groups = vec![KeyGroup::Secp384r1];
    assert_eq!(refusal(only_p384, tls13(), None, None).await, incompatible);
    let only_13 = |listener: &mut ListenerConfig| listener.tls.suites = vec![Cipher::Tls13Aes128];
    assert_eq!(refusal(only_13, tls12(), None, None).await, incompatible);
    assert_eq!(refusal(only_13, tls13(), None, None).await, None);
}

#[tokio::test]
async fn a_protocol_or_a_name_that_the_listener_has_not_is_refused() {
    let class = || class(&[0x0304], &SUITES, &GROUPS, &SCHEMES);
    let mqtt = |listener: &mut ListenerConfig| listener.tls.alpn = vec![b"mqtt".to_vec()];
    assert_eq!(refusal(mqtt, class(), None, Some("mqtt")).await, None);
    let other = refusal(mqtt, class(), None, Some("other")).await;
    assert_eq!(other, Some(Reason::ClientTlsIncompatible));
    let known = |listener: &mut ListenerConfig| listener.unknown_name = UnknownName::Refuse;
    assert_eq!(refusal(known, class(), Some("localhost"), None).await, None);
    let other = refusal(known, class(), Some("elsewhere.example"), None).await;
    assert_eq!(other, Some(Reason::ClientNameUnknown));
}

/// A sequence of numbers that looks random.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    /// Returns a part of a list, in its order.
    fn some<T: Clone>(&mut self, all: &[T]) -> Vec<T> {
        all.iter().filter(|_| !self.one_in(3)).cloned().collect()
    }
}

/// Makes a random client that accepts any certificate with a key that it can verify. None: it cannot offer anything.
fn random_client(root: &CertificateDer<'static>, numbers: &mut Numbers) -> Option<TlsConnector> {
    let mut provider = default_provider();
    provider.cipher_suites = numbers.some(&provider.cipher_suites);
    provider.kx_groups = numbers.some(&provider.kx_groups);
    let verified = &mut provider.signature_verification_algorithms;
    verified.mapping = Vec::leak(numbers.some(verified.mapping));
    if provider.kx_groups.is_empty() || verified.mapping.is_empty() {
        return None;
    }
    let versions = numbers.some(&[&version::TLS13, &version::TLS12]);
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&versions)
        .ok()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Some(TlsConnector::from(Arc::new(config)))
}

/// Changes what a listener accepts.
fn restrict(listener: &mut ListenerConfig, numbers: &mut Numbers) {
    let usual = &Cipher::ALL[..9];
    let tls = &mut listener.tls;
    if numbers.one_in(2) {
        tls.suites = numbers.some(usual);
    }
    if numbers.one_in(2) {
        tls.groups = numbers.some(&[
            KeyGroup::X25519MlKem768,
            KeyGroup::X25519,
            KeyGroup::Secp256r1,
            KeyGroup::Secp384r1,
            KeyGroup::Secp521r1,
        ]);
    }
    if numbers.one_in(3) {
        tls.min_version = TlsVersion::Tls13;
    }
}

/// Connects a client. Returns the class of its offer, or the reason for which it is refused.
async fn real(snapshot: &Snapshot, client: &TlsConnector) -> Result<OfferClass, Reason> {
    let (device, server) = io::duplex(64 * 1024);
    let accepting = async {
        let (listener, memory) = (&snapshot.listener, Share::default());
        let started =
            handshake::read_client_hello(server, listener, memory, Kernel::NONE, None).await;
        let accepted =
            started.map_err(|failed| failed.reason())?.accept(snapshot, &0_u8, None).await;
        let client = accepted.0.map_err(|failed| failed.reason())?;
        Ok(client.negotiated.unwrap().offer)
    };
    let name = ServerName::try_from("localhost").unwrap();
    let (accepted, _connected) = tokio::join!(accepting, client.connect(name, device));
    accepted
}

#[tokio::test]
async fn a_rehearsal_refuses_exactly_the_random_clients_that_a_handshake_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let mut listener = testing::listener(dir.path());
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let [ecdsa_pem, rsa_pem] =
        [std::fs::read_to_string(dir.path().join("key")).unwrap(), rsa.serialize_pem()];
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..300 {
        let numbers = &mut Numbers(seed);
        let key = if numbers.one_in(2) { &ecdsa_pem } else { &rsa_pem };
        let pair = KeyPair::from_pem(key).unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&pair).unwrap();
        std::fs::write(dir.path().join("key"), key).unwrap();
        std::fs::write(dir.path().join("crt"), certificate.pem()).unwrap();
        (listener.tls.suites, listener.tls.groups) = (Vec::new(), Vec::new());
        listener.tls.min_version = TlsVersion::Tls12;
        let (open, _) = Snapshot::load(&listener, SystemTime::now()).unwrap();
        restrict(&mut listener, numbers);
        // A configuration that no client could use is an error.
        let loaded = Snapshot::load(&listener, SystemTime::now());
        let client = random_client(certificate.der(), numbers);
        let (Ok((candidate, _)), Some(client)) = (loaded, client) else { continue };
        let Ok(class) = real(&open, &client).await else { continue };
        let imagined = ImaginedClient { class, server_name: Some("localhost"), alpn: None };
        let rehearsed = rehearse(&candidate, imagined).await.map_err(|refused| refused.reason);
        let really = real(&candidate, &client).await.map(|_| ());
        assert_eq!(rehearsed, really, "seed {seed}");
        if really.is_ok() { accepted += 1 } else { refused += 1 }
    }
    assert!(accepted > 30 && refused > 30, "{accepted} accepted, {refused} refused");
}
