//! The loads: names, requirements and code.
//!
//! A load gets a newly started proxy and returns its figures. A figure that cannot be measured is missing, and the
//! reason is printed.

mod handshakes;
mod idle;
mod revocation;
mod storm;
mod traffic;
pub mod unauthenticated;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use self::handshakes::CONNECTIONS_RATE;
use self::unauthenticated::inputs::{self, Input};
use super::backend::Task;
use super::device::{Dialer, Version};
use super::material::Key;
use super::peer::{Peer, Site};
use super::process::Proxy;
use super::setup::{Groups, Setup};

/// Time that a steady load runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(300);

/// A load.
pub struct Load {
    pub name: &'static str,
    pub kind: Kind,
    pub setup: Setup,
}

/// Action of a load.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Time from exec to the first accepted connection, and memory after the first echo.
    Start,
    /// Handshakes in sequence on some concurrent tasks.
    Handshakes { version: Version, resumed: bool },
    /// Connections with some echoes in sequence, for the peers without TLS: what a handshake costs beyond TLS, and what
    /// each of its round trips does.
    Connections { echoes: usize },
    /// Bulk transfer over this number of connections.
    Bulk { task: Task, connections: usize },
    /// Messages with replies, in sequence on each of this number of connections.
    Replies { bytes: usize, connections: usize },
    /// Cost of idle connections, while they are open and after they have closed.
    Idle,
    /// Memory of fewer idle connections, which takes less time.
    FewIdle,
    /// Handshakes during repeated certificate reloads.
    Reloads,
    /// Reconnection of this number of devices at once, with a ticket each if they resume.
    Storm { devices: usize, resumes: bool },
    /// Revocation of some of many connected devices. Only tlsidecar ends their sessions.
    Revocation,
    /// Cost of unauthenticated clients.
    Unauthenticated(&'static Input),
}

/// Names of figures that are compared.
pub const HANDSHAKES: &str = "handshakes per CPU second";
pub const MB: &str = "MB per CPU second";
pub const MESSAGES: &str = "messages per CPU second";

/// Name of the load of connections without TLS.
pub const CONNECTIONS: &str = "connection with one echo";

const ECDSA: Setup =
    Setup { key: Key::Ecdsa, client_auth: false, crl: false, groups: Groups::Classic };
const RSA: Setup = Setup { key: Key::Rsa, ..ECDSA };
const RSA_4096: Setup = Setup { key: Key::Rsa4096, ..ECDSA };
const CLIENT_AUTH: Setup = Setup { client_auth: true, ..ECDSA };
const POST_QUANTUM: Setup = Setup { groups: Groups::PostQuantum, ..ECDSA };
const REVOCABLE: Setup = Setup { crl: true, ..CLIENT_AUTH };

/// All loads, in the order of their runs.
pub const LOADS: &[Load] = &[
    load("start", Kind::Start, ECDSA),
    load("full 1.3, ECDSA", handshakes(Version::Tls13, false), ECDSA),
    load("full 1.2, ECDSA", handshakes(Version::Tls12, false), ECDSA),
    load("full 1.3, RSA", handshakes(Version::Tls13, false), RSA),
    load("full 1.2, RSA", handshakes(Version::Tls12, false), RSA),
    load("full 1.3, client certificate", handshakes(Version::Tls13, false), CLIENT_AUTH),
    load("full 1.2, client certificate", handshakes(Version::Tls12, false), CLIENT_AUTH),
    load("full 1.3, X25519MLKEM768", handshakes(Version::Tls13, false), POST_QUANTUM),
    load("resumed 1.3", handshakes(Version::Tls13, true), ECDSA),
    load("resumed 1.2", handshakes(Version::Tls12, true), ECDSA),
    load("resumed 1.3, client certificate", handshakes(Version::Tls13, true), CLIENT_AUTH),
    load("resumed 1.2, client certificate", handshakes(Version::Tls12, true), CLIENT_AUTH),
    load(CONNECTIONS, Kind::Connections { echoes: 1 }, ECDSA),
    load("connection with two echoes", Kind::Connections { echoes: 2 }, ECDSA),
    load("to backend, 1 connection", bulk(Task::Sink, 1), ECDSA),
    load("to backend, 64 connections", bulk(Task::Sink, 64), ECDSA),
    load("to client, 1 connection", bulk(Task::Source, 1), ECDSA),
    load("to client, 64 connections", bulk(Task::Source, 64), ECDSA),
    load("both ways, 1 connection", bulk(Task::Both, 1), ECDSA),
    load("both ways, 64 connections", bulk(Task::Both, 64), ECDSA),
    load("128 B, 32 connections", replies(128, 32), ECDSA),
    load("128 B, 1000 connections", replies(128, 1000), ECDSA),
    load("4 KiB, 32 connections", replies(4096, 32), ECDSA),
    load("4 KiB, 1000 connections", replies(4096, 1000), ECDSA),
    load("idle", Kind::Idle, ECDSA),
    load("few idle", Kind::FewIdle, ECDSA),
    load("few idle, client certificate", Kind::FewIdle, CLIENT_AUTH),
    load("20 reloads", Kind::Reloads, ECDSA),
    load("storm, RSA", storm(9000, false), RSA),
    load("storm, RSA, tickets", storm(9000, true), RSA),
    load("storm, ECDSA", storm(9000, false), ECDSA),
    load("storm, RSA-4096", storm(3000, false), RSA_4096),
    load("revocation", Kind::Revocation, REVOCABLE),
];

