//! Tests of client authentication.

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, date_time_ymd};
use tlsidecar::config::{ClientAuth, ClientTrust, Config, ListenerConfig};
use tlsidecar::terms::reason::Reason;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{AlertDescription, HandshakeKind, SupportedProtocolVersion};

use crate::support::certs::Wish;
use crate::support::command::has;
use crate::support::proxy::listener;
use crate::support::{Authority, Backend, Device, Pair, Proxy, eventually};

/// Returns a listener with a certificate of `servers` and this trust in devices.
fn trusting(backend: &Backend, servers: &Authority, trust: ClientTrust) -> ListenerConfig {
    let mut listener = listener(backend.config(), &servers.server());
    listener.tls.client_auth = ClientAuth::Required(trust);
    listener
}

fn trust(devices: &Authority) -> ClientTrust {
    ClientTrust::new(devices.ca())
}

/// The wish for a device's certificate.
fn wish() -> Wish<'static> {
    Wish::of_device(&["device-1"])
}

/// Asserts that a device that sends `pair` is refused in each version, with these alerts and this reason.
async fn is_refused(
    listener: &ListenerConfig,
    servers: &Authority,
    pair: Option<&Pair>,
    alerts: [AlertDescription; 2],
    reason: Reason,
) {
    for (version, alert) in [&TLS12, &TLS13].into_iter().zip(alerts) {
        let proxy = Proxy::with(listener.clone());
        let provider = aws_lc_rs::default_provider();
        let device = Device::with(servers.roots(), &[version], provider, pair);
        assert_eq!(device.refused_with(proxy.address).await, alert, "{version:?}");
        proxy.ends_with(reason).await;
    }
}

#[tokio::test]
async fn a_device_with_a_valid_certificate_is_admitted() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let proxy = Proxy::with(trusting(&backend, &servers, trust(&devices)));
    let pair = devices.issue("device", &wish());
    Device::showing(&servers, &pair).echo(proxy.address).await.unwrap();
}

#[tokio::test]
async fn a_device_that_sends_its_intermediate_ca_is_admitted() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let proxy = Proxy::with(trusting(&backend, &servers, trust(&devices)));
    let pair = devices.intermediate("factory").issue("device", &wish());
    Device::showing(&servers, &pair).echo(proxy.address).await.unwrap();
}

#[tokio::test]
async fn a_chain_of_forty_kilobytes_in_hundreds_of_records_is_accepted() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let mut listener = trusting(&backend, &servers, trust(&devices));
    listener.tls.max_chain_certificates = 200;
    let proxy = Proxy::with(listener);
    let (mut chain, key) = devices.issue("device", &wish()).load();
    while chain.iter().map(|certificate| certificate.len()).sum::<usize>() < 40_000 {
        chain.extend(devices.issue("other", &wish()).load().0);
    }
    for version in [&TLS12, &TLS13] {
        let device = Device::speaking(&servers, version);
        let device = device.showing_in_records_of(100, chain.clone(), &key);
        device.echo(proxy.address).await.unwrap();
    }
}

#[tokio::test]
async fn an_empty_certificate_is_refused() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let (mut chain, key) = devices.issue("device", &wish()).load();
    chain.push(Vec::new().into());
    // RFC 5246 section 7.4.2; in TLS 1.3 the alert is rustls's, sealed by then.
    let alerts = [AlertDescription::DecodeError, AlertDescription::CertificateUnknown];
    for (version, alert) in [&TLS12, &TLS13].into_iter().zip(alerts) {
        for chain in [chain.clone(), chain[1..].to_vec()] {
            let proxy = Proxy::with(trusting(&backend, &servers, trust(&devices)));
            let device = Device::speaking(&servers, version);
            let device = device.showing_in_records_of(16_384, chain, &key);
            assert_eq!(device.refused_with(proxy.address).await, alert);
            proxy.ends_with(Reason::ClientCertRejected).await;
        }
    }
}

