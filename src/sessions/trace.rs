//! Traces: each step of the connections that an operator has selected, as it happens.
//!
//! A device is known by name only after it has shown its certificate. While a trace runs, the earlier steps of each
//! connection are kept until it is known whether the trace selects it.
//!
//! **Promises.** Without a trace, a connection pays one relaxed load when it opens and one when it ends, and a branch for each
//! read and write. At most
//! [`MAX_TRACES`] run, at most [`MAX_TRACERS`] connections are followed, each keeps at most [`MAX_KEPT`] steps, and a trace
//! whose reader is slow loses steps and counts them. A trace that ends leaves nothing behind, however long its connections
//! last. Secrets are made only for a trace that asks for them.
//!
//! **Not here.** The steps (`trace/step.rs`, `trace/traced.rs`), the bytes of connections (`trace/packets.rs`), the queue of a
//! trace (`trace/running.rs`), the answer to the operator (`control/admin/trace.rs`).

mod packets;
mod running;
pub(crate) mod step;
mod traced;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::mpsc::{Receiver, channel};

use self::packets::{ConnectionPackets, TracePackets};
use self::running::{Known, MAX_TRACERS, MAX_WAITING, Trace};
use self::step::{Sender, Step};
use self::traced::KeptStep;
pub(crate) use self::traced::{Counted, Facts, Matched, TracedStep};
use super::filter::{Seen, SessionFilter};
use crate::lock::Lock;

/// Traces at a time.
const MAX_TRACES: usize = 4;

/// The most bytes of connections that a trace can include.
pub(crate) const MAX_CAPTURE_BYTES: u64 = 1 << 30;

/// Steps that are kept of a connection that may be selected. A handshake has ten, and its secrets.
const MAX_KEPT: usize = 32;

/// The traces of a process.
#[derive(Default)]
pub(crate) struct Traces {
    running: AtomicUsize,
    list: Lock<Vec<Arc<Trace>>>,
    started: AtomicU64,
    /// The connections that a trace may select or has selected. Locked alone, or after `list` or a tracer's state.
    tracers: Lock<HashMap<u64, Weak<Tracer>>>,
    /// Bytes of packets that are kept until it is known whether a trace selects their connection.
    kept_bytes: Arc<AtomicUsize>,
}

/// The end of a trace for its reader. The trace ends when it is dropped.
pub(crate) struct RunningTrace {
    traces: Arc<Traces>,
    trace: Arc<Trace>,
    steps: Receiver<TracedStep>,
}

/// The steps of one connection while traces run.
pub(crate) struct Tracer {
    traces: Arc<Traces>,
    connection: u64,
    counts: Arc<dyn Counted>,
    state: Lock<TracerState>,
}

struct TracerState {
    facts: Arc<Facts>,
    server_name: Option<Box<str>>,
    /// Traces that may select the connection.
    undecided: Vec<Arc<Trace>>,
    /// Traces that have selected it.
    selecting: Vec<(Arc<Trace>, Matched)>,
    kept: Vec<KeptStep>,
    packets: ConnectionPackets,
}

impl Traces {
    /// Returns whether a trace runs.
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0
    }

    /// Starts a trace, which gets at most `packet_bytes` of the bytes of its connections. Returns none if there are [`MAX_TRACES`].
    pub(crate) fn start(
        self: &Arc<Self>,
        filter: SessionFilter,
        has_keys: bool,
        packet_bytes: u64,
    ) -> Option<RunningTrace> {
        let mut list = self.list.lock();
        if list.len() == MAX_TRACES {
            return None;
        }
        let (sender, steps) = channel(MAX_WAITING);
        let trace = Arc::new(Trace {
            id: self.started.fetch_add(1, Ordering::Relaxed) + 1,
            filter,
            has_keys,
            steps: sender,
            packets: TracePackets::new(packet_bytes),
            lost: AtomicU64::new(0),
            addresses: Lock::default(),
            open: Lock::default(),
        });
        list.push(Arc::clone(&trace));
        self.running.store(list.len(), Ordering::Relaxed);
        Some(RunningTrace { traces: Arc::clone(self), trace, steps })
    }

    /// Returns the tracer of a connection that was accepted, if a trace runs.
    pub(crate) fn tracer(
        self: &Arc<Self>,
        facts: impl FnOnce() -> Facts,
        counts: impl FnOnce() -> Arc<dyn Counted>,
    ) -> Option<Arc<Tracer>> {
        if !self.is_running() {
            return None;
        }
        let facts = facts();
        let connection = facts.connection;
        // Locked until the tracer is in its table: a trace that ends now finds it there.
        let list = self.list.lock();
        let mut tracers = self.tracers.lock();
        if tracers.len() >= MAX_TRACERS {
            list.iter().for_each(|trace| trace.lose(1));
            return None;
        }
        let state = TracerState {
            facts: Arc::new(facts),
            server_name: None,
            undecided: list.clone(),
            selecting: Vec::new(),
            kept: Vec::new(),
            packets: ConnectionPackets::new(&self.kept_bytes),
        };
        let (traces, counts) = (Arc::clone(self), counts());
        let tracer = Arc::new(Tracer { traces, connection, counts, state: Lock::new(state) });
        tracers.insert(connection, Arc::downgrade(&tracer));
        drop((tracers, list));
        tracer.step(Step::Accepted);
        Some(tracer)
    }

    /// Shows a session whose relay begins to the traces that select it and have begun after it was accepted.
    pub(crate) fn established(
        &self,
        seen: &Seen<'_>,
        facts: impl Fn() -> Facts,
        counts: &Arc<dyn Counted>,
        step: impl Fn() -> Step,
    ) {
        let traces = self.list.lock().clone();
        for trace in traces.iter().filter(|trace| trace.filter.selects(seen)) {
            trace.add(facts(), counts, step());
        }
    }

    /// Records the end of a connection for the traces that have begun after it was accepted.
    pub(crate) fn ended(&self, connection: u64, step: impl FnOnce() -> Step) {
        let traces = self.list.lock().clone();
        let closed = |trace: Arc<Trace>| trace.close(connection).map(|open| (trace, open));
        let ended: Vec<_> = traces.into_iter().filter_map(closed).collect();
        if ended.is_empty() {
            return;
        }
        let step = KeptStep::now(&ended[0].1.facts, step());
        for (trace, open) in ended {
            trace.send(&open.facts, open.matched, step.clone());
        }
    }
}

