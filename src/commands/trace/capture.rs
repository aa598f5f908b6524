//! A capture of traced connections, which Wireshark opens: TCP segments with the bytes of their sockets.
//!
//! The bytes are real; the headers around them are made. Each sender's segments are numbered by its bytes, so that lost packets
//! are a gap, as in any capture.
//!
//! **Promises.** The file is private. Secrets are in it only if they were asked for, and before the packets that need them.
//! Whatever the admin port sends, the file has no more bytes of connections than were asked for, and memory has at most
//! [`MAX_CONNECTIONS`] and [`MAX_HELD_BYTES`].
//!
//! **Not here.** The blocks of the file (`pcapng.rs`), the bytes (`sessions/trace/packets.rs`).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use data_encoding::BASE64;
use etherparse::{PacketBuilder, PacketBuilderStep, TcpHeader};
use serde::Deserialize;
use serde_json::Value;

use super::pcapng;

/// Addresses of the two sides, which are administered locally: IEEE 802 section 8.4.
const DEVICE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

const TTL: u8 = 64;
const WINDOW: u16 = u16::MAX;

/// The most bytes of a segment: the length of an IPv4 packet has 16 bits, and the two headers have 20 bytes each.
const MAX_BYTES: usize = 65_535 - 2 * 20;

/// The most connections whose end has not come. The admin port follows 4,096 at a time; the end of one can be lost.
const MAX_CONNECTIONS: usize = 65_536;

/// The most bytes of blocks that wait for secrets. Packets above the limit are written without secrets.
const MAX_HELD_BYTES: usize = 64 << 20;

/// A capture in progress.
pub(super) struct Capture {
    file: File,
    /// The file gets the secrets of the connections.
    has_secrets: bool,
    /// Bytes of connections that the file may still get.
    left: u64,
    /// Bytes of all blocks that wait for secrets.
    held_bytes: usize,
    connections: HashMap<u64, Connection>,
    /// Connections whose secrets are all known before their first packet.
    complete: HashSet<u64>,
    /// Packets that are not in the file, because no admin port sends such ones.
    invalid: u64,
}

/// The state of a connection.
struct Connection {
    device: SocketAddr,
    ours: SocketAddr,
    /// The next bytes of the device, and of tlsidecar.
    next: [u64; 2],
    /// Blocks that wait for secrets. None if they wait no longer.
    held: Option<Vec<u8>>,
}

/// The sender of a segment.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sender {
    Device,
    Tlsidecar,
}

/// The keys of a step that are needed.
#[derive(Deserialize)]
struct Packet {
    connection: u64,
    peer: SocketAddr,
    local: Option<SocketAddr>,
    at: f64,
    sender: Sender,
    offset: u64,
    data: String,
}

/// The parts of a segment that differ.
#[derive(Clone, Copy, Default)]
struct Flags {
    syn: bool,
    ack: bool,
    fin: bool,
    push: bool,
}

impl Capture {
    /// Begins a capture of at most `bytes` of connections in a file, behind what it contains.
    pub(super) fn begin(mut file: File, has_secrets: bool, bytes: u64) -> io::Result<Self> {
        file.write_all(&pcapng::start())?;
        Ok(Self {
            file,
            has_secrets,
            left: bytes,
            held_bytes: 0,
            connections: HashMap::new(),
            complete: HashSet::new(),
            invalid: 0,
        })
    }

    /// Adds a step of a connection.
    pub(super) fn step(&mut self, kind: &str, step: &Value) -> io::Result<()> {
        match kind {
            "packet" => self.packet(step),
            "key" if self.has_secrets => self.secret(step["line"].as_str().unwrap_or_default()),
            // All secrets are known.
            "handshake" => {
                let id = step["connection"].as_u64();
                self.complete.extend(id.filter(|_| self.complete.len() < MAX_CONNECTIONS));
                self.release(id)
            }
            "closed" => {
                self.release(step["connection"].as_u64())?;
                self.closed(step)
            }
            _ => Ok(()),
        }
    }

