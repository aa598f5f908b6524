//! Tests of files with certificates, keys and CRLs: loaded whole, or refused with the line of the problem.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use rcgen::ExtendedKeyUsagePurpose;
use tlsidecar::app::{self, Checked, StartError};
use tlsidecar::config::{CertificateFiles, ClientAuth, ClientTrust, Config, ListenerConfig};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::support::certs::{Wish, replace};
use crate::support::command::has;
use crate::support::process::binary;
use crate::support::proxy::listener;
use crate::support::{Authority, Backend};

/// A listener whose files a test writes.
struct Scene {
    authority: Authority,
    listener: ListenerConfig,
    _backend: Backend,
}

impl Scene {
    async fn new() -> Self {
        let authority = Authority::new("ca");
        let backend = Backend::echo().await;
        let mut listener = listener(backend.config(), &authority.server());
        let trust = ClientTrust {
            crls: vec![authority.crl("devices.crl", &[])],
            ..ClientTrust::new(authority.dir().join("clients.crt"))
        };
        replace(&trust.ca, authority.pem());
        listener.tls.client_auth = ClientAuth::Required(trust);
        Self { authority, listener, _backend: backend }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.authority.dir().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.authority.dir().join(name)).unwrap()
    }

    fn check(&self) -> Result<Checked, StartError> {
        app::check(&Config::of(self.listener.clone()))
    }

    /// Asserts that there is one problem, and that it has all of these words.
    fn is_refused(&self, words: &[&str]) {
        let problems = self.check().err().expect("it is refused").lines();
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(words.iter().all(|word| problem.contains(word)), "{words:?} in {problem}");
    }

    /// Asserts that there is one warning, and that it has all of these words.
    fn is_warned_of(&self, words: &[&str]) {
        let warnings = self.check().unwrap().warning_lines();
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(words.iter().all(|word| warning.contains(word)), "{words:?} in {warning}");
    }
}

#[tokio::test]
async fn the_objects_of_each_file_are_counted() {
    let scene = Scene::new().await;
    let below = scene.authority.intermediate("below");
    below.issue("server", &Wish::default());
    let other = Authority::new("other");
    scene.write("clients.crt", format!("{}{}", scene.authority.pem(), other.pem()));
    let files = scene.check().unwrap().files.join("\n");
    let counts = ["server.crt: 2 certificates", "server.key: 1 private key"];
    for count in counts.into_iter().chain(["clients.crt: 2 certificates", "crls[0]: 1 CRL"]) {
        assert!(files.contains(count), "{count} in {files}");
    }
}

#[tokio::test]
async fn a_bundle_is_never_loaded_in_part() {
    let scene = Scene::new().await;
    let (one, other) = (scene.authority.pem().to_owned(), Authority::new("other").pem().to_owned());
    let cut = other.replace("-----END CERTIFICATE-----", "");
    let faults = [
        format!("{}{other}", one.trim_end()),
        format!("{one}{cut}"),
        format!("{one}{}", other.replace("-----BEGIN CERTIFICATE-----\n", "")),
        format!("{one} {other}"),
        format!("{one}{}", other.replace("CERTIFICATE", "TRUSTED CERTIFICATE")),
        format!("{one}{}", other.replace("CERTIFICATE", "CERTIFICAT")),
        format!("{one}{}", other.replace("CERTIFICATE", "PKCS7")),
        format!("{one}{}", other.replacen('M', "*", 1)),
    ];
    for bundle in faults {
        scene.write("clients.crt", &bundle);
        scene.is_refused(&["clients.crt line "]);
        assert!(bundle.starts_with("-----BEGIN"), "{bundle}");
    }
    scene.write("clients.crt", one.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>());
    scene.is_refused(&["clients.crt", "UTF-16"]);
    let read_whole = [
        format!("\u{feff}{one}\u{feff}{other}"),
        format!("{one}{other}").replace('\n', "\r\n"),
        format!("subject=CN = ca\n{one}\n# none\n{other}"),
        format!("{one}{}", other.replace("CERTIFICATE", "X509 CERTIFICATE")),
    ];
    for bundle in read_whole {
        scene.write("clients.crt", &bundle);
        let files = scene.check().unwrap().files.join("\n");
        assert!(files.contains("clients.crt: 2 certificates"), "{files} of {bundle}");
    }
}

#[tokio::test]
async fn der_is_reported_as_der() {
    let scene = Scene::new().await;
    let key = PrivateKeyDer::from_pem_slice(scene.read("server.key").as_bytes()).unwrap();
    scene.write("server.key", key.secret_der());
    scene.is_refused(&["server.key", "DER"]);
}

