//! Tests of `tlsidecar probe`: its report, and its health checks.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, DnType, SanType, date_time_ymd};
use serde_json::{Value, json};
use tlsidecar::config::{
    BackendAddress, CertificateFiles, ClientAuth, ClientTrust, ListenerConfig, TlsVersion,
};
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::{self, sign};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::support::backend::{free, nobody};
use crate::support::certs::Wish;
use crate::support::process::binary;
use crate::support::proxy::listener;
use crate::support::wait::{PATIENCE, within};
use crate::support::{Authority, Backend, Pair, Proxy, eventually};

/// Runs the binary. Returns its exit code, standard output and standard error.
async fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut command = binary();
    command.args(arguments);
    let ran = tokio::task::spawn_blocking(move || command.output());
    let output = within("the binary", ran).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Probes an address with these flags. Returns the exit code and the report.
async fn probe(address: SocketAddr, flags: &[&str]) -> (i32, Value) {
    let target = format!("localhost:{}", address.port());
    let arguments = [&["probe", &target, "--format", "json"], flags].concat();
    let (code, text, errors) = run(&arguments).await;
    let report = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{errors}"));
    (code, report)
}

/// Returns the labels of the problems in a report.
fn problems(report: &Value) -> Vec<&str> {
    let problems = report["problems"].as_array().unwrap().iter();
    problems.map(|problem| problem["problem"].as_str().unwrap()).collect()
}

/// A CA, an echo server, and a proxy in front of it.
struct Scene {
    authority: Authority,
    _backend: Backend,
    proxy: Proxy,
    ca: String,
}

impl Scene {
    async fn new() -> Self {
        Self::with(&Wish::default(), |_, _| {}).await
    }

    async fn with(wish: &Wish<'_>, change: impl FnOnce(&mut ListenerConfig, &Authority)) -> Self {
        let authority = Authority::new("ca");
        let backend = Backend::echo().await;
        let mut listener = listener(backend.config(), &authority.issue("server", wish));
        change(&mut listener, &authority);
        let proxy = Proxy::with(listener);
        let ca = authority.ca().display().to_string();
        Self { authority, _backend: backend, proxy, ca }
    }

