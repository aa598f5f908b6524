//! Tests of the chains and bundles that devices and operators have.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{CertificateParams, DnType, DnValue, IsCa, Issuer, KeyPair, date_time_ymd};
use tlsidecar::config::{CertificateFiles, ClientAuth, ClientTrust, ListenerConfig};
use tlsidecar::terms::reason::Reason;
use tokio_rustls::rustls::AlertDescription;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::certs::Wish;
use crate::support::command::has;
use crate::support::process::ask;
use crate::support::proxy::{config, listener};
use crate::support::{Authority, Backend, Device, Pair, Proxy};

/// The wish for a device's certificate.
fn wish() -> Wish<'static> {
    Wish::of_device(&["device-1"])
}

/// Returns a listener that trusts this bundle.
fn trusting(backend: &Backend, servers: &Authority, ca: PathBuf) -> ListenerConfig {
    let mut listener = listener(backend.config(), &servers.server());
    listener.tls.client_auth = ClientAuth::Required(ClientTrust::new(ca));
    listener
}

/// Returns a device for each version.
fn devices(servers: &Authority, pair: &Pair) -> [Device; 2] {
    [&TLS12, &TLS13].map(|version| {
        Device::with(servers.roots(), &[version], aws_lc_rs::default_provider(), Some(pair))
    })
}

async fn is_admitted(listener: &ListenerConfig, servers: &Authority, pair: &Pair) {
    let proxy = Proxy::with(listener.clone());
    for device in devices(servers, pair) {
        device.echo(proxy.address).await.unwrap();
    }
}

async fn is_refused(
    listener: &ListenerConfig,
    servers: &Authority,
    pair: &Pair,
    alert: AlertDescription,
    reason: Reason,
) {
    for device in devices(servers, pair) {
        let proxy = Proxy::with(listener.clone());
        assert_eq!(device.refused_with(proxy.address).await, alert);
        proxy.ends_with(reason).await;
    }
}

fn write(dir: &Path, name: &str, chain: &str, key: &KeyPair) -> Pair {
    let files = CertificateFiles {
        cert: dir.join(format!("{name}.crt")),
        key: dir.join(format!("{name}.key")),
    };
    fs::write(&files.cert, chain).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    Pair { files }
}

fn params(name: impl Into<DnValue>) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2060, 1, 1);
    params
}

