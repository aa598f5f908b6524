//! `tlsidecar demo`: everything that is needed to see it work, on one machine.
//!
//! It makes a development CA with a server's and a device's certificate, starts an echo server in
//! the place of the legacy server, and says what to type.
//!
//! **Promises.** It listens on loopback unless told otherwise. Keys are readable by their owner
//! alone. Certificates that are there already are kept. The commands that it prints work from
//! wherever they are typed.
//!
//! **Not here.** The proxy itself: the demo runs the same one.

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

use super::flags;
use crate::app::App;
use crate::config::{
    AdminConfig, BackendAddress, CertificateFiles, ClientAuth, Config, ListenerConfig,
};
use crate::regular_file;
use crate::text::Shown;
use crate::time::unix_seconds;

/// The files of a demo's directory: who issues, who the sidecar is, who a device is.
const CA: [&str; 2] = ["ca.crt", "ca.key"];
const SERVER: [&str; 2] = ["server.crt", "server.key"];
const DEVICE: [&str; 2] = ["device.crt", "device.key"];

/// The demo's stand-in for a legacy server, and what it has to say.
pub struct Demo {
    echo: StdTcpListener,
    dir: PathBuf,
}

/// Why the demo cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A file, a directory or the echo server's socket.
    #[error("cannot {what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        cause: io::Error,
    },
    /// Other files are there, and have been made by a CA that is not there whole.
    #[error("{} lacks {missing}: delete the directory, and the demo makes a new one", Shown(dir))]
    HalfMade {
        /// The directory.
        dir: PathBuf,
        /// The files that are missing.
        missing: String,
    },
    /// There is nothing that could issue a new certificate.
    #[error("there is no {} to renew with: run the demo first, without --renew", Shown(.0))]
    NoCa(PathBuf),
    /// A certificate.
    #[error("cannot make certificates: {0}")]
    Certificates(#[from] rcgen::Error),
}

/// Makes the certificates that are missing, binds the echo server, and returns the configuration to
/// run on.
///
/// # Errors
/// If a certificate cannot be made or written, or nothing can be bound.
pub fn prepare(args: &flags::DemoArgs) -> Result<(Config, Demo), DemoError> {
    let dir = path::absolute(&args.dir).map_err(failed("find the directory", &args.dir))?;
    make_certificates(&dir)?;
    let (echo, backend) = bind_echo()
        .map_err(|cause| DemoError::Io { what: "bind the echo server".to_owned(), cause })?;
    let backend = BackendAddress::Tcp { host: backend.ip().to_string(), port: backend.port() };
    let pair = CertificateFiles { cert: dir.join("server.crt"), key: dir.join("server.key") };
    let listener = ListenerConfig::new("demo", args.listen, backend, pair, ClientAuth::None);
    let config = Config { admin: AdminConfig { listen: args.admin }, ..Config::of(listener) };
    Ok((config, Demo { echo, dir }))
}

fn bind_echo() -> io::Result<(StdTcpListener, SocketAddr)> {
    let echo = StdTcpListener::bind(("127.0.0.1", 0))?;
    echo.set_nonblocking(true)?;
    let address = echo.local_addr()?;
    Ok((echo, address))
}

/// Issues a new server certificate from the CA in `dir`; a running demo takes it up by itself.
///
/// # Errors
/// If there is no CA, or the certificate cannot be written.
pub fn renew(dir: &Path) -> Result<(), DemoError> {
    let ca_key = dir.join("ca.key");
    if !ca_key.exists() {
        return Err(DemoError::NoCa(ca_key));
    }
    issue(dir, "server", &["localhost", "127.0.0.1", "::1"], ExtendedKeyUsagePurpose::ServerAuth)
}

impl Demo {
    /// Starts the echo server and says what to type. Call it within a runtime.
    pub fn start(self, app: &App) {
        match TcpListener::from_std(self.echo) {
            Ok(echo) => {
                tokio::spawn(echo_all(echo));
            }
            Err(error) => tracing::error!(%error, "the echo server cannot start"),
        }
        for (_, listen) in &app.listeners {
            // A reader that has read enough, such as `head`, wants the demo all the same.
            let _unread =
                flags::print(format!("{}\n", instructions(*listen, app.admin, &self.dir)));
        }
    }
}

fn instructions(listen: SocketAddr, admin: SocketAddr, dir: &Path) -> String {
    let (port, ca, dir) = (listen.port(), quoted(&dir.join("ca.crt")), quoted(dir));
    let (examples, found) = match examples() {
        Some(examples) => (quoted(&examples), ""),
        None => ("examples".to_owned(), "; type it in the repository of tlsidecar"),
    };
    let program = this_program();
    format!(
        "A device, the careful way (verifies the sidecar{found}):
    python3 {examples}/device.py --port {port} --ca {ca}
A device of the old kind (no SNI, no verification, TLS 1.2{found}):
    python3 {examples}/device_old.py --port {port}
By hand (what you type comes back):
    openssl s_client -connect {listen} -servername localhost -CAfile {ca}
What a device would see:
    {program} probe {listen} --name localhost --ca {ca}
How the connections are, for a browser and for Prometheus:
    http://{admin}/
    curl http://{admin}/metrics
A new server certificate, taken up while it runs:
    {program} demo --renew --dir {dir}
Ctrl-C ends it."
    )
}

/// The directory of the example devices, if this runs in the repository, or by cargo.
fn examples() -> Option<PathBuf> {
    let by_cargo = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let roots = [env::current_dir().ok(), by_cargo].into_iter().flatten();
    roots.map(|root| root.join("examples")).find(|examples| examples.join("device.py").exists())
}

/// What to type to run this program.
fn this_program() -> String {
    match env::current_exe() {
        Ok(program) if env::var_os("CARGO").is_none() => quoted(&program),
        _ => "cargo run --release --".to_owned(),
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c)) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The legacy server: it sends back what it gets.
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

/// Makes what is missing. Half a CA cannot be made whole: what the other half has issued, or who
/// believes it, is out there.
fn make_certificates(dir: &Path) -> Result<(), DemoError> {
    let missing =
        |files: [&'static str; 2]| files.into_iter().filter(|file| !dir.join(file).exists());
    let all = [CA, SERVER, DEVICE].into_iter().flat_map(missing).collect::<Vec<_>>();
    if all.len() == CA.len() + SERVER.len() + DEVICE.len() {
        fs::create_dir_all(dir).map_err(failed("create the directory", dir))?;
        make_ca(dir)?;
    } else if missing(CA).next().is_some() {
        return Err(DemoError::HalfMade { dir: dir.to_owned(), missing: all.join(", ") });
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

/// The same each time, so that the CA can issue from its key alone.
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

/// Writes a whole file or nothing: a demo that is running may read at any moment.
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

fn failed(tried: &str, path: &Path) -> impl FnOnce(io::Error) -> DemoError {
    let what = format!("{tried} {}", Shown(path));
    move |cause| DemoError::Io { what, cause }
}