    /// Completes the file, with the packets that still wait for secrets.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let held = self.connections.values_mut().filter_map(|one| one.held.take());
        self.file.write_all(&held.flatten().collect::<Vec<_>>())
    }

    /// Returns the number of packets that are not in the file, because no admin port sends such ones.
    pub(super) const fn invalid(&self) -> u64 {
        self.invalid
    }

    /// Adds a secret, as a line of a key log.
    fn secret(&mut self, line: &str) -> io::Result<()> {
        self.file.write_all(&pcapng::secrets(format!("{line}\n").as_bytes()))
    }

    /// Adds the packets of a connection that have waited for its secrets.
    fn release(&mut self, id: Option<u64>) -> io::Result<()> {
        let held = id.and_then(|id| self.connections.get_mut(&id)?.held.take());
        let held = held.unwrap_or_default();
        self.held_bytes = self.held_bytes.saturating_sub(held.len());
        self.file.write_all(&held)
    }

    /// Adds the bytes of a step `packet`. A step that cannot be read is of a later version.
    ///
    /// In TLS 1.2 the secret is known after the device's last flight was read. Wireshark needs it before.
    fn packet(&mut self, step: &Value) -> io::Result<()> {
        let Ok(packet) = Packet::deserialize(step) else { return Ok(()) };
        let id = packet.connection;
        let Some((bytes, end)) = packet.bytes().filter(|(bytes, _)| self.admit(id, bytes)) else {
            self.invalid = self.invalid.saturating_add(1);
            return Ok(());
        };
        let waits = self.has_secrets && !self.complete.contains(&id);
        let mut blocks = Vec::new();
        let connection = self.connections.entry(id).or_insert_with(|| {
            let mut connection = Connection::between(packet.peer, packet.local);
            connection.held = waits.then(Vec::new);
            if packet.offset == 0 {
                connection.open(packet.at, &mut blocks);
            }
            connection
        });
        let place = usize::from(matches!(packet.sender, Sender::Tlsidecar));
        connection.next[place] = packet.offset;
        let flags = Flags { ack: true, push: true, ..Flags::default() };
        blocks.extend(connection.segment(packet.sender, flags, packet.at, &bytes));
        connection.next[place] = end;
        let Some(held) = &mut connection.held else { return self.file.write_all(&blocks) };
        self.held_bytes += blocks.len();
        held.append(&mut blocks);
        if self.held_bytes > MAX_HELD_BYTES { self.release(Some(id)) } else { Ok(()) }
    }

    /// Returns whether the bytes of a connection may be added, and counts them.
    fn admit(&mut self, id: u64, bytes: &[u8]) -> bool {
        let is_known = self.connections.contains_key(&id);
        // No packet is free: a header has bytes too.
        let left =
            u64::try_from(bytes.len().max(1)).ok().and_then(|bytes| self.left.checked_sub(bytes));
        match left.filter(|_| is_known || self.connections.len() < MAX_CONNECTIONS) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// Adds the end of a connection.
    fn closed(&mut self, step: &Value) -> io::Result<()> {
        let id = step["connection"].as_u64().unwrap_or_default();
        self.complete.remove(&id);
        let Some(connection) = self.connections.remove(&id) else { return Ok(()) };
        let at = step["at"].as_f64().unwrap_or_default();
        let flags = Flags { fin: true, ack: true, ..Flags::default() };
        let ends = [Sender::Tlsidecar, Sender::Device];
        let blocks = ends.map(|sender| connection.segment(sender, flags, at, &[]));
        self.file.write_all(&blocks.concat())
    }
}

impl Packet {
    /// Returns the bytes, and the offset behind them. Returns none if no connection can have them.
    fn bytes(&self) -> Option<(Vec<u8>, u64)> {
        let bytes = BASE64.decode(self.data.as_bytes()).ok()?;
        let end = self.offset.checked_add(u64::try_from(bytes.len()).ok()?)?;
        (bytes.len() <= MAX_BYTES).then_some((bytes, end))
    }
}

impl Connection {
    /// Returns a connection of which nothing was sent. Both addresses are of one family.
    fn between(device: SocketAddr, ours: Option<SocketAddr>) -> Self {
        let unknown = SocketAddr::new(device.ip(), 0);
        let (device, ours) = match (device, ours.unwrap_or(unknown)) {
            (device @ SocketAddr::V4(_), ours @ SocketAddr::V4(_))
            | (device @ SocketAddr::V6(_), ours @ SocketAddr::V6(_)) => (device, ours),
            // A proxy before tlsidecar has stated the device's address.
            (device, ours) => (mapped(device), mapped(ours)),
        };
        Self { device, ours, next: [0; 2], held: None }
    }

    /// Adds the segments that open the connection.
    fn open(&self, at: f64, blocks: &mut Vec<u8>) {
        let syn = Flags { syn: true, ..Flags::default() };
        blocks.extend(self.segment(Sender::Device, syn, at, &[]));
        blocks.extend(self.segment(Sender::Tlsidecar, Flags { ack: true, ..syn }, at, &[]));
        let ack = Flags { ack: true, ..Flags::default() };
        blocks.extend(self.segment(Sender::Device, ack, at, &[]));
    }

    /// Returns the block of a segment with the next bytes of its sender.
    fn segment(&self, sender: Sender, flags: Flags, at: f64, bytes: &[u8]) -> Vec<u8> {
        // The number of a SYN is 0, and that of the first byte 1: RFC 9293 section 3.4.
        let [device, ours] = self.next.map(|next| sequence(next.wrapping_add(1)));
        let (from, to, sequence, acknowledged) = match sender {
            Sender::Device => (self.device, self.ours, device, ours),
            Sender::Tlsidecar => (self.ours, self.device, ours, device),
        };
        let mut header = TcpHeader::new(from.port(), to.port(), sequence, WINDOW);
        if flags.syn {
            header.sequence_number = 0;
        }
        (header.syn, header.ack, header.fin, header.psh) =
            (flags.syn, flags.ack, flags.fin, flags.push);
        header.acknowledgment_number = if flags.ack { acknowledged } else { 0 };
        let macs = match sender {
            Sender::Device => [DEVICE_MAC, OUR_MAC],
            Sender::Tlsidecar => [OUR_MAC, DEVICE_MAC],
        };
        pcapng::packet(at, &frame(macs, (from.ip(), to.ip()), header, bytes))
    }
}

