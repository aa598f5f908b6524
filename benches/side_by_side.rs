//! tlsidecar and HAProxy side by side, in one run: `cargo bench --bench side_by_side`.
//!
//! It measures what an idle device costs in memory, and how many full TLS 1.3 handshakes a second
//! of CPU time carries. Figures are of the proxy's process alone (user and system time, and PSS),
//! so that whatever else the machine does, the load generator included, cancels out. Each figure is
//! the median of [`ROUNDS`] rounds in which the proxies take turns.
//!
//! HAProxy is measured if it is installed, as its manual advises for this job: `mode tcp`, two
//! threads, no checks, no logging, tickets on, AES-128 first. Both have the same P-256 certificate
//! and the same echoing backend. tlsidecar runs on its defaults, and so logs each connection.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a bench fails by panicking and tells its figures"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const ROUNDS: usize = 3;
const IDLE_CONNECTIONS: usize = 5000;
const HANDSHAKE_TIME: Duration = Duration::from_secs(4);
/// Handshakes under way at a time.
const CLIENTS: usize = 16;
/// Threads of each proxy.
const WORKERS: usize = 2;

/// Handshakes per CPU second, as a multiple of HAProxy's.
const LEAST_HANDSHAKE_RATIO: f64 = 1.8;
/// Memory of an idle connection.
const MOST_IDLE_BYTES: f64 = 8192.0;

/// A proxy that can be started.
struct Peer {
    name: &'static str,
    start: fn(&Path, SocketAddr, SocketAddr) -> Option<Child>,
}

const PEERS: &[Peer] = &[
    Peer { name: "tlsidecar", start: start_tlsidecar },
    Peer { name: "HAProxy", start: start_haproxy },
];

/// What one round found.
#[derive(Clone, Copy, Default)]
struct Figures {
    handshakes_per_cpu_second: f64,
    handshakes_per_second: f64,
    bytes_per_idle_connection: f64,
    base_bytes: f64,
}

fn main() {
    // `cargo bench` passes flags of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(compare());
}

async fn compare() {
    let dir = tempfile::tempdir().unwrap();
    let connector = prepare(dir.path());
    let backend = echo_server().await;
    let mut found: Vec<Vec<Figures>> = vec![Vec::new(); PEERS.len()];
    for round in 1..=ROUNDS {
        for (peer, figures) in PEERS.iter().zip(&mut found) {
            let listen = free_port().await;
            let Some(child) = (peer.start)(dir.path(), listen, backend) else {
                eprintln!("SKIPPED: {} is not installed", peer.name);
                continue;
            };
            let proxy = Proxy { child };
            until_listening(listen).await;
            let measured = measure(&proxy, &connector, listen).await;
            eprintln!("round {round}, {}: {measured}", peer.name);
            figures.push(measured);
        }
    }
    print_table(&found);
    judge(&found);
}

/// What the figures must reach; the bench fails where they do not.
fn judge(found: &[Vec<Figures>]) {
    let [ours, theirs] = found else { unreachable!("there are two peers") };
    let idle = median(ours.iter().map(|f| f.bytes_per_idle_connection));
    assert!(idle <= MOST_IDLE_BYTES, "{idle:.0} bytes per idle connection");
    if theirs.is_empty() {
        return;
    }
    // Round by round, so that a machine that slows down slows down both.
    let handshakes = |f: &Figures| f.handshakes_per_cpu_second;
    let ratios = ours.iter().zip(theirs).map(|(o, t)| handshakes(o) / handshakes(t));
    let ratio = median(ratios);
    println!(
        "\n{ratio:.2} times HAProxy's handshakes per CPU second (median of the rounds' ratios)"
    );
    assert!(ratio >= LEAST_HANDSHAKE_RATIO, "only {ratio:.2} times HAProxy's handshakes");
}

async fn measure(proxy: &Proxy, connector: &TlsConnector, listen: SocketAddr) -> Figures {
    // The first connection brings in what all share: code pages, threads' buffers, session caches.
    drop(echo(connector, listen).await);
    let base = proxy.memory();
    let idle = hold_idle(connector, listen).await;
    let bytes_per_idle_connection = (proxy.memory() - base) / idle.len() as f64;
    drop(idle);
    let (cpu, start) = (proxy.cpu_seconds(), Instant::now());
    let handshakes = shake_hands(connector, listen).await as f64;
    Figures {
        handshakes_per_cpu_second: handshakes / (proxy.cpu_seconds() - cpu),
        handshakes_per_second: handshakes / start.elapsed().as_secs_f64(),
        bytes_per_idle_connection,
        base_bytes: base,
    }
}