impl RunningTrace {
    /// Returns the number of the trace.
    pub(crate) fn id(&self) -> u64 {
        self.trace.id
    }

    /// Returns the next step.
    pub(crate) async fn next(&mut self) -> Option<TracedStep> {
        let step = self.steps.recv().await;
        step.inspect(|traced| self.trace.packets.taken(&traced.step))
    }

    /// Returns a step that is there already.
    pub(crate) fn next_now(&mut self) -> Option<TracedStep> {
        let step = self.steps.try_recv().ok();
        step.inspect(|traced| self.trace.packets.taken(&traced.step))
    }

    /// Returns the number of lost packets, and whether others did not fit into the bytes that the trace has asked for.
    pub(crate) fn packet_losses(&self) -> (u64, bool) {
        self.trace.packets.losses()
    }

    /// Returns whether the trace selects a session that is open.
    pub(crate) fn selects(&self, seen: &Seen<'_>) -> bool {
        self.trace.filter.selects(seen)
    }

    /// Adds a selected session that is open. One that was accepted after the trace had begun is there already.
    pub(crate) fn add(&self, facts: Facts, counts: &Arc<dyn Counted>, step: Step) {
        self.trace.add(facts, counts, step);
    }

    /// Counts steps or connections that are not shown.
    pub(crate) fn lose(&self, count: u64) {
        self.trace.lose(count);
    }

    /// Adds a step for each open connection that has relayed bytes since the last call.
    pub(crate) fn sample(&self) {
        for open in &mut *self.trace.open.lock() {
            let counts = open.counts.counts();
            if counts != open.reported {
                open.reported = counts;
                let [bytes_to_backend, bytes_to_client] = counts;
                let step = Step::Bytes { bytes_to_backend, bytes_to_client };
                self.trace.send(&open.facts, open.matched, KeptStep::now(&open.facts, step));
            }
        }
    }

    /// Returns the number of steps and connections that were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.trace.lost.load(Ordering::Relaxed)
    }
}

impl Drop for RunningTrace {
    fn drop(&mut self) {
        let mut list = self.traces.list.lock();
        list.retain(|trace| trace.id != self.trace.id);
        self.traces.running.store(list.len(), Ordering::Relaxed);
        drop(list);
        // Not under the lock: the last reference to a tracer may be this one, and its drop needs the lock.
        let tracers: Vec<_> =
            self.traces.tracers.lock().values().filter_map(Weak::upgrade).collect();
        for tracer in tracers {
            tracer.forget(self.trace.id);
        }
    }
}

impl Tracer {
    /// Records a step.
    pub(crate) fn step(&self, step: Step) {
        let mut state = self.state.lock();
        let kept = KeptStep::now(&state.facts, step);
        state.add(kept);
    }

    /// The device has connected to this address.
    pub(crate) fn on_local(&self, local: Option<SocketAddr>) {
        self.state.lock().packets.local = local;
    }

    /// Records bytes of this sender, if a trace that may select the connection wants them.
    pub(crate) fn mirror(&self, sender: Sender, bytes: &[u8]) {
        let mut state = self.state.lock();
        let TracerState { facts, packets, selecting, undecided, .. } = &mut *state;
        let is_kept = undecided.iter().any(|trace| trace.packets.is_wanted());
        if !is_kept && !selecting.iter().any(|(trace, _)| trace.packets.is_wanted()) {
            return;
        }
        for packet in packets.packets(facts, sender, bytes) {
            for (trace, matched) in &*selecting {
                trace.send(facts, *matched, packet.clone());
            }
            if is_kept {
                packets.keep(packet);
            }
        }
    }

