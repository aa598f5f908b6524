//! `tlsidecar demo`: runs a proxy with development certificates and an echo server as its backend.
//!
//! **Promises.** The demo listens on loopback by default. Only their owner can read the private keys.
//! Existing certificates are kept. The commands that the demo prints work in every directory.
//!
//! **Not here.** The proxy (`run.rs`).

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{self, Path, PathBuf};
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::exit::Exit;
use super::flags::DemoArgs;
use super::output::{fail, print_line};
use super::run::run_proxy;
use crate::app::App;
use crate::config::{
    AdminConfig, AdminListen, BackendAddress, CertificateFiles, ClientAuth, Config, ListenerConfig,
};
use crate::regular_file;
use crate::text::Shown;
use crate::time::unix_seconds;

/// The files in the directory of a demo, certificate and key each.
const CA: [&str; 2] = ["ca.crt", "ca.key"];
const SERVER: [&str; 2] = ["server.crt", "server.key"];
const DEVICE: [&str; 2] = ["device.crt", "device.key"];

/// The parts of a demo that start once the proxy runs: the echo server and the instructions.
struct Demo {
    echo: StdTcpListener,
    dir: PathBuf,
}

/// A failed preparation of the demo.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    /// A file, a directory or the socket of the echo server.
    #[error("cannot {action}: {cause}")]
    Io { action: String, cause: io::Error },
    /// There are certificates, and the CA that issued them is incomplete.
    #[error("{} lacks {missing}: delete the directory; the demo then creates it again", Shown(dir))]
    Incomplete { dir: PathBuf, missing: String },
    /// There is no CA that could issue a new certificate.
    #[error("{} does not exist: run the demo first, without --renew", Shown(.0))]
    NoCa(PathBuf),
    /// A certificate could not be issued.
    #[error("cannot create certificates: {0}")]
    Certificates(#[from] rcgen::Error),
}

/// Runs the demo until it is stopped or, with `--renew`, issues a new server certificate.
#[must_use]
pub fn run(args: &DemoArgs) -> Exit {
    if args.renew {
        let renewed = renew(&args.dir);
        return renewed.map_or_else(|error| fail(error, Exit::Failed), |()| Exit::Success);
    }
    match prepare(args) {
        Ok((config, demo)) => run_proxy(config, None, |app| demo.start(app)),
        Err(error) => fail(error, Exit::Failed),
    }
}

/// Creates the missing certificates, binds the echo server, and returns the configuration of the proxy.
fn prepare(args: &DemoArgs) -> Result<(Config, Demo), DemoError> {
    let dir = path::absolute(&args.dir).map_err(failed("find the directory", &args.dir))?;
    make_certificates(&dir)?;
    let (echo, backend) = bind_echo()
        .map_err(|cause| DemoError::Io { action: "bind the echo server".to_owned(), cause })?;
    let backend = BackendAddress::Tcp { host: backend.ip().to_string(), port: backend.port() };
    let pair = CertificateFiles { cert: dir.join("server.crt"), key: dir.join("server.key") };
    let listener = ListenerConfig::new("demo", args.listen, backend, pair, ClientAuth::None);
    let config = Config {
        admin: AdminConfig { listen: AdminListen::At(args.admin), ..AdminConfig::default() },
        ..Config::of(listener)
    };
    Ok((config, Demo { echo, dir }))
}

fn bind_echo() -> io::Result<(StdTcpListener, SocketAddr)> {
    let echo = StdTcpListener::bind(("127.0.0.1", 0))?;
    echo.set_nonblocking(true)?;
    let address = echo.local_addr()?;
    Ok((echo, address))
}

/// Issues a new server certificate from the CA in `dir`. A running demo reloads it without a request.
fn renew(dir: &Path) -> Result<(), DemoError> {
    let ca_key = dir.join("ca.key");
    if !ca_key.exists() {
        return Err(DemoError::NoCa(ca_key));
    }
    issue(dir, "server", &["localhost", "127.0.0.1", "::1"], ExtendedKeyUsagePurpose::ServerAuth)
}

impl Demo {
    /// Starts the echo server and prints the instructions. Must be called within a runtime.
    fn start(self, app: &App) {
        match TcpListener::from_std(self.echo) {
            Ok(echo) => {
                tokio::spawn(echo_all(echo));
            }
            Err(error) => tracing::error!(%error, "the echo server cannot start"),
        }
        for (_, listen) in &app.listeners {
            print_line(instructions(
                *listen,
                app.admin.expect("the demo has an admin port"),
                &self.dir,
            ));
        }
    }
}