/// Connections that have echoed 64 bytes each and now do nothing.
async fn hold_idle(connector: &TlsConnector, listen: SocketAddr) -> Vec<TlsStream<TcpStream>> {
    let mut idle = Vec::with_capacity(IDLE_CONNECTIONS);
    while idle.len() < IDLE_CONNECTIONS {
        let some = (0..50).map(|_| {
            let connector = connector.clone();
            tokio::spawn(async move { echo(&connector, listen).await })
        });
        for one in some.collect::<Vec<_>>() {
            idle.push(one.await.unwrap());
        }
    }
    // Until the allocator has nothing in flight.
    tokio::time::sleep(Duration::from_secs(1)).await;
    idle
}

async fn echo(connector: &TlsConnector, listen: SocketAddr) -> TlsStream<TcpStream> {
    let mut session = handshake(connector, listen).await;
    session.write_all(&[7; 64]).await.unwrap();
    session.read_exact(&mut [0; 64]).await.unwrap();
    session
}

async fn handshake(connector: &TlsConnector, listen: SocketAddr) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(listen).await.unwrap();
    connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap()
}

/// Full handshakes, one after the other on each of [`CLIENTS`] tasks; returns how many.
async fn shake_hands(connector: &TlsConnector, listen: SocketAddr) -> usize {
    let done = Arc::new(AtomicUsize::new(0));
    let until = Instant::now() + HANDSHAKE_TIME;
    let clients = (0..CLIENTS).map(|_| {
        let (connector, done) = (connector.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            while Instant::now() < until {
                let mut session = handshake(&connector, listen).await;
                // A TLS 1.3 client is done before its server is: a byte there and back shows that
                // the server is, too.
                session.write_all(&[7]).await.unwrap();
                session.read_exact(&mut [0]).await.unwrap();
                // Ports are not to be used up by TIME_WAIT.
                session.get_ref().0.set_zero_linger().unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    done.load(Ordering::Relaxed)
}

/// A running proxy. It is killed on drop.
struct Proxy {
    child: Child,
}

impl Proxy {
    /// PSS in bytes: proc_pid_smaps(5).
    fn memory(&self) -> f64 {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
    }

    /// User and system time of all threads, those that have ended included: proc_pid_stat(5).
    fn cpu_seconds(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after_name = text.rsplit_once(')').unwrap().1;
        let fields: Vec<_> = after_name.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        // Linux has had 100 ticks a second for user space since 2.6.
        ticks / 100.0
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn start_tlsidecar(dir: &Path, listen: SocketAddr, backend: SocketAddr) -> Option<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tlsidecar"));
    command.env("TOKIO_WORKER_THREADS", WORKERS.to_string());
    command.args(["--listen", &listen.to_string(), "--backend", &backend.to_string()]);
    command.args(["--admin", "127.0.0.1:0"]);
    command.arg("--cert").arg(dir.join("tls.crt")).arg("--key").arg(dir.join("tls.key"));
    // The shipped default logs each connection.
    command.stderr(Stdio::null()).spawn().ok()
}

fn start_haproxy(dir: &Path, listen: SocketAddr, backend: SocketAddr) -> Option<Child> {
    let pem = dir.join("tls.pem");
    let text = format!(
        "global\n nbthread {WORKERS}\n maxconn 8000\n ssl-default-bind-options ssl-min-ver TLSv1.2\n \
         ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384\n\
         defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
         frontend f\n bind {listen} ssl crt {}\n default_backend b\n\
         backend b\n server s {backend}\n",
        pem.display()
    );
    let config = dir.join("haproxy.cfg");
    fs::write(&config, text).unwrap();
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().ok()
}

/// Makes the certificate, and a client that trusts it and resumes nothing.
fn prepare(dir: &Path) -> TlsConnector {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    fs::write(dir.join("tls.pem"), format!("{chain}{key}")).unwrap();
    fs::write(dir.join("tls.crt"), chain).unwrap();
    fs::write(dir.join("tls.key"), key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(made.cert.der().to_vec())).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 256];
                while let Ok(read @ 1..) = tcp.read(&mut buffer).await {
                    if tcp.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

async fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn until_listening(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).await.is_err() {
        assert!(Instant::now() < deadline, "nobody listens on {address}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.0} handshakes per CPU second ({:.0} per second), {:.0} bytes per idle connection, {:.1} MiB base",
            self.handshakes_per_cpu_second,
            self.handshakes_per_second,
            self.bytes_per_idle_connection,
            self.base_bytes / 1048576.0
        )
    }
}

fn print_table(found: &[Vec<Figures>]) {
    println!(
        "\n| medians of {ROUNDS} rounds | full TLS 1.3 handshakes per CPU second | bytes per idle connection | base memory, MiB |"
    );
    println!("|---|---|---|---|");
    for (peer, figures) in PEERS.iter().zip(found).filter(|(_, figures)| !figures.is_empty()) {
        println!(
            "| {} | {:.0} | {:.0} | {:.1} |",
            peer.name,
            median(figures.iter().map(|f| f.handshakes_per_cpu_second)),
            median(figures.iter().map(|f| f.bytes_per_idle_connection)),
            median(figures.iter().map(|f| f.base_bytes)) / 1048576.0
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
