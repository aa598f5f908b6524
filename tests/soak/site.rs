//! The proxy of a soak, its backend and its files, and what is done to them while devices use it.
//!
//! **Not here.** The devices: `devices.rs`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::backend::free;
use crate::support::certs::{Wish, device, replace};
use crate::support::file;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Pair, Sidecar};

/// Time for which the backend is down.
const DOWN: Duration = Duration::from_millis(200);

/// Time after a restart in which a device may still fail.
const GRACE: Duration = Duration::from_secs(2);

/// Time between two server certificates.
const RENEW_EVERY: Duration = Duration::from_millis(700);

/// Time between two revocations.
const REVOKE_EVERY: Duration = Duration::from_secs(2);

/// The serial number of the devices that are not revoked.
const GOOD: u64 = 1;

/// Everything that a soak runs against.
pub(super) struct Site {
    pub(super) sidecar: Sidecar,
    pub(super) books: Books,
    pub(super) latencies: Latencies,
    servers: Authority,
    devices: Authority,
    /// A device that is never revoked.
    good: Pair,
    crl: PathBuf,
    server: Server,
    /// A backend beside the proxy, which is not restarted.
    pub(super) control: Backend,
    stopped: AtomicBool,
}

/// Bytes as the two sides have seen them.
#[derive(Default)]
pub(super) struct Books {
    devices_sent: AtomicU64,
    devices_received: AtomicU64,
    backend: Arc<BackendBooks>,
}

#[derive(Default)]
struct BackendBooks {
    received: AtomicU64,
    sent: AtomicU64,
}

/// Times that devices have waited since the last sample.
#[derive(Default)]
pub(super) struct Latencies {
    pub(super) handshakes: Mutex<Vec<Duration>>,
    pub(super) exchanges: Mutex<Vec<Duration>>,
    /// Exchanges without the proxy: what the machine and the test add.
    pub(super) control: Mutex<Vec<Duration>>,
}

/// The backend's process, as far as the proxy can see.
struct Server {
    is_down: AtomicBool,
    last_up: Mutex<Option<Instant>>,
    restarts: AtomicU64,
    running: tokio::sync::Mutex<Option<RunningServer>>,
}

struct RunningServer {
    backend: Backend,
    /// Resets its connections.
    kill: watch::Sender<bool>,
}

impl Site {
    pub(super) async fn new() -> Self {
        let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
        let books = Books::default();
        let address = free();
        let running = RunningServer::start(address, &books.backend).await;
        let crl = devices.crl("devices.crl", &[]);
        let tls = format!(
            "tls.client_auth = \"required\"\ntls.client_ca = {:?}\ntls.crls = [{crl:?}]\n\
             tls.recheck_spread = \"0s\"\n",
            devices.ca()
        );
        let text = file::text(address, &servers.server(), &tls);
        // Dumpable, so that its descriptors can be counted as any user. The log would be kept in memory.
        let text = format!("process.dumpable = true\nlog.filter = \"info,access=error\"\n{text}");
        let sidecar = Sidecar::start(servers.dir(), &text);
        let good = device(&devices, GOOD);
        Self {
            sidecar,
            books,
            latencies: Latencies::default(),
            servers,
            devices,
            good,
            crl,
            server: Server {
                is_down: AtomicBool::new(false),
                last_up: Mutex::new(None),
                restarts: AtomicU64::new(0),
                running: tokio::sync::Mutex::new(Some(running)),
            },
            control: Backend::echo().await,
            stopped: AtomicBool::new(false),
        }
    }

    /// Returns a device that is never revoked.
    pub(super) fn device(&self) -> Device {
        Device::showing(&self.servers, &self.good)
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_running(&self) -> bool {
        !self.stopped.load(Ordering::SeqCst)
    }

    /// Waits, unless the soak ends.
    pub(super) async fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while self.is_running() && Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            tokio::time::sleep(left.min(Duration::from_millis(100))).await;
        }
    }

    /// Returns the number of open descriptors of the proxy.
    pub(super) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.sidecar.pid())).unwrap().count()
    }

    pub(super) fn restarts(&self) -> u64 {
        self.server.restarts.load(Ordering::SeqCst)
    }

    /// Asserts that a connection that began then, and has failed now, may fail.
    pub(super) fn may_fail(&self, begun: Instant, what: &str) {
        let excused = self.server.is_down.load(Ordering::SeqCst)
            || self.server.last_up.lock().unwrap().is_some_and(|up| up + GRACE > begun);
        assert!(excused, "{what} without a restart of the backend\n{}", self.sidecar.log());
    }
}

