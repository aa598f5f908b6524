//! Rollouts: a new server certificate for a share of the devices first, promoted or rolled back by what they do.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, DnType, SerialNumber};
use serde_json::Value;
use tlsidecar::config::{ClientAuth, ClientTrust, ListenerConfig, Rollout, Route};
use tlsidecar::terms::labels::ReloadOutcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{HandshakeKind, RootCertStore};

use crate::reload::serial;
use crate::support::certs::{self, Wish, replace};
use crate::support::client::{Session, say_and_hear};
use crate::support::process::{ask, binary};
use crate::support::proxy::listener;
use crate::support::raw::client_hello;
use crate::support::{Authority, Backend, Device, Pair, Proxy, Sidecar, eventually, file};
use crate::tls::rsa_only;

/// Devices that connect at the same time.
const AT_ONCE: u32 = 32;

/// A proxy whose certificate, with the serial number 1, is from the CA that all devices know.
struct Scene {
    known: Authority,
    /// A CA that some devices do not know.
    other: Authority,
    pair: Pair,
    proxy: Proxy,
    _backend: Backend,
}

impl Scene {
    /// Starts it with a share in percent, and an observation that does not end within a test.
    async fn of(share: u32) -> Self {
        Self::with(Some(Rollout { observe: Duration::from_secs(3600), ..Rollout::to(share) })).await
    }

    async fn with(rollout: Option<Rollout>) -> Self {
        Self::on(|listener| listener.tls.rollout = rollout).await
    }

    async fn on(change: impl FnOnce(&mut ListenerConfig)) -> Self {
        let (known, other) = (Authority::new("known"), Authority::new("other"));
        let (pair, backend) = (known.server(), Backend::echo().await);
        let mut listener = listener(backend.config(), &pair);
        change(&mut listener);
        Self { known, other, pair, proxy: Proxy::with(listener), _backend: backend }
    }

    /// Returns a device that knows both CAs.
    fn modern(&self) -> Device {
        let roots = both(&self.known, &self.other);
        Device::with(roots, &[&TLS13, &TLS12], aws_lc_rs::default_provider(), None)
    }

    /// Returns a device that knows only the CA of the first certificate.
    fn pinned(&self) -> Device {
        Device::new(&self.known)
    }

    /// Replaces the certificate by one of this CA with a serial number, and reloads.
    async fn renew(&self, authority: &Authority, serial: u64) {
        self.replace(&authority.issue_pem(&Wish { serial, ..Wish::default() })).await;
    }

    async fn replace(&self, (chain, key): &(String, String)) {
        replace(&self.pair.files.key, key);
        replace(&self.pair.files.cert, chain);
        let report = self.proxy.app.reload.reload().await.unwrap();
        assert_ne!(report.outcome, ReloadOutcome::Failed, "{:?}", report.failures);
    }

    /// Returns the content of the current files.
    fn files(&self) -> (String, String) {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        (read(&self.pair.files.cert), read(&self.pair.files.key))
    }

    /// Returns the serial number of the certificate that a device at this address gets.
    async fn serial(&self, device: &Device, host: u32) -> u64 {
        serial(&connect(device, host, self.proxy.address).await.unwrap())
    }

    /// Returns the serial numbers that so many addresses get.
    async fn serials(&self, hosts: u32) -> Vec<u64> {
        let device = self.modern();
        let mut serials = Vec::new();
        for host in 0..hosts {
            serials.push(self.serial(&device, host).await);
        }
        serials
    }

    /// Returns the first address whose certificate has this serial number.
    async fn address_with(&self, wanted: u64) -> u32 {
        let device = self.modern();
        for host in 0..1000 {
            if self.serial(&device, host).await == wanted {
                return host;
            }
        }
        panic!("no address gets the certificate {wanted}");
    }

    /// Returns the full handshakes that were counted for a group with an outcome.
    fn handshakes(&self, group: &str, outcome: &str) -> u64 {
        let labels = format!("listener=\"test\",group=\"{group}\",outcome=\"{outcome}\"");
        // The labels are sorted by name.
        let series = format!("tlsidecar_rollout_handshakes_total{{{}}}", sorted(&labels));
        self.proxy.count(&series)
    }

    fn active(&self, state: &str) -> u64 {
        self.proxy
            .count(&format!("tlsidecar_rollouts_active{{listener=\"test\",state=\"{state}\"}}"))
    }

