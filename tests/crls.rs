//! Tests of revocation lists: the choice among several, and the devices that they revoke.

use std::fs;
use std::path::PathBuf;

use tlsidecar::app;
use tlsidecar::config::{
    ClientAuth, ClientTrust, Config, CrlCheck, CrlRules, ExpiredCrl, ListenerConfig, UnknownStatus,
};
use tlsidecar::terms::labels::ReloadOutcome;
use tlsidecar::terms::reason::Reason;

use crate::support::certs::{Wish, device, device_of_point, replace};
use crate::support::proxy::listener;
use crate::support::{Authority, Backend, Device, Pair, Proxy, eventually};

/// A listener that trusts some CAs, with CRLs.
struct Scene {
    servers: Authority,
    server: Pair,
    listener: ListenerConfig,
    _backend: Backend,
}

impl Scene {
    /// Writes the CAs and the CRLs, which are PEM texts, each with the name of its file.
    async fn new(cas: &[&Authority], crls: &[(&str, String)]) -> Self {
        let servers = Authority::new("servers");
        let server = servers.server();
        let backend = Backend::echo().await;
        let ca = servers.dir().join("clients.crt");
        replace(&ca, &cas.iter().map(|ca| ca.pem()).collect::<String>());
        let files = crls.iter().map(|(name, text)| {
            replace(&servers.dir().join(name), text);
            servers.dir().join(name)
        });
        let crls = files.collect();
        let mut listener = listener(backend.config(), &server);
        listener.tls.client_auth =
            ClientAuth::Required(ClientTrust { crls, ..ClientTrust::new(ca) });
        Self { servers, server, listener, _backend: backend }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.servers.dir().join(name)
    }

    /// Uses the CRLs by these rules.
    fn by(mut self, crl_rules: CrlRules) -> Self {
        let ClientAuth::Required(trust) = &self.listener.tls.client_auth else { return self };
        let trust = ClientTrust { crl_rules, ..trust.clone() };
        self.listener.tls.client_auth = ClientAuth::Required(trust);
        self
    }

    fn start(&self) -> Proxy {
        Proxy::with(self.listener.clone())
    }

    fn warnings(&self) -> Vec<String> {
        app::check(&Config::of(self.listener.clone())).unwrap().warning_lines()
    }

    async fn is_admitted(&self, proxy: &Proxy, pair: &Pair) -> bool {
        Device::showing(&self.servers, pair).echo(proxy.address).await.is_ok()
    }

