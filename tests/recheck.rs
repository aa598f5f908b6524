//! Tests of live sessions after a change of the trust in their clients.

use std::path::PathBuf;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose};
use tlsidecar::config::{ClientAuth, ClientTrust, ListenerConfig};
use tlsidecar::terms::labels::ReloadOutcome;
use tlsidecar::terms::reason::Reason;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::certs::{Wish, device, replace, serial_of};
use crate::support::client::{Session, say_and_hear};
use crate::support::proxy::listener;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Pair, Proxy, eventually};

/// A proxy that requires certificates of some CAs.
struct Scene {
    servers: Authority,
    proxy: Proxy,
    ca: PathBuf,
    crls: Vec<PathBuf>,
    _backend: Backend,
}

impl Scene {
    /// Starts a proxy that trusts `cas`, each with an empty CRL.
    async fn new(cas: &[&Authority], change: impl FnOnce(&mut ListenerConfig)) -> Self {
        let servers = Authority::new("servers");
        let backend = Backend::echo().await;
        let ca = servers.dir().join("clients.crt");
        replace(&ca, &cas.iter().map(|ca| ca.pem()).collect::<String>());
        let crls = cas.iter().map(|ca| ca.crl("devices.crl", &[])).collect::<Vec<_>>();
        let mut listener = listener(backend.config(), &servers.server());
        let trust = ClientTrust { crls: crls.clone(), ..ClientTrust::new(ca.clone()) };
        listener.tls.client_auth = ClientAuth::Required(trust);
        change(&mut listener);
        Self { servers, proxy: Proxy::with(listener), ca, crls, _backend: backend }
    }

    async fn connected(&self, pair: &Pair) -> Session {
        Device::showing(&self.servers, pair).echo(self.proxy.address).await.unwrap()
    }

    /// Waits until a reload has applied a change.
    async fn reloaded(&self, change: impl FnOnce()) {
        let before = self.proxy.reloads(ReloadOutcome::Swapped);
        change();
        let reloaded = || self.proxy.reloads(ReloadOutcome::Swapped) > before;
        eventually("the change is applied", reloaded).await;
    }

    /// Expects that the session is closed with close_notify, and counted with the reason.
    async fn is_stopped(&self, mut session: Session, reason: Reason) {
        // An end without close_notify would be an error of rustls.
        assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
        drop(session);
        eventually("the reason is counted", || self.proxy.closed(reason) > 0).await;
    }
}

