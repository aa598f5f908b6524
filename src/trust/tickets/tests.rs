//! Sessions of real handshakes between rustls's own connections.
//!
//! **Not here.** The same over a socket: tests/resumption.rs.

use std::fs;
use std::future::poll_fn;
use std::pin::pin;
use std::time::SystemTime;

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::client::{Resumption as ClientResumption, Tls12Resumption};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::TLS12;
use tokio_rustls::rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::state::tests::CREATED;
use super::*;
use crate::config::{ClientAuth, ClientTrust};
use crate::trust::authentication::Authentication;
use crate::trust::snapshot::Snapshot;
use crate::trust::testing;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Runs a handshake within the scope of its own.
async fn scoped<T>(handshake: impl Future<Output = T>) -> T {
    let (mut scope, mut handshake) = (HandshakeScope::default(), pin!(handshake));
    poll_fn(|cx| scope.enter(|| handshake.as_mut().poll(cx))).await
}

/// Makes two handshakes of a device that sends its own certificate, an intermediate's, and `junk`. Returns the
/// bytes that are remembered beyond the device's own certificate, and the kind of the second handshake.
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
    let own = chain[0].len();
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
    let connector = TlsConnector::from(Arc::new(config));
    let mut kind = None;
    for _ in 0..2 {
        let (client, server) = tokio::io::duplex(1 << 20);
        let name = ServerName::try_from("localhost").unwrap();
        let accepted = scoped(acceptor.accept(server));
        let (client, server) = tokio::join!(connector.connect(name, client), accepted);
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        kind = server.get_ref().1.handshake_kind();
    }
    let sessions = snapshot.policy().resumption.sessions.as_ref().unwrap();
    (sessions.remembered.bytes() - own, kind)
}

#[tokio::test]
async fn a_remembered_session_has_the_devices_own_certificate_alone() {
    for junk in [0, 7] {
        let junk = (0..junk).map(|_| CertificateDer::from(vec![0x30; 8000])).collect();
        let (bytes, kind) = remembered(junk).await;
        assert_eq!(kind, Some(HandshakeKind::Resumed));
        assert!(bytes < 200, "{bytes} bytes");
    }
}

/// Returns the resumption of a policy with keys of this process.
fn sessions(previous: Option<&Resumption>, policy: &str, max_age: u64) -> Resumption {
    let policy = ResumptionPolicy {
        digest: Digest::of([policy.as_bytes()]),
        tickets: 1,
        max_age: Duration::from_secs(max_age),
        keys: None,
        issuers: &Arc::default(),
    };
    Resumption::new(&policy, previous).unwrap()
}

/// Seals a ticket of a client without a certificate.
fn sealed(sessions: &Resumption, now: u64) -> Vec<u8> {
    let state = state::tests::state(None, &[], None);
    sessions.sessions.as_ref().unwrap().seal(&state, now).unwrap()
}

fn opens(sessions: &Resumption, ticket: &[u8], now: u64) -> bool {
    sessions.sessions.as_ref().unwrap().open(ticket, now).is_ok()
}

#[test]
fn a_ticket_is_opened_until_the_session_is_too_old() {
    let (start, all) = (now(), sessions(None, "a", 100));
    let ticket = sealed(&all, start);
    assert!(opens(&all, &ticket, start + 99));
    assert!(!opens(&all, &ticket, start + 100));
}

/// Opens a ticket of TLS 1.2, and returns whether the client gets a new one.
fn is_renewed(sessions: &Resumption, ticket: &[u8], now: u64) -> bool {
    let mut scope = HandshakeScope::default();
    scope.version = Some(ProtocolVersion::TLSv1_2);
    let announced = scope.enter(|| {
        assert!(opens(sessions, ticket, now));
        sessions.sessions.as_ref().unwrap().enabled()
    });
    assert_eq!(announced, !scope.keeps_ticket);
    announced
}

/// Returns sessions with keys of this process, of which the first was made when a state is written.
fn sessions_from_the_start(max_age: u64) -> Resumption {
    let mut all = sessions(None, "a", max_age);
    let keys = Arc::new(KeyRing::own(all.policy, CREATED).unwrap());
    let of_now = all.sessions.take().unwrap();
    all.sessions = Some(Arc::new(SavedSessions {
        keys,
        remembered: Arc::clone(&of_now.remembered),
        issuers: Arc::clone(&of_now.issuers),
        max_age,
    }));
    all
}

#[test]
fn a_ticket_of_tls_12_is_renewed_once_half_of_its_life_has_passed() {
    const HOUR: u64 = 3600;
    let all = sessions_from_the_start(7 * 24 * HOUR);
    let ticket = sealed(&all, CREATED);
    // Its key is dropped after 12 hours.
    for (hours, renewed) in [(0, false), (5, false), (6, true), (11, true)] {
        assert_eq!(is_renewed(&all, &ticket, CREATED + hours * HOUR), renewed, "{hours} hours");
    }
}