#[tokio::test]
async fn without_a_certificate_a_device_is_refused() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let listener = trusting(&backend, &servers, trust(&devices));
    // handshake_failure by RFC 5246 section 7.4.6, certificate_required by RFC 8446 section 4.4.2.4.
    let alerts = [AlertDescription::HandshakeFailure, AlertDescription::CertificateRequired];
    is_refused(&listener, &servers, None, alerts, Reason::ClientCertMissing).await;
    assert_eq!(backend.connections(), 0, "a refused device never reaches the backend");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_as_expired() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let listener = trusting(&backend, &servers, trust(&devices));
    let pair = devices.issue("device", &Wish { years: (2020, 2021), ..wish() });
    let alerts = [AlertDescription::CertificateExpired; 2];
    is_refused(&listener, &servers, Some(&pair), alerts, Reason::ClientCertExpired).await;
}

#[tokio::test]
async fn a_certificate_of_the_future_is_refused_as_not_yet_valid() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let listener = trusting(&backend, &servers, trust(&devices));
    let pair = devices.issue("device", &Wish { years: (2050, 2051), ..wish() });
    // RFC 8446 section 6.2: "has expired or is not currently valid".
    let alerts = [AlertDescription::CertificateExpired; 2];
    is_refused(&listener, &servers, Some(&pair), alerts, Reason::ClientCertNotYetValid).await;
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_as_of_an_unknown_ca() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let listener = trusting(&backend, &servers, trust(&devices));
    let strangers = Authority::new("strangers");
    let pair = strangers.issue("device", &wish());
    let alerts = [AlertDescription::UnknownCA; 2];
    is_refused(&listener, &servers, Some(&pair), alerts, Reason::ClientCertUnknownCa).await;
}

#[tokio::test]
async fn a_new_ca_with_the_same_name_is_another_ca() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let listener = trusting(&backend, &servers, trust(&devices));
    let new_ca = Authority::new("devices");
    let pair = new_ca.issue("device", &wish());
    let alerts = [AlertDescription::UnknownCA; 2];
    is_refused(&listener, &servers, Some(&pair), alerts, Reason::ClientCertUnknownCa).await;
}

#[tokio::test]
async fn a_certificate_for_another_purpose_is_refused() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let listener = trusting(&backend, &servers, trust(&devices));
    let purpose = ExtendedKeyUsagePurpose::ServerAuth;
    let pair = devices.issue("device", &Wish { purpose, ..wish() });
    let alerts = [AlertDescription::UnsupportedCertificate; 2];
    is_refused(&listener, &servers, Some(&pair), alerts, Reason::ClientCertWrongUsage).await;
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_as_revoked_and_others_are_not() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let crls = vec![devices.crl("devices.crl", &[66])];
    let listener = trusting(&backend, &servers, ClientTrust { crls, ..trust(&devices) });
    let good = devices.issue("good", &Wish { serial: 65, ..wish() });
    let proxy = Proxy::with(listener.clone());
    Device::showing(&servers, &good).echo(proxy.address).await.unwrap();
    let revoked = devices.issue("revoked", &Wish { serial: 66, ..wish() });
    let alerts = [AlertDescription::CertificateRevoked; 2];
    is_refused(&listener, &servers, Some(&revoked), alerts, Reason::ClientCertRevoked).await;
}

#[tokio::test]
async fn with_optional_certificates_none_is_admitted_and_an_invalid_one_is_refused() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &servers.server());
    listener.tls.client_auth = ClientAuth::Optional(trust(&devices));
    let proxy = Proxy::with(listener.clone());
    Device::new(&servers).echo(proxy.address).await.unwrap();
    let good = devices.issue("good", &wish());
    Device::showing(&servers, &good).echo(proxy.address).await.unwrap();
    let expired = devices.issue("expired", &Wish { years: (2020, 2021), ..wish() });
    let alerts = [AlertDescription::CertificateExpired; 2];
    is_refused(&listener, &servers, Some(&expired), alerts, Reason::ClientCertExpired).await;
}