#[tokio::test]
async fn an_unused_section_is_a_warning_with_its_line() {
    let scene = Scene::new().await;
    let (ca, crl) = (scene.read("clients.crt"), scene.read("devices.crl"));
    let line = format!("line {}", ca.lines().count() + 1);
    scene.write("clients.crt", format!("{ca}{crl}"));
    scene.is_warned_of(&["clients.crt", &line, "CRL"]);
    scene.write("clients.crt", &ca);
    scene.write("devices.crl", format!("{crl}{ca}"));
    scene.is_warned_of(&["devices.crl", "certificate"]);
}

/// Runs openssl in the directory of a scene, and returns its output.
fn openssl(scene: &Scene, arguments: &str) -> String {
    let mut command = Command::new("openssl");
    let output = command.args(arguments.split(' ')).current_dir(scene.authority.dir()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_key_with_a_passphrase_is_reported_in_either_form() {
    let mut scene = Scene::new().await;
    if !has("openssl") {
        return;
    }
    let new = "pkey -in server.key -aes256 -passout pass:abcd -out locked.key";
    let old = "ec -in server.key -aes256 -passout pass:abcd -out locked.key";
    for form in [new, old] {
        openssl(&scene, form);
        scene.listener.tls.certificates[0].key = scene.authority.dir().join("locked.key");
        scene.is_refused(&["locked.key line 1", "passphrase"]);
    }
}

#[tokio::test]
async fn a_server_certificate_of_version_1_is_accepted_with_a_warning() {
    let scene = Scene::new().await;
    if !has("openssl") {
        return;
    }
    openssl(&scene, "req -new -key server.key -subj /CN=gateway -out server.csr");
    openssl(&scene, "x509 -req -in server.csr -signkey server.key -days 90 -out server.crt");
    // Newer versions of openssl make version 3.
    if openssl(&scene, "x509 -noout -text -in server.crt").contains("Version: 1") {
        scene.is_warned_of(&["server.crt line 1", "version 1"]);
    }
}

#[tokio::test]
async fn the_key_of_another_certificate_is_reported() {
    let scene = Scene::new().await;
    let (_, key) = scene.authority.issue_pem(&Wish::default());
    scene.write("server.key", key);
    scene.is_refused(&["server.key does not belong to", "server.crt"]);
}

#[tokio::test]
async fn a_name_with_a_newline_or_an_escape_sequence_stays_in_one_line() {
    let scene = Scene::new().await;
    for name in ["tls\n2026-01-01 INFO forged", "tls\u{1b}[31mred\u{9b}"] {
        let mut listener = scene.listener.clone();
        let file = |end: &str| scene.authority.dir().join(format!("{name}.{end}"));
        let (cert, key) = (file("crt"), file("key"));
        fs::copy(&scene.listener.tls.certificates[0].cert, &cert).unwrap();
        fs::copy(&scene.listener.tls.certificates[0].key, &key).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        listener.tls.certificates = vec![CertificateFiles { cert: cert.clone(), key }];
        let good = app::check(&Config::of(listener.clone())).unwrap();
        fs::remove_file(&cert).unwrap();
        let bad = app::check(&Config::of(listener)).err().unwrap().lines();
        for lines in [good.warning_lines(), good.files, bad] {
            assert!(!lines.concat().chars().any(char::is_control), "{lines:?}");
            assert!(lines.iter().any(|line| line.contains("tls\\")), "{lines:?}");
        }
    }
}

/// Makes a FIFO without a writer.
fn fifo(scene: &Scene) -> PathBuf {
    let path = scene.authority.dir().join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[tokio::test]
async fn a_fifo_is_refused_without_waiting_in_every_role() {
    let mut scene = Scene::new().await;
    let fifo = fifo(&scene);
    let output = binary().args(["check", "--config"]).arg(&fifo).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    scene.listener.tls.certificates[0].cert.clone_from(&fifo);
    scene.is_refused(&["fifo", "not a regular file"]);
    let text = format!(
        "[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:0\"\nbackend = \"127.0.0.1:1\"\n\
         tls.certificates = [{{ cert = {fifo:?}, key = {fifo:?} }}]\n"
    );
    scene.write("tlsidecar.toml", text);
    let config = scene.authority.dir().join("tlsidecar.toml");
    let output = binary().args(["check", "--config"]).arg(config).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a regular file"));
}

#[tokio::test]
async fn a_file_that_is_too_large_is_refused_by_its_size() {
    let scene = Scene::new().await;
    let purpose = ExtendedKeyUsagePurpose::ServerAuth;
    scene.authority.issue("server", &Wish { purpose, ..Wish::default() });
    let file = fs::OpenOptions::new().append(true).open(scene.authority.dir().join("server.crt"));
    file.unwrap().set_len(1 << 40).unwrap();
    scene.is_refused(&["server.crt", "larger than 4 MiB"]);
}
