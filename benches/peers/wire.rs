//! TLS bytes and round trips of a device's handshakes: `cargo bench --bench peers -- --wire`.
//!
//! The device is `tests/devices/openssl.c` with OpenSSL's default offer, since that is what most devices on Linux
//! send. It connects twice, the second time with the session of the first. A relay counts (`relay.rs`).
//!
//! The bytes of a row are those of the handshake with its ticket, without application data and close_notify.

mod relay;

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use self::relay::{Relay, Wire};
use super::device::Version;
use super::material::{Key, Material};
use super::peer::{Peer, Site};
use super::report::OURS;
use super::setup::{Groups, Setup};

/// A row of the table: certificates and a version.
#[derive(Clone, Copy)]
struct Row {
    server: Key,
    client: Option<Key>,
    version: Version,
}

const ROWS: [Row; 6] = [
    row(Key::Ecdsa, None, Version::Tls12),
    row(Key::Ecdsa, None, Version::Tls13),
    row(Key::Ecdsa, Some(Key::Ecdsa), Version::Tls12),
    row(Key::Ecdsa, Some(Key::Ecdsa), Version::Tls13),
    row(Key::Rsa, Some(Key::Rsa), Version::Tls12),
    row(Key::Rsa, Some(Key::Rsa), Version::Tls13),
];

const fn row(server: Key, client: Option<Key>, version: Version) -> Row {
    Row { server, client, version }
}

/// Proxies that are compared: those that the table of docs/devices.md has.
const COMPARED: [&str; 3] = [OURS, "nginx", "HAProxy"];

/// Figures of one proxy for one row.
#[derive(Clone, Copy)]
struct Handshakes {
    full: Wire,
    resumed: Wire,
}

/// The figures of one row, in the order of the columns; none for a proxy that did not serve the device.
struct Measured {
    row: Row,
    by_peer: Vec<Option<Handshakes>>,
}

/// The table, and whether tlsidecar sends the fewest bytes in every row.
pub struct Table {
    pub text: String,
    pub is_best: bool,
}

/// Measures every row with every proxy that is installed.
pub async fn measure(peers: &[&Peer], material: &Material) -> Table {
    let peers: Vec<_> = COMPARED
        .iter()
        .filter_map(|name| peers.iter().find(|peer| peer.name == *name).copied())
        .collect();
    let device = compile(material.dir());
    let mut rows = Vec::new();
    for row in ROWS {
        let mut by_peer = Vec::new();
        for peer in &peers {
            let handshakes = handshakes(row, peer, material, &device).await;
            if let Err(error) = &handshakes {
                eprintln!("{}, {}: NO FIGURE: {error}", row.name(), peer.name);
            }
            by_peer.push(handshakes.ok());
        }
        rows.push(Measured { row, by_peer });
    }
    table(&peers.iter().map(|peer| peer.name).collect::<Vec<_>>(), &rows)
}

/// Compiles the device (Debian: gcc, libssl-dev).
fn compile(dir: &Path) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/devices");
    let program = dir.join("device");
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-O1", "-o"]).arg(&program);
    cc.args([sources.join("device.c"), sources.join("openssl.c")]).args(["-lssl", "-lcrypto"]);
    assert!(cc.status().is_ok_and(|status| status.success()), "gcc and libssl-dev are needed");
    program
}

async fn handshakes(
    row: Row,
    peer: &Peer,
    material: &Material,
    device: &Path,
) -> io::Result<Handshakes> {
    let backend = relay::echo().await?;
    let setup = Setup {
        key: row.server,
        client_auth: row.client.is_some(),
        crl: false,
        groups: Groups::Classic,
    };
    let site = Site { material, setup, listen: super::free_port().await, backend: backend.address };
    let Some((_proxy, _)) = peer.start(&site).await else {
        return Err(io::Error::other("the proxy does not start"));
    };
    let relay = Relay::start(site.listen, &backend).await?;
    let (cert, key) = match row.client {
        Some(kind) => material.device_files(kind).map_err(io::Error::other)?,
        None => (PathBuf::from("-"), PathBuf::from("-")),
    };
    let mut command = Command::new(device);
    command.arg(relay.address.port().to_string()).arg(material.ca_file()).arg(cert).arg(key);
    command.args([row.version(), "0", "connect", "echo", "close", "connect", "echo", "close"]);
    let run = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output());
    let printed =
        String::from_utf8_lossy(&run.await.map_err(io::Error::other)??.stdout).into_owned();
    if printed != "full\nresumed\n" {
        return Err(io::Error::other(printed.replace('\n', "; ")));
    }
    let around = row.around_request();
    match relay.connections().as_slice() {
        [full, resumed] => {
            Ok(Handshakes { full: full.without(around), resumed: resumed.without(around) })
        }
        others => Err(io::Error::other(format!("{} connections", others.len()))),
    }
}

impl Row {
    const fn version(self) -> &'static str {
        match self.version {
            Version::Tls12 => "1.2",
            Version::Tls13 => "1.3",
        }
    }

    /// Returns the bytes of a record with the request, or with its answer, under AES-GCM: header, explicit nonce
    /// or content type, plaintext and tag (RFC 5288 section 3, RFC 8446 section 5.2).
    const fn around_request(self) -> usize {
        let plaintext = b"echo\n".len();
        match self.version {
            Version::Tls12 => 5 + 8 + plaintext + 16,
            Version::Tls13 => 5 + plaintext + 1 + 16,
        }
    }

    fn name(self) -> String {
        let key = |kind| match kind {
            Key::Ecdsa => "ECDSA",
            Key::Rsa => "RSA",
            Key::Rsa4096 => "RSA-4096",
        };
        let client = self.client.map_or("none", key);
        format!("{}, {client}, {}", key(self.server), self.version())
    }
}

/// Formats the table of docs/devices.md. A ratio is tlsidecar's bytes in both directions to the fewest of the
/// others.
fn table(peers: &[&str], rows: &[Measured]) -> Table {
    let head: Vec<_> = peers.iter().map(|name| (*name).to_owned()).collect();
    let rule = "---|".repeat(peers.len() + 2);
    let mut text =
        format!("\n| server, client, version | {} | ratio |\n|{rule}\n", head.join(" | "));
    let mut is_best = true;
    for Measured { row, by_peer } in rows {
        let cells = by_peer.iter().map(|found| found.map_or_else(String::new, shown));
        let ratios = [|h: Handshakes| h.full, |h: Handshakes| h.resumed].map(|of| {
            let bytes = |found: &Option<Handshakes>| found.map(|h| of(h).bytes());
            let best = by_peer.iter().skip(1).filter_map(bytes).min();
            let ours = by_peer.first().and_then(bytes);
            ours.zip(best).map(|(ours, best)| ours as f64 / best as f64)
        });
        is_best &= ratios.iter().flatten().all(|ratio| *ratio < 1.0);
        let ratios =
            ratios.map(|ratio| ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")));
        let cells = cells.collect::<Vec<_>>().join(" | ");
        let _infallible = writeln!(text, "| {} | {cells} | {} |", row.name(), ratios.join(", "));
    }
    Table { text, is_best }
}

fn shown(Handshakes { full, resumed }: Handshakes) -> String {
    let one = |w: Wire| format!("{}/{} in {}", w.to_server, w.to_device, w.round_trips);
    format!("{}, {}", one(full), one(resumed))
}