    /// Returns whether a trace that may select the connection wants its secrets.
    pub(crate) fn has_keys(&self) -> bool {
        let state = self.state.lock();
        let mut selecting = state.selecting.iter().map(|(trace, _)| trace);
        selecting.any(|trace| trace.has_keys) || state.undecided.iter().any(|trace| trace.has_keys)
    }

    /// Returns whether no trace can select the connection.
    pub(crate) fn is_over(&self) -> bool {
        self.state.lock().is_over()
    }

    /// A trace has ended.
    fn forget(&self, id: u64) {
        let mut state = self.state.lock();
        state.undecided.retain(|trace| trace.id != id);
        state.selecting.retain(|(trace, _)| trace.id != id);
        self.settle(&mut state);
    }

    /// Frees what no trace needs any more.
    fn settle(&self, state: &mut TracerState) {
        if state.undecided.is_empty() {
            state.kept = Vec::new();
            state.packets.forget();
        }
        if state.is_over() {
            self.leave();
        }
    }

    /// Makes room for another connection.
    fn leave(&self) {
        self.traces.tracers.lock().remove(&self.connection);
    }

    /// The address of the device is known.
    pub(crate) fn on_peer(&self, peer: SocketAddr) {
        let mut state = self.state.lock();
        if state.facts.peer != peer {
            state.facts = Arc::new(Facts { peer, ..Facts::clone(&state.facts) });
        }
        self.decide(&mut state, &[], Known::Peer, Matched::Verified);
    }

    /// The ClientHello has this server name.
    pub(crate) fn on_server_name(&self, name: Option<&str>) {
        let mut state = self.state.lock();
        state.server_name = name.map(Box::from);
        self.decide(&mut state, &[], Known::ServerName, Matched::Verified);
    }

    /// The handshake is complete, with a certificate that has these names, or without one.
    pub(crate) fn on_identity(&self, names: &[Box<str>]) {
        self.decide(&mut self.state.lock(), names, Known::Identity, Matched::Verified);
    }

    /// A certificate with these names was refused.
    pub(crate) fn on_claim(&self, names: &[Box<str>]) {
        self.decide(&mut self.state.lock(), names, Known::Identity, Matched::Claimed);
    }

    /// Records the end of the connection.
    pub(crate) fn end(&self, step: Step) {
        let mut state = self.state.lock();
        // A connection can end before the address of its device is known.
        self.decide(&mut state, &[], Known::Peer, Matched::Verified);
        let by_address = |trace: &Arc<Trace>| {
            let address = state.facts.peer.ip();
            trace.addresses.lock().contains(&address)
        };
        // The others have been selected or not. These wait for a certificate that has not come.
        let selected = state.undecided.iter().filter(|trace| by_address(trace)).cloned();
        let selected: Vec<_> = selected.collect();
        state.undecided.clear();
        for trace in selected {
            state.select(trace, Matched::Address);
        }
        let kept = KeptStep::now(&state.facts, step);
        state.add(kept);
        let connection = state.facts.connection;
        for (trace, _) in state.selecting.drain(..) {
            trace.close(connection);
        }
    }

    /// Decides which traces select the connection, as far as that is known.
    fn decide(&self, state: &mut TracerState, names: &[Box<str>], known: Known, matched: Matched) {
        let facts = Arc::clone(&state.facts);
        let server_name = state.server_name.clone();
        let (peer, listener) = (facts.peer, &*facts.listener);
        let seen = Seen { listener, names, peer, server_name: server_name.as_deref() };
        for trace in std::mem::take(&mut state.undecided) {
            match trace.selects(&seen, known) {
                None => state.undecided.push(trace),
                Some(false) => {}
                Some(true) => {
                    // Without an identity in the filter there is nothing to claim.
                    let is_claim = trace.filter.identity.is_some() && matched == Matched::Claimed;
                    let matched = if is_claim { Matched::Claimed } else { Matched::Verified };
                    trace.open(&facts, matched, &self.counts);
                    state.select(trace, matched);
                }
            }
        }
        self.settle(state);
    }
}

impl TracerState {
    fn is_over(&self) -> bool {
        self.selecting.is_empty() && self.undecided.is_empty()
    }

    /// Sends a step to the traces that have selected the connection, and keeps it for the others.
    fn add(&mut self, kept: KeptStep) {
        for (trace, matched) in &self.selecting {
            trace.send(&self.facts, *matched, kept.clone());
        }
        if !self.undecided.is_empty() && self.kept.len() < MAX_KEPT {
            self.kept.push(kept);
        }
    }

    /// Sends the steps until now to a trace, and the later ones as they come.
    fn select(&mut self, trace: Arc<Trace>, matched: Matched) {
        for kept in &self.kept {
            trace.send(&self.facts, matched, kept.clone());
        }
        let (packets, lost) = self.packets.kept();
        for packet in packets {
            trace.send(&self.facts, matched, packet.clone());
        }
        trace.packets.lose(lost);
        self.selecting.push((trace, matched));
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.leave();
        // A connection that was selected has ended, however.
        let state = self.state.lock();
        for (trace, _) in &state.selecting {
            trace.close(state.facts.connection);
        }
    }
}

#[cfg(test)]
mod tests;
