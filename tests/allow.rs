//! Allow rules: which verified devices may connect.

use std::fs;
use std::path::PathBuf;

use tlsidecar::config::{Allow, AllowRules, ClientAuth, ClientTrust};
use tlsidecar::terms::labels::ReloadOutcome;
use tlsidecar::terms::reason::Reason;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{AlertDescription, HandshakeKind};

use crate::support::certs::replace;
use crate::support::proxy::listener;
use crate::support::{Authority, Backend, Device, Proxy, eventually};

/// A proxy with allow rules, and its CA.
struct Scene {
    authority: Authority,
    proxy: Proxy,
    _backend: Backend,
}

impl Scene {
    /// Starts a proxy that requires certificates, with these rules.
    async fn new(authority: Authority, allow: Allow) -> Self {
        let backend = Backend::echo().await;
        let mut listener = listener(backend.config(), &authority.server());
        let trust = ClientTrust { allow, ..ClientTrust::new(authority.ca()) };
        listener.tls.client_auth = ClientAuth::Required(trust);
        Self { authority, proxy: Proxy::with(listener), _backend: backend }
    }

    /// Starts a proxy whose rules are in a file with this content.
    async fn with_file(text: &str) -> Self {
        let authority = Authority::new("ca");
        replace(&file_of(&authority), text);
        let allow = Allow { file: Some(file_of(&authority)), ..Allow::default() };
        Self::new(authority, allow).await
    }

    fn replace_rules(&self, text: &str) {
        replace(&file_of(&self.authority), text);
    }

    fn device(&self, name: &str) -> Device {
        Device::showing(&self.authority, &self.authority.device(name))
    }
}

fn file_of(authority: &Authority) -> PathBuf {
    authority.dir().join("allow.toml")
}

#[tokio::test]
async fn a_device_that_no_rule_admits_gets_access_denied_and_its_backend_no_connection() {
    let authority = Authority::new("ca");
    let rules = AllowRules { cn: vec!["pump-*".parse().unwrap()], ..AllowRules::default() };
    let allow = Allow { rules, file: None };
    let scene = Scene::new(authority, allow).await;
    for version in [&TLS12, &TLS13] {
        let pair = scene.authority.device("valve-1");
        let (roots, provider) = (scene.authority.roots(), aws_lc_rs::default_provider());
        let device = Device::with(roots, &[version], provider, Some(&pair));
        assert_eq!(
            device.refused_with(scene.proxy.address).await,
            AlertDescription::AccessDenied,
            "{version:?}"
        );
    }
    scene.proxy.end_with(Reason::ClientNotAllowed, 2).await;
    assert_eq!(scene._backend.connections(), 0);
    scene.device("pump-7").echo(scene.proxy.address).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_a_changed_file_no_longer_admits_cannot_resume() {
    let scene = Scene::with_file("cn = [\"pump-7\"]\n").await;
    let device = scene.device("pump-7").resuming();
    device.echo(scene.proxy.address).await.unwrap();
    let resumed = device.echo(scene.proxy.address).await.unwrap();
    assert_eq!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    scene.replace_rules("cn = [\"pump-8\"]\n");
    let swapped = || scene.proxy.reloads_of("allow", ReloadOutcome::Swapped) > 0;
    eventually("the rules are active", swapped).await;
    let refused = device.refused_with(scene.proxy.address).await;
    assert_eq!(refused, AlertDescription::AccessDenied);
    eventually("it is refused", || scene.proxy.closed(Reason::ClientNotAllowed) > 0).await;
    scene.device("pump-8").echo(scene.proxy.address).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_file_that_leaves_the_rules_alone_keeps_the_tickets() {
    let scene = Scene::with_file("cn = [\"pump-7\", \"pump-8\"]\n").await;
    let device = scene.device("pump-7").resuming();
    device.echo(scene.proxy.address).await.unwrap();
    scene.replace_rules("# sorted\ncn = [\"pump-8\", \"pump-7\"]\n");
    let swapped = || scene.proxy.reloads_of("allow", ReloadOutcome::Swapped) > 0;
    eventually("the file is active", swapped).await;
    let resumed = device.echo(scene.proxy.address).await.unwrap();
    assert_eq!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_an_invalid_rule_or_without_any_keeps_its_earlier_rules() {
    for text in ["cn = [\"pump-8\", \"*\"]\n", "cnn = [\"pump-8\"]\n", ""] {
        let scene = Scene::with_file("cn = [\"pump-7\"]\n").await;
        scene.replace_rules(text);
        eventually("it fails", || scene.proxy.reload_fails()).await;
        assert!(scene.proxy.reloads_of("allow", ReloadOutcome::Failed) > 0);
        scene.device("pump-7").echo(scene.proxy.address).await.unwrap();
        let refused = scene.device("pump-8").refused_with(scene.proxy.address).await;
        assert_eq!(refused, AlertDescription::AccessDenied, "{text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_an_empty_list_admits_nobody() {
    let scene = Scene::with_file("cn = []\n").await;
    let refused = scene.device("pump-7").refused_with(scene.proxy.address).await;
    assert_eq!(refused, AlertDescription::AccessDenied);
    let kind = "tlsidecar_material_objects{";
    let text = scene.proxy.text();
    let rules = text.lines().find(|line| line.starts_with(kind) && line.contains("\"allow\""));
    assert!(rules.is_some_and(|line| line.ends_with(" 0")), "{rules:?}");
}

#[test]
fn check_reports_every_problem_of_a_file_of_rules_with_its_line() {
    let authority = Authority::new("ca");
    let pair = authority.server();
    fs::write(file_of(&authority), "dns = [\n  \"*.plant\",\n  \"a..b\",\n]\ncolour = 1\n")
        .unwrap();
    let more = format!(
        "tls.client_auth = \"required\"\ntls.client_ca = {:?}\nallow.file = \"allow.toml\"\n",
        authority.ca()
    );
    let address = ([127, 0, 0, 1], 1).into();
    let text = crate::support::file::text(address, &pair, &more);
    let path = crate::support::file::write(authority.dir(), &text);
    let mut check = crate::support::process::binary();
    let output = check.arg("check").arg("--config").arg(path).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let lines = String::from_utf8(output.stderr).unwrap();
    let of_file: Vec<_> = lines.lines().filter(|line| line.contains("allow.toml")).collect();
    let at = |line: &str, words: &[&str]| {
        of_file.iter().any(|text| text.contains(line) && words.iter().all(|w| text.contains(w)))
    };
    assert_eq!(of_file.len(), 2, "{lines}");
    assert!(at("line 3", &["dns[1]", "a..b", "DNS name"]), "{lines}");
    assert!(at("line 5", &["colour", "spki_sha256"]), "{lines}");
}
