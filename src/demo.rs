//! `tlsidecar demo`: everything that is needed to see it work, on one machine.
//!
//! It makes a development CA with a server's and a device's certificate, starts an echo server in
//! the place of the legacy server, and says what to type.
//!
//! **Promises.** It listens on loopback unless told otherwise. Keys are readable by their owner
//! alone. Certificates that are there already are kept.
//!
//! **Not here.** The proxy itself: the demo runs the same one.

#![expect(clippy::print_stdout, reason = "the demo tells its user what to type")]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::app::App;
use crate::cli;
use crate::config::{Admin, BackendAddress, CertificateFiles, ClientAuth, Config, Listener};

/// The demo's stand-in for a legacy server, and what it has to say.
pub struct Demo {
    echo: StdTcpListener,
    dir: PathBuf,
}

/// Why the demo cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A file or the echo server's socket.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        cause: io::Error,
    },
    /// A certificate.
    #[error("cannot make certificates: {0}")]
    Certificates(#[from] rcgen::Error),
}

/// Makes the certificates that are missing, binds the echo server, and returns the configuration to
/// run on.
///
/// # Errors
/// If a certificate cannot be made or written, or nothing can be bound.
pub fn prepare(args: &cli::Demo) -> Result<(Config, Demo), DemoError> {
    let dir = &args.dir;
    if !dir.join("server.key").exists() {
        fs::create_dir_all(dir).map_err(failed(dir))?;
        make_ca(dir)?;
        renew(dir)?;
        issue(dir, "device", &["device-1"], ExtendedKeyUsagePurpose::ClientAuth)?;
    }
    let echo = StdTcpListener::bind(("127.0.0.1", 0))
        .and_then(|echo| echo.set_nonblocking(true).map(|()| echo))
        .map_err(|cause| DemoError::Io { what: "the echo server".to_owned(), cause })?;
    let backend = echo
        .local_addr()
        .map_err(|cause| DemoError::Io { what: "the echo server".to_owned(), cause })?;
    let backend = BackendAddress::Tcp { host: backend.ip().to_string(), port: backend.port() };
    let pair = CertificateFiles { cert: dir.join("server.crt"), key: dir.join("server.key") };
    let listener = Listener::new("demo", args.listen, backend, pair, ClientAuth::None);
    let config = Config { admin: Admin { listen: args.admin }, ..Config::of(listener) };
    Ok((config, Demo { echo, dir: dir.clone() }))
}

/// Issues a new server certificate from the CA in `dir`; a running demo takes it up by itself.
///
/// # Errors
/// If there is no CA, or the certificate cannot be written.
pub fn renew(dir: &Path) -> Result<(), DemoError> {
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
            println!("{}", instructions(*listen, app.admin, &self.dir));
        }
    }
}

fn instructions(listen: SocketAddr, admin: SocketAddr, dir: &Path) -> String {
    let (dir, port) = (dir.display(), listen.port());
    format!(
        "A device, the careful way (verifies the sidecar):
    python3 examples/device.py --port {port} --ca {dir}/ca.crt
A device of the old kind (no SNI, no verification, TLS 1.2):
    python3 examples/device_old.py --port {port}
By hand (what you type comes back):
    openssl s_client -connect {listen} -servername localhost -CAfile {dir}/ca.crt
How the connections are:
    curl http://{admin}/metrics
A new server certificate, taken up while it runs:
    cargo run --release -- demo --renew --dir {dir}
Ctrl-C ends it."
    )
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
    let ca_key = fs::read_to_string(&ca_key).map_err(failed(&ca_key))?;
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
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i32::try_from(1970 + since_1970.as_secs() / (365 * 24 * 3600 + 6 * 3600)).unwrap_or(1970)
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
    written.map_err(failed(path))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> DemoError {
    let what = path.display().to_string();
    move |cause| DemoError::Io { what, cause }
}