    fn results(&self, result: &str) -> u64 {
        self.proxy
            .count(&format!("tlsidecar_rollouts_total{{listener=\"test\",result=\"{result}\"}}"))
    }

    /// Returns the rollouts in `/status`.
    fn rollouts(&self) -> Vec<Value> {
        let (_, text) = self.ask("GET", "/status");
        let status: Value = serde_json::from_str(&text).unwrap();
        status["rollouts"].as_array().unwrap().clone()
    }

    fn ask(&self, method: &str, path: &str) -> (u16, String) {
        ask(self.proxy.app.admin.unwrap(), method, path, "").unwrap()
    }

    /// Connects from so many addresses, up to 32 at a time, each once more after a failure. Returns how often each
    /// failed.
    async fn fleet(&self, hosts: u32, device: impl Fn(u32) -> Device) -> Vec<u32> {
        let (mut running, mut failures) = (JoinSet::new(), Vec::new());
        for host in 0..hosts {
            if running.len() == AT_ONCE as usize {
                failures.push(running.join_next().await.unwrap().unwrap());
            }
            let (device, address) = (device(host), self.proxy.address);
            running.spawn(async move {
                let mut failed = 0;
                while failed < 3 && connect(&device, host, address).await.is_err() {
                    failed += 1;
                }
                failed
            });
        }
        failures.extend(running.join_all().await);
        failures
    }
}

fn sorted(labels: &str) -> String {
    let mut labels: Vec<_> = labels.split(',').collect();
    labels.sort_unstable();
    labels.join(",")
}

fn both(one: &Authority, other: &Authority) -> RootCertStore {
    let mut roots = one.roots();
    roots.extend(other.roots().roots);
    roots
}