#[tokio::test]
async fn a_ticket_of_tls_1_2_does_not_outlive_the_certificate() {
    resumption_ends_with_the_certificate(&TLS12).await;
}

#[tokio::test]
async fn a_ticket_of_tls_1_3_does_not_outlive_the_certificate() {
    resumption_ends_with_the_certificate(&TLS13).await;
}

async fn resumption_ends_with_the_certificate(version: &'static SupportedProtocolVersion) {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let proxy = Proxy::with(trusting(&backend, &servers, trust(&devices)));
    let not_after = SystemTime::now() + Duration::from_secs(4);
    let pair = issue_until(&devices, not_after);
    let provider = aws_lc_rs::default_provider();
    let device = Device::with(servers.roots(), &[version], provider, Some(&pair)).resuming();
    device.echo(proxy.address).await.unwrap();
    let resumed = device.echo(proxy.address).await.unwrap();
    assert_eq!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    let margin = Duration::from_secs(1);
    eventually("it expires", || SystemTime::now() > not_after + margin).await;
    let alert = device.refused_with(proxy.address).await;
    assert_eq!(alert, AlertDescription::CertificateExpired, "{version:?}");
    let expired = || proxy.closed(Reason::ClientCertExpired) > 0;
    eventually("it is refused as expired", expired).await;
}

/// Issues a device's certificate that expires in this second.
pub(crate) fn issue_until(devices: &Authority, not_after: SystemTime) -> Pair {
    let since_1970 = not_after.duration_since(UNIX_EPOCH).unwrap();
    let mut params = CertificateParams::new(vec!["device-1".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(since_1970.as_secs());
    devices.sign("short", &params)
}

#[tokio::test]
async fn an_expired_certificate_is_admitted_and_resumed_only_where_that_is_configured() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let trust = ClientTrust { accept_expired: true, ..trust(&devices) };
    let listener = trusting(&backend, &servers, trust);
    let checked = tlsidecar::app::check(&Config::of(listener.clone())).unwrap();
    assert!(
        checked
            .warning_lines()
            .iter()
            .any(|warning| warning.contains("accept_expired_client_certs"))
    );
    let expired = devices.issue("expired", &Wish { years: (2020, 2021), ..wish() });
    for version in [&TLS12, &TLS13] {
        let proxy = Proxy::with(listener.clone());
        let provider = aws_lc_rs::default_provider();
        let device = Device::with(servers.roots(), &[version], provider, Some(&expired)).resuming();
        device.echo(proxy.address).await.unwrap();
        let resumed = device.echo(proxy.address).await.unwrap();
        assert_eq!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    }
    let future = devices.issue("future", &Wish { years: (2050, 2051), ..wish() });
    let alerts = [AlertDescription::CertificateExpired; 2];
    is_refused(&listener, &servers, Some(&future), alerts, Reason::ClientCertNotYetValid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_of_the_cas_are_sent_only_where_that_is_configured() {
    if !has("openssl") {
        return;
    }
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    for (send_ca_names, version) in
        [(false, "-tls1_3"), (true, "-tls1_3"), (false, "-tls1_2"), (true, "-tls1_2")]
    {
        let trust = ClientTrust { send_ca_names, ..trust(&devices) };
        let mut listener = trusting(&backend, &servers, trust.clone());
        listener.tls.client_auth = ClientAuth::Optional(trust);
        let proxy = Proxy::with(listener);
        let connect = proxy.address.to_string();
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-connect", &connect, version]).stdin(Stdio::null());
        let output = String::from_utf8(openssl.output().unwrap().stdout).unwrap();
        let names = output.split("Acceptable client certificate CA names\n").nth(1);
        let first = names.and_then(|names| names.lines().next());
        assert_eq!(
            first.map(|name| name.replace(' ', "")).as_deref(),
            send_ca_names.then_some("CN=devices")
        );
    }
}