/// Loads of `--unauthenticated`: first inputs whose memory is measured while they are held, then inputs whose CPU
/// time is measured.
pub const UNAUTHENTICATED: &[Load] = &[
    unauthenticated("nothing", inputs::SILENT, CLIENT_AUTH),
    unauthenticated("40 bytes of a hello", inputs::FORTY_BYTES, CLIENT_AUTH),
    unauthenticated("64 KB of a hello, but its end", inputs::HELLO_WITHOUT_ITS_END, CLIENT_AUTH),
    unauthenticated("a hello, then nothing", inputs::HELLO_THEN_NOTHING, CLIENT_AUTH),
    unauthenticated(
        "1.2: 64 KB of a Certificate, but its end",
        inputs::CERTIFICATE_WITHOUT_ITS_END,
        CLIENT_AUTH,
    ),
    unauthenticated("a hello", inputs::ORDINARY, ECDSA),
    unauthenticated("a hello that needs a second", inputs::RETRY, ECDSA),
    unauthenticated("a hello with 64 KB of padding", inputs::PADDED, ECDSA),
    unauthenticated("30,000 suites", inputs::SUITES, ECDSA),
    unauthenticated("30,000 groups", inputs::GROUPS, ECDSA),
    unauthenticated("30,000 signature schemes", inputs::SCHEMES, ECDSA),
    unauthenticated("30,000 protocols", inputs::PROTOCOLS, ECDSA),
    unauthenticated("1,600 key shares", inputs::SHARES, ECDSA),
    unauthenticated("15,000 groups with 6,600 key shares", inputs::GROUPS_AND_SHARES, ECDSA),
    unauthenticated("15,000 unknown extensions", inputs::EXTENSIONS, ECDSA),
    unauthenticated("1,300 PSKs", inputs::PSKS, ECDSA),
    unauthenticated("a hello in records of one byte", inputs::RECORDS_OF_ONE_BYTE, ECDSA),
    unauthenticated("a hello in segments of one byte", inputs::SEGMENTS_OF_ONE_BYTE, ECDSA),
    unauthenticated("4,000 empty records", inputs::EMPTY_RECORDS, ECDSA),
    unauthenticated("4,000 warnings", inputs::WARNINGS, ECDSA),
    unauthenticated("4,000 change_cipher_specs", inputs::CHANGE_CIPHER_SPECS, ECDSA),
    unauthenticated("64 KB of early data", inputs::EARLY_DATA, ECDSA),
    unauthenticated("1,500 records of early data", inputs::SMALL_EARLY_DATA, ECDSA),
    unauthenticated("64 KB that are not TLS", inputs::NOT_TLS, ECDSA),
    unauthenticated("1.2: a message of 16 MB", inputs::ENDLESS_MESSAGE, CLIENT_AUTH),
    unauthenticated(
        "1.2: a Certificate in records of one byte",
        inputs::CERTIFICATE_IN_SMALL_RECORDS,
        CLIENT_AUTH,
    ),
    unauthenticated("1.2: 180 certificates in layers", inputs::CHAIN_12_LAYERS, CLIENT_AUTH),
    unauthenticated("1.3: 180 certificates in layers", inputs::CHAIN_13_LAYERS, CLIENT_AUTH),
    unauthenticated("1.3: 10 certificates of one name", inputs::CHAIN_13_SAME, CLIENT_AUTH),
    unauthenticated("1.3: 180 certificates of other names", inputs::CHAIN_13_DISTINCT, CLIENT_AUTH),
    unauthenticated("a handshake", inputs::PLAIN_HANDSHAKE, ECDSA),
    unauthenticated("4,000 empty records of data", inputs::EMPTY_DATA, ECDSA),
    unauthenticated("4,000 bytes in records of one", inputs::ONE_BYTE_DATA, ECDSA),
    unauthenticated("1,000 key updates", inputs::KEY_UPDATES, ECDSA),
];