fn instructions(listen: SocketAddr, admin: SocketAddr, dir: &Path) -> String {
    let (port, ca, dir) = (listen.port(), quoted(&dir.join("ca.crt")), quoted(dir));
    let (examples, found) = match examples() {
        Some(examples) => (quoted(&examples), ""),
        None => ("examples".to_owned(), ", in the repository of tlsidecar"),
    };
    let program = this_program();
    format!(
        "Connect a device that verifies the server certificate{found}:
    python3 {examples}/device.py --port {port} --ca {ca}
Connect an old device (no SNI, no verification, TLS 1.2){found}:
    python3 {examples}/device_old.py --port {port}
Connect by hand (the echo server sends back what you type):
    openssl s_client -connect {listen} -servername localhost -CAfile {ca}
Show the server as a device sees it:
    {program} probe {listen} --name localhost --ca {ca}
Show the connections, in a browser and for Prometheus:
    http://{admin}/
    curl http://{admin}/metrics
Issue a new server certificate, which the running demo reloads:
    {program} demo --renew --dir {dir}
Ctrl-C ends it."
    )
}

/// Returns the directory of the example devices, if the demo runs in the repository or through cargo.
fn examples() -> Option<PathBuf> {
    let by_cargo = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let roots = [env::current_dir().ok(), by_cargo].into_iter().flatten();
    roots.map(|root| root.join("examples")).find(|examples| examples.join("device.py").exists())
}

/// Returns the shell command that runs this program.
fn this_program() -> String {
    match env::current_exe() {
        Ok(program) if env::var_os("CARGO").is_none() => quoted(&program),
        _ => "cargo run --release --".to_owned(),
    }
}

/// Quotes a path for a shell, if necessary.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c)) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The backend of the demo: sends every byte back.
async fn echo_all(listener: TcpListener) {
    while let Ok((tcp, _)) = listener.accept().await {
        tokio::spawn(echo(tcp));
    }
}

async fn echo(mut tcp: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 4096];
    loop {
        match tcp.read(&mut buffer).await? {
            0 => return tcp.shutdown().await,
            read => tcp.write_all(&buffer[..read]).await?,
        }
    }
}

/// Creates the missing certificates. A lost key or certificate of the CA cannot be replaced: certificates and
/// devices depend on the old one.
fn make_certificates(dir: &Path) -> Result<(), DemoError> {
    let missing =
        |files: [&'static str; 2]| files.into_iter().filter(|file| !dir.join(file).exists());
    let all = [CA, SERVER, DEVICE].into_iter().flat_map(missing).collect::<Vec<_>>();
    if all.len() == CA.len() + SERVER.len() + DEVICE.len() {
        fs::create_dir_all(dir).map_err(failed("create the directory", dir))?;
        make_ca(dir)?;
    } else if missing(CA).next().is_some() {
        return Err(DemoError::Incomplete { dir: dir.to_owned(), missing: all.join(", ") });
    }
    if missing(SERVER).next().is_some() {
        renew(dir)?;
    }
    if missing(DEVICE).next().is_some() {
        issue(dir, "device", &["device-1"], ExtendedKeyUsagePurpose::ClientAuth)?;
    }
    Ok(())
}

fn make_ca(dir: &Path) -> Result<(), DemoError> {
    let key = KeyPair::generate()?;
    write(&dir.join("ca.crt"), &ca_params()?.self_signed(&key)?.pem(), 0o644)?;
    write(&dir.join("ca.key"), &key.serialize_pem(), 0o600)
}

/// Returns the same parameters at each call, so that a later run can issue with the CA's key alone.
fn ca_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "tlsidecar development CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn issue(
    dir: &Path,
    file: &str,
    names: &[&str],
    purpose: ExtendedKeyUsagePurpose,
) -> Result<(), DemoError> {
    let ca_key = dir.join("ca.key");
    let (ca_key, _) = regular_file::read(&ca_key, 1 << 20).map_err(failed("read", &ca_key))?;
    let ca_key = String::from_utf8_lossy(&ca_key);
    let issuer = Issuer::new(ca_params()?, KeyPair::from_pem(&ca_key)?);
    let key = KeyPair::generate()?;
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names.clone())?;
    params.distinguished_name.push(DnType::CommonName, &names[0]);
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    params.not_after = date_time_ymd(this_year() + 2, 1, 1);
    let certificate = params.signed_by(&key, &issuer)?;
    write(&dir.join(format!("{file}.crt")), &certificate.pem(), 0o644)?;
    write(&dir.join(format!("{file}.key")), &key.serialize_pem(), 0o600)
}

fn this_year() -> i32 {
    i32::try_from(1970 + unix_seconds(SystemTime::now()) / (365 * 24 * 3600 + 6 * 3600))
        .unwrap_or(1970)
}

/// Replaces a file atomically: a running demo may read it at any time.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), DemoError> {
    let temporary = path.with_extension("new");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(failed("write", path))
}

fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> DemoError {
    let action = format!("{action} {}", Shown(path));
    move |cause| DemoError::Io { action, cause }
}