/// Returns devices that send their own certificate, then `rest`.
fn with_rest(servers: &Authority, pair: &Pair, rest: &[CertificateDer<'static>]) -> [Device; 2] {
    let (mut chain, key): (_, PrivateKeyDer<'static>) = pair.load();
    chain.extend_from_slice(rest);
    [&TLS12, &TLS13].map(|version| {
        let device = Device::speaking(servers, version);
        device.showing_in_records_of(16_000, chain.clone(), &key)
    })
}

#[tokio::test]
async fn too_many_certificates_are_refused_before_they_are_parsed() {
    let (servers, ours) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let mut listener = trusting(&backend, &servers, ours.ca());
    listener.tls.max_chain_certificates = 3;
    let pair = ours.issue("device", &wish());
    let junk = CertificateDer::from(vec![0x30, 0]);
    for device in with_rest(&servers, &pair, &[junk.clone(), junk.clone()]) {
        let proxy = Proxy::with(listener.clone());
        device.echo(proxy.address).await.unwrap();
    }
    for device in with_rest(&servers, &pair, &[junk.clone(), junk.clone(), junk]) {
        let proxy = Proxy::with(listener.clone());
        let alert = device.refused_with(proxy.address).await;
        assert_eq!(alert, AlertDescription::CertificateUnknown);
        proxy.ends_with(Reason::ClientCertChainTooLarge).await;
    }
}

#[tokio::test]
async fn too_many_bytes_of_certificates_are_refused() {
    let (servers, ours) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let mut listener = trusting(&backend, &servers, ours.ca());
    listener.tls.max_chain_bytes = 8 << 10;
    let pair = ours.issue("device", &wish());
    let own = pair.load().0[0].len();
    for (bytes, fits) in [((8 << 10) - own, true), ((8 << 10) - own + 1, false)] {
        for device in with_rest(&servers, &pair, &[CertificateDer::from(vec![0x30; bytes])]) {
            let proxy = Proxy::with(listener.clone());
            if fits {
                device.echo(proxy.address).await.unwrap();
                continue;
            }
            let alert = device.refused_with(proxy.address).await;
            assert_eq!(alert, AlertDescription::CertificateUnknown);
            proxy.ends_with(Reason::ClientCertChainTooLarge).await;
        }
    }
}

#[tokio::test]
async fn a_pinned_device_is_admitted_and_a_device_that_it_issued_is_not() {
    let servers = Authority::new("servers");
    let backend = Backend::echo().await;
    let dir = servers.dir();
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
        let key = KeyPair::generate().unwrap();
        let mut own = params("pump-7");
        own.is_ca = is_ca;
        let itself = own.self_signed(&key).unwrap();
        fs::write(dir.join("pinned.pem"), itself.pem()).unwrap();
        let listener = trusting(&backend, &servers, dir.join("pinned.pem"));
        is_admitted(&listener, &servers, &write(dir, "pump-7", &itself.pem(), &key)).await;

        let forged_key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&own, &key);
        let forged = params("admin-console").signed_by(&forged_key, &issuer).unwrap();
        let forged = write(dir, "forged", &forged.pem(), &forged_key);
        let alert = AlertDescription::UnknownCA;
        is_refused(&listener, &servers, &forged, alert, Reason::ClientCertUnknownCa).await;
    }
}

#[tokio::test]
async fn a_pinned_leaf_of_an_untrusted_ca_admits_only_itself() {
    let (servers, factory) = (Authority::new("servers"), Authority::new("factory"));
    let backend = Backend::echo().await;
    let pinned = factory.issue("pinned", &wish());
    let listener = trusting(&backend, &servers, pinned.files.cert.clone());
    is_admitted(&listener, &servers, &pinned).await;
    let other = factory.issue("other", &wish());
    let alert = AlertDescription::UnknownCA;
    is_refused(&listener, &servers, &other, alert, Reason::ClientCertUnknownCa).await;
    let expired = factory.issue("expired", &Wish { years: (2020, 2021), ..wish() });
    let listener = trusting(&backend, &servers, expired.files.cert.clone());
    let alert = AlertDescription::CertificateExpired;
    is_refused(&listener, &servers, &expired, alert, Reason::ClientCertExpired).await;
}

#[tokio::test]
async fn a_device_with_a_self_signed_ca_certificate_is_admitted() {
    let servers = Authority::new("servers");
    let backend = Backend::echo().await;
    let mut own = params("pump-7");
    own.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let itself = own.self_signed(&key).unwrap().pem();
    let pair = write(servers.dir(), "pump-7", &itself, &key);
    let listener = trusting(&backend, &servers, pair.files.cert.clone());
    is_admitted(&listener, &servers, &pair).await;
}

#[tokio::test]
async fn the_name_of_the_issuer_may_have_another_string_type_case_and_white_space() {
    let servers = Authority::new("servers");
    let backend = Backend::echo().await;
    let dir = servers.dir();
    let key = KeyPair::generate().unwrap();
    let ca = |name: DnValue| {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
    };
    let itself = ca("Plant CA".into()).self_signed(&key).unwrap();
    fs::write(dir.join("ca.pem"), itself.pem()).unwrap();
    let listener = trusting(&backend, &servers, dir.join("ca.pem"));
    let others: [DnValue; 3] = [
        DnValue::PrintableString("Plant CA".try_into().unwrap()),
        DnValue::BmpString("PLANT ca".try_into().unwrap()),
        DnValue::Utf8String("plant  CA ".to_owned()),
    ];
    for name in others {
        let issuer = ca(name);
        let device_key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&issuer, &key);
        let leaf = params("device").signed_by(&device_key, &issuer).unwrap();
        is_admitted(&listener, &servers, &write(dir, "device", &leaf.pem(), &device_key)).await;
    }
}

