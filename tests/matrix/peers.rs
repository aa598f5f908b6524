//! HAProxy and nginx, started for one input.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::net::TcpStream;

use super::{ADMITTED, Files, NOT_LOADED, REFUSED};
use crate::support::command::Running;
use crate::support::{Device, Pair};

/// nginx's module for plain TCP behind TLS, where it is not built in.
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Attempts to start a peer: another program can take its port.
const ATTEMPTS: usize = 5;

#[derive(Clone, Copy)]
pub(super) enum Peer {
    Haproxy,
    Nginx,
}

impl Peer {
    pub(super) const ALL: [Self; 2] = [Self::Haproxy, Self::Nginx];

    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// Returns its answer for a device.
    pub(super) async fn answer(
        self,
        files: &Files<'_>,
        server: &Pair,
        backend: SocketAddr,
        device: &Device,
    ) -> String {
        for _ in 0..ATTEMPTS {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut running = Running(self.start(files, server, address, backend));
            match is_up(&mut running.0, address).await {
                Ok(()) if device.echo(address).await.is_ok() => return ADMITTED.to_owned(),
                Ok(()) => return REFUSED.to_owned(),
                Err(log) if log.contains("in use") || log.contains("cannot bind") => {}
                Err(_) => return NOT_LOADED.to_owned(),
            }
        }
        panic!("no port is free for {}", self.program());
    }

    fn start(
        self,
        files: &Files<'_>,
        server: &Pair,
        listen: SocketAddr,
        backend: SocketAddr,
    ) -> Child {
        let path = files.dir.join(format!("{}.conf", self.program()));
        let mut command = match self {
            Self::Haproxy => haproxy(&path, files, server, listen, backend),
            Self::Nginx => nginx(&path, files, server, listen, backend),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

fn haproxy(
    path: &Path,
    files: &Files<'_>,
    server: &Pair,
    listen: SocketAddr,
    backend: SocketAddr,
) -> Command {
    let both = files.dir.join("server.pem");
    let parts =
        [&server.files.cert, &server.files.key].map(|file| fs::read_to_string(file).unwrap());
    fs::write(&both, parts.concat()).unwrap();
    let crl = files.crl().map_or_else(String::new, |crl| format!(" crl-file {}", crl.display()));
    let text = format!(
        "defaults\n mode tcp\n timeout connect 9s\n timeout client 9s\n timeout server 9s\n\
         listen test\n bind {listen} ssl crt {} ca-file {} verify required{crl}\n server a {backend}\n",
        both.display(),
        files.ca().display(),
    );
    fs::write(path, text).unwrap();
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(path);
    command
}

fn nginx(
    path: &Path,
    files: &Files<'_>,
    server: &Pair,
    listen: SocketAddr,
    backend: SocketAddr,
) -> Command {
    let load =
        if Path::new(STREAM).exists() { format!("load_module {STREAM};") } else { String::new() };
    let crl = files.crl().map_or_else(String::new, |crl| format!("ssl_crl {};", crl.display()));
    // By default nginx accepts one intermediate CA.
    let text = format!(
        "{load} daemon off; master_process off; error_log stderr; pid {}; events {{}} stream {{ server {{ \
         listen {listen} ssl; ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.2 TLSv1.3; \
         ssl_client_certificate {}; {crl} ssl_verify_client on; ssl_verify_depth 100; \
         proxy_pass {backend}; }} }}",
        files.dir.join("nginx.pid").display(),
        server.files.cert.display(),
        server.files.key.display(),
        files.ca().display(),
    );
    fs::write(path, text).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(files.dir).arg("-c").arg(path);
    command
}

/// Waits until a peer accepts connections.
///
/// # Errors
/// Its log, if it ends instead.
async fn is_up(peer: &mut Child, address: SocketAddr) -> Result<(), String> {
    let deadline = std::time::Instant::now() + crate::support::wait::PATIENCE;
    loop {
        if peer.try_wait().unwrap().is_some() {
            let mut log = String::new();
            peer.stderr.take().unwrap().read_to_string(&mut log).unwrap();
            return Err(log);
        }
        if TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
        assert!(std::time::Instant::now() < deadline, "it does not accept");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
