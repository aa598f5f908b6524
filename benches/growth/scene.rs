//! A proxy with one worker, one real device, and many imagined ones.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tlsidecar::app::{App, start};
use tlsidecar::config::file::{ConfigSource, Overrides};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::device::{self, Session};
use super::pause;

/// The names of all devices.
pub(crate) const EVERYBODY: [&str; 2] = ["real", "pump-*"];

/// A proxy that relays for one real device, and lists many.
pub(crate) struct Scene {
    dir: TempDir,
    runtime: Runtime,
    app: App,
    device: Arc<ClientConfig>,
    /// The longest echo of the real device since it was last read, in nanoseconds.
    longest: Arc<AtomicU64>,
}

impl Scene {
    /// Starts the proxy, connects the real device, and imagines `count` others.
    pub(crate) fn new(count: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let device = write_certificates(dir.path());
        fs::write(dir.path().join("tlsidecar.toml"), configuration(device::backend()))
            .expect("it can be written");
        write_rules(&dir, &EVERYBODY);
        // One worker: what occupies it holds up every relay.
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("threads can start");
        let source = ConfigSource {
            path: dir.path().join("tlsidecar.toml"),
            overrides: Overrides::default(),
        };
        let config = source.load().expect("the configuration is valid");
        let app = runtime.block_on(async { start(config, Some(source)) }).expect("it starts");
        let session = Session::new(app.listeners[0].1, &device);
        app.imagine_devices(count);
        let longest = session.keep_busy();
        Self { dir, runtime, app, device, longest }
    }

    /// Returns the longest echo since the last call.
    pub(crate) fn longest_echo(&self) -> Duration {
        Duration::from_nanos(self.longest.swap(0, Ordering::Relaxed))
    }

    /// Connects another device, up to its first echo.
    pub(crate) fn connect(&self) {
        drop(Session::new(self.app.listeners[0].1, &self.device));
    }

    /// Asks the admin port.
    pub(crate) fn ask(&self, request: &str) {
        let answer = self.answer(request);
        assert!(answer.starts_with("HTTP/1.1 20"), "{request}: {answer}");
    }

    /// Traces a device that does not exist: the list is searched for it.
    pub(crate) fn trace(&self) {
        self.ask("POST /trace?identity=nobody&seconds=1");
    }

    /// Sets the rules that admit devices.
    pub(crate) fn allow(&self, names: &[&str]) {
        write_rules(&self.dir, names);
    }

    /// Reloads, and waits for the end of the re-check.
    pub(crate) fn reload(&self) {
        let report = self.runtime.block_on(self.app.reload.reload());
        assert!(report.is_some(), "the proxy runs");
        pause(100);
    }

    fn answer(&self, request: &str) -> String {
        let address = self.app.admin.expect("the admin port is on");
        let mut tcp = TcpStream::connect(address).expect("the admin port listens");
        let headers =
            "HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        write!(tcp, "{request} {headers}").expect("the admin port reads");
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).expect("the admin port answers");
        answer
    }
}

fn configuration(backend: SocketAddr) -> String {
    format!(
        r#"
[admin]
listen = "127.0.0.1:0"
[[listener]]
name = "growth"
listen = "127.0.0.1:0"
backend = "{backend}"
tls.certificates = [{{ cert = "tls.crt", key = "tls.key" }}]
tls.client_auth = "required"
tls.client_ca = "ca.crt"
allow.file = "allow.toml"
"#
    )
}

fn write_rules(dir: &TempDir, names: &[&str]) {
    fs::write(dir.path().join("allow.toml"), format!("cn = {names:?}\n"))
        .expect("it can be written");
}

/// Writes the certificates, and returns the settings of a device with the name `real`.
fn write_certificates(dir: &Path) -> Arc<ClientConfig> {
    let key = KeyPair::generate().expect("a key can be made");
    let mut params = CertificateParams::new(Vec::new()).expect("there are no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).expect("the CA can sign");
    let issuer = Issuer::new(params, key);
    let issue = |name: &str| {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &issuer).expect("the CA can sign"), key)
    };
    let write = |name: &str, text: String| fs::write(dir.join(name), text).expect("it is written");
    let (server, server_key) = issue("server");
    write("ca.crt", ca.pem());
    write("tls.crt", server.pem());
    write("tls.key", server_key.serialize_pem());
    let (device, device_key) = issue("real");
    let key = PrivateKeyDer::try_from(device_key.serialize_der()).expect("it is a key");
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).expect("the certificate is valid");
    let builder = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into());
    let builder = builder.with_protocol_versions(&[&TLS13]).expect("the provider supports it");
    let builder = builder.with_root_certificates(roots);
    builder.with_client_auth_cert(vec![device.der().clone()], key).expect("they fit").into()
}
