//! The bytes of traced connections, as their sockets have returned and taken them.
//!
//! **Promises.** All connections that may be selected keep at most [`MAX_KEPT_BYTES`] together, and each of them
//! [`MAX_KEPT_BYTES_OF_CONNECTION`]. At most [`MAX_WAITING_BYTES`] wait for the reader of a trace; what is more is lost and
//! counted. A trace gets no more bytes than it has asked for.
//!
//! **Not here.** The sockets (`proxy/mirror.rs`), the form of packets (`commands/trace/capture.rs`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::step::{PacketStep, Sender, Step};
use super::traced::{Facts, KeptStep};

/// Bytes of one packet.
const MAX_PACKET_BYTES: usize = 16 * 1024;

/// Bytes that the connections that may be selected keep, all together.
const MAX_KEPT_BYTES: usize = 16 * 1024 * 1024;

/// Bytes that one of them keeps: a handshake has some 5 KiB.
const MAX_KEPT_BYTES_OF_CONNECTION: usize = 128 * 1024;

/// Bytes that wait for the reader of a trace.
const MAX_WAITING_BYTES: usize = 4 * 1024 * 1024;

/// Memory of a packet besides its bytes.
const OVERHEAD: usize = 256;

/// The packets of a trace.
#[derive(Debug, Default)]
pub(super) struct TracePackets {
    /// Bytes that it may still get.
    left: AtomicU64,
    /// Some packet did not fit into these.
    is_truncated: AtomicBool,
    /// Bytes that wait for its reader.
    waiting: AtomicUsize,
    lost: AtomicU64,
    is_wanted: bool,
}

impl TracePackets {
    /// Returns those of a trace that has asked for so many bytes, 0 for none.
    pub(super) fn new(bytes: u64) -> Self {
        Self { left: AtomicU64::new(bytes), is_wanted: bytes > 0, ..Self::default() }
    }

    /// Returns whether the trace has asked for packets, and can still get some.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted && !self.is_truncated.load(Ordering::Relaxed)
    }

    /// Returns whether a packet may be added to the queue of the trace, and counts it.
    pub(super) fn admit(&self, packet: &PacketStep, has_room: bool) -> bool {
        if !self.is_wanted() {
            return false;
        }
        let bytes = packet.bytes.len();
        let rest = |left: u64| left.checked_sub(u64::try_from(bytes).unwrap_or(u64::MAX));
        if rest(self.left.load(Ordering::Relaxed)).is_none() {
            self.truncate();
            return false;
        }
        if !has_room || self.waiting.load(Ordering::Relaxed) + bytes > MAX_WAITING_BYTES {
            self.lose(1);
            return false;
        }
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).is_err() {
            // Another connection was faster.
            self.truncate();
            return false;
        }
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    /// Ends the packets of the trace: no smaller one may follow one that does not fit.
    fn truncate(&self) {
        self.left.store(0, Ordering::Relaxed);
        self.is_truncated.store(true, Ordering::Relaxed);
    }

    /// A step has left the queue.
    pub(super) fn taken(&self, step: &Step) {
        if let Step::Packet(packet) = step {
            self.waiting.fetch_sub(packet.bytes.len(), Ordering::Relaxed);
        }
    }

    pub(super) fn lose(&self, packets: u64) {
        if self.is_wanted() {
            self.lost.fetch_add(packets, Ordering::Relaxed);
        }
    }

    /// Returns the number of lost packets, and whether others did not fit into the bytes that the trace has asked for.
    pub(super) fn losses(&self) -> (u64, bool) {
        (self.lost.load(Ordering::Relaxed), self.is_truncated.load(Ordering::Relaxed))
    }
}

/// The packets of a connection.
pub(super) struct ConnectionPackets {
    pub(super) local: Option<SocketAddr>,
    /// Bytes of the device, and of tlsidecar.
    offsets: [u64; 2],
    /// Packets that are kept until it is known whether a trace selects the connection.
    kept: Vec<KeptStep>,
    /// Their part of the bytes of all connections.
    kept_bytes: usize,
    lost: u64,
    all_kept_bytes: Arc<AtomicUsize>,
}

impl ConnectionPackets {
    /// `all_kept_bytes` counts the kept bytes of all connections.
    pub(super) fn new(all_kept_bytes: &Arc<AtomicUsize>) -> Self {
        let all_kept_bytes = Arc::clone(all_kept_bytes);
        Self {
            local: None,
            offsets: [0; 2],
            kept: Vec::new(),
            kept_bytes: 0,
            lost: 0,
            all_kept_bytes,
        }
    }

    /// Returns the packets of these bytes.
    pub(super) fn packets(&mut self, facts: &Facts, sender: Sender, bytes: &[u8]) -> Vec<KeptStep> {
        let local = self.local;
        let offset = &mut self.offsets[usize::from(matches!(sender, Sender::Tlsidecar))];
        let packets = bytes.chunks(MAX_PACKET_BYTES).map(|chunk| {
            let packet = PacketStep { sender, local, offset: *offset, bytes: chunk.to_vec() };
            *offset += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            KeptStep::now(facts, Step::Packet(packet))
        });
        packets.collect()
    }

    /// Keeps a packet, if there is room.
    pub(super) fn keep(&mut self, kept: KeptStep) {
        let Step::Packet(packet) = &*kept.step else { return };
        let bytes = packet.bytes.len() + OVERHEAD;
        let all = self.all_kept_bytes.fetch_add(bytes, Ordering::Relaxed);
        // Later ones would have a gap before them.
        let is_full = self.lost > 0 || self.kept_bytes + bytes > MAX_KEPT_BYTES_OF_CONNECTION;
        if is_full || all + bytes > MAX_KEPT_BYTES {
            self.all_kept_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.lost += 1;
            return;
        }
        self.kept_bytes += bytes;
        self.kept.push(kept);
    }

    /// Returns the packets that were kept, and the number of those that were not.
    pub(super) fn kept(&self) -> (&[KeptStep], u64) {
        (&self.kept, self.lost)
    }

    /// Frees the packets that were kept.
    pub(super) fn forget(&mut self) {
        self.kept = Vec::new();
        self.all_kept_bytes.fetch_sub(std::mem::take(&mut self.kept_bytes), Ordering::Relaxed);
    }
}

impl Drop for ConnectionPackets {
    fn drop(&mut self) {
        self.forget();
    }
}
