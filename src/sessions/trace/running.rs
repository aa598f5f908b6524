//! A running trace: its filter, the queue of its steps, and its open connections.
//!
//! **Promises.** A step that does not fit into the queue is lost and counted; packets leave room for steps.
//!
//! **Not here.** The connections that may be selected (`trace.rs`).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::Sender;

use super::packets::TracePackets;
use super::step::Step;
use super::traced::{Counted, Facts, KeptStep, Matched, OpenConnection, TracedStep};
use crate::lock::Lock;
use crate::sessions::filter::{Seen, SessionFilter};

/// Connections that a trace has open at a time, and those that are followed for all traces together.
pub(super) const MAX_TRACERS: usize = 4096;

/// Steps that wait for the reader of a trace.
pub(super) const MAX_WAITING: usize = 4096;

/// Places in the queue of a trace that packets leave to steps.
const ROOM_FOR_STEPS: usize = MAX_WAITING / 2;

/// Addresses of the selected devices that a trace remembers.
const MAX_ADDRESSES: usize = 64;

/// A running trace.
pub(super) struct Trace {
    pub(super) id: u64,
    pub(super) filter: SessionFilter,
    pub(super) has_keys: bool,
    pub(super) steps: Sender<TracedStep>,
    pub(super) packets: TracePackets,
    pub(super) lost: AtomicU64,
    /// The last addresses of selected devices that were verified.
    pub(super) addresses: Lock<Vec<IpAddr>>,
    /// The selected connections that are open.
    pub(super) open: Lock<Vec<OpenConnection>>,
}

/// The facts of a connection that are known by now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Known {
    Peer,
    ServerName,
    /// The names of its certificate, or that it has none.
    Identity,
}

impl Trace {
    pub(super) fn send(&self, facts: &Arc<Facts>, matched: Matched, kept: KeptStep) {
        if matches!(*kept.step, Step::Key { .. }) && !self.has_keys {
            return;
        }
        if let Step::Packet(packet) = &*kept.step
            && !self.packets.admit(packet, self.steps.capacity() > ROOM_FOR_STEPS)
        {
            return;
        }
        let KeptStep { at, since, step } = kept;
        let step = TracedStep { facts: Arc::clone(facts), matched, at, since, step };
        if self.steps.try_send(step).is_err() {
            self.lose(1);
        }
    }

    pub(super) fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn open(&self, facts: &Arc<Facts>, matched: Matched, counts: &Arc<dyn Counted>) {
        if matched == Matched::Verified {
            self.remember(facts.peer.ip());
        }
        let mut open = self.open.lock();
        if open.len() < MAX_TRACERS {
            open.push(OpenConnection::new(facts, matched, counts));
        } else {
            self.lose(1);
        }
    }

    /// Adds a selected session that is open, unless the trace has it.
    pub(super) fn add(&self, facts: Facts, counts: &Arc<dyn Counted>, step: Step) {
        let facts = Arc::new(facts);
        let mut open = self.open.lock();
        if open.iter().any(|open| open.facts.connection == facts.connection) {
            return;
        }
        if open.len() >= MAX_TRACERS {
            self.lose(1);
            return;
        }
        self.remember(facts.peer.ip());
        self.send(&facts, Matched::Verified, KeptStep::now(&facts, step));
        open.push(OpenConnection::new(&facts, Matched::Verified, counts));
    }

    pub(super) fn remember(&self, address: IpAddr) {
        let mut addresses = self.addresses.lock();
        if !addresses.contains(&address) {
            if addresses.len() == MAX_ADDRESSES {
                addresses.remove(0);
            }
            addresses.push(address);
        }
    }

    pub(super) fn close(&self, connection: u64) -> Option<OpenConnection> {
        let mut open = self.open.lock();
        let place = open.iter().position(|open| open.facts.connection == connection)?;
        Some(open.swap_remove(place))
    }

    /// Returns whether the filter selects a connection; none if that is not known yet.
    pub(super) fn selects(&self, seen: &Seen<'_>, known: Known) -> Option<bool> {
        let Self { filter, .. } = self;
        let is_open = (filter.server_name.is_some() && known < Known::ServerName)
            || (filter.identity.is_some() && known < Known::Identity);
        let fits = filter.fits_peer(seen)
            && (known < Known::ServerName || filter.fits_server_name(seen))
            && (known < Known::Identity || filter.fits_identity(seen));
        match (fits, is_open) {
            (false, _) => Some(false),
            (true, true) => None,
            (true, false) => Some(true),
        }
    }
}
