//! Tests of reloads: every change on disk takes effect, and nothing else changes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use rcgen::{CertificateParams, SerialNumber};
use tlsidecar::config::file::{ConfigSource, Overrides};
use tlsidecar::config::{CertificateFiles, ClientAuth, ClientTrust};
use tlsidecar::terms::labels::ReloadOutcome;
use tlsidecar::terms::reason::Reason;
use tokio::io::AsyncWriteExt;
use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::support::bytes;
use crate::support::certs::{Wish, replace};
use crate::support::client::{Session, say_and_hear};
use crate::support::proxy::listener;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Pair, Proxy, eventually};

/// A proxy whose certificate a test changes, and a device.
struct Scene {
    authority: Authority,
    pair: Pair,
    _backend: Backend,
    proxy: Proxy,
    device: Device,
}

impl Scene {
    async fn new() -> Self {
        let authority = Authority::new("ca");
        let backend = Backend::echo().await;
        let pair = authority.server();
        let proxy = Proxy::start(backend.config(), &pair);
        let device = Device::new(&authority);
        Self { authority, pair, _backend: backend, proxy, device }
    }

    async fn serial(&self) -> u64 {
        serial(&self.device.echo(self.proxy.address).await.unwrap())
    }

    /// Waits until devices are sent the certificate with this serial number.
    async fn shows(&self, wanted: u64) {
        for _ in 0..1000 {
            if self.serial().await == wanted {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("devices still get {}, not {wanted}", self.serial().await);
    }

    /// Returns a new certificate with this serial number, in PEM: the chain and the key.
    fn new_pem(&self, serial: u64) -> (String, String) {
        self.authority.issue_pem(&Wish { serial, ..Wish::default() })
    }
}

/// Returns the serial number of the certificate that a device was sent. Tests keep it below 128.
pub(crate) fn serial(session: &Session) -> u64 {
    let der = session.get_ref().1.peer_certificates().unwrap()[0].as_ref();
    // TBSCertificate: [0] version, then INTEGER: RFC 5280 section 4.1.
    let at = der.windows(5).position(|w| w == [0xa0, 3, 2, 1, 2]).unwrap() + 5;
    assert_eq!(&der[at..at + 2], [2, 1], "a serial number of one byte");
    u64::from(der[at + 2])
}

#[tokio::test(flavor = "multi_thread")]
async fn files_replaced_by_renames_are_loaded() {
    let scene = Scene::new().await;
    assert_eq!(scene.serial().await, 1);
    scene.authority.issue("server", &Wish { serial: 2, ..Wish::default() });
    scene.shows(2).await;
    assert!(!scene.proxy.reload_fails());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_rewritten_in_place_are_loaded() {
    let scene = Scene::new().await;
    let (chain, key) = scene.new_pem(2);
    fs::write(&scene.pair.files.cert, chain).unwrap();
    fs::write(&scene.pair.files.key, key).unwrap();
    scene.shows(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_deleted_and_created_again_are_loaded() {
    let scene = Scene::new().await;
    let CertificateFiles { cert, key } = &scene.pair.files;
    fs::remove_file(cert).unwrap();
    fs::remove_file(key).unwrap();
    eventually("it is reported as missing", || scene.proxy.reload_fails()).await;
    assert_eq!(scene.serial().await, 1, "the old certificate stays active");
    let (new_chain, new_key) = scene.new_pem(2);
    fs::write(key, new_key).unwrap();
    fs::write(cert, new_chain).unwrap();
    scene.shows(2).await;
    eventually("it is found", || !scene.proxy.reload_fails()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_deleted_and_created_again_is_loaded() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let dir = authority.dir().join("tls");
    let files = CertificateFiles { cert: dir.join("tls.crt"), key: dir.join("tls.key") };
    let write = |serial| {
        fs::create_dir(&dir).unwrap();
        let (chain, key) = authority.issue_pem(&Wish { serial, ..Wish::default() });
        fs::write(&files.key, key).unwrap();
        fs::write(&files.cert, chain).unwrap();
    };
    write(1);
    let proxy = Proxy::start(backend.config(), &Pair { files: files.clone() });
    let device = Device::new(&authority);
    fs::remove_dir_all(&dir).unwrap();
    let failing = || proxy.reload_fails();
    eventually("it is reported as missing", failing).await;
    write(2);
    eventually("it is found", || !failing()).await;
    assert_eq!(serial(&device.echo(proxy.address).await.unwrap()), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_swapped_is_followed() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    // The layout of certbot: live/cert.pem → ../archive/cert1.pem.
    let (live, archive) = (authority.dir().join("live"), authority.dir().join("archive"));
    fs::create_dir(&live).unwrap();
    fs::create_dir(&archive).unwrap();
    let renew = |serial: u64| {
        let (chain, key) = authority.issue_pem(&Wish { serial, ..Wish::default() });
        for (name, text) in [("key", key), ("crt", chain)] {
            let file = format!("{name}{serial}.pem");
            fs::write(archive.join(&file), text).unwrap();
            let new = live.join("new");
            symlink(Path::new("../archive").join(&file), &new).unwrap();
            fs::rename(&new, live.join(name)).unwrap();
        }
    };
    renew(1);
    let files = CertificateFiles { cert: live.join("crt"), key: live.join("key") };
    let proxy = Proxy::start(backend.config(), &Pair { files });
    let device = Device::new(&authority);
    assert_eq!(serial(&device.echo(proxy.address).await.unwrap()), 1);
    renew(2);
    let swapped = || proxy.reloads(ReloadOutcome::Swapped) > 0;
    eventually("it is followed", swapped).await;
    assert_eq!(serial(&device.echo(proxy.address).await.unwrap()), 2);
}

/// Writes a Secret as the kubelet does and swaps it: `tls.crt` → `..data/tls.crt`, `..data` → `..v1`,
/// the new `..data` renamed over the old one, the old directory removed.
fn kubelet_writes(dir: &Path, version: usize, chain: &str, key: &str) {
    let name = format!("..v{version}");
    let new = dir.join(&name);
    fs::create_dir_all(&new).unwrap();
    fs::write(new.join("tls.crt"), chain).unwrap();
    fs::write(new.join("tls.key"), key).unwrap();
    symlink(&name, dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        // The link exists from the second time on.
        let _exists = symlink(Path::new("..data").join(file), dir.join(file));
    }
    if version > 1 {
        fs::remove_dir_all(dir.join(format!("..v{}", version - 1))).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_by_the_kubelet_fail_no_handshake_under_load() {
    const SWAPS: usize = 8;
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let dir = authority.dir().join("secret");
    let made: Vec<_> = (1..=SWAPS as u64)
        .map(|serial| authority.issue_pem(&Wish { serial, ..Wish::default() }))
        .collect();
    let leaf = |chain: &str| CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    let leaves: Arc<Vec<_>> = Arc::new(made.iter().map(|(chain, _)| leaf(chain)).collect());
    kubelet_writes(&dir, 1, &made[0].0, &made[0].1);
    let files = CertificateFiles { cert: dir.join("tls.crt"), key: dir.join("tls.key") };
    let proxy = Proxy::start(backend.config(), &Pair { files });
    let device = Device::new(&authority);

    let stop = Arc::new(AtomicBool::new(false));
    let handshakes = Arc::new(AtomicUsize::new(0));
    let load = (0..6).map(|_| {
        let (device, address) = (device.clone(), proxy.address);
        let (stop, handshakes, leaves) = (stop.clone(), handshakes.clone(), leaves.clone());
        tokio::spawn(async move {
            let mut newest = 0;
            while !stop.load(Ordering::SeqCst) {
                let session = device.echo(address).await.expect("no handshake fails");
                let shown = &session.get_ref().1.peer_certificates().unwrap()[0];
                let which =
                    leaves.iter().position(|l| l == shown).expect("one of the certificates");
                assert!(which >= newest, "a replaced certificate does not return");
                newest = which;
                handshakes.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    let load: Vec<_> = load.collect();
    let swapped = || usize::try_from(proxy.reloads(ReloadOutcome::Swapped)).unwrap();
    for version in 2..=SWAPS {
        let before = handshakes.load(Ordering::SeqCst);
        let (chain, key) = &made[version - 1];
        kubelet_writes(&dir, version, chain, key);
        eventually("it is swapped", || swapped() == version - 1).await;
        eventually("the load continues", || handshakes.load(Ordering::SeqCst) > before + 20).await;
    }
    stop.store(true, Ordering::SeqCst);
    for task in load {
        task.await.unwrap();
    }
    assert_eq!(proxy.reloads(ReloadOutcome::Failed), 0);
    let last = device.echo(proxy.address).await.unwrap();
    assert_eq!(last.get_ref().1.peer_certificates().unwrap()[0], leaves[SWAPS - 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_are_not_touched_by_a_new_certificate() {
    let scene = Scene::new().await;
    let mut open = scene.device.echo(scene.proxy.address).await.unwrap();
    for serial in 2..6 {
        scene.authority.issue("server", &Wish { serial, ..Wish::default() });
        scene.shows(serial).await;
        say_and_hear(&mut open, b"still the same session").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_during_reloads_arrive_unchanged() {
    const TOTAL: usize = 6 << 20;
    let scene = Scene::new().await;
    let streams = (0..10).map(|seed| {
        let (device, address) = (scene.device.clone(), scene.proxy.address);
        tokio::spawn(async move {
            let session = device.echo(address).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(session);
            let sending = async {
                let sent = bytes::send(&mut writer, seed, TOTAL, 3000).await;
                writer.shutdown().await.unwrap();
                sent
            };
            let (sent, got) = tokio::join!(sending, bytes::receive(&mut reader));
            assert_eq!(got, (TOTAL, sent));
        })
    });
    let streams: Vec<_> = streams.collect();
    for serial in 2..7 {
        scene.authority.issue("server", &Wish { serial, ..Wish::default() });
        scene.shows(serial).await;
    }
    for stream in streams {
        within("a stream", stream).await.unwrap();
    }
}

/// Makes the files invalid. Devices are still sent the old certificate, and the failure is reported.
async fn is_kept(spoil: impl FnOnce(&Scene)) {
    let scene = Scene::new().await;
    spoil(&scene);
    eventually("it fails", || scene.proxy.reloads(ReloadOutcome::Failed) > 0).await;
    assert!(scene.proxy.reload_fails());
    assert_eq!(scene.serial().await, 1);
    // The gauge stays set; the counter does not increase.
    let failed = scene.proxy.reloads(ReloadOutcome::Failed);
    scene.authority.issue("server", &Wish { serial: 2, ..Wish::default() });
    scene.shows(2).await;
    eventually("it recovers", || !scene.proxy.reload_fails()).await;
    assert!(scene.proxy.reloads(ReloadOutcome::Failed) - failed <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_its_key_is_not_loaded() {
    is_kept(|scene| replace(&scene.pair.files.cert, &scene.new_pem(9).0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_is_not_loaded() {
    is_kept(|scene| replace(&scene.pair.files.cert, "rubbish")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_file_is_not_loaded() {
    is_kept(|scene| {
        let (chain, _) = scene.new_pem(9);
        replace(&scene.pair.files.cert, &chain[..chain.len() / 2]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_not_loaded() {
    is_kept(|scene| {
        let wish = Wish { serial: 9, years: (2020, 2021), ..Wish::default() };
        scene.authority.issue("server", &wish);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_future_is_not_loaded() {
    is_kept(|scene| {
        let wish = Wish { serial: 9, years: (2050, 2051), ..Wish::default() };
        scene.authority.issue("server", &wish);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_becomes_valid_in_this_second_is_loaded_at_once() {
    let scene = Scene::new().await;
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    // Certificates have whole seconds, so this is now or less than a second ago.
    params.not_before = SystemTime::now().into();
    params.serial_number = Some(SerialNumber::from(2u64));
    scene.authority.sign("server", &params);
    let report = scene.proxy.app.reload.reload().await.unwrap();
    assert_eq!(report.failures, Vec::<String>::new());
    assert_eq!(scene.serial().await, 2);
}

/// Splits a chain in PEM into the first certificate and the others.
fn first_and_rest(chain: &str) -> (&str, &str) {
    chain.split_at(chain.find("-----END CERTIFICATE-----").unwrap() + 26)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_in_any_order_with_duplicates_and_strays_is_sent_in_order() {
    let scene = Scene::new().await;
    let below = scene.authority.intermediate("below");
    let stray = scene.authority.intermediate("other");
    let (chain, key) = below.issue_pem(&Wish { serial: 9, ..Wish::default() });
    let (leaf, issuer) = first_and_rest(&chain);
    replace(&scene.pair.files.key, &key);
    let turned = [issuer, stray.pem(), leaf, issuer, leaf].concat();
    replace(&scene.pair.files.cert, &turned);
    scene.shows(9).await;
    let session = scene.device.echo(scene.proxy.address).await.unwrap();
    let sent: Vec<_> = session.get_ref().1.peer_certificates().unwrap().to_vec();
    let wanted: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes()).flatten().collect();
    assert_eq!(sent, wanted);
    assert!(!scene.proxy.reload_fails());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_lost_its_issuer_is_not_loaded() {
    let scene = Scene::new().await;
    let below = scene.authority.intermediate("below");
    let other = scene.authority.intermediate("other");
    let (chain, key) = below.issue_pem(&Wish { serial: 9, ..Wish::default() });
    replace(&scene.pair.files.key, &key);
    replace(&scene.pair.files.cert, &chain);
    scene.shows(9).await;
    let (leaf, _) = first_and_rest(&chain);
    replace(&scene.pair.files.cert, &format!("{leaf}{}", other.pem()));
    eventually("it fails", || scene.proxy.reload_fails()).await;
    assert_eq!(scene.serial().await, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_with_new_times_only_are_read_and_found_unchanged() {
    let scene = Scene::new().await;
    let touched = || {
        let cert = fs::OpenOptions::new().append(true).open(&scene.pair.files.cert).unwrap();
        cert.set_modified(SystemTime::now()).unwrap();
        scene.proxy.reloads(ReloadOutcome::Unchanged) > 0
    };
    eventually("it is noticed", touched).await;
    assert!(scene.proxy.reloads(ReloadOutcome::Swapped) == 0 && !scene.proxy.reload_fails());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requested_reload_returns_its_result() {
    let scene = Scene::new().await;
    let reload = || scene.proxy.app.reload.reload();
    assert_eq!(reload().await.unwrap().outcome, ReloadOutcome::Unchanged);
    replace(&scene.pair.files.cert, "rubbish");
    let report = reload().await.unwrap();
    assert_eq!(report.outcome, ReloadOutcome::Failed);
    assert_eq!(report.failures.len(), 1);
    assert!(report.failures[0].contains("server.crt"), "{:?}", report.failures);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_are_all_answered() {
    let scene = Scene::new().await;
    let handle = &scene.proxy.app.reload;
    let reports = tokio::join!(handle.reload(), handle.reload(), handle.reload());
    assert_eq!(reports.0, reports.1);
    assert_eq!(reports.1, reports.2);
    assert_eq!(reports.0.unwrap().outcome, ReloadOutcome::Unchanged);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_invalidates_no_ticket() {
    let scene = Scene::new().await;
    let device = scene.device.clone().resuming();
    device.echo(scene.proxy.address).await.unwrap();
    scene.authority.issue("server", &Wish { serial: 2, ..Wish::default() });
    scene.shows(2).await;
    let resumed = device.echo(scene.proxy.address).await.unwrap();
    assert_eq!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
}

/// The wish for a device's certificate.
fn device_wish(serial: u64) -> Wish<'static> {
    Wish { serial, ..Wish::of_device(&["device"]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_crl_refuses_the_revoked_device_and_its_ticket() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    let crls = vec![authority.crl("devices.crl", &[])];
    let trust = ClientTrust { crls, ..ClientTrust::new(authority.ca()) };
    listener.tls.client_auth = ClientAuth::Required(trust);
    let proxy = Proxy::with(listener);
    let pair = authority.issue("device", &device_wish(66));
    let device = Device::showing(&authority, &pair).resuming();
    device.echo(proxy.address).await.unwrap();
    let resumed = device.echo(proxy.address).await.unwrap();
    assert_eq!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    authority.crl("devices.crl", &[66]);
    let swapped = || proxy.reloads(ReloadOutcome::Swapped) > 0;
    eventually("the CRL is active", swapped).await;
    assert!(device.echo(proxy.address).await.is_err());
    let revoked = || proxy.closed(Reason::ClientCertRevoked) > 0;
    eventually("it is refused as revoked", revoked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_added_ca_is_trusted_without_a_new_certificate() {
    let authority = Authority::new("ca");
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    let bundle = authority.dir().join("bundle.crt");
    replace(&bundle, first.pem());
    let trust = ClientTrust::new(bundle.clone());
    listener.tls.client_auth = ClientAuth::Required(trust);
    let proxy = Proxy::with(listener);
    let pair = second.issue("device", &device_wish(1));
    let device = Device::showing(&authority, &pair);
    assert!(device.echo(proxy.address).await.is_err());
    replace(&bundle, &format!("{}{}", first.pem(), second.pem()));
    let swapped = || proxy.reloads(ReloadOutcome::Swapped) > 0;
    eventually("the bundle is active", swapped).await;
    device.echo(proxy.address).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_bundle_keeps_the_old_cas_active() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    let bundle = authority.dir().join("bundle.crt");
    replace(&bundle, authority.pem());
    let trust = ClientTrust::new(bundle.clone());
    listener.tls.client_auth = ClientAuth::Required(trust);
    let proxy = Proxy::with(listener);
    let pair = authority.issue("device", &device_wish(1));
    replace(&bundle, &authority.pem()[..100]);
    eventually("it fails", || proxy.reload_fails()).await;
    Device::showing(&authority, &pair).echo(proxy.address).await.unwrap();
}

/// A proxy with a configuration file.
struct Filed {
    authority: Authority,
    backend: Backend,
    pair: Pair,
    proxy: Proxy,
}

impl Filed {
    async fn new(more: &str) -> Self {
        let authority = Authority::new("ca");
        let backend = Backend::echo().await;
        let pair = authority.server();
        let text = crate::support::file::text(backend.address, &pair, more);
        let path = crate::support::file::write(authority.dir(), &text);
        let source = ConfigSource { path, overrides: Overrides::default() };
        let proxy = Proxy::on(source.load().unwrap(), Some(source));
        Self { authority, backend, pair, proxy }
    }

    fn rewrite(&self, text: &str) {
        crate::support::file::write(self.authority.dir(), text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_backend_and_limit_take_effect_without_a_restart() {
    let filed = Filed::new("").await;
    let device = Device::new(&filed.authority);
    let mut open = device.echo(filed.proxy.address).await.unwrap();
    let other = Backend::echo().await;
    let more = "limits.max_connections = 17\n";
    filed.rewrite(&crate::support::file::text(other.address, &filed.pair, more));
    let limit = || filed.proxy.count("tlsidecar_connections_limit{listener=\"test\"}");
    eventually("the limit is active", || limit() == 17).await;
    device.echo(filed.proxy.address).await.unwrap();
    assert_eq!((filed.backend.connections(), other.connections()), (1, 1));
    say_and_hear(&mut open, b"the old backend").await.unwrap();
    let listed =
        |backend: &Backend| filed.proxy.text().contains(&format!("\"{}\"", backend.address));
    assert!(listed(&other) && !listed(&filed.backend), "only active backends are listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_configuration_is_reported_and_delays_no_renewal() {
    let filed = Filed::new("").await;
    filed.rewrite("[[listener]]\nname = 5\n");
    eventually("it is reported", || filed.proxy.reloads(ReloadOutcome::Failed) > 0).await;
    let failed = "tlsidecar_reload_objects_total{object=\"config\",outcome=\"failed\"}";
    assert!(filed.proxy.count(failed) > 0);
    filed.authority.issue("server", &Wish { serial: 2, ..Wish::default() });
    let before = filed.proxy.reloads(ReloadOutcome::Failed);
    let failed_again = || filed.proxy.reloads(ReloadOutcome::Failed) > before;
    eventually("it is reloaded again", failed_again).await;
    let session = Device::new(&filed.authority).echo(filed.proxy.address).await.unwrap();
    assert_eq!(serial(&session), 2);
    assert!(filed.proxy.reload_fails());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_certificate_of_one_listener_delays_no_other_listener() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let bad = authority.issue("bad", &Wish::default());
    let good = authority.issue("good", &Wish::default());
    let mut config = crate::support::proxy::config(listener(backend.config(), &bad));
    let mut second = listener(backend.config(), &good);
    "second".clone_into(&mut second.name);
    config.listeners.push(second);
    let proxy = Proxy::on(config, None);
    replace(&bad.files.cert, "rubbish");
    authority.issue("good", &Wish { serial: 2, ..Wish::default() });
    let report = proxy.app.reload.reload().await.unwrap();
    assert_eq!(report.outcome, ReloadOutcome::Failed);
    let device = Device::new(&authority);
    let (first, second) = (proxy.app.listeners[0].1, proxy.app.listeners[1].1);
    assert_eq!(serial(&device.echo(first).await.unwrap()), 1);
    assert_eq!(serial(&device.echo(second).await.unwrap()), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_of_one_listener_delays_no_limit_of_another() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let (bad, good) = (authority.issue("bad", &Wish::default()), authority.server());
    let text = |more: &str| {
        let second = crate::support::file::text(backend.address, &bad, "");
        let second = second.split_once("[[listener]]").unwrap().1.replace("\"test\"", "\"bad\"");
        crate::support::file::text(backend.address, &good, &format!("{more}[[listener]]{second}"))
    };
    let path = crate::support::file::write(authority.dir(), &text(""));
    let source = ConfigSource { path, overrides: Overrides::default() };
    let proxy = Proxy::on(source.load().unwrap(), Some(source));
    fs::remove_file(&bad.files.key).unwrap();
    crate::support::file::write(authority.dir(), &text("limits.max_connections = 17\n"));
    let limit = || proxy.count("tlsidecar_connections_limit{listener=\"test\"}");
    eventually("the limit is active", || limit() == 17).await;
    let report = proxy.app.reload.reload().await.unwrap();
    assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
    assert!(report.failures[0].contains("bad.key"), "{:?}", report.failures);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_certificate_of_a_listener_that_waits_for_a_restart_is_reported() {
    let filed = Filed::new("").await;
    let bad = filed.authority.issue("bad", &Wish::default());
    replace(&bad.files.key, "rubbish");
    let second = crate::support::file::text(filed.backend.address, &bad, "");
    let second = second.split_once("[[listener]]").unwrap().1.replace("\"test\"", "\"second\"");
    let more = format!("[[listener]]{second}");
    filed.rewrite(&crate::support::file::text(filed.backend.address, &filed.pair, &more));
    let report = filed.proxy.app.reload.reload().await.unwrap();
    assert_eq!(report.outcome, ReloadOutcome::Failed);
    assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
    assert!(report.failures[0].contains("\"second\"") && report.failures[0].contains("bad.key"));
    assert_eq!(report.waiting.len(), 1, "{:?}", report.waiting);
    let failed = "tlsidecar_reload_objects_total{object=\"certificate\",outcome=\"failed\"}";
    assert!(filed.proxy.count(failed) > 0, "and counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_expiry_of_the_active_certificate_is_a_metric() {
    let scene = Scene::new().await;
    let cert = scene.pair.files.cert.display().to_string();
    let series = format!(
        "tlsidecar_certificate_not_after_timestamp_seconds{{cert=\"{cert}\",listener=\"test\"}}"
    );
    // 2060-01-01 and 2050-01-01.
    assert_eq!(scene.proxy.count(&series), 2_840_140_800);
    let wish = Wish { serial: 2, years: (2020, 2050), ..Wish::default() };
    scene.authority.issue("server", &wish);
    scene.shows(2).await;
    assert_eq!(scene.proxy.count(&series), 2_524_608_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_are_not_touched_by_a_failed_reload() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let pair = authority.server();
    let mut listener = listener(backend.config(), &pair);
    let bundle = authority.dir().join("bundle.crt");
    replace(&bundle, authority.pem());
    let trust = ClientTrust::new(bundle.clone());
    listener.tls.client_auth = ClientAuth::Required(trust);
    let proxy = Proxy::with(listener);
    let shown = authority.issue("device", &device_wish(1));
    let mut open = Device::showing(&authority, &shown).echo(proxy.address).await.unwrap();
    for broken in [&pair.files.cert, &bundle] {
        let whole = fs::read_to_string(broken).unwrap();
        replace(broken, &whole[..whole.len() / 2]);
        let report = proxy.app.reload.reload().await.unwrap();
        assert_eq!(report.outcome, ReloadOutcome::Failed, "{}", broken.display());
        say_and_hear(&mut open, b"still here").await.unwrap();
        replace(broken, &whole);
        eventually("it recovers", || !proxy.reload_fails()).await;
        say_and_hear(&mut open, b"and still").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_with_an_older_time_is_loaded() {
    let scene = Scene::new().await;
    // For example from a backup, or from a tool that keeps the times of files that it copies.
    let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let (chain, key) = scene.new_pem(2);
    let CertificateFiles { cert, key: key_file } = &scene.pair.files;
    for (file, text) in [(key_file, key), (cert, chain)] {
        let copy = file.with_extension("copy");
        fs::write(&copy, text).unwrap();
        fs::File::options().append(true).open(&copy).unwrap().set_modified(long_ago).unwrap();
        fs::rename(&copy, file).unwrap();
    }
    scene.shows(2).await;
    assert_eq!(fs::metadata(cert).unwrap().modified().unwrap(), long_ago);
}
