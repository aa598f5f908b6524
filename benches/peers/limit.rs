//! The limit of each load: the cost of the parts that no proxy with rustls can save.
//!
//! - Handshakes: rustls's half of the server in memory, and a connection with one echo through the plain relay.
//! - Bytes and messages: AES-128-GCM over the same bytes in memory, and the same traffic through the plain relay.
//!
//! The relay's part is that of the same run. The parts in memory are timed here, one after the other on one core: the median
//! of many, so that other work of the machine does not count.
//!
//! **Not here.** The plain relay (`plain_relay.rs`).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs::Ticketer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
};

use super::device::{self, Version};
use super::load::{CONNECTIONS, CONNECTIONS_RATE, Figure, HANDSHAKES, Kind, Load, MB, MESSAGES};
use super::material::Material;
use super::peer::PLAIN_RELAY;
use super::report::Report;
use super::setup::Setup;

/// Name of the column.
pub const LIMIT: &str = "limit";

/// Handshakes of a median.
const REPETITIONS: usize = 300;

/// Records of a median.
const RECORDS: usize = 2000;

/// The largest content of a record: RFC 8446 section 5.1.
const RECORD: usize = 16 * 1024;

const MEGABYTE: f64 = 1e6;

/// Adds the limits of the loads that the plain relay has run.
pub fn add(report: &mut Report, loads: &[&Load], material: &Material) {
    let limits: Vec<_> =
        loads.iter().filter_map(|load| Some((load.name, limit(report, load, material)?))).collect();
    if limits.is_empty() {
        return;
    }
    report.add_column(LIMIT, "rustls or AES-128-GCM in memory, and the plain relay");
    for (load, figure) in limits {
        report.add(load, LIMIT, vec![figure]);
    }
}

fn limit(report: &Report, load: &Load, material: &Material) -> Option<Figure> {
    let relayed = |load, figure| Some(1.0 / report.median(load, figure, PLAIN_RELAY)?);
    match load.kind {
        Kind::Handshakes { version, resumed } => {
            let relay = relayed(CONNECTIONS, CONNECTIONS_RATE)?;
            let tls = handshake(material, load.setup, version, resumed).as_secs_f64();
            Some((HANDSHAKES, 1.0 / (relay + tls)))
        }
        Kind::Bulk { .. } => {
            let tls = record(RECORD).as_secs_f64() / RECORD as f64 * MEGABYTE;
            Some((MB, 1.0 / (relayed(load.name, MB)? + tls)))
        }
        Kind::Replies { bytes, .. } => {
            // One record is opened, and one sealed.
            let tls = 2.0 * record(bytes).as_secs_f64();
            Some((MESSAGES, 1.0 / (relayed(load.name, MESSAGES)? + tls)))
        }
        Kind::Start
        | Kind::Connections { .. }
        | Kind::Idle
        | Kind::FewIdle
        | Kind::Reloads
        | Kind::Storm { .. }
        | Kind::Revocation
        | Kind::Unauthenticated(_) => None,
    }
}

/// Returns the server's time for a handshake with one ticket, in memory.
fn handshake(material: &Material, setup: Setup, version: Version, resumed: bool) -> Duration {
    let server = server(material, setup).expect("the material is valid");
    let mut client = device::config_for(material, setup, version);
    client.resumption =
        if resumed { Resumption::in_memory_sessions(8) } else { Resumption::disabled() };
    let client = Arc::new(client);
    // The first one is always full.
    let times = (0..=REPETITIONS).map(|_| server_half(&server, &client).expect("both sides agree"));
    let wanted = times.skip(1).inspect(|(_, kind)| {
        assert_eq!(*kind == HandshakeKind::Resumed, resumed, "the handshake is of the kind");
    });
    median(wanted.map(|(time, _)| time).collect())
}

fn server(
    material: &Material,
    setup: Setup,
) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error>> {
    let chain = CertificateDer::pem_file_iter(material.cert(setup.key))?;
    let chain = chain.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(material.key(setup.key))?;
    let builder = ServerConfig::builder();
    let builder = if setup.client_auth {
        let mut roots = RootCertStore::empty();
        roots.add(material.ca.clone())?;
        builder.with_client_cert_verifier(WebPkiClientVerifier::builder(roots.into()).build()?)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.ticketer = Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(config.into())
}

/// Performs a handshake, and returns the server's time for it.
fn server_half(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> io::Result<(Duration, HandshakeKind)> {
    let name = "localhost".try_into().expect("the name is valid");
    let mut device = ClientConnection::new(Arc::clone(client), name).map_err(io::Error::other)?;
    let (mut time, mut tls, mut flight) = (Duration::ZERO, None, Vec::new());
    while device.wants_write() {
        flight.clear();
        device.write_tls(&mut flight)?;
        let start = Instant::now();
        let tls = match &mut tls {
            Some(tls) => tls,
            none => {
                none.insert(ServerConnection::new(Arc::clone(server)).map_err(io::Error::other)?)
            }
        };
        let mut answer = Vec::new();
        let mut unread = &flight[..];
        while !unread.is_empty() {
            tls.read_tls(&mut unread)?;
            tls.process_new_packets().map_err(io::Error::other)?;
        }
        while tls.wants_write() {
            tls.write_tls(&mut answer)?;
        }
        time += start.elapsed();
        let mut unread = &answer[..];
        while !unread.is_empty() {
            device.read_tls(&mut unread)?;
            device.process_new_packets().map_err(io::Error::other)?;
        }
    }
    let kind = tls.as_ref().and_then(|tls| tls.handshake_kind());
    Ok((time, kind.ok_or_else(|| io::Error::other("the handshake is not complete"))?))
}

/// Returns the time to seal or to open a record of this size: half of that for both.
fn record(bytes: usize) -> Duration {
    let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).expect("the key has 16 bytes");
    let key = LessSafeKey::new(key);
    let nonce = || Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let mut content = vec![0x5a; bytes];
    let both = (0..RECORDS).map(|_| {
        let start = Instant::now();
        key.seal_in_place_append_tag(nonce(), Aad::from([23, 3, 3, 0, 0]), &mut content)
            .expect("the record is short");
        key.open_in_place(nonce(), Aad::from([23, 3, 3, 0, 0]), &mut content)
            .expect("it was sealed with the key");
        let time = start.elapsed();
        content.truncate(bytes);
        time
    });
    median(both.collect()) / 2
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