/// Connects from an address that belongs to this device.
async fn dial(host: u32, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // 127.1.0.0 and up: all of 127.0.0.0/8 is local (RFC 1122 section 3.2.1.3).
    let from = Ipv4Addr::from(Ipv4Addr::new(127, 1, 0, 1).to_bits() + host);
    socket.bind((from, 0).into())?;
    let tcp = socket.connect(to).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Connects a device from its address, and waits for an echo.
async fn connect(device: &Device, host: u32, to: SocketAddr) -> std::io::Result<Session> {
    let tcp = dial(host, to).await?;
    let mut session = device.connect_over(tcp).await?;
    say_and_hear(&mut session, b"ping").await?;
    Ok(session)
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_all_devices_get_a_new_certificate_at_once() {
    let scene = Scene::with(None).await;
    scene.renew(&scene.known, 2).await;
    assert_eq!(scene.serials(20).await, [2; 20]);
    assert!(scene.rollouts().is_empty());
    assert!(!scene.proxy.text().contains("tlsidecar_rollout"), "there are no metrics of rollouts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_addresses_gets_the_new_certificate_and_each_keeps_its_own() {
    let scene = Scene::of(50).await;
    scene.renew(&scene.other, 2).await;
    let first = scene.serials(40).await;
    assert!(first.contains(&1) && first.contains(&2), "{first:?}");
    assert_eq!(scene.serials(40).await, first);
    let new = first.iter().filter(|serial| **serial == 2).count() as u64;
    assert_eq!(scene.handshakes("new", "completed"), 2 * new);
    assert_eq!(scene.handshakes("old", "completed"), 2 * (40 - new));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_on_which_the_new_certificate_failed_gets_the_earlier_one_next() {
    for version in [&TLS12, &TLS13] {
        let scene = Scene::of(50).await;
        scene.renew(&scene.other, 2).await;
        let host = scene.address_with(2).await;
        let pinned = Device::speaking(&scene.known, version);
        connect(&pinned, host, scene.proxy.address).await.unwrap_err();
        eventually("it is counted", || scene.handshakes("new", "alert") == 1).await;
        assert_eq!(scene.serial(&pinned, host).await, 1);
        assert_eq!(scene.active("observing"), 1, "one failure decides nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_a_third_of_1000_devices_rejects_is_rolled_back_and_no_device_fails_twice()
 {
    let scene = Scene::of(5).await;
    scene.renew(&scene.other, 2).await;
    let (modern, pinned) = (scene.modern(), scene.pinned());
    let began = Instant::now();
    let device = |host: u32| if host.is_multiple_of(3) { &pinned } else { &modern }.clone();
    let failures = scene.fleet(1000, device).await;
    let took = began.elapsed();
    assert!(failures.iter().all(|&failed| failed <= 1), "{failures:?}");
    eventually("it is rolled back", || scene.active("rolled_back") == 1).await;
    let failed = failures.iter().sum::<u32>();
    // The decision needs three; those in progress at that time fail as well.
    assert!((3..=40).contains(&failed), "{failed} devices failed once");
    println!("{failed} of 1,000 devices failed, once each; all are connected after {took:?}");
    let rollout = &scene.rollouts()[0];
    assert_eq!(rollout["decided_by"], "worse", "{rollout}");
    let (since, decided) =
        (rollout["since"].as_i64().unwrap(), rollout["decided"].as_i64().unwrap());
    assert!(decided - since <= 30, "{rollout}");
    assert_eq!(scene.fleet(100, |_| pinned.clone()).await, [0; 100]);
    assert_eq!(scene.results("rolled_back"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_1000_devices_accept_is_promoted_without_a_failure() {
    let observe = Duration::from_secs(2);
    let scene = Scene::with(Some(Rollout { observe, ..Rollout::to(5) })).await;
    scene.renew(&scene.other, 2).await;
    let modern = scene.modern();
    assert_eq!(scene.fleet(1000, |_| modern.clone()).await, [0; 1000]);
    eventually("it is promoted", || scene.results("promoted") == 1).await;
    assert_eq!(scene.active("observing") + scene.active("rolled_back"), 0);
    assert_eq!(scene.serials(20).await, [2; 20]);
    let rollout = &scene.rollouts()[0];
    assert_eq!(
        (&rollout["state"], &rollout["decided_by"]),
        (&"promoted".into(), &"not_worse".into())
    );
    assert_eq!(rollout["groups"]["new"]["failed_addresses"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_addresses_are_waited_for_after_the_observation() {
    let observe = Duration::from_millis(1);
    let rollout = Rollout { observe, min_addresses: 3, ..Rollout::to(50) };
    let scene = Scene::with(Some(rollout)).await;
    scene.renew(&scene.other, 2).await;
    let (device, mut new) = (scene.modern(), 0);
    for host in 0.. {
        assert_eq!(scene.results("promoted"), 0);
        new += u64::from(scene.serial(&device, host).await == 2);
        if new == 3 {
            break;
        }
    }
    eventually("it is promoted", || scene.results("promoted") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_promotes_a_rollout() {
    let scene = Scene::of(5).await;
    scene.renew(&scene.other, 2).await;
    let (status, text) = scene.ask("POST", "/reload?rollout=promote&listener=test");
    assert_eq!((status, text.lines().next()), (200, Some("promoted")), "{text}");
    assert_eq!(scene.serials(20).await, [2; 20]);
    let rollout = &scene.rollouts()[0];
    assert_eq!(
        (&rollout["state"], &rollout["decided_by"]),
        (&"promoted".into(), &"operator".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_rolls_back_and_can_still_promote() {
    let scene = Scene::of(50).await;
    scene.renew(&scene.other, 2).await;
    assert_eq!(scene.ask("POST", "/reload?rollout=rollback").0, 200);
    assert_eq!(scene.serials(20).await, [1; 20]);
    assert_eq!(scene.active("rolled_back"), 1);
    assert_eq!(scene.ask("POST", "/reload?rollout=rollback").0, 409);
    assert_eq!(scene.ask("POST", "/reload").1, "unchanged\n", "a reload does not begin it again");
    assert_eq!(scene.ask("POST", "/reload?rollout=promote").0, 200);
    assert_eq!(scene.serials(20).await, [2; 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_without_a_rollout_is_refused() {
    let scene = Scene::of(5).await;
    assert_eq!(scene.ask("POST", "/reload?rollout=promote").0, 409);
    scene.renew(&scene.other, 2).await;
    assert_eq!(scene.ask("POST", "/reload?rollout=promote&listener=another").0, 409);
    assert_eq!(scene.ask("POST", "/reload?rollout=forward").0, 400);
    assert_eq!(scene.active("observing"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_with_the_same_certificate_continues_the_rollout() {
    let scene = Scene::of(50).await;
    scene.renew(&scene.other, 2).await;
    let before = scene.serials(20).await;
    // The same content in a new file is no change of it.
    let files = scene.files();
    scene.replace(&files).await;
    assert_eq!(scene.serials(20).await, before);
    let groups = scene.rollouts()[0]["groups"].clone();
    let addresses = |group: &str| groups[group]["addresses"].as_u64().unwrap();
    assert_eq!(addresses("old") + addresses("new"), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_new_certificate_replaces_the_one_that_is_observed() {
    let scene = Scene::of(50).await;
    scene.renew(&scene.other, 2).await;
    scene.renew(&scene.other, 3).await;
    let serials = scene.serials(40).await;
    assert!(serials.contains(&1) && serials.contains(&3) && !serials.contains(&2), "{serials:?}");
    assert_eq!((scene.results("replaced"), scene.active("observing")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_earlier_certificate_in_the_files_again_ends_the_rollout() {
    let scene = Scene::of(50).await;
    let files = scene.files();
    scene.renew(&scene.other, 2).await;
    scene.replace(&files).await;
    assert_eq!(scene.serials(20).await, [1; 20]);
    assert_eq!((scene.results("withdrawn"), scene.active("observing")), (1, 0));
    assert_eq!(scene.rollouts()[0]["state"], "withdrawn");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_certificate_has_a_rollout_of_its_own_after_a_roll_back() {
    let scene = Scene::of(50).await;
    scene.renew(&scene.other, 2).await;
    scene.ask("POST", "/reload?rollout=rollback");
    scene.renew(&scene.known, 3).await;
    let serials = scene.serials(40).await;
    assert!(serials.contains(&1) && serials.contains(&3), "{serials:?}");
    assert_eq!((scene.active("observing"), scene.active("rolled_back")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_does_not_end_a_rollout() {
    let scene = Scene::of(50).await;
    scene.renew(&scene.other, 2).await;
    let before = scene.serials(20).await;
    replace(&scene.pair.files.cert, "rubbish");
    let report = scene.proxy.app.reload.reload().await.unwrap();
    assert_eq!(report.outcome, ReloadOutcome::Failed);
    assert_eq!(scene.serials(20).await, before);
    assert_eq!(scene.active("observing"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_can_use_only_the_earlier_key_type_fails_once() {
    let scene = Scene::of(50).await;
    scene.replace(&scene.known.issue_pem(&Wish { rsa: true, serial: 1, ..Wish::default() })).await;
    scene.ask("POST", "/reload?rollout=promote");
    scene.renew(&scene.known, 2).await;
    let host = scene.address_with(2).await;
    let old = Device::with(scene.known.roots(), &[&TLS12], rsa_only(), None);
    connect(&old, host, scene.proxy.address).await.unwrap_err();
    eventually("it is counted", || scene.handshakes("new", "incompatible") == 1).await;
    assert_eq!(scene.serial(&old, host).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_stay_valid_over_a_whole_rollout_and_count_for_neither_group() {
    for order in ["promote", "rollback"] {
        let scene = Scene::of(50).await;
        let device = scene.modern().resuming();
        let address = scene.proxy.address;
        let kind = async || {
            let session = connect(&device, 7, address).await.unwrap();
            session.get_ref().1.handshake_kind()
        };
        assert_eq!(kind().await, Some(HandshakeKind::Full));
        scene.renew(&scene.other, 2).await;
        assert_eq!(kind().await, Some(HandshakeKind::Resumed));
        assert_eq!(scene.handshakes("old", "completed") + scene.handshakes("new", "completed"), 0);
        assert_eq!(scene.ask("POST", &format!("/reload?rollout={order}")).0, 200);
        assert_eq!(kind().await, Some(HandshakeKind::Resumed), "{order}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_invalidate_tickets_when_they_are_promoted_and_not_before() {
    let scene = Scene::of(50).await;
    let device = scene.modern().resuming();
    let kind = async || {
        let session = connect(&device, 7, scene.proxy.address).await.unwrap();
        session.get_ref().1.handshake_kind()
    };
    kind().await;
    let names = &["localhost", "127.0.0.1", "gateway.example"];
    scene.replace(&scene.known.issue_pem(&Wish { names, serial: 2, ..Wish::default() })).await;
    assert_eq!(kind().await, Some(HandshakeKind::Resumed));
    scene.ask("POST", "/reload?rollout=rollback");
    assert_eq!(kind().await, Some(HandshakeKind::Resumed));
    scene.ask("POST", "/reload?rollout=promote");
    assert_eq!(kind().await, Some(HandshakeKind::Full));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_both_groups_have_does_not_count() {
    let mut rsa = None;
    let scene = Scene::on(|listener| {
        let authority = Authority::new("rsa");
        let pair = authority.issue("rsa", &Wish { rsa: true, ..Wish::default() });
        listener.tls.rollout = Some(Rollout::to(50));
        listener.tls.certificates.push(pair.files.clone());
        rsa = Some((authority, pair));
    })
    .await;
    let (authority, pair) = rsa.unwrap();
    let (chain, key) = authority.issue_pem(&Wish { rsa: true, serial: 2, ..Wish::default() });
    replace(&pair.files.key, &key);
    replace(&pair.files.cert, &chain);
    scene.proxy.app.reload.reload().await.unwrap();
    assert_eq!(scene.active("observing"), 1);
    // They get the ECDSA certificate, which has not changed.
    assert_eq!(scene.serials(10).await, [1; 10]);
    assert_eq!(scene.handshakes("old", "completed") + scene.handshakes("new", "completed"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_of_certificates_describe_the_earlier_one_until_the_promotion() {
    let scene = Scene::of(5).await;
    let serials = || {
        let text = scene.proxy.text();
        let lines = text.lines().filter(|line| line.starts_with("tlsidecar_certificate_info{"));
        let serial = |line: &str| line.split("serial=\"").nth(1)?.split('"').next()?.parse().ok();
        lines.filter_map(serial).collect::<Vec<u64>>()
    };
    scene.renew(&scene.other, 2).await;
    assert_eq!(serials(), [1]);
    scene.ask("POST", "/reload?rollout=rollback");
    assert_eq!(serials(), [1]);
    scene.ask("POST", "/reload?rollout=promote");
    assert_eq!(serials(), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_own_certificate_is_refused_does_not_count() {
    let devices = Authority::new("devices");
    let trust = ClientTrust::new(devices.ca());
    let rollout = Some(Rollout::to(50));
    let scene = Scene::on(|listener| {
        listener.tls.rollout = rollout;
        listener.tls.client_auth = ClientAuth::Required(trust);
    })
    .await;
    scene.renew(&scene.known, 2).await;
    let stranger = certs::device(&scene.known, 7);
    let refused = Device::showing(&scene.known, &stranger);
    for host in 0..20 {
        connect(&refused, host, scene.proxy.address).await.unwrap_err();
    }
    let admitted = Device::showing(&scene.known, &certs::device(&devices, 8));
    connect(&admitted, 99, scene.proxy.address).await.unwrap();
    let outcomes = ["completed", "alert", "closed", "silent", "incompatible"];
    let counted = outcomes.map(|o| scene.handshakes("old", o) + scene.handshakes("new", o));
    assert_eq!(counted, [1, 0, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_leaves_without_an_alert_counts_as_closed() {
    let scene = Scene::of(50).await;
    scene.renew(&scene.other, 2).await;
    let host = scene.address_with(2).await;
    let mut tcp = dial(host, scene.proxy.address).await.unwrap();
    tcp.write_all(&client_hello()).await.unwrap();
    let read = tcp.read(&mut [0; 1024]).await.unwrap();
    assert!(read > 0, "the flight with the certificate");
    drop(tcp);
    eventually("it is counted", || scene.handshakes("new", "closed") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_silent_after_the_certificate_counts_as_silent() {
    let scene = Scene::on(|listener| {
        listener.tls.rollout = Some(Rollout::to(50));
        listener.timeouts.handshake = Duration::from_secs(3);
    })
    .await;
    scene.renew(&scene.other, 2).await;
    let host = scene.address_with(2).await;
    let mut tcp = dial(host, scene.proxy.address).await.unwrap();
    tcp.write_all(&client_hello()).await.unwrap();
    eventually("it is counted", || scene.handshakes("new", "silent") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_replaces_one_near_its_end_is_not_delayed() {
    let scene = Scene::of(5).await;
    scene.replace(&ending(&scene.known, 2, 1800)).await;
    scene.ask("POST", "/reload?rollout=promote");
    // The observation would take an hour.
    scene.renew(&scene.known, 3).await;
    assert_eq!(scene.serials(20).await, [3; 20]);
    assert_eq!(scene.active("observing"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_certificate_that_has_expired_is_not_kept() {
    for rolls_back in [false, true] {
        let observe = Duration::from_millis(1);
        let rollout = Rollout { observe, ..Rollout::to(1) };
        let scene = Scene::with(Some(rollout)).await;
        scene.replace(&ending(&scene.known, 2, 3)).await;
        scene.ask("POST", "/reload?rollout=promote");
        scene.renew(&scene.known, 3).await;
        if rolls_back {
            scene.ask("POST", "/reload?rollout=rollback");
        }
        let is_active = || scene.active("observing") + scene.active("rolled_back") == 1;
        assert!(is_active(), "it begins, or is rolled back, before the end");
        let deadline = Instant::now() + Duration::from_secs(20);
        while is_active() && Instant::now() < deadline {
            scene.proxy.app.reload.reload().await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(scene.serials(5).await, [3; 5]);
        let rollout = &scene.rollouts()[0];
        assert_eq!(rollout["decided_by"], "earlier_expired", "{rollout}");
    }
}

/// Returns a certificate for localhost that expires in so many seconds, with its key.
fn ending(authority: &Authority, serial: u64, seconds: i64) -> (String, String) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    let now = std::time::SystemTime::now();
    params.not_after = now.into();
    params.not_after += Duration::from_secs(seconds.unsigned_abs());
    let pair = authority.sign("ending", &params);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    (read(&pair.files.cert), read(&pair.files.key))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_change_applies_to_both_groups_at_once() {
    let devices = Authority::new("devices");
    let pair = certs::device(&devices, 7);
    let crl = devices.crl("devices.crl", &[]);
    let scene = Scene::on(|listener| {
        listener.tls.rollout = Some(Rollout::to(50));
        let trust = ClientTrust { crls: vec![crl.clone()], ..ClientTrust::new(devices.ca()) };
        listener.tls.client_auth = ClientAuth::Required(trust);
    })
    .await;
    let device = Device::showing(&scene.known, &pair);
    connect(&device, 0, scene.proxy.address).await.unwrap();
    replace(&crl, &devices.crl_pem(2, &[7]));
    scene.renew(&scene.known, 2).await;
    for host in 0..20 {
        let refused = connect(&device, host, scene.proxy.address).await;
        assert!(refused.is_err(), "address {host}: its certificate is revoked");
    }
    assert_eq!(scene.active("observing"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_with_certificates_of_its_own_has_a_rollout_of_its_own() {
    let mut files = None;
    let scene = Scene::on(|listener| {
        let authority = Authority::new("plant");
        let wish = Wish { names: &["plant.example"], ..Wish::default() };
        let pair = authority.issue("plant", &wish);
        listener.tls.rollout = Some(Rollout::to(50));
        let mut tls = listener.tls.clone();
        tls.certificates = vec![pair.files.clone()];
        listener.routes = vec![Route {
            sni: vec!["plant.example".parse().unwrap()],
            alpn: Vec::new(),
            backend: listener.backend.clone().unwrap(),
            tls: Some(tls),
        }];
        files = Some((authority, pair));
    })
    .await;
    let (authority, pair) = files.unwrap();
    let wish = Wish { names: &["plant.example"], serial: 2, ..Wish::default() };
    let (chain, key) = authority.issue_pem(&wish);
    replace(&pair.files.key, &key);
    replace(&pair.files.cert, &chain);
    scene.proxy.app.reload.reload().await.unwrap();
    let device = Device::new(&authority).asking_for("plant.example");
    let mut found = Vec::new();
    for host in 0..40 {
        found.push(scene.serial(&device, host).await);
    }
    assert!(found.contains(&1) && found.contains(&2), "{found:?}");
    assert_eq!(scene.serials(5).await, [1; 5], "the listener's own certificate is the same");
    let rollouts = scene.rollouts();
    assert_eq!((rollouts.len(), &rollouts[0]["route"]), (1, &0.into()));
}

/// A process that sends the certificate with the serial number 1, with this configuration of the rollout.
async fn process(authority: &Authority, rollout: &str) -> (Sidecar, Pair, Backend) {
    let (backend, pair) = (Backend::echo().await, authority.server());
    let text = file::text(backend.address, &pair, &format!("tls.rollout = {{ {rollout} }}\n"));
    (Sidecar::start(authority.dir(), &text), pair, backend)
}

fn renew(authority: &Authority, pair: &Pair, serial: u64) {
    let (chain, key) = authority.issue_pem(&Wish { serial, ..Wish::default() });
    replace(&pair.files.key, &key);
    replace(&pair.files.cert, &chain);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_a_rollout_is_a_log_line() {
    let authority = Authority::new("ca");
    let (mut sidecar, pair, _backend) = process(&authority, "share = \"5%\"").await;
    renew(&authority, &pair, 2);
    sidecar.until("it starts", |log| log.contains("certificate rollout started"));
    assert_eq!(sidecar.ask("POST", "/reload?rollout=rollback").unwrap().0, 200);
    sidecar.until("it is rolled back", |log| {
        log.lines().any(|l| l.contains("WARN") && l.contains("certificate rolled back"))
    });
    assert_eq!(sidecar.ask("POST", "/reload?rollout=promote").unwrap().0, 200);
    sidecar.until("it is promoted", |log| {
        let line = log.lines().find(|line| line.contains("certificate rollout promoted"));
        line.is_some_and(|line| line.contains("by=\"operator\"") && line.contains("new=\"0 of 0"))
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_has_the_group_of_a_handshake() {
    let authority = Authority::new("ca");
    let (mut sidecar, pair, _backend) = process(&authority, "share = \"50%\"").await;
    renew(&authority, &pair, 2);
    sidecar.until("it starts", |log| log.contains("certificate rollout started"));
    let device = Device::new(&authority);
    for host in 0..20 {
        connect(&device, host, sidecar.address).await.unwrap();
    }
    sidecar.until("both groups are logged", |log| {
        ["rollout=\"old\"", "rollout=\"new\""].iter().all(|group| log.contains(group))
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_show_and_decide_a_rollout() {
    let authority = Authority::new("ca");
    let (mut sidecar, pair, _backend) = process(&authority, "share = \"5%\"").await;
    renew(&authority, &pair, 2);
    sidecar.until("it starts", |log| log.contains("certificate rollout started"));
    let admin = sidecar.admin.to_string();
    let run = |arguments: &[&str]| {
        let output = binary().args(arguments).args(["--admin", &admin]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = run(&["status"]);
    assert!(code == Some(0) && text.contains("observing"), "{text}");
    let (code, text) = run(&["reload", "--promote", "--listener", "test"]);
    assert_eq!((code, text.lines().next()), (Some(0), Some("promoted")), "{text}");
    assert!(run(&["status"]).1.contains("operator"));
    assert_eq!(run(&["reload", "--rollback"]).0, Some(1), "there is none any more");
    assert_eq!(run(&["reload", "--rollback", "--promote"]).0, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_configuration_ends_a_rollout() {
    let authority = Authority::new("ca");
    let (mut sidecar, pair, backend) = process(&authority, "share = \"5%\"").await;
    renew(&authority, &pair, 2);
    sidecar.until("it starts", |log| log.contains("certificate rollout started"));
    file::write(authority.dir(), &file::text(backend.address, &pair, "tls.rollout = {}\n"));
    assert_eq!(sidecar.ask("POST", "/reload").unwrap().0, 200);
    let device = Device::new(&authority);
    for host in 0..10 {
        let session = connect(&device, host, sidecar.address).await.unwrap();
        assert_eq!(serial(&session), 2);
    }
    let disabled = "tlsidecar_rollouts_total{listener=\"test\",result=\"disabled\"}";
    assert_eq!(sidecar.count(disabled), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_sends_all_devices_the_certificate_of_the_files() {
    let authority = Authority::new("ca");
    let (mut sidecar, pair, backend) = process(&authority, "share = \"5%\"").await;
    renew(&authority, &pair, 2);
    sidecar.until("it starts", |log| log.contains("certificate rollout started"));
    drop(sidecar);
    let text = file::text(backend.address, &pair, "tls.rollout = { share = \"5%\" }\n");
    let sidecar = Sidecar::start(authority.dir(), &text);
    let device = Device::new(&authority);
    for host in 0..10 {
        let session = connect(&device, host, sidecar.address).await.unwrap();
        assert_eq!(serial(&session), 2);
    }
}