async fn is_live(session: &mut Session) {
    say_and_hear(session, b"still here").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_device_is_revoked_ends_and_all_others_stay() {
    let ca = Authority::new("devices");
    let scene = Scene::new(&[&ca], |_| {}).await;
    let mut good = scene.connected(&device(&ca, 65)).await;
    let lost = scene.connected(&device(&ca, 66)).await;
    replace(&scene.crls[0], &ca.crl_pem(2, &[66]));
    scene.is_stopped(lost, Reason::Revoked).await;
    is_live(&mut good).await;
    assert_eq!(scene.proxy.closed(Reason::Revoked), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_below_a_revoked_intermediate_ends() {
    let root = Authority::new("root");
    let (good, lost) = (root.intermediate("good plant"), root.intermediate("lost plant"));
    let scene = Scene::new(&[&root], |_| {}).await;
    let crls = |number, revoked: &[u64]| {
        let of_root = root.crl_pem(number, revoked);
        [of_root, good.crl_pem(number, &[]), lost.crl_pem(number, &[])].concat()
    };
    scene.reloaded(|| replace(&scene.crls[0], &crls(2, &[]))).await;
    let mut stays = scene.connected(&device(&good, 1)).await;
    let ends = scene.connected(&device(&lost, 2)).await;
    replace(&scene.crls[0], &crls(3, &[serial_of("lost plant")]));
    scene.is_stopped(ends, Reason::Revoked).await;
    is_live(&mut stays).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_removed_ca_end() {
    let (old, new) = (Authority::new("old devices"), Authority::new("new devices"));
    let scene = Scene::new(&[&old, &new], |_| {}).await;
    let ends = scene.connected(&device(&old, 1)).await;
    let mut stays = scene.connected(&device(&new, 1)).await;
    replace(&scene.ca, new.pem());
    scene.is_stopped(ends, Reason::ClientNotAllowed).await;
    is_live(&mut stays).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_ca_with_the_same_key_ends_no_session() {
    let ca = Authority::new("devices");
    let scene = Scene::new(&[&ca], |_| {}).await;
    let mut session = scene.connected(&device(&ca, 1)).await;
    let renewed = std::fs::read_to_string(ca.ca_of((2021, 2059))).unwrap();
    assert_ne!(renewed, ca.pem());
    scene.reloaded(|| replace(&scene.ca, &renewed)).await;
    // A later change that ends a session shows that the re-check has run.
    let lost = scene.connected(&device(&ca, 66)).await;
    replace(&scene.crls[0], &ca.crl_pem(2, &[66]));
    scene.is_stopped(lost, Reason::Revoked).await;
    is_live(&mut session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_added_ca_ends_no_session() {
    let (ca, added) = (Authority::new("devices"), Authority::new("more devices"));
    let scene = Scene::new(&[&ca, &added], |_| {}).await;
    scene.reloaded(|| replace(&scene.ca, ca.pem())).await;
    let mut session = scene.connected(&device(&ca, 1)).await;
    scene.reloaded(|| replace(&scene.ca, &[ca.pem(), added.pem()].concat())).await;
    let lost = scene.connected(&device(&added, 66)).await;
    replace(&scene.crls[1], &added.crl_pem(2, &[66]));
    scene.is_stopped(lost, Reason::Revoked).await;
    is_live(&mut session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_of_a_device_that_is_no_longer_pinned_ends() {
    let (ca, pinned) = (Authority::new("devices"), Authority::new("alone"));
    let scene = Scene::new(&[&ca], |_| {}).await;
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "pinned");
    let pair = pinned.sign("pinned", &params);
    let certificate = std::fs::read_to_string(&pair.files.cert).unwrap();
    scene.reloaded(|| replace(&scene.ca, &(ca.pem().to_owned() + &certificate))).await;
    let mut stays = scene.connected(&device(&ca, 1)).await;
    let ends = scene.connected(&pair).await;
    replace(&scene.ca, ca.pem());
    scene.is_stopped(ends, Reason::ClientNotAllowed).await;
    is_live(&mut stays).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_of_a_pinned_device_that_a_crl_revokes_ends() {
    let ca = Authority::new("devices");
    let scene = Scene::new(&[&ca], |_| {}).await;
    let (stays, ends) = (device(&ca, 65), device(&ca, 66));
    let [one, other] = [&stays, &ends].map(|it| std::fs::read_to_string(&it.files.cert).unwrap());
    scene.reloaded(|| replace(&scene.ca, &[ca.pem(), &one, &other].concat())).await;
    let mut stays = scene.connected(&stays).await;
    let ends = scene.connected(&ends).await;
    replace(&scene.crls[0], &ca.crl_pem(2, &[66]));
    scene.is_stopped(ends, Reason::Revoked).await;
    is_live(&mut stays).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_the_certificate_of_its_device_expires() {
    let ca = Authority::new("devices");
    let scene = Scene::new(&[&ca], |_| {}).await;
    let mut stays = scene.connected(&device(&ca, 1)).await;
    let mut params = CertificateParams::new(vec!["short".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_after = (std::time::SystemTime::now() + Duration::from_secs(3)).into();
    params.use_authority_key_identifier_extension = true;
    let ends = scene.connected(&ca.sign("short", &params)).await;
    scene.is_stopped(ends, Reason::Expired).await;
    is_live(&mut stays).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_no_allow_rule_admits_any_longer_ends() {
    let ca = Authority::new("devices");
    let rules = ca.dir().join("allow.toml");
    replace(&rules, "dns = [\"stays\", \"ends\"]\n");
    let cas = [&ca];
    let scene = Scene::new(&cas, |listener| {
        let ClientAuth::Required(trust) = &mut listener.tls.client_auth else { unreachable!() };
        trust.allow.file = Some(rules.clone());
    });
    let scene = scene.await;
    let pair = |names: &[&str]| ca.issue(names[0], &Wish::of_device(names));
    let mut stays = scene.connected(&pair(&["stays"])).await;
    let ends = scene.connected(&pair(&["ends"])).await;
    replace(&rules, "dns = [\"stays\"]\n");
    scene.is_stopped(ends, Reason::ClientNotAllowed).await;
    is_live(&mut stays).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_session_is_checked_like_a_full_one() {
    let root = Authority::new("root");
    let plant = root.intermediate("plant");
    let scene = Scene::new(&[&root], |_| {}).await;
    let both =
        |number, revoked: &[u64]| root.crl_pem(number, &[]) + &plant.crl_pem(number, revoked);
    scene.reloaded(|| replace(&scene.crls[0], &both(2, &[]))).await;
    let device = Device::showing(&scene.servers, &device(&plant, 66)).resuming();
    drop(device.echo(scene.proxy.address).await.unwrap());
    let resumed = device.echo(scene.proxy.address).await.unwrap();
    let kind = resumed.get_ref().1.handshake_kind();
    assert_eq!(kind, Some(tokio_rustls::rustls::HandshakeKind::Resumed));
    replace(&scene.crls[0], &both(3, &[66]));
    scene.is_stopped(resumed, Reason::Revoked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_recheck_live_sessions_stay() {
    let ca = Authority::new("devices");
    let scene = Scene::new(&[&ca], |listener| listener.tls.recheck = false).await;
    let pair = device(&ca, 66);
    let mut session = scene.connected(&pair).await;
    scene.reloaded(|| replace(&scene.crls[0], &ca.crl_pem(2, &[66]))).await;
    let device = Device::showing(&scene.servers, &pair);
    assert!(device.echo(scene.proxy.address).await.is_err(), "new handshakes are refused");
    is_live(&mut session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_began_before_the_reload_is_checked_after_it() {
    let ca = Authority::new("devices");
    let scene = Scene::new(&[&ca], |_| {}).await;
    let pair = device(&ca, 66);
    // An accepted connection has the snapshot of its accept.
    let tcp = TcpStream::connect(scene.proxy.address).await.unwrap();
    eventually("it is accepted", || scene.proxy.active() == 1).await;
    scene.reloaded(|| replace(&scene.crls[0], &ca.crl_pem(2, &[66]))).await;
    let session = Device::showing(&scene.servers, &pair).connect_over(tcp).await.unwrap();
    scene.is_stopped(session, Reason::Revoked).await;
    assert_eq!(scene.proxy.closed(Reason::ClientCertRevoked), 0, "it was verified before");
}