#[test]
fn a_ticket_of_tls_12_is_not_renewed_if_the_session_ends_with_it() {
    const HOUR: u64 = 3600;
    let all = sessions_from_the_start(11 * HOUR);
    let ticket = sealed(&all, CREATED);
    for hours in [0, 6, 10] {
        assert!(!is_renewed(&all, &ticket, CREATED + hours * HOUR), "{hours} hours");
    }
}

#[test]
fn a_ticket_of_tls_13_is_renewed_each_time() {
    let all = sessions_from_the_start(100);
    let ticket = sealed(&all, CREATED);
    let mut scope = HandshakeScope::default();
    scope.version = Some(ProtocolVersion::TLSv1_3);
    assert!(scope.enter(|| opens(&all, &ticket, CREATED + 1)
        && all.sessions.as_ref().unwrap().enabled()));
}

#[test]
fn a_resumption_does_not_extend_the_age_of_the_session() {
    let (start, all) = (now(), sessions(None, "a", 100));
    let mut ticket = sealed(&all, start);
    for later in [40, 80] {
        let mut scope = HandshakeScope::default();
        ticket = scope.enter(|| {
            assert!(opens(&all, &ticket, start + later));
            sealed(&all, start + later)
        });
        assert_eq!(scope.ticket_lifetime, u32::try_from(100 - later).ok());
    }
    assert!(opens(&all, &ticket, start + 99));
    assert!(!opens(&all, &ticket, start + 100));
}

#[test]
fn a_shorter_age_applies_to_tickets_that_exist() {
    let (start, before) = (now(), sessions(None, "a", 100));
    let ticket = sealed(&before, start);
    let after = sessions(Some(&before), "a", 10);
    assert!(opens(&after, &ticket, start + 9));
    assert!(!opens(&after, &ticket, start + 10));
}

#[test]
fn own_keys_stay_with_the_policy_and_not_longer() {
    let (start, before) = (now(), sessions(None, "a", 100));
    let ticket = sealed(&before, start);
    assert!(opens(&sessions(Some(&before), "a", 100), &ticket, start));
    assert!(!opens(&sessions(Some(&before), "b", 100), &ticket, start));
}

#[test]
fn a_ticket_states_no_longer_lifetime_than_its_key_has() {
    let (start, all) = (now(), sessions(None, "a", 7 * 24 * 3600));
    let mut scope = HandshakeScope::default();
    scope.enter(|| sealed(&all, start));
    let lifetime = scope.ticket_lifetime.unwrap();
    assert!(lifetime.abs_diff(12 * 3600) <= 1, "{lifetime} s");
}

/// Issues a chain of RSA certificates, a device's and two intermediates', as tools for devices do.
fn rsa_chain() -> Vec<CertificateDer<'static>> {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let named = |name: &str, is_ca| {
        let mut params = params(name);
        params.distinguished_name.push(DnType::OrganizationName, "Plant Operations");
        params.use_authority_key_identifier_extension = true;
        if is_ca {
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        } else {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
        params
    };
    let cas = ["Plant Root CA", "Plant Policy CA", "Plant Device CA"].map(|name| named(name, true));
    let issued = |params: &CertificateParams, issuer| {
        let issuer = Issuer::from_params(issuer, &key);
        params.signed_by(&key, &issuer).unwrap().der().clone()
    };
    vec![
        issued(&named("pump-7.devices.example", false), &cas[2]),
        issued(&cas[2], &cas[1]),
        issued(&cas[1], &cas[0]),
    ]
}

/// A ticket of rustls has a name, an IV and an HMAC beside the padded state.
fn bytes_of_rustls(state: &[u8]) -> usize {
    16 + 16 + (state.len() / 16 + 1) * 16 + 32
}

#[test]
fn a_ticket_of_three_rsa_certificates_has_the_bytes_of_one() {
    let chain = rsa_chain();
    let ders: Vec<_> = chain.iter().map(AsRef::as_ref).collect();
    let state = state::tests::state(Some(b"gateway.example"), &ders, None);
    let (known, all) = (Arc::new(KnownIssuers::default()), sessions(None, "a", 100));
    let issuers = known.store(&[&chain[1], &chain[2]]);
    let mut scope = HandshakeScope::default();
    scope.verified = Some(Authentication { at: now(), until: u64::MAX, issuers });
    let ticket = scope.enter(|| all.sessions.unwrap().seal(&state, now()).unwrap());
    let (before, after, own) = (bytes_of_rustls(&state), ticket.len(), chain[0].len());
    assert!(before > 2500 && after < own + 160, "{before} bytes before, {after} of {own} now");
}

#[test]
fn of_many_tickets_only_the_first_are_opened() {
    let all = sessions(None, "a", 100);
    let (ticket, all) = (sealed(&all, now()), all.sessions.unwrap());
    let mut scope = HandshakeScope::default();
    let opened = (0..20).filter(|_| scope.enter(|| all.decrypt(&ticket)).is_some()).count();
    assert_eq!(opened, MAX_TICKETS);
    let mut next = HandshakeScope::default();
    assert!(next.enter(|| all.decrypt(&ticket)).is_some());
}
