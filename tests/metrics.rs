//! Metrics show why devices cannot connect, and the state of those that can.

use std::process::{Command, Stdio};
use std::time::Duration;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, date_time_ymd};
use tlsidecar::config::{BackendAddress, ClientAuth, ClientTrust, Config, ListenerConfig};
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::backend::silent_port;
use crate::support::certs::Wish;
use crate::support::client::say_and_hear;
use crate::support::command::{has, run};
use crate::support::proxy::{config, listener, metric};
use crate::support::raw::{answer_to, old_hello};
use crate::support::{Authority, Backend, Device, Proxy, eventually};

async fn scene() -> (Authority, Backend, Proxy) {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    (authority, backend, proxy)
}

impl Proxy {
    /// Returns the value of a metric of the listener `test` with one further label.
    pub(crate) fn of_label(&self, name: &str, label: &str, value: &str) -> u64 {
        // Labels are sorted by name.
        let mut labels = ["listener=\"test\"".to_owned(), format!("{label}=\"{value}\"")];
        labels.sort_unstable();
        self.count(&format!("tlsidecar_{name}{{{}}}", labels.join(",")))
    }

    fn of_listener(&self, name: &str) -> u64 {
        self.count(&format!("tlsidecar_{name}{{listener=\"test\"}}"))
    }
}