    async fn probe(&self, flags: &[&str]) -> (i32, Value) {
        probe(self.proxy.address, flags).await
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Starts a TLS server with this chain and key, which need not match.
async fn server(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'static>) -> Backend {
    let key = sign::any_supported_type(key).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Backend::serving(move |tcp| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut session) = acceptor.accept(tcp).await {
                let _gone = session.read(&mut [0; 1]).await;
                let _gone = session.shutdown().await;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_of_a_good_listener_is_complete_and_the_connections_are_closed_in_order() {
    let scene = Scene::new().await;
    let (code, report) = scene.probe(&["--ca", &scene.ca]).await;
    assert_eq!((code, problems(&report)), (0, vec![]), "{report:#}");
    assert_eq!(report["good"], true);
    let handshake = &report["handshake"];
    assert_eq!(handshake["version"], "1.3");
    assert_eq!(handshake["cipher"], "TLS_AES_128_GCM_SHA256");
    assert_eq!(handshake["group"], "X25519");
    assert!(handshake["handshake_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(handshake["greeting"], Value::Null);
    assert_eq!(report["resumption"]["works"], true);
    assert_eq!(
        report["versions"],
        json!({ "1.2": { "accepted": true }, "1.3": { "accepted": true } })
    );
    assert_eq!(report["client_certificate"], json!({ "asked": false }));
    let chain = &report["chain"];
    assert_eq!((&chain["verified"], &chain["name_matches"]), (&json!(true), &json!(true)));
    assert_eq!(report["goodbye_answered"], true);
    scene.proxy.end_with(Reason::Ok, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_reported_as_openssl_prints_it() {
    let wish = Wish { serial: 0x00ab_cdef, ..Wish::default() };
    let scene = Scene::with(&wish, |_, _| {}).await;
    let (_, report) = scene.probe(&["--once"]).await;
    let file = scene.authority.dir().join("server.crt");
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-fingerprint", "-sha256", "-serial", "-in"]).arg(&file);
    let (good, told) = crate::support::command::run(openssl).await;
    assert!(good, "{told}");
    let certificate = &report["certificates"][0];
    let value = |key: &str| certificate[key].as_str().unwrap().to_owned();
    assert!(told.contains(&format!("Fingerprint={}\n", value("sha256"))), "{told} {certificate}");
    assert!(told.contains(&format!("serial={}\n", value("serial"))), "{told} {certificate}");
    assert_eq!((value("subject"), value("issuer")), ("CN=localhost".into(), "CN=ca".into()));
    assert_eq!(certificate["names"], json!(["localhost", "127.0.0.1"]));
    assert_eq!(value("key"), "ECDSA P-256");
    assert_eq!(value("not_before"), "2020-01-01T00:00:00Z");
    assert_eq!(value("not_after"), "2060-01-01T00:00:00Z");
    assert!((9_000..13_000).contains(&certificate["days_left"].as_i64().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_in_the_documents_has_the_lines_of_a_real_one() {
    // The labels in front of the values.
    let keys = |report: &str| {
        let lines = report.lines().filter(|line| line.starts_with("  "));
        lines.map(|line| line[2..14].trim().to_owned()).collect::<Vec<_>>()
    };
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/probe.md");
    let page = std::fs::read_to_string(page).unwrap();
    let documented = page.split("```").nth(1).unwrap();
    let scene = Scene::new().await;
    let target = format!("localhost:{}", scene.proxy.address.port());
    let (code, text, _) = run(&["probe", &target, "--ca", &scene.ca]).await;
    assert_eq!((code, keys(&text)), (0, keys(documented)));
    assert!(keys(&text).len() > 10 && text.ends_with("\ngood\n"), "{text}");
}

/// Programs rely on the keys.
#[tokio::test(flavor = "multi_thread")]
async fn all_reports_have_the_same_keys() {
    let scene = Scene::new().await;
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let (_, good) = scene.probe(&[]).await;
    let (_, bad) = probe(nobody(), &[]).await;
    assert_eq!(keys(&good), keys(&bad));
    let all = [
        "addresses",
        "alpn_offered",
        "certificates",
        "chain",
        "client_certificate",
        "good",
        "goodbye_answered",
        "handshake",
        "name",
        "notices",
        "problems",
        "resumption",
        "sni",
        "target",
        "versions",
    ];
    assert_eq!(keys(&good), all);
    assert_eq!(keys(&good["addresses"][0]), ["address", "connect_ms", "problem"]);
    assert_eq!(keys(&good["chain"]), ["length", "name_matches", "order", "verified"]);
    let handshake = ["alpn", "cipher", "greeting", "group", "handshake_ms", "version"];
    assert_eq!(keys(&good["handshake"]), handshake);
    assert_eq!(keys(&bad["problems"][0]), ["advice", "alert", "problem", "says"]);
    let certificate = [
        "days_left",
        "issuer",
        "key",
        "names",
        "not_after",
        "not_before",
        "serial",
        "sha256",
        "subject",
    ];
    assert_eq!(keys(&good["certificates"][0]), certificate);
}

#[tokio::test(flavor = "multi_thread")]
async fn once_is_one_connection() {
    let scene = Scene::new().await;
    let (code, report) = scene.probe(&["--once"]).await;
    assert_eq!((code, &report["resumption"]), (0, &Value::Null));
    assert_eq!(report["versions"], json!({}));
    scene.proxy.ends_with(Reason::Ok).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsupported_version_is_reported() {
    let scene = Scene::with(&Wish::default(), |l, _| l.tls.min_version = TlsVersion::Tls13).await;
    let (code, report) = scene.probe(&[]).await;
    assert_eq!((code, &report["versions"]["1.2"]["accepted"]), (0, &json!(false)));
    let (code, report) = scene.probe(&["--tls", "1.2"]).await;
    assert_eq!((code, problems(&report)), (1, vec!["alert"]));
    assert_eq!(report["problems"][0]["alert"], "protocol_version");
    assert_eq!(report["handshake"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_can_be_selected_and_resume() {
    let scene = Scene::new().await;
    for version in ["1.2", "1.3"] {
        let (code, report) = scene.probe(&["--tls", version]).await;
        assert_eq!((code, &report["handshake"]["version"]), (0, &json!(version)));
        assert_eq!(report["resumption"]["works"], true, "{version}");
        assert_eq!(report["versions"].as_object().unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tickets_there_is_no_resumption() {
    let scene = Scene::with(&Wish::default(), |l, _| l.tls.tickets = 0).await;
    for version in ["1.2", "1.3"] {
        let (code, report) = scene.probe(&["--tls", version]).await;
        assert_eq!((code, &report["resumption"]["ticket"]), (0, &json!(false)), "{version}");
    }
}

fn required(listener: &mut ListenerConfig, authority: &Authority) {
    let trust = ClientTrust::new(authority.ca());
    listener.tls.client_auth = ClientAuth::Required(trust);
}

/// In TLS 1.3 the handshake is complete for the client before the server rejects it.
#[tokio::test(flavor = "multi_thread")]
async fn a_required_client_certificate_is_reported_in_both_versions() {
    let scene = Scene::with(&Wish::default(), required).await;
    for (version, alert) in [("1.2", "handshake_failure"), ("1.3", "certificate_required")] {
        let (code, report) = scene.probe(&["--tls", version, "--ca", &scene.ca]).await;
        assert_eq!((code, problems(&report)), (1, vec!["alert"]), "{version} {report:#}");
        assert_eq!(report["problems"][0]["alert"], alert, "{version}");
        // In TLS 1.2 the alert does not name the cause.
        let advice = report["problems"][0]["advice"].as_str().unwrap();
        assert!(advice.contains("--cert"), "{version} {advice}");
        let certificate = &report["client_certificate"];
        assert_eq!((&certificate["asked"], &certificate["shown"]), (&json!(true), &json!(false)));
        assert_eq!(certificate["accepted"], false);
        // The certificate of the server is reported nevertheless.
        assert_eq!(report["chain"]["verified"], true, "{version}");
    }
    scene.proxy.end_with(Reason::ClientCertMissing, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_sent_and_accepted_or_rejected() {
    let scene = Scene::with(&Wish::default(), required).await;
    let stranger = Authority::new("stranger");
    let good = scene.authority.issue("device", &client_wish());
    let bad = stranger.issue("device", &client_wish());
    for version in ["1.2", "1.3"] {
        for (pair, code, accepted) in [(&good, 0, true), (&bad, 1, false)] {
            let (cert, key) = (path(&pair.files.cert), path(&pair.files.key));
            let flags = ["--tls", version, "--cert", cert, "--key", key];
            let (ended, report) = scene.probe(&flags).await;
            assert_eq!(ended, code, "{report:#}");
            let certificate = &report["client_certificate"];
            assert_eq!(
                (&certificate["shown"], &certificate["accepted"]),
                (&json!(true), &json!(accepted))
            );
            if !accepted {
                assert_eq!(report["problems"][0]["alert"], "unknown_ca", "{version}");
            }
        }
    }
}

fn client_wish() -> Wish<'static> {
    let purpose = rcgen::ExtendedKeyUsagePurpose::ClientAuth;
    Wish { names: &["device-1"], purpose, ..Wish::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_of_protocols_from_which_none_is_selected_is_signed_by_both_sides() {
    let scene = Scene::with(&Wish::default(), |_, _| {}).await;
    let protocols: Vec<_> = (0..1000).map(|n| format!("protocol-{n}")).collect();
    let (code, report) = scene.probe(&["--alpn", &protocols.join(",")]).await;
    assert_eq!((code, &report["handshake"]["version"]), (0, &json!("1.3")));
    assert_eq!(report["handshake"]["alpn"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn alpn_is_offered_and_the_selected_protocol_is_reported() {
    let scene = Scene::with(&Wish::default(), |l, _| l.tls.alpn = vec![b"mqtt".to_vec()]).await;
    let (code, report) = scene.probe(&["--alpn", "x,mqtt"]).await;
    assert_eq!((code, &report["handshake"]["alpn"]), (0, &json!("mqtt")));
    assert_eq!(report["alpn_offered"], json!(["x", "mqtt"]));
    let (code, report) = scene.probe(&["--alpn", "x"]).await;
    assert_eq!((code, &report["problems"][0]["alert"]), (1, &json!("no_application_protocol")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_selects_the_certificate_and_is_compared_with_it() {
    let scene = Scene::with(&Wish::default(), |listener, authority| {
        let wish = Wish { names: &["other.example"], ..Wish::default() };
        listener.tls.certificates.push(authority.issue("other", &wish).files);
    })
    .await;
    let subject = |report: &Value| report["certificates"][0]["subject"].clone();
    let (code, report) = scene.probe(&["--once", "--name", "other.example"]).await;
    assert_eq!(
        (code, subject(&report), &report["sni"]),
        (0, json!("CN=other.example"), &json!(true))
    );
    // Without SNI the server sends the default certificate, which must still contain the name.
    let (code, report) = scene.probe(&["--once", "--name", "other.example", "--no-sni"]).await;
    assert_eq!((code, subject(&report), &report["sni"]), (1, json!("CN=localhost"), &json!(false)));
    assert_eq!(problems(&report), ["name_mismatch"]);
    assert_eq!(report["chain"]["name_matches"], false);
    let (code, report) = scene.probe(&["--once", "--name", "127.0.0.1"]).await;
    assert_eq!((code, &report["sni"]), (0, &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_did_not_issue_the_certificate_is_reported() {
    let scene = Scene::new().await;
    let stranger = Authority::new("stranger");
    let (code, report) = scene.probe(&["--once", "--ca", path(&stranger.ca())]).await;
    assert_eq!((code, problems(&report)), (1, vec!["unknown_ca"]));
    // A new CA with the same name.
    let again = Authority::new("ca");
    let (code, report) = scene.probe(&["--once", "--ca", path(&again.ca())]).await;
    assert_eq!((code, problems(&report)), (1, vec!["unknown_ca"]), "{report:#}");
    assert_eq!(report["chain"]["verified"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn dates_are_reported_with_and_without_a_ca_and_next_to_other_problems() {
    for (years, label) in
        [((2020, 2022), "certificate_expired"), ((2059, 2060), "certificate_not_yet_valid")]
    {
        let scene = Scene::with(&Wish { years, ..Wish::default() }, |_, _| {}).await;
        let stranger = Authority::new("stranger");
        let stranger = path(&stranger.ca()).to_owned();
        for (flags, told) in [
            (vec!["--once"], vec![label]),
            (vec!["--once", "--ca", &scene.ca], vec![label]),
            (vec!["--once", "--ca", &stranger], vec!["unknown_ca", label]),
        ] {
            let (code, report) = scene.probe(&flags).await;
            assert_eq!((code, problems(&report)), (1, told), "{report:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_ends_soon_has_a_separate_exit_code() {
    let scene = Scene::new().await;
    let (code, report) = scene.probe(&["--once", "--min-days", "30000"]).await;
    assert_eq!((code, problems(&report)), (3, vec!["certificate_expires_soon"]));
    let (code, _) = scene.probe(&["--once", "--min-days", "7"]).await;
    assert_eq!(code, 0);
    // Together with another problem, the exit code is that of a failure.
    let flags = ["--once", "--min-days", "30000", "--name", "other.example"];
    let (code, report) = scene.probe(&flags).await;
    assert_eq!((code, problems(&report).len()), (1, 2));
}

/// rustls accepts the chain, and OpenSSL does not: `openssl s_client` fails with error 10 at depth 1.
#[tokio::test(flavor = "multi_thread")]
async fn the_dates_of_the_ca_are_checked_too() {
    let scene = Scene::new().await;
    for (years, label) in
        [((2020, 2022), "certificate_expired"), ((2059, 2060), "certificate_not_yet_valid")]
    {
        let ca = scene.authority.ca_of(years);
        let (code, report) = scene.probe(&["--once", "--ca", path(&ca)]).await;
        assert_eq!((code, problems(&report)), (1, vec![label]), "{report:#}");
        assert_eq!(report["chain"]["verified"], false);
        // A second certificate for the same CA key is enough.
        let both = scene.authority.dir().join("both.crt");
        let old = std::fs::read_to_string(&ca).unwrap();
        std::fs::write(&both, old + scene.authority.pem()).unwrap();
        let (code, report) = scene.probe(&["--once", "--ca", path(&both)]).await;
        assert_eq!((code, problems(&report)), (0, vec![]), "{report:#}");
    }
    let ca = scene.authority.ca_of((2020, 2050));
    let flags = ["--once", "--ca", path(&ca), "--min-days", "9000"];
    let (code, report) = scene.probe(&flags).await;
    assert_eq!((code, problems(&report)), (3, vec!["certificate_expires_soon"]), "{report:#}");
    assert_eq!(report["chain"]["verified"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_the_server_sends_is_reported_once() {
    let authority = Authority::new("ca");
    let (mut chain, key) = authority.server().load();
    chain.push(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap());
    let server = server(chain, &key).await;
    let ca = authority.ca();
    let flags = ["--once", "--ca", path(&ca), "--min-days", "30000"];
    let (code, report) = probe(server.address, &flags).await;
    assert_eq!((code, problems(&report)), (3, vec!["certificate_expires_soon"; 2]), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_a_chain_is_reported() {
    let root = Authority::new("root");
    let below = root.intermediate("below");
    let pair = below.issue("server", &Wish::default());
    let (chain, key) = pair.load();
    let ca = root.ca().display().to_string();
    let good = server(chain.clone(), &key).await;
    let (code, report) = probe(good.address, &["--once", "--ca", &ca]).await;
    assert_eq!((code, &report["chain"]["length"]), (0, &json!(2)), "{report:#}");
    assert_eq!(probe(good.address, &["--once"]).await.0, 0);

    let other = Authority::new("other").server().load().0;
    let strange = server([chain.clone(), other].concat(), &key).await;
    let (code, report) = probe(strange.address, &["--once"]).await;
    assert_eq!((code, problems(&report)), (1, vec!["chain_out_of_order"]));
    // The chain can be verified nevertheless.
    let (code, report) = probe(strange.address, &["--once", "--ca", &ca]).await;
    assert_eq!((code, problems(&report)), (0, vec![]), "{report:#}");

    // Without its intermediate it leads to no CA.
    let short = server(chain[..1].to_vec(), &key).await;
    let (code, report) = probe(short.address, &["--once", "--ca", &ca]).await;
    assert_eq!((code, problems(&report)), (1, vec!["unknown_ca"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_with_many_possible_paths_do_not_delay_a_probe() {
    // Dozens of certificates for each of three names may have issued the next one, and none issued the last.
    let layers: Vec<_> = ["x", "y", "z", "nobody"].map(Authority::new).into();
    let (chain, key) = layers[0].server().load();
    let heap = (0..100).map(|i| layers[i % 3 + 1].certify_ca(["x", "y", "z"][i % 3]));
    let server = server(chain.into_iter().chain(heap).collect(), &key).await;
    let another = Authority::new("another");
    let ca = another.ca().display().to_string();
    let (code, report) = probe(server.address, &["--once", "--ca", &ca]).await;
    assert_eq!(code, 1);
    assert!(problems(&report).contains(&"unknown_ca"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_key_of_its_certificate_is_rejected() {
    let authority = Authority::new("ca");
    let (chain, _) = authority.server().load();
    let (_, other) = authority.issue("other", &Wish::default()).load();
    let server = server(chain, &other).await;
    for version in ["1.2", "1.3"] {
        let (code, report) = probe(server.address, &["--tls", version]).await;
        assert_eq!((code, problems(&report)), (1, vec!["tls_error"]), "{report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_name_and_a_closed_port_are_reported() {
    let (code, report) = probe(nobody(), &[]).await;
    assert_eq!((code, problems(&report)), (1, vec!["refused"]));
    assert_eq!(report["addresses"][0]["problem"], "refused");
    // No name was sent, no chain came, and no close_notify was sent.
    for unknown in [&report["sni"], &report["chain"]["order"], &report["goodbye_answered"]] {
        assert!(unknown.is_null(), "{report:#}");
    }

    let (code, text, _) = run(&["probe", "no-such-host.invalid:8883", "--format", "json"]).await;
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, problems(&report)), (1, vec!["name_unresolved"]));

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (code, report) = probe(silent.local_addr().unwrap(), &["--timeout", "200ms"]).await;
    assert_eq!((code, problems(&report)), (1, vec!["handshake_timeout"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_tls_is_reported_and_escaped() {
    let echo = Backend::echo().await;
    let (code, report) = probe(echo.address, &[]).await;
    assert_eq!((code, problems(&report)), (1, vec!["not_tls"]));

    let hostile = Backend::serving(|mut tcp| async move {
        tcp.write_all(b"SSH-2.0-\x1b[2J\x9b31m\r\n").await.unwrap();
        let _gone = tcp.read(&mut [0; 1]).await;
    })
    .await;
    let (code, report) = probe(hostile.address, &[]).await;
    assert_eq!((code, problems(&report)), (1, vec!["not_tls"]));
    assert!(report["problems"][0]["says"].as_str().unwrap().contains(r"SSH-2.0-\x1b[2J\x9b31m"));
    let target = format!("localhost:{}", hostile.address.port());
    let (_, text, _) = run(&["probe", &target]).await;
    assert!(text.contains(r"SSH-2.0-\x1b[2J") && is_harmless(&text), "{text:?}");

    let closing = Backend::serving(|mut tcp| async move {
        let _hello = tcp.read(&mut [0; 4096]).await;
    })
    .await;
    let (code, report) = probe(closing.address, &[]).await;
    assert_eq!((code, problems(&report)), (1, vec!["closed"]));
}

/// Returns true if a text consists of lines of visible characters.
fn is_harmless(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !c.is_control()) && !text.contains('\u{202e}')
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_in_a_certificate_are_escaped() {
    let authority = Authority::new("ca");
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "\u{1b}[2J\u{202e}\u{9b}31m\r\nfalse line");
    let name = "evil\x1b]0;title\x07\n  good".try_into().unwrap();
    params.subject_alt_names.push(SanType::DnsName(name));
    params.not_after = date_time_ymd(2060, 1, 1);
    let (chain, key) = authority.sign("hostile", &params).load();
    let server = server(chain, &key).await;
    let target = format!("localhost:{}", server.address.port());
    let (code, text, _) = run(&["probe", &target, "--once"]).await;
    assert_eq!(code, 1);
    assert!(is_harmless(&text), "{text:?}");
    assert!(text.contains(r"\u{1b}[2J\u{202e}\u{9b}31m\r\nfalse line"), "{text:?}");
    let (_, json, _) = run(&["probe", &target, "--once", "--format", "json"]).await;
    assert!(is_harmless(&json), "{json:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_greeting_of_a_legacy_server_is_reported() {
    let authority = Authority::new("ca");
    let backend = Backend::serving(|mut tcp| async move {
        // The greeting is delayed, as by a server that looks up the name of its client.
        tokio::time::sleep(Duration::from_millis(20)).await;
        tcp.write_all(b"220 plant\x1b[2J ready\r\n").await.unwrap();
        let _gone = tcp.read(&mut [0; 1]).await;
    })
    .await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (code, report) = probe(proxy.address, &["--once"]).await;
        let greeting = &report["handshake"]["greeting"];
        if (code, greeting) == (0, &json!(r"220 plant\x1b[2J ready\r\n")) {
            return;
        }
        // On a busy machine the greeting may come after the end of the probe.
        assert!(greeting.is_null() && Instant::now() < deadline, "{report:#}");
    }
}

/// Starts a relay to `server` that delays the client's second flight until its close_notify.
async fn slow_relay_to(server: SocketAddr) -> Backend {
    const GOODBYE: [u8; 5] = [23, 3, 3, 0, 19];
    Backend::serving(move |mut client| async move {
        let mut server = TcpStream::connect(server).await.unwrap();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let there = async {
            let mut hello = vec![0; 4096];
            let read = from_client.read(&mut hello).await.unwrap();
            to_server.write_all(&hello[..read]).await.unwrap();
            let mut flight = Vec::new();
            // An encrypted close_notify has 2 bytes, the content type and a tag of 16 bytes.
            while flight.len() < 24 || flight[flight.len() - 24..][..5] != GOODBYE {
                assert_ne!(from_client.read_buf(&mut flight).await.unwrap(), 0);
            }
            let _refused = to_server.write_all(&flight).await;
        };
        let back = tokio::io::copy(&mut from_server, &mut to_client);
        let _ended = tokio::join!(there, back);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_rejection_is_read_after_the_close_notify() {
    let scene = Scene::with(&Wish::default(), required).await;
    let way = slow_relay_to(scene.proxy.address).await;
    let (code, report) = probe(way.address, &["--tls", "1.3"]).await;
    assert_eq!((code, problems(&report)), (1, vec!["alert"]), "{report:#}");
    assert_eq!(report["problems"][0]["alert"], "certificate_required");
}

/// Starts a near relay to a far `server`: each message takes the time `far`.
async fn far_relay_to(server: SocketAddr, far: Duration) -> Backend {
    async fn pump<R, W>(mut from: R, mut to: W, far: Duration)
    where
        R: AsyncReadExt + Unpin,
        W: AsyncWriteExt + Unpin,
    {
        let mut buffer = vec![0; 65536];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            tokio::time::sleep(far).await;
            if to.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
        let _gone = to.shutdown().await;
    }
    Backend::serving(move |mut client| async move {
        let mut server = TcpStream::connect(server).await.unwrap();
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::join!(pump(from_client, to_server, far), pump(from_server, to_client, far));
    })
    .await
}

/// The connect is fast, and does not show the distance.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_from_far_behind_a_proxy_is_read() {
    let scene = Scene::with(&Wish::default(), required).await;
    let way = far_relay_to(scene.proxy.address, Duration::from_millis(550)).await;
    let (code, report) = probe(way.address, &["--once"]).await;
    assert_eq!((code, problems(&report)), (1, vec!["alert"]), "{report:#}");
    assert_eq!(report["problems"][0]["alert"], "certificate_required");
    assert_eq!(report["client_certificate"]["accepted"], false);
}

/// Starts a relay to `server` that forwards only the first flight of a client. It closes with the client, or stays
/// open.
async fn half_relay_to(server: SocketAddr, stays: bool) -> Backend {
    Backend::serving(move |mut client| async move {
        let mut server = TcpStream::connect(server).await.unwrap();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let there = async {
            let mut buffer = vec![0; 4096];
            let read = from_client.read(&mut buffer).await.unwrap();
            to_server.write_all(&buffer[..read]).await.unwrap();
            while let Ok(1..) = from_client.read(&mut buffer).await {}
            if stays {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = there => {}
            _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_neither_accepts_nor_rejects_a_certificate_is_a_problem() {
    let scene = Scene::with(&Wish::default(), required).await;
    let device = scene.authority.issue("device", &client_wish());
    let (cert, key) = (path(&device.files.cert), path(&device.files.key));
    for (shown, stays) in [(vec![], true), (vec!["--cert", cert, "--key", key], false)] {
        let way = half_relay_to(scene.proxy.address, stays).await;
        let flags = [&["--once", "--tls", "1.3", "--timeout", "1s"], &shown[..]].concat();
        let (code, report) = probe(way.address, &flags).await;
        let told = (code, problems(&report));
        assert_eq!(told, (1, vec!["client_certificate_unanswered"]), "{report:#}");
        assert_eq!(report["client_certificate"]["accepted"], Value::Null);
        // A closed connection answers close_notify, and does not show that the certificate is accepted.
        assert_eq!(report["goodbye_answered"], !stays);
        // In TLS 1.2 the handshake does not complete, which does not show a rejection.
        let flags = [&["--once", "--tls", "1.2", "--timeout", "1s"], &shown[..]].concat();
        let (code, report) = probe(way.address, &flags).await;
        assert_eq!((code, problems(&report)), (1, vec!["handshake_timeout"]), "{report:#}");
        assert_eq!(report["client_certificate"]["asked"], true);
        assert_eq!(report["client_certificate"]["accepted"], Value::Null);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_server_that_does_not_answer_the_close_is_reported_and_no_failure() {
    let authority = Authority::new("ca");
    // The kernel accepts connections, and no program does.
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = hanging.local_addr().unwrap().to_string().parse::<BackendAddress>().unwrap();
    let proxy = Proxy::start(backend, &authority.server());
    let (code, report) = probe(proxy.address, &["--once"]).await;
    assert_eq!((code, problems(&report)), (0, vec![]), "{report:#}");
    assert_eq!(report["goodbye_answered"], false);
    let target = format!("localhost:{}", proxy.address.port());
    let (code, text, _) = run(&["probe", &target, "--once"]).await;
    assert!(code == 0 && text.contains("\n  close "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_legacy_server_is_reported() {
    let authority = Authority::new("ca");
    let nobody = nobody().to_string().parse::<BackendAddress>().unwrap();
    let proxy = Proxy::start(nobody, &authority.server());
    for version in ["1.2", "1.3"] {
        let (code, report) = probe(proxy.address, &["--tls", version]).await;
        assert_eq!((code, problems(&report)), (1, vec!["closed_after_handshake"]), "{report:#}");
        assert_eq!(report["handshake"]["version"], version);
    }
    proxy.end_with(Reason::BackendRefused, 2).await;
}

/// An `openssl s_server`, stopped on drop.
struct Openssl {
    child: Child,
    address: SocketAddr,
}

impl Openssl {
    async fn start(pair: &Pair, flags: &[&str]) -> Self {
        let address = free();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-quiet", "-accept", &address.to_string()]);
        command.arg("-cert").arg(&pair.files.cert).arg("-key").arg(&pair.files.key).args(flags);
        // It closes a connection at the end of its input, so its input is a pipe that stays open.
        let [null, pipe] = [Stdio::null, Stdio::piped];
        let child = command.stdin(pipe()).stdout(null()).stderr(null()).spawn().unwrap();
        let server = Self { child, address };
        eventually("openssl listens", || std::net::TcpStream::connect(address).is_ok()).await;
        server
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        // Fails if the process has ended already.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_with_rsa_and_tls_1_2_only_is_reported() {
    let authority = Authority::new("ca");
    let rsa = authority.issue("rsa", &Wish { rsa: true, ..Wish::default() });
    let server = Openssl::start(&rsa, &["-tls1_2"]).await;
    let (code, report) = probe(server.address, &["--ca", path(&authority.ca())]).await;
    assert_eq!((code, problems(&report)), (0, vec![]), "{report:#}");
    assert_eq!(report["certificates"][0]["key"], "RSA 2048");
    assert_eq!(report["handshake"]["version"], "1.2");
    assert_eq!(report["resumption"]["works"], true);
    assert_eq!(
        report["versions"],
        json!({ "1.2": { "accepted": true }, "1.3": { "accepted": false } })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_that_requires_a_certificate_names_its_cas() {
    let authority = Authority::new("ca");
    let ca = authority.ca().display().to_string();
    let pair = authority.server();
    let device = authority.issue("device", &client_wish());
    let server = Openssl::start(&pair, &["-Verify", "1", "-CAfile", &ca]).await;
    for version in ["1.2", "1.3"] {
        let (code, report) = probe(server.address, &["--tls", version]).await;
        assert_eq!((code, problems(&report)), (1, vec!["alert"]), "{version} {report:#}");
        assert_eq!(report["client_certificate"]["authorities"], json!(["CN=ca"]));
        let (cert, key) = (path(&device.files.cert), path(&device.files.key));
        let flags = ["--tls", version, "--cert", cert, "--key", key];
        let (code, report) = probe(server.address, &flags).await;
        assert_eq!(code, 0, "{version} {report:#}");
        assert_eq!(report["client_certificate"]["accepted"], true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_1_2_is_reported() {
    let authority = Authority::new("ca");
    let rsa = authority.issue("rsa", &Wish { rsa: true, ..Wish::default() });
    let server = Openssl::start(&rsa, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]).await;
    // The advice is another version, if there is one.
    for (flags, another) in [(&[][..], false), (&["--tls", "1.3"], true)] {
        let (code, report) = probe(server.address, flags).await;
        assert_eq!((code, problems(&report)), (1, vec!["alert"]), "{report:#}");
        assert_eq!(report["problems"][0]["alert"], "protocol_version");
        let advice = report["problems"][0]["advice"].as_str().unwrap();
        assert_eq!(advice.contains("--tls"), another, "{report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_too_large_are_not_blamed_on_the_path() {
    let (chain, key) = Authority::new("ca").server().load();
    let server = server(vec![chain[0].clone(); 300], &key).await;
    let (code, report) = probe(server.address, &[]).await;
    assert_eq!((code, problems(&report)), (1, vec!["tls_error"]), "{report:#}");
    assert!(report["problems"][0]["says"].as_str().unwrap().contains("64 KiB"), "{report:#}");

    // A message that is not a ServerHello is another problem, whatever its length.
    for (kind, length) in [(2, 0xff), (0x77, 0)] {
        let garbage = Backend::serving(move |mut tcp| async move {
            let _hello = tcp.read(&mut [0; 4096]).await;
            let mut record = vec![22, 3, 3, 0x20, 0, kind, length, 0xff, 0xff];
            record.resize(5 + 0x2000, kind);
            let _gone = tcp.write_all(&record).await;
            let _gone = tcp.read(&mut [0; 1]).await;
        })
        .await;
        let (code, report) = probe(garbage.address, &["--timeout", "1s"]).await;
        assert_eq!(code, 1);
        let says = report["problems"][0]["says"].as_str().unwrap();
        assert!(!says.contains("certificates"), "{kind} {report:#}");
    }
}

/// Old plants have them: `openssl x509 -req` issues version 1 by default.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_version_1_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let script = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k \
                  -out r -subj /CN=localhost && openssl x509 -req -in r -signkey k -out c -days 9";
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(dir.path());
    let (made, text) = crate::support::command::run(command).await;
    assert!(made, "{text}");
    let files = CertificateFiles { cert: dir.path().join("c"), key: dir.path().join("k") };
    let server = Openssl::start(&Pair { files }, &[]).await;
    for version in ["1.2", "1.3"] {
        let (code, report) = probe(server.address, &["--tls", version]).await;
        assert_eq!((code, problems(&report)), (1, vec!["certificate_rejected"]), "{report:#}");
        assert_eq!(report["certificates"][0]["subject"], "CN=localhost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_files_exit_with_78_and_invalid_flags_with_2() {
    let authority = Authority::new("ca");
    let (one, other) = (authority.server(), authority.issue("other", &Wish::default()));
    let (cert, key) = (path(&one.files.cert), path(&other.files.key));
    for flags in
        [vec!["--ca", "/nonexistent/ca.crt"], vec!["--ca", key], vec!["--cert", cert, "--key", key]]
    {
        let (code, text, errors) = run(&[&["probe", "localhost:1"], &flags[..]].concat()).await;
        assert_eq!((code, text.as_str()), (78, ""), "{errors}");
        assert!(errors.contains(flags[flags.len() - 1]), "{errors}");
    }
    for flags in [
        vec![],
        vec!["localhost"],
        vec!["localhost:0"],
        vec!["unix:/run/a.sock"],
        vec!["localhost:1", "--tls", "1.1"],
        vec!["localhost:1", "--cert", cert],
        vec!["localhost:1", "--timeout", "0s"],
        vec!["localhost:1", "--timeout", "1000000000y"],
        vec!["localhost:1", "--alpn", ""],
        vec!["localhost:1", "--name", "no name"],
        vec!["localhost:1", "--name", "127.1"],
        vec!["127.1:443"],
        vec!["localhost:1", "--live"],
        vec!["--live", "--format", "json"],
        vec!["--live", "--ready"],
        vec!["--live", "--ca", cert],
    ] {
        let (code, _, errors) = run(&[&["probe"], &flags[..]].concat()).await;
        assert_eq!(code, 2, "{flags:?}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_uses_the_admin_port() {
    let scene = Scene::new().await;
    let admin = scene.proxy.app.admin.unwrap().to_string();
    for what in ["--live", "--started", "--ready"] {
        let (code, text, errors) = run(&["probe", what, "--admin", &admin]).await;
        assert_eq!((code, text.is_empty(), errors.as_str()), (0, false, ""), "{what}");
    }
    // A wildcard address is reached by loopback.
    let all = format!("0.0.0.0:{}", scene.proxy.app.admin.unwrap().port());
    assert_eq!(run(&["probe", "--live", "--admin", &all]).await.0, 0);
    scene.proxy.app.shutdown.drain();
    within("the drain", scene.proxy.app.shutdown.drained()).await;
    let codes = [("--live", 0), ("--started", 0), ("--ready", 1)];
    for (what, code) in codes {
        assert_eq!(run(&["probe", what, "--admin", &admin]).await.0, code, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_cannot_be_written_is_a_failure() {
    let scene = Scene::new().await;
    let target = format!("localhost:{}", scene.proxy.address.port());
    for flags in [vec![], vec!["--min-days", "30000"]] {
        let mut command = binary();
        command.args(["probe", &target, "--once"]).args(flags);
        command.stdout(std::fs::File::create("/dev/full").unwrap());
        let ran = tokio::task::spawn_blocking(move || command.output());
        let output = within("the binary", ran).await.unwrap().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_ignores_the_environment_of_a_run() {
    let scene = Scene::new().await;
    let target = format!("localhost:{}", scene.proxy.address.port());
    let admin = scene.proxy.app.admin.unwrap().to_string();
    let probe = ["probe", &target, "--once"];
    let live = ["probe", "--live", "--admin", &admin];
    for (name, value) in [
        ("TLSIDECAR_ADMIN", "localhost:9901"),
        ("TLSIDECAR_LISTEN", ""),
        ("TLSIDECAR_LISTEN", "0.0.0.0:8883"),
        ("TLSIDECAR_LOG_FILTER", "no=such=filter"),
    ] {
        for arguments in [&probe[..], &live] {
            let mut command = binary();
            command.args(arguments).env("TLSIDECAR_CONFIG", "/nonexistent").env(name, value);
            let ran = tokio::task::spawn_blocking(move || command.output());
            let output = within("the binary", ran).await.unwrap().unwrap();
            assert_eq!(output.status.code(), Some(0), "{name}={value} {output:?}");
        }
    }
    // A health check uses TLSIDECAR_ADMIN.
    let mut command = binary();
    command.args(["probe", "--live"]).env("TLSIDECAR_ADMIN", &admin);
    let ran = tokio::task::spawn_blocking(move || command.status());
    assert_eq!(within("the binary", ran).await.unwrap().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_has_a_time_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for admin in [silent.local_addr().unwrap(), nobody()] {
        let arguments = ["probe", "--live", "--admin", &admin.to_string(), "--timeout", "200ms"];
        let (code, _, errors) = run(&arguments).await;
        assert_eq!(code, 1);
        assert!(errors.contains(&admin.to_string()), "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_legacy_server_is_a_notice_or_a_problem_on_request() {
    let authority = Authority::new("ca");
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let backend = BackendAddress::Tcp { host: "127.0.0.1".to_owned(), port: address.port() };
    let proxy = Proxy::start(backend, &authority.server());
    let (code, report) = probe(proxy.address, &["--once"]).await;
    assert_eq!((code, problems(&report)), (0, vec![]), "{report:#}");
    assert_eq!(report["notices"][0]["problem"], "backend_silent");
    let (code, report) = probe(proxy.address, &["--once", "--expect-answer"]).await;
    assert_eq!((code, problems(&report)), (1, vec!["backend_silent"]));
    let echo = Backend::echo().await;
    let proxy = Proxy::start(echo.config(), &authority.server());
    let (code, report) = probe(proxy.address, &["--once", "--expect-answer"]).await;
    assert_eq!((code, &report["notices"]), (0, &json!([])));
}