/// Returns an Ethernet frame with a segment.
fn frame(
    [from_mac, to_mac]: [[u8; 6]; 2],
    addresses: (IpAddr, IpAddr),
    header: TcpHeader,
    bytes: &[u8],
) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(from_mac, to_mac);
    let packet: PacketBuilderStep<TcpHeader> = match addresses {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            ethernet.ipv4(from.octets(), to.octets(), TTL).tcp_header(header)
        }
        (from, to) => ethernet.ipv6(octets(from), octets(to), TTL).tcp_header(header),
    };
    let mut frame = Vec::with_capacity(packet.size(bytes.len()));
    packet.write(&mut frame, bytes).expect("a segment of MAX_BYTES fits into a packet");
    frame
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn mapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::from(octets(address.ip())), address.port())
}

/// Returns the number of a byte, which wraps: RFC 9293 section 3.4.
fn sequence(byte: u64) -> u32 {
    u32::try_from(byte % (1 << 32)).expect("a remainder of 2^32")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns a capture in an unnamed file.
    fn capture() -> Capture {
        bounded(false, u64::MAX)
    }

    fn bounded(has_secrets: bool, bytes: u64) -> Capture {
        Capture::begin(tempfile::tempfile().unwrap(), has_secrets, bytes).unwrap()
    }

    fn length(capture: &Capture) -> u64 {
        capture.file.metadata().unwrap().len()
    }

    fn packet(peer: &str, offset: u64, bytes: usize) -> Value {
        let data = BASE64.encode(&vec![7; bytes]);
        json!({ "connection": 1, "peer": peer, "at": 1.5, "sender": "device", "offset": offset, "data": data })
    }

    #[test]
    fn a_packet_that_no_connection_can_have_is_counted_and_not_in_the_file() {
        let mut capture = capture();
        let start = length(&capture);
        let too_long = packet("192.0.2.7:1", 0, MAX_BYTES + 1);
        let beyond = packet("192.0.2.7:1", u64::MAX, 1);
        let mut garbled = packet("192.0.2.7:1", 0, 1);
        garbled["data"] = "?".into();
        for step in [too_long, beyond, garbled] {
            capture.step("packet", &step).unwrap();
        }
        assert_eq!((capture.invalid(), length(&capture)), (3, start));
    }

    #[test]
    fn the_longest_packet_and_the_last_offset_are_in_the_file() {
        let mut capture = capture();
        let steps = [
            packet("192.0.2.7:1", 0, MAX_BYTES),
            packet("192.0.2.7:1", u64::MAX - 1, 1),
            packet("192.0.2.7:1", u64::MAX, 0),
            packet("[2001:db8::7]:1", 0, MAX_BYTES),
        ];
        for (connection, mut step) in steps.into_iter().enumerate() {
            step["connection"] = connection.into();
            capture.step("packet", &step).unwrap();
            capture.step("closed", &step).unwrap();
        }
        assert_eq!(capture.invalid(), 0);
        assert!(length(&capture) > 2 * MAX_BYTES as u64);
    }

    #[test]
    fn the_file_gets_no_more_bytes_of_connections_than_were_asked_for() {
        let mut capture = bounded(false, 1000);
        for _ in 0..3 {
            capture.step("packet", &packet("192.0.2.7:1", 0, 500)).unwrap();
        }
        let (full, invalid) = (length(&capture), capture.invalid());
        capture.step("packet", &packet("192.0.2.7:1", 0, 0)).unwrap();
        assert_eq!((length(&capture), invalid, capture.invalid()), (full, 1, 2));
    }

    #[test]
    fn packets_that_wait_for_secrets_without_an_end_are_written_without() {
        let mut capture = bounded(true, u64::MAX);
        let start = length(&capture);
        let long = packet("192.0.2.7:1", 0, MAX_BYTES);
        for _ in 0..MAX_HELD_BYTES / MAX_BYTES {
            capture.step("packet", &long).unwrap();
            assert!(capture.held_bytes <= MAX_HELD_BYTES);
        }
        assert!(length(&capture) > start + (MAX_HELD_BYTES - 2 * MAX_BYTES) as u64);
    }

    #[test]
    fn connections_without_an_end_are_bounded() {
        let mut capture = capture();
        let mut step = packet("192.0.2.7:1", 7, 1);
        for connection in 0..=MAX_CONNECTIONS {
            step["connection"] = connection.into();
            capture.step("packet", &step).unwrap();
            capture.step("handshake", &step).unwrap();
        }
        assert_eq!(
            (capture.connections.len(), capture.complete.len()),
            (MAX_CONNECTIONS, MAX_CONNECTIONS)
        );
        assert_eq!(capture.invalid(), 1);
    }
}
