//! The suites and groups of the configuration: their order, their effect on versions, and reloads.

use tlsidecar::config::file::{ConfigSource, Overrides};
use tlsidecar::config::{ClientAuth, ClientTrust, KeyGroup};
use tlsidecar::terms::labels::{Cipher, ReloadOutcome};
use tlsidecar::terms::reason::Reason;
use tokio_rustls::rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use tokio_rustls::rustls::crypto::{CryptoProvider, SupportedKxGroup};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    AlertDescription, CipherSuite, HandshakeKind, NamedGroup, SupportedCipherSuite,
    SupportedProtocolVersion,
};

use crate::support::certs::{Wish, replace};
use crate::support::client::Session;
use crate::support::process::binary;
use crate::support::proxy::with_tls;
use crate::support::raw::{answer_to, extended_hello, vector16};
use crate::support::{Authority, Backend, Device, Proxy, eventually, file};

fn with_suites(suites: &[SupportedCipherSuite]) -> CryptoProvider {
    CryptoProvider { cipher_suites: suites.to_vec(), ..aws_lc_rs::default_provider() }
}

fn with_groups(groups: &[&'static dyn SupportedKxGroup]) -> CryptoProvider {
    CryptoProvider { kx_groups: groups.to_vec(), ..aws_lc_rs::default_provider() }
}

fn device(
    authority: &Authority,
    version: &'static SupportedProtocolVersion,
    provider: CryptoProvider,
) -> Device {
    Device::with(authority.roots(), &[version], provider, None)
}

fn suite(session: &Session) -> CipherSuite {
    session.get_ref().1.negotiated_cipher_suite().unwrap().suite()
}

fn group(session: &Session) -> NamedGroup {
    session.get_ref().1.negotiated_key_exchange_group().unwrap().name()
}

fn kind(session: &Session) -> HandshakeKind {
    session.get_ref().1.handshake_kind().unwrap()
}

#[tokio::test]
async fn the_order_of_the_suites_decides_whatever_the_device_prefers() {
    let suites =
        [Cipher::Tls13Chacha20, Cipher::Tls13Aes256, Cipher::EcdsaAes256, Cipher::EcdsaChacha20];
    let (authority, _backend, proxy) = with_tls(|tls, _| tls.suites = suites.to_vec()).await;
    let [chacha_first, aes_first] = [true, false].map(|is_chacha| {
        let mut all = aws_lc_rs::default_provider().cipher_suites;
        let is_late = |suite: &SupportedCipherSuite| {
            format!("{:?}", suite.suite()).contains("CHACHA20") != is_chacha
        };
        all.sort_by_key(is_late);
        with_suites(&all)
    });
    for provider in [chacha_first, aes_first] {
        let session = device(&authority, &TLS13, provider.clone()).echo(proxy.address).await;
        assert_eq!(suite(&session.unwrap()), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
        let session = device(&authority, &TLS12, provider).echo(proxy.address).await.unwrap();
        assert_eq!(suite(&session), CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384);
    }
}

#[tokio::test]
async fn a_suite_that_is_not_in_the_list_is_refused_as_a_suite() {
    let suites = [Cipher::Tls13Aes256, Cipher::EcdsaAes256];
    let (authority, _backend, proxy) = with_tls(|tls, _| tls.suites = suites.to_vec()).await;
    for (version, only) in [
        (&TLS13, cipher_suite::TLS13_AES_128_GCM_SHA256),
        (&TLS12, cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ] {
        let device = device(&authority, version, with_suites(&[only]));
        let alert = device.refused_with(proxy.address).await;
        assert_eq!(alert, AlertDescription::HandshakeFailure);
    }
    proxy.end_with(Reason::ClientTlsIncompatible, 2).await;
    assert_eq!(proxy.of_label("handshake_incompatible_total", "what", "cipher_suite"), 2);
    assert_eq!(proxy.of_label("refused_suites_total", "best", "ecdhe_gcm"), 2);
}

#[tokio::test]
async fn suites_of_tls_1_2_alone_leave_only_that_version() {
    let (authority, _backend, proxy) =
        with_tls(|tls, _| tls.suites = vec![Cipher::EcdsaAes128]).await;
    let session = Device::new(&authority).echo(proxy.address).await.unwrap();
    assert_eq!(suite(&session), CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
    let alert = Device::speaking(&authority, &TLS13).refused_with(proxy.address).await;
    assert_eq!(alert, AlertDescription::ProtocolVersion);
    // A fallback to our best version is none: RFC 7507 section 3.
    let (groups, schemes) = (vector16(&[0, 29]), vector16(&[4, 3]));
    let fallback = [[0xc0, 0x2b], [0x56, 0]];
    let hello = extended_hello([3, 3], &fallback, &[(10, &groups[..]), (13, &schemes)]);
    let closed = [&hello[..], &[21, 3, 3, 0, 2, 2, 90]].concat();
    assert_eq!(answer_to(proxy.address, &closed).await.first(), Some(&22), "a ServerHello");
}

#[tokio::test]
async fn suites_of_tls_1_3_alone_leave_only_that_version() {
    let (authority, _backend, proxy) =
        with_tls(|tls, _| tls.suites = vec![Cipher::Tls13Aes128]).await;
    Device::new(&authority).echo(proxy.address).await.unwrap();
    let alert = Device::speaking(&authority, &TLS12).refused_with(proxy.address).await;
    assert_eq!(alert, AlertDescription::ProtocolVersion);
}

#[tokio::test]
async fn the_order_of_the_groups_decides_and_both_sides_sign_the_devices_order() {
    let (authority, _backend, proxy) = with_tls(|tls, authority| {
        tls.groups = vec![KeyGroup::X25519MlKem768, KeyGroup::Secp384r1, KeyGroup::X25519];
        tls.client_auth = ClientAuth::Required(ClientTrust::new(authority.ca()));
    })
    .await;
    let purpose = rcgen::ExtendedKeyUsagePurpose::ClientAuth;
    let pair = authority.issue("device", &Wish { purpose, ..Wish::default() });
    let listed = [kx_group::SECP256R1, kx_group::X25519, kx_group::SECP384R1];
    for (version, kinds) in [
        (&TLS12, HandshakeKind::Full),
        // Its share is of P-256, which is not accepted.
        (&TLS13, HandshakeKind::FullWithHelloRetryRequest),
    ] {
        let provider = with_groups(&listed);
        let device = Device::with(authority.roots(), &[version], provider, Some(&pair));
        let session = device.echo(proxy.address).await.unwrap();
        assert_eq!((group(&session), kind(&session)), (NamedGroup::secp384r1, kinds));
    }
}

#[tokio::test]
async fn a_group_that_is_not_in_the_list_is_refused_as_a_group() {
    let (authority, _backend, proxy) =
        with_tls(|tls, _| tls.groups = vec![KeyGroup::Secp384r1]).await;
    for version in [&TLS12, &TLS13] {
        let device = device(&authority, version, with_groups(&[kx_group::X25519]));
        let alert = device.refused_with(proxy.address).await;
        assert_eq!(alert, AlertDescription::HandshakeFailure);
    }
    proxy.end_with(Reason::ClientTlsIncompatible, 2).await;
    assert_eq!(proxy.of_label("handshake_incompatible_total", "what", "group"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_the_suites_of_a_listener_and_of_a_route() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let write = |listener: &str, route: &str| {
        let route = format!(
            "[[listener.route]]\nalpn = [\"mqtt\"]\nbackend = \"{}\"\n{route}\n",
            backend.address
        );
        let more = format!("tls.alpn = [\"mqtt\", \"x\"]\ntls.tickets = 1\n{listener}\n{route}");
        let text = file::text(backend.address, &authority.server(), &more);
        file::write(authority.dir(), &text)
    };
    let path = write("", "tls.suites = [\"TLS_AES_256_GCM_SHA384\"]");
    let source = ConfigSource { path, overrides: Default::default() };
    let proxy = Proxy::on(source.load().unwrap(), Some(source));
    let own = Device::new(&authority).offering(&["x"]).resuming();
    let routed = Device::new(&authority).offering(&["mqtt"]).resuming();
    let seen = async |device: &Device| {
        let session = device.echo(proxy.address).await.unwrap();
        (suite(&session), kind(&session))
    };
    let (aes_128, aes_256) =
        (CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS13_AES_256_GCM_SHA384);
    assert_eq!(seen(&own).await, (aes_128, HandshakeKind::Full));
    assert_eq!(seen(&own).await, (aes_128, HandshakeKind::Resumed));
    assert_eq!(seen(&routed).await, (aes_256, HandshakeKind::Full));
    let before = proxy.reloads(ReloadOutcome::Swapped);
    let openssl_names =
        "tls.suites = [\"TLS_AES_256_GCM_SHA384\", \"ECDHE-ECDSA-AES256-GCM-SHA384\"]";
    write(openssl_names, "tls.suites = [\"TLS_AES_128_GCM_SHA256\"]");
    eventually("it is reloaded", || proxy.reloads(ReloadOutcome::Swapped) > before).await;
    // A ticket is for one suite.
    assert_eq!(seen(&own).await, (aes_256, HandshakeKind::Full));
    assert_eq!(seen(&own).await, (aes_256, HandshakeKind::Resumed));
    assert_eq!(seen(&routed).await, (aes_128, HandshakeKind::Full));
}

#[test]
fn check_warns_if_tls_1_3_has_legacy_suites_alone() {
    let authority = Authority::new("ca");
    let legacy = "tls.legacy_suites = [\"TLS_AES_128_CCM_8_SHA256\"]\n";
    let usual = "\"ECDHE-ECDSA-AES128-GCM-SHA256\"";
    for (suites, warned) in [
        (format!("tls.suites = [{usual}]\n"), true),
        (format!("tls.suites = [{usual}, \"TLS_AES_128_GCM_SHA256\"]\n"), false),
        (String::new(), false),
    ] {
        let more = format!("{suites}{legacy}");
        let text = file::text("127.0.0.1:1".parse().unwrap(), &authority.server(), &more);
        let path = file::write(authority.dir(), &text);
        let output = binary().arg("check").arg(path).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert_eq!(text.contains("tls.legacy_suites"), warned, "{more}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn suites_that_the_earlier_certificate_of_a_rollout_cannot_use_are_refused() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let rsa = authority.issue("server", &Wish { rsa: true, ..Wish::default() });
    let rollout = "tls.rollout = { share = \"10%\", observe = \"1h\" }\n";
    let write = |more: &str| {
        let text = file::text(backend.address, &rsa, &format!("{rollout}{more}"));
        file::write(authority.dir(), &text)
    };
    let path = write("");
    let config = tlsidecar::config::file::load(&path).unwrap();
    let proxy = Proxy::on(config, Some(ConfigSource { path, overrides: Overrides::default() }));
    let (chain, key) = authority.issue_pem(&Wish { serial: 99, ..Wish::default() });
    replace(&rsa.files.key, &key);
    replace(&rsa.files.cert, &chain);
    write("tls.suites = [\"ECDHE-ECDSA-AES128-GCM-SHA256\"]\n");
    let report = proxy.app.reload.reload().await.unwrap();
    assert!(report.failures.iter().any(|line| line.contains("no cipher suite")), "{report:?}");
    // The old state stays, or the certificate alone is renewed.
    let session = Device::new(&authority).echo(proxy.address).await.unwrap();
    assert!(session.get_ref().1.negotiated_cipher_suite().is_some());
}

#[test]
fn check_tells_of_a_certificate_that_no_suite_fits() {
    let authority = Authority::new("ca");
    let rsa = authority.issue("rsa", &Wish { rsa: true, ..Wish::default() });
    let ecdsa = "\"ECDHE-ECDSA-AES128-GCM-SHA256\"";
    for (suites, code, words) in [
        (ecdsa.to_owned(), 78, "no device could connect"),
        (format!("{ecdsa}, \"TLS_AES_128_GCM_SHA256\""), 0, "warning: "),
        ("\"ECDHE-RSA-AES128-GCM-SHA256\"".to_owned(), 0, "good, 1 listener"),
    ] {
        let more = format!("tls.suites = [{suites}]\n");
        let text = file::text("127.0.0.1:1".parse().unwrap(), &rsa, &more);
        let path = file::write(authority.dir(), &text);
        let output = binary().args(["check", "--config"]).arg(path).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{suites}: {text}");
        assert!(text.contains(words), "{suites}: {text}");
        assert_eq!(text.contains("rsa.crt: no cipher suite"), words != "good, 1 listener");
    }
}

#[test]
fn suites_for_which_no_certificate_has_a_key_are_a_warning_of_a_check() {
    let authority = Authority::new("ca");
    let rsa = authority.issue("rsa", &Wish { rsa: true, ..Wish::default() });
    for (pair, warns) in [(rsa, true), (authority.server(), false)] {
        let more = "tls.legacy_suites = [\"ECDHE-ECDSA-AES128-CCM8\"]\n";
        let text = file::text("127.0.0.1:1".parse().unwrap(), &pair, more);
        let path = file::write(authority.dir(), &text);
        let output = binary().arg("check").arg(path).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{errors}");
        let line = errors.lines().find(|line| line.contains("legacy_suites"));
        assert_eq!(line.is_some_and(|line| line.starts_with("warning: ")), warns, "{errors}");
    }
}
