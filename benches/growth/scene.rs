//! A proxy with one worker, one real device, and many imagined ones.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tlsidecar::app::{App, start};
use tlsidecar::config::file::{ConfigSource, Overrides};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::device::{self, Session};
use super::material::{Key, Material};
use super::pause;

/// The names of all devices.
pub(crate) const EVERYBODY: [&str; 2] = [REAL, "pump-*"];

/// The name of the real device.
pub(crate) const REAL: &str = "device-1";

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
        let material = Material::make(dir.path()).expect("certificates can be made");
        let device = device_config(&material);
        let text = configuration(device::backend(), &material);
        fs::write(dir.path().join("tlsidecar.toml"), text).expect("it can be written");
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

fn configuration(backend: SocketAddr, material: &Material) -> String {
    let [cert, key] = [material.cert(Key::Ecdsa), material.key(Key::Ecdsa)];
    let ca = material.ca_file();
    format!(
        r#"
[admin]
listen = "127.0.0.1:0"
[[listener]]
name = "growth"
listen = "127.0.0.1:0"
backend = "{backend}"
tls.certificates = [{{ cert = {cert:?}, key = {key:?} }}]
tls.client_auth = "required"
tls.client_ca = {ca:?}
allow.file = "allow.toml"
"#
    )
}

fn write_rules(dir: &TempDir, names: &[&str]) {
    fs::write(dir.path().join("allow.toml"), format!("cn = {names:?}\n"))
        .expect("it can be written");
}

/// Returns the settings of the real device.
fn device_config(material: &Material) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(material.ca.clone()).expect("the certificate is valid");
    let builder = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into());
    let builder = builder.with_protocol_versions(&[&TLS13]).expect("the provider supports it");
    let chain = vec![material.device.0.clone()];
    let builder = builder.with_root_certificates(roots);
    builder.with_client_auth_cert(chain, material.device_key()).expect("they fit").into()
}