const fn unauthenticated(name: &'static str, input: &'static Input, setup: Setup) -> Load {
    load(name, Kind::Unauthenticated(input), setup)
}

const fn load(name: &'static str, kind: Kind, setup: Setup) -> Load {
    Load { name, kind, setup }
}

const fn handshakes(version: Version, resumed: bool) -> Kind {
    Kind::Handshakes { version, resumed }
}

const fn storm(devices: usize, resumes: bool) -> Kind {
    Kind::Storm { devices, resumes }
}

const fn bulk(task: Task, connections: usize) -> Kind {
    Kind::Bulk { task, connections }
}

const fn replies(bytes: usize, connections: usize) -> Kind {
    Kind::Replies { bytes, connections }
}

/// A figure: its name with the unit, and its value.
pub type Figure = (&'static str, f64);

/// A proxy that is ready for a load.
pub struct Bench<'a> {
    pub peer: &'a Peer,
    pub proxy: &'a Proxy,
    pub site: &'a Site<'a>,
    /// Time of its start.
    pub started_in: Duration,
    /// Time of measurement of a steady load.
    pub time: Duration,
}

impl Load {
    /// Returns whether the load applies to a peer: the baseline without TLS has no handshakes, and the other proxies
    /// keep the sessions of revoked devices.
    pub fn suits(&self, peer: &Peer) -> bool {
        let needs_no_tls = matches!(self.kind, Kind::Bulk { .. } | Kind::Replies { .. });
        let has_no_tls = matches!(self.kind, Kind::Connections { .. });
        (if peer.tls { !has_no_tls } else { needs_no_tls || has_no_tls })
            && (peer.ends_sessions || !self.setup.crl)
    }

    /// Runs the load.
    pub async fn run(&self, bench: &Bench<'_>) -> io::Result<Vec<Figure>> {
        match self.kind {
            Kind::Start => idle::start(bench).await,
            Kind::Handshakes { version, resumed } => {
                handshakes::steady(bench, version, resumed).await
            }
            Kind::Connections { echoes } => handshakes::connections(bench, echoes).await,
            Kind::Bulk { task, connections } => traffic::bulk(bench, task, connections).await,
            Kind::Replies { bytes, connections } => {
                traffic::replies(bench, bytes, connections).await
            }
            Kind::Idle => idle::many(bench).await,
            Kind::FewIdle => idle::few(bench).await,
            Kind::Reloads => handshakes::reloads(bench).await,
            Kind::Storm { devices, resumes } => storm::storm(bench, devices, resumes).await,
            Kind::Revocation => revocation::run(bench).await,
            Kind::Unauthenticated(input) => unauthenticated::run(bench, input).await,
        }
    }
}

impl Bench<'_> {
    /// Returns a dialer for this proxy.
    fn dialer(&self, version: Version, resumes: bool) -> Dialer {
        let Site { material, setup, listen, .. } = self.site;
        if self.peer.tls {
            Dialer::tls(*listen, material, *setup, version, resumes)
        } else {
            Dialer::plain(*listen)
        }
    }
}

/// A load that runs until it is stopped, and counts its work.
#[derive(Clone, Default)]
struct Steady {
    count: Arc<AtomicU64>,
    measuring: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

/// Results of a steady load.
struct Rates {
    per_cpu_second: f64,
    per_second: f64,
}

impl Steady {
    fn add(&self, done: usize) {
        self.count.fetch_add(done as u64, Ordering::Relaxed);
    }

    fn is_measuring(&self) -> bool {
        self.measuring.load(Ordering::Relaxed)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Measures for `time` while the load runs, then stops it.
    async fn measure(&self, proxy: &Proxy, time: Duration) -> Rates {
        tokio::time::sleep(WARM_UP).await;
        self.measuring.store(true, Ordering::Relaxed);
        let before = (self.count.load(Ordering::Relaxed), proxy.cpu_seconds(), Instant::now());
        tokio::time::sleep(time).await;
        let done = (self.count.load(Ordering::Relaxed) - before.0) as f64;
        let cpu = proxy.cpu_seconds() - before.1;
        let wall = before.2.elapsed().as_secs_f64();
        self.stop.store(true, Ordering::Relaxed);
        Rates { per_cpu_second: done / cpu, per_second: done / wall }
    }
}

/// Returns the percentile `share` of `times`, in milliseconds.
fn percentile_ms(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    times.get((last as f64 * share) as usize).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