    async fn is_refused(&self, proxy: &Proxy, pair: &Pair, reason: Reason) {
        let before = proxy.closed(reason);
        assert!(!self.is_admitted(proxy, pair).await);
        eventually("it is refused", || proxy.closed(reason) > before).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_crls_of_a_ca_the_newest_counts_in_any_position() {
    let ca = Authority::new("devices");
    let (good, lost) = (device(&ca, 65), device(&ca, 66));
    let (old, new) = (ca.crl_pem(1, &[]), ca.crl_pem(2, &[66]));
    let appended = format!("{old}{new}");
    let in_front = format!("{new}{old}");
    let two = [("old.crl", old), ("new.crl", new)];
    for crls in [&two[..], &[("both.crl", appended)], &[("both.crl", in_front)]] {
        let scene = Scene::new(&[&ca], crls).await;
        let proxy = scene.start();
        assert!(scene.is_admitted(&proxy, &good).await);
        scene.is_refused(&proxy, &lost, Reason::ClientCertRevoked).await;
        let warnings = scene.warnings();
        assert!(warnings.iter().any(|w| w.contains(".crl line ") && w.contains("is newer")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_crls_with_one_number_the_appended_one_counts() {
    let ca = Authority::new("devices");
    let text = format!("{}{}", ca.crl_pem(1, &[]), ca.crl_pem(1, &[66]));
    let scene = Scene::new(&[&ca], &[("both.crl", text)]).await;
    scene.is_refused(&scene.start(), &device(&ca, 66), Reason::ClientCertRevoked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crl_appended_to_the_file_in_use_revokes() {
    let ca = Authority::new("devices");
    let scene = Scene::new(&[&ca], &[("devices.crl", ca.crl_pem(1, &[]))]).await;
    let proxy = scene.start();
    let lost = device(&ca, 66);
    assert!(scene.is_admitted(&proxy, &lost).await);
    let both = format!("{}{}", ca.crl_pem(1, &[]), ca.crl_pem(2, &[66]));
    replace(&scene.file("devices.crl"), &both);
    eventually("it is active", || proxy.reloads(ReloadOutcome::Swapped) > 0).await;
    scene.is_refused(&proxy, &lost, Reason::ClientCertRevoked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_with_two_keys_has_the_crls_of_both_keys() {
    let (old, new) = (Authority::new("devices"), Authority::new("devices"));
    let crls = [("old.crl", old.crl_pem(1, &[66])), ("new.crl", new.crl_pem(1, &[67]))];
    let scene = Scene::new(&[&old, &new], &crls).await;
    let proxy = scene.start();
    for (ca, good, lost) in [(&old, 67, 66), (&new, 66, 67)] {
        assert!(scene.is_admitted(&proxy, &device(ca, good)).await);
        scene.is_refused(&proxy, &device(ca, lost), Reason::ClientCertRevoked).await;
    }
    assert_eq!(scene.warnings(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crl_of_another_key_is_a_warning_with_its_file_and_no_tls_error_of_the_device() {
    let (ca, forger) = (Authority::new("devices"), Authority::new("devices"));
    let scene = Scene::new(&[&ca], &[("forged.crl", forger.crl_pem(2, &[]))]).await;
    let warnings = scene.warnings().join("\n");
    assert!(warnings.contains("forged.crl line 1") && warnings.contains("CN=devices"));
    let proxy = scene.start();
    scene.is_refused(&proxy, &device(&ca, 65), Reason::ClientCertRevocationUnknown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_crl_does_not_replace_a_valid_one() {
    let (ca, forger) = (Authority::new("devices"), Authority::new("devices"));
    let scene = Scene::new(&[&ca], &[("devices.crl", ca.crl_pem(1, &[66]))]).await;
    let proxy = scene.start();
    replace(&scene.file("devices.crl"), &forger.crl_pem(2, &[]));
    eventually("it fails", || proxy.reload_fails()).await;
    assert!(scene.is_admitted(&proxy, &device(&ca, 65)).await);
    scene.is_refused(&proxy, &device(&ca, 66), Reason::ClientCertRevoked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_crl_does_not_replace_the_valid_one_of_its_scope_although_the_ca_has_another() {
    let (ca, forger) = (Authority::new("devices"), Authority::new("devices"));
    let (east, west) = ("http://ca.example/east.crl", "http://ca.example/west.crl");
    let crls = [
        ("east.crl", ca.crl_of_point(east, 1, &[66])),
        ("west.crl", ca.crl_of_point(west, 1, &[67])),
    ];
    let scene = Scene::new(&[&ca], &crls).await;
    let proxy = scene.start();
    replace(&scene.file("east.crl"), &forger.crl_of_point(east, 2, &[]));
    eventually("it fails", || proxy.reload_fails()).await;
    assert!(scene.is_admitted(&proxy, &device_of_point(&ca, east, 65)).await);
    scene.is_refused(&proxy, &device_of_point(&ca, east, 66), Reason::ClientCertRevoked).await;
    scene.is_refused(&proxy, &device_of_point(&ca, west, 67), Reason::ClientCertRevoked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_may_give_up_one_of_its_scopes() {
    let ca = Authority::new("devices");
    let (east, west) = ("http://ca.example/east.crl", "http://ca.example/west.crl");
    let both = ca.crl_of_point(east, 1, &[66]) + &ca.crl_of_point(west, 1, &[67]);
    let scene = Scene::new(&[&ca], &[("devices.crl", both)]).await;
    let proxy = scene.start();
    replace(&scene.file("devices.crl"), &ca.crl_of_point(west, 2, &[67]));
    eventually("it is active", || proxy.reloads(ReloadOutcome::Swapped) > 0).await;
    let unknown = Reason::ClientCertRevocationUnknown;
    scene.is_refused(&proxy, &device_of_point(&ca, east, 65), unknown).await;
    scene.is_refused(&proxy, &device_of_point(&ca, west, 67), Reason::ClientCertRevoked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_crl_of_an_intermediate_counts_once_a_device_sends_that_ca() {
    let ca = Authority::new("devices");
    let factory = ca.intermediate("factory");
    let crls = [("ca.crl", ca.crl_pem(1, &[])), ("factory.crl", factory.crl_pem(1, &[66]))];
    let scene = Scene::new(&[&ca], &crls).await;
    let proxy = scene.start();
    assert!(scene.is_admitted(&proxy, &device(&factory, 65)).await);
    scene.is_refused(&proxy, &device(&factory, 66), Reason::ClientCertRevoked).await;
    let without = Scene::new(&[&ca], &crls[..1]).await;
    let proxy = without.start();
    without.is_refused(&proxy, &device(&factory, 65), Reason::ClientCertRevocationUnknown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_match_delays_no_new_crl() {
    let ca = Authority::new("devices");
    let scene = Scene::new(&[&ca], &[("devices.crl", ca.crl_pem(1, &[]))]).await;
    let proxy = scene.start();
    let lost = device(&ca, 66);
    assert!(scene.is_admitted(&proxy, &lost).await);
    // A renewal that stopped half way.
    let (chain, _) = scene.servers.issue_pem(&Wish { serial: 2, ..Wish::default() });
    replace(&scene.server.files.cert, &chain);
    eventually("it fails", || proxy.reload_fails()).await;
    replace(&scene.file("devices.crl"), &ca.crl_pem(2, &[66]));
    eventually("lost is refused", || proxy.reloads_of("crl", ReloadOutcome::Swapped) > 0).await;
    scene.is_refused(&proxy, &lost, Reason::ClientCertRevoked).await;
    assert!(scene.is_admitted(&proxy, &device(&ca, 65)).await);
    assert!(proxy.reload_fails());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_crl_delays_neither_a_new_certificate_nor_another_crl() {
    let ca = Authority::new("devices");
    let other = Authority::new("other");
    let crls = [("devices.crl", ca.crl_pem(1, &[66])), ("other.crl", other.crl_pem(1, &[]))];
    let scene = Scene::new(&[&ca, &other], &crls).await;
    let proxy = scene.start();
    replace(&scene.file("devices.crl"), "broken");
    replace(&scene.file("other.crl"), &other.crl_pem(2, &[67]));
    scene.servers.issue("server", &Wish { serial: 9, ..Wish::default() });
    let swapped = |object: &str| proxy.reloads_of(object, ReloadOutcome::Swapped) > 0;
    eventually("the certificate is active", || swapped("certificate")).await;
    eventually("it fails", || proxy.reload_fails()).await;
    scene.is_refused(&proxy, &device(&ca, 66), Reason::ClientCertRevoked).await;
    scene.is_refused(&proxy, &device(&other, 67), Reason::ClientCertRevoked).await;
    assert!(scene.is_admitted(&proxy, &device(&ca, 65)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_leaf_rule_the_crl_of_the_issuer_suffices() {
    let ca = Authority::new("devices");
    let factory = ca.intermediate("factory");
    let crls = [("factory.crl", factory.crl_pem(1, &[66]))];
    let strict = Scene::new(&[&ca], &crls).await;
    let (good, lost) = (device(&factory, 65), device(&factory, 66));
    let unknown = Reason::ClientCertRevocationUnknown;
    strict.is_refused(&strict.start(), &good, unknown).await;
    let leaf = strict.by(CrlRules { check: CrlCheck::Leaf, ..CrlRules::default() });
    let proxy = leaf.start();
    assert!(leaf.is_admitted(&proxy, &good).await);
    leaf.is_refused(&proxy, &lost, Reason::ClientCertRevoked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_status_is_accepted_where_the_rules_allow_it_and_a_revoked_one_never() {
    let (ca, other) = (Authority::new("devices"), Authority::new("others"));
    let scene = Scene::new(&[&ca, &other], &[("devices.crl", ca.crl_pem(1, &[66]))]).await;
    let unknown = device(&other, 66);
    scene.is_refused(&scene.start(), &unknown, Reason::ClientCertRevocationUnknown).await;
    let scene = scene.by(CrlRules { unknown: UnknownStatus::Allow, ..CrlRules::default() });
    let proxy = scene.start();
    assert!(scene.is_admitted(&proxy, &unknown).await);
    scene.is_refused(&proxy, &device(&ca, 66), Reason::ClientCertRevoked).await;
    assert!(scene.warnings().iter().any(|warning| warning.contains("without a check")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_crl_refuses_the_clients_that_it_covers_where_the_rules_deny_it() {
    let ca = Authority::new("devices");
    let expired = ca.crl_until(2025, 1, &[66]).pem().unwrap();
    let scene = Scene::new(&[&ca], &[("devices.crl", expired)]).await;
    let (good, lost) = (device(&ca, 65), device(&ca, 66));
    assert!(scene.is_admitted(&scene.start(), &good).await, "by default it stays active");
    // What allows an unknown status does not weaken it.
    let unknown = UnknownStatus::Allow;
    let scene = scene.by(CrlRules { expired: ExpiredCrl::Deny, unknown, ..CrlRules::default() });
    let proxy = scene.start();
    scene.is_refused(&proxy, &good, Reason::ClientCertRevocationUnknown).await;
    scene.is_refused(&proxy, &lost, Reason::ClientCertRevoked).await;
    replace(&scene.file("devices.crl"), &ca.crl_pem(2, &[66]));
    eventually("the new list is active", || proxy.reloads(ReloadOutcome::Swapped) > 0).await;
    assert!(scene.is_admitted(&proxy, &good).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crl_in_der_revokes_and_a_truncated_one_keeps_it() {
    let ca = Authority::new("devices");
    let scene = Scene::new(&[&ca], &[("devices.crl", ca.crl_pem(1, &[]))]).await;
    let proxy = scene.start();
    let der = ca.crl_until(2060, 2, &[66]).der().to_vec();
    fs::write(scene.file("devices.crl"), &der).unwrap();
    eventually("it is active", || proxy.reloads(ReloadOutcome::Swapped) > 0).await;
    scene.is_refused(&proxy, &device(&ca, 66), Reason::ClientCertRevoked).await;
    fs::write(scene.file("devices.crl"), &der[..der.len() - 1]).unwrap();
    eventually("it fails", || proxy.reload_fails()).await;
    scene.is_refused(&proxy, &device(&ca, 66), Reason::ClientCertRevoked).await;
    assert!(scene.is_admitted(&proxy, &device(&ca, 65)).await);
}