#[tokio::test]
async fn a_certificate_of_version_1_is_accepted_unless_allow_v1_is_false() {
    let servers = Authority::new("servers");
    let backend = Backend::echo().await;
    let dir = servers.dir();
    if !has("openssl") {
        return;
    }
    let openssl = |line: &str| {
        let out = Command::new("openssl").args(line.split(' ')).current_dir(dir).output();
        let out = out.unwrap();
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {new_key} -days 300 -subj /CN=plant -keyout a.key -out a.crt"));
    openssl(&format!("req {new_key} -subj /CN=device -keyout d.key -out d.csr"));
    openssl("x509 -req -in d.csr -CA a.crt -CAkey a.key -CAcreateserial -days 90 -out d.crt");
    let files = CertificateFiles { cert: dir.join("d.crt"), key: dir.join("d.key") };
    let pair = Pair { files };
    let mut listener = trusting(&backend, &servers, dir.join("a.crt"));
    for device in with_rest(&servers, &pair, &[]) {
        listener.tls.allow_v1 = true;
        let proxy = Proxy::with(listener.clone());
        device.echo(proxy.address).await.unwrap();
        listener.tls.allow_v1 = false;
        let proxy = Proxy::with(listener.clone());
        let alert = device.refused_with(proxy.address).await;
        assert_eq!(alert, AlertDescription::CertificateUnknown);
        proxy.ends_with(Reason::ClientCertRejected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_other_names_the_serial_number_of_the_subject_is_the_identity() {
    let (servers, ours) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let proxy = Proxy::with(trusting(&backend, &servers, ours.ca()));
    let serial = DnType::CustomDnType(vec![2, 5, 4, 5]);
    let mut unnamed = params("");
    unnamed.distinguished_name = rcgen::DistinguishedName::new();
    unnamed.distinguished_name.push(serial.clone(), "SN-0042");
    let mut named = params("pump-7");
    named.distinguished_name.push(serial, "SN-0043");
    let [unnamed, named] =
        [("unnamed", unnamed), ("named", named)].map(|(file, params)| ours.sign(file, &params));
    let _sessions = [
        Device::showing(&servers, &unnamed).echo(proxy.address).await.unwrap(),
        Device::showing(&servers, &named).echo(proxy.address).await.unwrap(),
    ];
    let (_, listed) = ask(proxy.app.admin.unwrap(), "GET", "/sessions", "").unwrap();
    assert!(listed.contains("SN-0042"), "{listed}");
    assert!(listed.contains("pump-7") && !listed.contains("SN-0043"), "{listed}");
}

#[tokio::test]
async fn a_check_lists_the_cas_and_the_pinned_devices() {
    let (servers, ours) = (Authority::new("servers"), Authority::new("plant A"));
    let backend = Backend::echo().await;
    let key = KeyPair::generate().unwrap();
    let device = params("pump-7").self_signed(&key).unwrap().pem();
    let bundle = servers.dir().join("bundle.pem");
    fs::write(&bundle, ours.pem().to_owned() + &device).unwrap();
    let checked = |ca| {
        let config = config(trusting(&backend, &servers, ca));
        tlsidecar::app::check(&config).unwrap().warning_lines().join("\n")
    };
    let warnings = checked(bundle);
    let (cas, pinned) = warnings.split_once("Pinned").unwrap();
    assert!(cas.contains("plant A") && !cas.contains("pump-7"), "{warnings}");
    assert!(pinned.contains("pump-7") && !pinned.contains("plant A"), "{warnings}");
    assert_eq!(checked(ours.ca()), "");
}