impl Books {
    pub(super) fn on_sending(&self, bytes: usize) {
        self.devices_sent.fetch_add(bytes as u64, Ordering::SeqCst);
    }

    /// Counts what a device has received in a session that ended in order.
    pub(super) fn on_received(&self, bytes: usize) {
        self.devices_received.fetch_add(bytes as u64, Ordering::SeqCst);
    }

    pub(super) fn devices_sent(&self) -> u64 {
        self.devices_sent.load(Ordering::SeqCst)
    }

    pub(super) fn devices_received(&self) -> u64 {
        self.devices_received.load(Ordering::SeqCst)
    }

    pub(super) fn backend_received(&self) -> u64 {
        self.backend.received.load(Ordering::SeqCst)
    }

    pub(super) fn backend_sent(&self) -> u64 {
        self.backend.sent.load(Ordering::SeqCst)
    }
}

impl RunningServer {
    async fn start(address: std::net::SocketAddr, books: &Arc<BackendBooks>) -> Self {
        let (kill, killed) = watch::channel(false);
        let listener = TcpListener::bind(address).await.unwrap();
        let books = Arc::clone(books);
        let backend = Backend::on(listener, move |mut tcp| {
            let (books, mut killed) = (Arc::clone(&books), killed.clone());
            async move {
                tokio::select! {
                    biased;
                    _ = killed.wait_for(|killed| *killed) => tcp.set_zero_linger().unwrap(),
                    () = echo(&mut tcp, &books) => {}
                }
            }
        });
        Self { backend, kill }
    }
}

/// Echoes and counts, and ends its stream after the other side has.
async fn echo(tcp: &mut TcpStream, books: &BackendBooks) {
    let mut buffer = vec![0; 16 * 1024];
    // The peer may have closed or reset the connection.
    while let Ok(read) = tcp.read(&mut buffer).await {
        if read == 0 {
            let _gone = tcp.shutdown().await;
            return;
        }
        books.received.fetch_add(read as u64, Ordering::SeqCst);
        books.sent.fetch_add(read as u64, Ordering::SeqCst);
        if tcp.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Restarts the backend again and again: its connections are reset, and its port refuses for a while.
pub(super) async fn restart_the_backend(site: Arc<Site>, every: Duration) {
    let server = &site.server;
    while site.is_running() {
        site.pause(every).await;
        if !site.is_running() {
            return;
        }
        server.is_down.store(true, Ordering::SeqCst);
        let mut running = server.running.lock().await;
        let RunningServer { backend, kill } = running.take().unwrap();
        let address = backend.address;
        backend.end().await;
        kill.send_replace(true);
        tokio::time::sleep(DOWN).await;
        *running = Some(RunningServer::start(address, &site.books.backend).await);
        *server.last_up.lock().unwrap() = Some(Instant::now());
        server.is_down.store(false, Ordering::SeqCst);
        server.restarts.fetch_add(1, Ordering::SeqCst);
    }
}

/// Replaces the server's certificate and key again and again.
pub(super) async fn renew_the_certificate(site: Arc<Site>) {
    let mut serial = 100;
    while site.is_running() {
        serial += 1;
        site.servers.issue("server", &Wish { serial, ..Wish::default() });
        site.pause(RENEW_EVERY).await;
    }
}

/// Connects a device and revokes it, again and again: its session ends with a close_notify, and it cannot come back.
pub(super) async fn revoke_devices(site: Arc<Site>) {
    let mut revoked = Vec::new();
    while site.is_running() {
        let serial = 1000 + revoked.len() as u64;
        let pair = device(&site.devices, serial);
        let lost = Device::showing(&site.servers, &pair);
        let begun = Instant::now();
        match lost.echo(site.sidecar.address).await {
            Ok(mut session) => {
                site.books.on_sending(b"ping".len());
                revoked.push(serial);
                replace(&site.crl, &site.devices.crl_pem(2 + revoked.len() as u64, &revoked));
                match within("the end of a revoked session", session.read(&mut [0; 1])).await {
                    Ok(read) => assert_eq!(read, 0),
                    Err(error) => site.may_fail(begun, &format!("a session failed: {error}")),
                }
            }
            Err(error) => site.may_fail(begun, &format!("a device failed: {error}")),
        }
        for file in [&pair.files.cert, &pair.files.key] {
            std::fs::remove_file(file).unwrap();
        }
        site.pause(REVOKE_EVERY).await;
    }
    // The last one: its session has ended, so that the CRL is loaded.
    let lost = Device::showing(&site.servers, &device(&site.devices, *revoked.last().unwrap()));
    assert!(lost.echo(site.sidecar.address).await.is_err());
}
