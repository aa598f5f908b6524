//! Refused client certificates: each fault has its own reason, and the certificate is named.

use std::fs;
use std::process::Command;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::certs::Wish;
use crate::support::command::has;
use crate::support::process::ask;
use crate::support::{Authority, Backend, Device, Sidecar, file};

type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A sidecar that logs JSON, requires certificates of `devices` with the CN `device`, and has its CRL.
struct Scene {
    servers: Authority,
    devices: Authority,
    sidecar: Sidecar,
    _backend: Backend,
}

impl Scene {
    async fn new() -> Self {
        let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
        let backend = Backend::echo().await;
        let crl = devices.crl("devices.crl", &[66]);
        let more = format!(
            "[listener.tls]\n\
             certificates = [{{ cert = {:?}, key = {:?} }}]\n\
             client_auth = \"required\"\n\
             client_ca = {:?}\n\
             crls = [{crl:?}]\n\
             max_chain_certificates = 3\n\
             [listener.allow]\n\
             cn = [\"device\"]\n\
             [log]\n\
             format = \"json\"\n",
            servers.server().files.cert,
            servers.server().files.key,
            devices.ca(),
        );
        let text = file::text(backend.address, &servers.server(), "");
        let text = text.lines().filter(|line| !line.starts_with("tls.")).collect::<Vec<_>>();
        let sidecar = Sidecar::start(servers.dir(), &(text.join("\n") + "\n" + &more));
        Self { servers, devices, sidecar, _backend: backend }
    }

    /// Connects with these certificates in both versions, and returns the access-log lines of the refusals.
    async fn refused(&mut self, (chain, key): &Shown) -> Vec<serde_json::Value> {
        let sha256 = sha256(&chain[0]);
        for version in [&TLS12, &TLS13] {
            let device = Device::speaking(&self.servers, version);
            let device = device.showing_in_records_of(16_384, chain.clone(), key);
            device.refused_with(self.sidecar.address).await;
        }
        let lines = |log: &str| {
            let lines = log.lines().map(serde_json::from_str::<serde_json::Value>);
            let lines = lines.filter_map(Result::ok);
            lines.filter(|line| line["cert_sha256"] == *sha256).collect::<Vec<_>>()
        };
        self.sidecar.until("both lines are there", |log| lines(log).len() == 2);
        lines(&self.sidecar.log())
    }
}

fn sha256(der: &[u8]) -> String {
    let digest = digest(&SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn wish() -> Wish<'static> {
    Wish { serial: 0x0a0b, ..Wish::of_device(&["device"]) }
}

/// Returns a certificate whose signature is damaged.
fn damaged((mut chain, key): Shown) -> Shown {
    let mut der = chain[0].to_vec();
    *der.last_mut().unwrap() ^= 1;
    chain[0] = der.into();
    (chain, key)
}

/// Returns the certificate of a device that states to be a CA.
fn of_a_ca(devices: &Authority) -> Shown {
    let mut params = CertificateParams::new(vec!["device".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "device");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    devices.sign("ca-device", &params).load()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_has_its_reason_and_its_certificate_is_in_the_log() {
    let mut scene = Scene::new().await;
    let devices = &scene.devices;
    let stranger = Authority::new("strangers").issue("stranger", &wish()).load();
    let namesake = Authority::new("devices").issue("namesake", &wish()).load();
    let expired = devices.issue("expired", &Wish { years: (2020, 2021), ..wish() }).load();
    let future = devices.issue("future", &Wish { years: (2050, 2051), ..wish() }).load();
    let revoked = devices.issue("revoked", &Wish { serial: 66, ..wish() }).load();
    let server = Wish { purpose: ExtendedKeyUsagePurpose::ServerAuth, ..wish() };
    let server = devices.issue("server-only", &server).load();
    let other = devices.issue("other", &Wish { names: &["other"], ..wish() }).load();
    let damaged = damaged(devices.issue("damaged", &wish()).load());
    let (good, _) = devices.issue("good", &wish()).load();
    let without_key = (good, damaged.1.clone_key());
    let unlisted = devices.intermediate("factory").issue("unlisted", &wish()).load();
    let (chain, key) = devices.issue("long", &wish()).load();
    let long = ([vec![chain[0].clone()], vec![stranger.0[0].clone(); 3]].concat(), key);
    for (shown, reason, words) in [
        (stranger, "client_cert_unknown_ca", "CA of client_ca"),
        (namesake, "client_cert_unknown_ca", "another key"),
        (expired, "client_cert_expired", "the device's certificate expired on 2021-01-01"),
        (future, "client_cert_not_yet_valid", " d from now by this host's clock"),
        (revoked, "client_cert_revoked", "revoked"),
        (server, "client_cert_wrong_usage", "clientAuth"),
        (of_a_ca(devices), "client_cert_wrong_usage", "of a CA"),
        (other, "client_not_allowed", "[listener.allow]"),
        (damaged, "client_cert_bad_signature", "damaged"),
        (without_key, "client_cert_bad_signature", "another key"),
        (unlisted, "client_cert_revocation_unknown", "CRL"),
        (long, "client_cert_chain_too_large", "max_chain_certificates"),
    ] {
        for line in scene.refused(&shown).await {
            assert_eq!(line["reason"], reason, "{line}");
            assert!(line["error"].as_str().unwrap().contains(words), "{line}");
            for key in ["cert_subject", "cert_issuer", "cert_serial"] {
                assert!(!line[key].as_str().unwrap().is_empty(), "{key} in {line}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_certificate_is_named_in_full_and_counted_in_top() {
    let mut scene = Scene::new().await;
    let shown = scene.devices.issue("device", &Wish { names: &["other"], ..wish() }).load();
    let sha256 = sha256(&shown.0[0]);
    for line in scene.refused(&shown).await {
        assert_eq!(line["cert_subject"], "CN=other");
        assert_eq!(line["cert_issuer"], "CN=devices");
        assert_eq!(line["cert_serial"], "0A0B");
        assert_eq!(line.get("identity"), None, "it was not admitted");
    }
    let (_, top) = ask(scene.sidecar.admin, "GET", "/top?by=certificate", "").unwrap();
    let top: serde_json::Value = serde_json::from_str(&top).unwrap();
    let name = format!("CN=other serial 0A0B sha256 {sha256}");
    assert_eq!(top["entries"], serde_json::json!([{ "name": name, "count": 2 }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_rsa_key_of_1024_bits_is_weak() {
    if !has("openssl") {
        return;
    }
    let mut scene = Scene::new().await;
    let dir = scene.devices.dir().to_owned();
    // rcgen makes no weak keys.
    let openssl = |line: &str| {
        let made = Command::new("openssl").args(line.split(' ')).current_dir(&dir).output();
        assert!(made.unwrap().status.success(), "{line}");
    };
    fs::write(dir.join("ca.key"), scene.devices.key_pem()).unwrap();
    openssl("req -new -newkey rsa:1024 -nodes -subj /CN=device -keyout weak.key -out weak.csr");
    openssl("x509 -req -in weak.csr -CA devices.ca.crt -CAkey ca.key -days 9 -out weak.crt");
    let weak = CertificateDer::from_pem_file(dir.join("weak.crt")).unwrap();
    // The device's own library takes no such key. The certificate is verified before its signature.
    let (_, key) = scene.devices.issue("device", &wish()).load();
    for line in scene.refused(&(vec![weak], key)).await {
        assert_eq!(line["reason"], "client_cert_weak_key", "{line}");
    }
}