/// Returns a listener that requires certificates of `devices`, and a device with a valid one.
fn requiring_certificates(
    backend: &Backend,
    servers: &Authority,
    devices: &Authority,
) -> (ListenerConfig, Device) {
    let mut listener = listener(backend.config(), &servers.server());
    let trust = ClientTrust {
        crls: vec![devices.crl("devices.crl", &[7])],
        ..ClientTrust::new(devices.ca())
    };
    listener.tls.client_auth = ClientAuth::Required(trust);
    let wish = Wish::of_device(&["device-1"]);
    (listener, Device::showing(servers, &devices.issue("device", &wish)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_rejects_our_certificate_is_counted_by_its_alert() {
    let (_authority, _backend, proxy) = scene().await;
    let stranger = Device::new(&Authority::new("other"));
    assert!(stranger.connect(proxy.address).await.is_err());
    proxy.ends_with(Reason::ClientTlsAlert).await;
    assert_eq!(proxy.of_label("client_alerts_total", "alert", "unknown_ca"), 1);
    let other_name = Device::new(&_authority).asking_for("elsewhere.example");
    assert!(other_name.connect(proxy.address).await.is_err());
    proxy.end_with(Reason::ClientTlsAlert, 2).await;
    assert_eq!(proxy.of_label("client_alerts_total", "alert", "bad_certificate"), 1);
    assert_eq!(proxy.of_label("client_alerts_total", "alert", "certificate_expired"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_answer_of_a_backend_is_timed_once() {
    let (authority, _backend, proxy) = scene().await;
    let mut session = Device::new(&authority).connect(proxy.address).await.unwrap();
    let answers = || proxy.of_listener("backend_first_byte_seconds_count");
    assert_eq!(answers(), 0);
    for _ in 0..2 {
        say_and_hear(&mut session, b"one and two").await.unwrap();
        eventually("it is timed", || answers() == 1).await;
    }
    let took = proxy.seconds("tlsidecar_backend_first_byte_seconds_sum{listener=\"test\"}");
    assert!((0.0..20.0).contains(&took), "{took}");
    assert_eq!(proxy.of_listener("backend_silent_sessions"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_never_answers_is_not_timed() {
    let authority = Authority::new("ca");
    let backend = Backend::serving(|mut tcp| async move {
        while tcp.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let mut session = Device::new(&authority).connect(proxy.address).await.unwrap();
    session.write_all(b"is anybody there?").await.unwrap();
    session.shutdown().await.unwrap();
    proxy.ends_with(Reason::Ok).await;
    assert_eq!(proxy.of_listener("backend_first_byte_seconds_count"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offer_of_an_old_device_and_the_cause_of_its_refusal_are_counted() {
    let (_authority, _backend, proxy) = scene().await;
    // TLS 1.1 with ECDHE and AES-CBC.
    answer_to(proxy.address, &old_hello([3, 2], &[[0xc0, 0x13]])).await;
    proxy.ends_with(Reason::ClientTlsIncompatible).await;
    assert_eq!(proxy.of_label("client_hellos_total", "version", "1.1"), 1);
    assert_eq!(proxy.of_label("handshake_incompatible_total", "what", "version"), 1);
    assert_eq!(proxy.of_label("refused_suites_total", "best", "ecdhe_cbc"), 0, "not for that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_a_common_suite_is_counted_by_the_best_that_it_has() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    // The device needs an RSA certificate; ours has an ECDSA key.
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
    let device = Device::with(authority.roots(), &[&TLS12], provider, None);
    assert!(device.connect(proxy.address).await.is_err());
    proxy.ends_with(Reason::ClientTlsIncompatible).await;
    assert_eq!(proxy.of_label("client_hellos_total", "version", "1.2"), 1);
    assert_eq!(proxy.of_label("handshake_incompatible_total", "what", "cipher_suite"), 1);
    assert_eq!(proxy.of_label("refused_suites_total", "best", "ecdhe_gcm"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_rsa_key_exchange_alone_is_refused_for_its_suites_not_for_a_group() {
    if !has("openssl") {
        return;
    }
    let (_authority, _backend, proxy) = scene().await;
    for (cipher, best, count) in [
        ("AES128-SHA", "rsa", 1),
        ("DHE-RSA-AES128-SHA", "dhe", 2),
        ("ECDHE-ECDSA-AES128-SHA", "ecdhe_cbc", 3),
    ] {
        let mut device = Command::new("openssl");
        device.args([
            "s_client",
            "-tls1_2",
            "-cipher",
            &format!("{cipher}:@SECLEVEL=0"),
            "-connect",
        ]);
        let (good, text) = run({
            device.arg(proxy.address.to_string()).stdin(Stdio::null());
            device
        })
        .await;
        assert!(!good, "{text}");
        proxy.end_with(Reason::ClientTlsIncompatible, count).await;
        assert_eq!(proxy.of_label("refused_suites_total", "best", best), 1, "{cipher}");
    }
    assert_eq!(proxy.of_label("handshake_incompatible_total", "what", "cipher_suite"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_handshake_is_counted_by_its_parameters_and_timed_by_its_parts() {
    let (authority, _backend, proxy) = scene().await;
    let device = Device::new(&authority).resuming();
    for _ in 0..2 {
        let mut session = device.echo(proxy.address).await.unwrap();
        session.shutdown().await.unwrap();
        assert_eq!(session.read(&mut [0; 1]).await.unwrap(), 0);
    }
    proxy.end_with(Reason::Ok, 2).await;
    assert_eq!(proxy.of_label("handshake_certificates_total", "key", "ecdsa"), 1);
    assert_eq!(proxy.of_label("handshake_certificates_total", "key", "none"), 1, "resumed");
    assert_eq!(proxy.of_label("handshake_clients_total", "certificate", "none"), 2);
    let groups = ["X25519MLKEM768", "X25519", "secp256r1"];
    let group = |group: &&str| proxy.of_label("handshake_groups_total", "group", group);
    assert_eq!(groups.iter().map(group).sum::<u64>(), 2);
    let part = |of: &str, part: &str| {
        let series =
            format!("tlsidecar_handshake_part_seconds_{of}{{listener=\"test\",part={part:?}}}");
        proxy.seconds(&series)
    };
    for name in ["wait", "client", "crypto"] {
        assert!((part("count", name) - 2.0).abs() < 0.1 && part("sum", name) >= 0.0, "{name}");
    }
    assert!(part("sum", "crypto") > 0.0);
    let kind = |kind| {
        let labels = format!("{{kind={kind:?},listener=\"test\"}}");
        proxy.seconds(&format!("tlsidecar_handshake_duration_seconds_sum{labels}"))
    };
    let parts = part("sum", "wait") + part("sum", "client") + part("sum", "crypto");
    assert!((parts - kind("full") - kind("resumed")).abs() < 1e-6, "parts make the whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_rsa_certificate_is_counted_as_such() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let pair = authority.issue("server", &Wish { rsa: true, ..Wish::default() });
    let proxy = Proxy::start(backend.config(), &pair);
    let device = Device::speaking(&authority, &TLS13);
    let _session = device.echo(proxy.address).await.unwrap();
    assert_eq!(proxy.of_label("handshake_certificates_total", "key", "rsa"), 1);
    assert!(proxy.text().contains("key=\"rsa\",listener=\"test\",serial=\"01\",sha256=\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_in_progress_and_their_ends_are_counted() {
    let (_authority, _backend, proxy) = scene().await;
    let silent = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    eventually("it is counted", || proxy.of_listener("handshakes_in_progress") == 1).await;
    drop(silent);
    proxy.ends_with(Reason::ClientProbe).await;
    assert_eq!(proxy.of_listener("handshakes_in_progress"), 0);
    assert_eq!(proxy.of_listener("connection_duration_seconds_count"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_counted_by_age_silence_and_their_certificates_expiry() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let (listener, device) = requiring_certificates(&backend, &servers, &devices);
    let proxy = Proxy::with(listener);
    let session = device.echo(proxy.address).await.unwrap();
    assert_eq!(proxy.of_label("sessions_by_age", "age", "under_1m"), 1);
    assert_eq!(proxy.of_label("sessions_by_silence", "silence", "under_1m"), 1);
    assert_eq!(proxy.of_label("sessions_by_certificate_expiry", "expires", "later"), 1);
    assert_eq!(proxy.of_label("handshake_clients_total", "certificate", "verified"), 1);
    drop(session);
    eventually("it has ended", || proxy.active() == 0).await;
    assert_eq!(proxy.of_label("sessions_by_age", "age", "under_1m"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_a_backend_does_not_read_are_reported_as_buffered() {
    let authority = Authority::new("ca");
    let stuck = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = stuck.local_addr().unwrap().to_string().parse::<BackendAddress>().unwrap();
    let proxy = Proxy::start(address, &authority.server());
    let mut session = Device::new(&authority).connect(proxy.address).await.unwrap();
    let (mut backend, _) = stuck.accept().await.unwrap();
    let writing = tokio::spawn(async move {
        session.write_all(&vec![7; 32 << 20]).await.unwrap();
        session.shutdown().await.unwrap();
        session
    });
    eventually("bytes are held", || proxy.of_listener("buffered_bytes") > 0).await;
    let mut all = Vec::new();
    backend.read_to_end(&mut all).await.unwrap();
    assert_eq!(all.len(), 32 << 20);
    eventually("none are held", || proxy.of_listener("buffered_bytes") == 0).await;
    drop(backend);
    let mut session = writing.await.unwrap();
    assert_eq!(session.read(&mut [0; 1]).await.unwrap(), 0);
    proxy.ends_with(Reason::Ok).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_to_connect_are_counted_by_their_result() {
    let authority = Authority::new("ca");
    let down = silent_port();
    let address = down.local_addr().unwrap();
    let backend = address.to_string().parse::<BackendAddress>().unwrap();
    let proxy = Proxy::start(backend, &authority.server());
    let up = format!("tlsidecar_backend_up{{backend=\"{address}\",listener=\"test\"}}");
    assert!(metric::<u64>(&proxy.text(), &up).is_none(), "nobody knows yet");
    let device = Device::new(&authority);
    assert!(device.echo(proxy.address).await.is_err());
    proxy.ends_with(Reason::BackendRefused).await;
    let connects = |result: &str| {
        let labels = format!("backend=\"{address}\",listener=\"test\",result={result:?}");
        proxy.count(&format!("tlsidecar_backend_connects_total{{{labels}}}"))
    };
    assert_eq!((connects("refused"), connects("ok"), proxy.count(&up)), (1, 0, 0));
    let backend = down.listen(1).unwrap();
    let session = device.connect(proxy.address).await.unwrap();
    let (accepted, _) = backend.accept().await.unwrap();
    eventually("it is up", || proxy.count(&up) == 1).await;
    assert_eq!(connects("ok"), 1);
    drop((session, accepted));
    eventually("it has ended", || proxy.active() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn active_certificates_cas_and_crls_have_their_dates() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let (listener, _device) = requiring_certificates(&backend, &servers, &devices);
    let (crl, cert) = (devices.dir().join("devices.crl"), servers.dir().join("server.crt"));
    let proxy = Proxy::with(listener);
    let seconds = |name: &str, label: &str| {
        proxy.seconds(&format!("tlsidecar_{name}_timestamp_seconds{{{label},listener=\"test\"}}"))
    };
    let (in_2020, in_2060) = (1_577_836_800.0, 2_840_140_800.0);
    let label = format!("cert={cert:?}");
    let both =
        (seconds("certificate_not_before", &label), seconds("certificate_not_after", &label));
    assert_eq!(both, (in_2020, in_2060));
    let ca = "ca=\"CN=devices\"";
    let both = (seconds("client_ca_not_before", ca), seconds("client_ca_not_after", ca));
    assert_eq!(both, (in_2020, in_2060));
    assert!(proxy.text().contains(&format!("crl_next_update_timestamp_seconds{{crl={crl:?}")));
    // A new certificate replaces the series of the old one.
    servers.issue("server", &Wish { serial: 2, ..Wish::default() });
    let reported = |serial: &str| proxy.text().matches(&format!("serial={serial:?}")).count();
    eventually("the new one is reported", || reported("02") == 1).await;
    assert_eq!(reported("01"), 0, "the old one no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_is_counted_by_what_was_loaded() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let (listener, _device) = requiring_certificates(&backend, &servers, &devices);
    let proxy = Proxy::with(listener);
    let objects = |object: &str, outcome: &str| {
        let labels = format!("object={object:?},outcome={outcome:?}");
        proxy.count(&format!("tlsidecar_reload_objects_total{{{labels}}}"))
    };
    devices.crl("devices.crl", &[7, 8]);
    eventually("the CRL is swapped", || objects("crl", "swapped") == 1).await;
    assert_eq!(objects("certificate", "swapped") + objects("client_ca", "swapped"), 0);
    std::fs::write(devices.dir().join("devices.crl"), "rubbish").unwrap();
    eventually("the CRL fails", || objects("crl", "failed") >= 1).await;
    assert_eq!(objects("certificate", "failed") + objects("client_ca", "failed"), 0);
    let failed = objects("crl", "failed");
    std::fs::write(devices.ca(), "rubbish").unwrap();
    eventually("the CA fails as well", || objects("client_ca", "failed") >= 1).await;
    assert!(objects("crl", "failed") > failed, "all that is wrong is reported");
    std::fs::write(servers.dir().join("server.crt"), "rubbish").unwrap();
    eventually("and the certificate", || objects("certificate", "failed") >= 1).await;
    assert_eq!(objects("certificate", "swapped"), 0);
    devices.crl("devices.crl", &[7]);
    std::fs::write(devices.ca(), devices.pem()).unwrap();
    servers.issue("server", &Wish { serial: 2, ..Wish::default() });
    eventually("the certificate is swapped", || objects("certificate", "swapped") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_eight_cas_that_expire_first_are_reported_of_a_large_bundle() {
    let servers = Authority::new("servers");
    let backend = Backend::echo().await;
    let cas: Vec<_> = (0..11).map(|n| Authority::new(&format!("ca-{n:02}"))).collect();
    let (mut listener, _device) = requiring_certificates(&backend, &servers, &cas[0]);
    let bundle: String = cas.iter().map(Authority::pem).collect();
    std::fs::write(cas[0].ca(), bundle).unwrap();
    let trust = ClientTrust::new(cas[0].ca());
    listener.tls.client_auth = ClientAuth::Required(trust);
    let proxy = Proxy::with(listener);
    let reported = || proxy.text().matches("client_ca_not_after_timestamp_seconds{ca=").count();
    assert_eq!(reported(), 8);
    std::fs::write(cas[0].ca(), cas[0].pem()).unwrap();
    eventually("removed CAs have no series", || reported() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_phase_the_drain_the_runtime_and_the_process_are_reported() {
    let (authority, _backend, proxy) = scene().await;
    let phase = |phase: &str| proxy.count(&format!("tlsidecar_phase{{phase={phase:?}}}"));
    assert_eq!((phase("running"), phase("draining")), (1, 0));
    assert_eq!(proxy.count("tlsidecar_drain_started_timestamp_seconds"), 0);
    assert_eq!(proxy.count("tlsidecar_drain_timeout_seconds"), 25);
    let session = Device::new(&authority).echo(proxy.address).await.unwrap();
    proxy.app.shutdown.drain();
    eventually("it is closing", || phase("closing") == 1).await;
    assert_eq!(phase("running"), 0);
    assert!(proxy.seconds("tlsidecar_drain_started_timestamp_seconds") > 1.7e9);
    drop(session);
    eventually("it has drained", || phase("drained") == 1).await;
    assert!(proxy.count("tlsidecar_runtime_workers") >= 1);
    assert!(proxy.seconds("tlsidecar_runtime_busy_seconds_total") > 0.0);
    assert!(proxy.seconds("process_resident_memory_bytes") > 1e6);
    assert!(proxy.seconds("process_max_fds") > 100.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_three_listeners_has_fewer_than_a_thousand_series() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let (listener, device) = requiring_certificates(&backend, &servers, &devices);
    let three = ["one", "two", "three"];
    let listeners = three.map(|name| ListenerConfig { name: name.to_owned(), ..listener.clone() });
    let config = Config { listeners: listeners.to_vec(), ..config(listener) };
    let proxy = Proxy::on(config, None);
    for (_, address) in proxy.app.listeners.clone() {
        drop(device.echo(address).await.unwrap());
    }
    let text = proxy.text();
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!((600..1000).contains(&series), "{series}");
    eventually("all have ended", || {
        let active = |name| format!("tlsidecar_connections_active{{listener={name:?}}}");
        three.iter().all(|name| proxy.count(&active(name)) == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_counted_by_the_expiry_of_a_certificate_that_expires_tomorrow() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let (listener, _device) = requiring_certificates(&backend, &servers, &devices);
    let mut params = CertificateParams::new(vec!["device-2".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = (std::time::SystemTime::now() + Duration::from_secs(3 * 86_400)).into();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let device = Device::showing(&servers, &devices.sign("device-2", &params));
    let proxy = Proxy::with(listener);
    let mut session = device.echo(proxy.address).await.unwrap();
    say_and_hear(&mut session, b"more").await.unwrap();
    assert_eq!(proxy.of_label("sessions_by_certificate_expiry", "expires", "within_7d"), 1);
}
