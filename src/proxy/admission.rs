//! Gates that limit how many connections there are.
//!
//! **Promises.** A connection enters with a [`Permit`] of its listener and of the process, both or none: a listener
//! that waits takes no permit from the others. At a limit, a connection that has not completed its handshake is evicted
//! (`admission/pending.rs`). If there is none, devices wait: one accepted for each listener, the others in the
//! kernel's backlog, where they cost no memory of ours. They are neither refused nor forgotten. An established session
//! is never evicted. A permit is released however its connection ends, also by a panic.
//!
//! **Not here.** Accepting (`listener.rs`).

mod identities;
mod pending;
mod sources;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::time::sleep_until;

pub(crate) use self::identities::IdentityRefused;
use self::identities::IdentityTable;
use self::pending::{Eviction, PendingSet, Scope, Stage};
use self::sources::{SourceRefused, SourceTable};
use super::handshake_memory::{HandshakeMemory, Share};
use super::handshake_slots::{HandshakeSlots, ListenerSlots, SlotAccess};
use super::source::ClientSource;
use crate::config;
use crate::lock::Lock;
use crate::sessions::budget::{Budget, Exhausted};
use crate::terms::reason::Reason;

/// The gate of one listener.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<GateState>);

#[derive(Debug)]
struct GateState {
    permits: Permits,
    /// The limit of connections of the listener, without that of the process. A reload can change it.
    limit: AtomicUsize,
    number: usize,
    identities: IdentityTable,
    sources: SourceTable,
    slots: ListenerSlots,
    process: Arc<ProcessGate>,
}

/// The gate of all listeners together.
#[derive(Debug)]
pub(crate) struct ProcessGate {
    permits: Permits,
    /// Connections that the file descriptors carry.
    capacity: usize,
    /// The limit of connections: the capacity, or less. A reload can change it.
    limit: AtomicUsize,
    pending: Lock<PendingSet>,
    /// Another connection can be evicted.
    listed: Notify,
    memory: Arc<HandshakeMemory>,
    slots: Arc<HandshakeSlots>,
}

/// Permission for one connection of a listener and of the process. Released on drop.
#[derive(Debug)]
pub(crate) struct Permit(Arc<GateState>);

impl ProcessGate {
    /// Creates the gate of a process that may have `limit` connections, and `slots` handshakes in progress at a time.
    /// The memory of handshakes is a part of `budget`.
    pub(crate) fn new(limit: usize, slots: usize, budget: Arc<Budget>) -> Self {
        let memory = Arc::new(HandshakeMemory::new(usize::MAX, budget));
        let slots = Arc::new(HandshakeSlots::new(slots));
        let (pending, listed) = (Lock::default(), Notify::new());
        let (permits, capacity, limit) = (Permits::default(), limit, AtomicUsize::new(limit));
        Self { permits, capacity, limit, pending, listed, memory, slots }
    }

    /// Sets the limit of connections of all listeners together, at most the capacity.
    pub(crate) fn set_limit(&self, limit: Option<usize>) {
        self.limit.store(
            limit.map_or(self.capacity, |limit| limit.min(self.capacity)),
            Ordering::Release,
        );
        // Those that wait for a lower limit may have room.
        self.permits.released.notify_waiters();
    }

    fn limit(&self) -> usize {
        self.limit.load(Ordering::Acquire)
    }

    /// The memory that all handshakes share.
    pub(crate) fn memory(&self) -> &HandshakeMemory {
        &self.memory
    }
}

impl Gate {
    /// Creates the gate of one listener. Until a limit is set, it is the process's.
    pub(crate) fn new(process: Arc<ProcessGate>) -> Self {
        let number = process.pending.lock().add_listener();
        let limit = AtomicUsize::new(usize::MAX);
        let (permits, identities) = (Permits::default(), IdentityTable::default());
        let sources = SourceTable::default();
        let slots = process.slots.add_listener();
        let state = GateState { permits, limit, number, identities, sources, slots, process };
        Self(Arc::new(state))
    }

    /// Sets the limits of the listener. Returns how many connections it may have: the smaller of its limit and the
    /// process's.
    pub(crate) fn set_limits(&self, limits: config::Limits) -> usize {
        self.0.slots.set_limits(limits);
        self.0.sources.set_prefix(limits.source_prefix);
        self.0.limit.store(limits.max_connections.unwrap_or(usize::MAX), Ordering::Release);
        self.limit()
    }

    /// Returns how many devices wait for a handshake slot.
    pub(crate) fn waiting(&self) -> usize {
        self.0.slots.waiting()
    }

    /// Returns how many connections the listener may have: the smaller of its limit and the process's.
    pub(crate) fn limit(&self) -> usize {
        self.0.limit.load(Ordering::Acquire).min(self.0.process.limit())
    }

    /// Returns a warning if the limits are larger than the process's.
    pub(crate) fn excess(&self, limits: config::Limits) -> Option<String> {
        excess("max_connections", limits.max_connections, self.0.process.capacity)
    }

    /// Returns true if the listener has no permit left.
    pub(crate) fn is_full(&self) -> bool {
        self.0.permits.taken.load(Ordering::Acquire) >= self.limit()
    }

    /// Waits until the listener has a permit, without taking it.
    pub(crate) async fn room(&self) {
        loop {
            let mut released = pin!(self.0.permits.released.notified());
            // Before the check, as in `enter`.
            released.as_mut().enable();
            if !self.is_full() {
                return;
            }
            released.await;
        }
    }

    /// Takes a permit of the listener and one of the process if there are both.
    pub(crate) fn try_enter(&self) -> Option<Permit> {
        self.acquire().ok()
    }

    /// Waits for a permit of the listener and one of the process. Evicts a connection in its handshake, if one may
    /// be evicted for a device of `source`.
    pub(crate) async fn enter(&self, source: ClientSource) -> Permit {
        let GateState { permits, process, .. } = &*self.0;
        loop {
            let full = match self.acquire() {
                Ok(permit) => return permit,
                Err(full) => full,
            };
            let permits = if full == Scope::Process { &process.permits } else { permits };
            // Before the second attempt, so that a permit released right after it is not missed. Enabled, because
            // of two notifications before two waiters wait, Notify would store one. Only the full gate is waited
            // for, so that no notification of the other one is consumed.
            let mut released = pin!(permits.released.notified());
            let mut listed = pin!(process.listed.notified());
            released.as_mut().enable();
            listed.as_mut().enable();
            match self.acquire() {
                Ok(permit) => return permit,
                Err(now) if now != full => continue,
                Err(_) => {}
            }
            let eviction = process.pending.lock().evict_for(full, source);
            match eviction {
                // Another waiter may take the permit first. Then one more connection is evicted.
                Eviction::Ordered => released.await,
                Eviction::NotBefore(instant) => tokio::select! {
                    () = released => {}
                    () = listed => {}
                    () = sleep_until(instant) => {}
                },
                Eviction::NoCandidate => tokio::select! {
                    () = released => {}
                    () = listed => {}
                },
            }
        }
    }

    /// Takes both permits, or returns which gate is full.
    fn acquire(&self) -> Result<Permit, Scope> {
        let GateState { permits, number, process, .. } = &*self.0;
        if !permits.try_acquire(self.limit()) {
            return Err(Scope::Listener(*number));
        }
        if !process.permits.try_acquire(process.limit()) {
            permits.release();
            return Err(Scope::Process);
        }
        Ok(Permit(Arc::clone(&self.0)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.permits.release();
        self.0.process.permits.release();
    }
}

impl Permit {
    /// The connections of the listener by identity.
    pub(crate) fn identities(&self) -> &IdentityTable {
        &self.0.identities
    }

    /// The connections of the listener by source.
    pub(crate) fn sources(&self) -> &SourceTable {
        &self.0.sources
    }

    /// Returns the connection as one that comes from `source` and has not completed its handshake.
    pub(crate) fn pending(&self, source: ClientSource) -> PendingConnection {
        let (gate, id) = (Arc::clone(&self.0), Lock::new(None));
        PendingConnection { gate, source, hello_read: AtomicBool::new(false), id }
    }
}

/// A connection is not admitted, and closed before its ClientHello is read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdmissionRefused {
    #[error(transparent)]
    Memory(#[from] Exhausted),
    #[error(transparent)]
    Source(#[from] SourceRefused),
}

impl AdmissionRefused {
    /// Returns the stable reason for this end.
    pub(crate) const fn reason(&self) -> Reason {
        match self {
            Self::Memory(error) => error.reason(),
            Self::Source(error) => error.reason(),
        }
    }
}

/// A connection that has not completed its handshake, and may be evicted.
#[derive(Debug)]
pub(crate) struct PendingConnection {
    gate: Arc<GateState>,
    source: ClientSource,
    hello_read: AtomicBool,
    /// Its number while it is listed.
    id: Lock<Option<u64>>,
}

/// The connection was evicted during its handshake to make room for another.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("evicted during the handshake to make room for another connection")]
pub(crate) struct Evicted;

impl PendingConnection {
    /// Returns the access to the slots for handshakes.
    pub(crate) fn slots(&self) -> SlotAccess {
        self.gate.slots.access(self.source)
    }

    /// Returns a share of the memory for handshakes.
    pub(crate) fn memory(&self) -> Share {
        self.gate.process.memory.share()
    }

    /// The ClientHello was read.
    pub(crate) fn on_client_hello(&self) {
        self.hello_read.store(true, Ordering::Relaxed);
        if let Some(id) = *self.id.lock() {
            self.gate.process.pending.lock().on_client_hello(id);
        }
    }

    /// Completes `handshake` unless the connection is evicted first. It is pinned by the caller: an `async fn` would store
    /// it twice.
    ///
    /// # Errors
    /// If it is evicted.
    pub(crate) async fn or_evicted<T>(
        &self,
        handshake: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Evicted> {
        tokio::select! {
            // First, so that bytes that have come are read before the connection is listed.
            biased;
            done = handshake => self.unlist().map(|()| done),
            evicted = self.evicted() => Err(evicted),
        }
    }

    /// Lists the connection at the first poll, and completes when it is evicted.
    async fn evicted(&self) -> Evicted {
        let hello_read = self.hello_read.load(Ordering::Relaxed);
        let stage = if hello_read { Stage::HelloRead } else { Stage::AwaitingHello };
        let GateState { number, process, .. } = &*self.gate;
        let (id, evicted) = process.pending.lock().list(*number, self.source, stage);
        *self.id.lock() = Some(id);
        process.listed.notify_waiters();
        match evicted.await {
            Ok(()) => Evicted,
            // The sender was dropped: the handshake is complete.
            Err(_) => std::future::pending().await,
        }
    }

    /// Removes the connection from the list: it can no longer be evicted.
    fn unlist(&self) -> Result<(), Evicted> {
        match self.id.lock().take() {
            Some(id) if !self.gate.process.pending.lock().remove(id) => Err(Evicted),
            _ => Ok(()),
        }
    }
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        // An evicted connection is no longer listed and ends anyway.
        let _evicted = self.unlist();
    }
}

/// Returns a warning if the limit of the key `key` is larger than `capacity`, the number of connections that the process
/// can have.
pub(crate) fn excess(key: &str, limit: Option<usize>, capacity: usize) -> Option<String> {
    let wanted = limit.filter(|&wanted| wanted > capacity)?;
    Some(format!(
        "{key} is {wanted}, and the limit on file descriptors (ulimit -Hn) carries {capacity}"
    ))
}

/// A semaphore whose limit is given at each acquire, so that it can change.
#[derive(Debug, Default)]
struct Permits {
    taken: AtomicUsize,
    released: Notify,
}

impl Permits {
    /// Takes a permit if fewer than `limit` are taken.
    fn try_acquire(&self, limit: usize) -> bool {
        let more = |taken| (taken < limit).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    fn release(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        self.released.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn source(last: u8) -> ClientSource {
        ClientSource::of([192, 0, 2, last].into())
    }

    /// A listener's gate with room for `limit` connections.
    fn gate(process: &Arc<ProcessGate>, limit: usize) -> Gate {
        let gate = Gate::new(Arc::clone(process));
        set_limit(&gate, limit);
        gate
    }

    fn set_limit(gate: &Gate, limit: usize) {
        let limits = config::Limits { max_connections: Some(limit), ..Default::default() };
        gate.set_limits(limits);
    }

    /// A connection that sends nothing until it is evicted.
    fn silent(permit: Permit, last: u8) -> tokio::task::JoinHandle<Evicted> {
        tokio::spawn(async move {
            let pending = permit.pending(source(last));
            pending.evicted().await
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_waits_gets_the_next_permit_that_is_released() {
        let gate = gate(&Arc::new(ProcessGate::new(9, 1, Arc::default())), 1);
        let first = gate.try_enter().unwrap();
        assert!(gate.try_enter().is_none());
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter(source(1)).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "an established session stays");
        drop(first);
        let _second = waiting.await.unwrap();
        assert!(gate.try_enter().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_waits_takes_no_permit_from_the_others() {
        let process = Arc::new(ProcessGate::new(1, 1, Arc::default()));
        let (waits, served) = (gate(&process, 10), gate(&process, 10));
        let first = served.try_enter().unwrap();
        let waiting = tokio::spawn(async move { waits.enter(source(1)).await });
        tokio::task::yield_now().await;
        drop(first);
        drop(waiting.await.unwrap());
        assert!(served.try_enter().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_of_the_process_wakes_the_listener_that_waits_for_it() {
        let process = Arc::new(ProcessGate::new(2, 1, Arc::default()));
        let (full, other) = (gate(&process, 1), gate(&process, 9));
        let _own = full.try_enter().unwrap();
        let last = other.try_enter().unwrap();
        // First in the queue, but a permit of the process would not help it.
        let _of_its_own = tokio::spawn(async move { full.enter(source(1)).await });
        tokio::task::yield_now().await;
        let waiting = tokio::spawn(async move { other.enter(source(2)).await });
        tokio::task::yield_now().await;
        drop(last);
        timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_of_the_process_holds_for_all_listeners_together_and_can_change() {
        let process = Arc::new(ProcessGate::new(3, 1, Arc::default()));
        let (one, other) = (gate(&process, 10), gate(&process, 2));
        assert_eq!((one.limit(), other.limit()), (3, 2));
        process.set_limit(Some(2));
        assert_eq!((one.limit(), other.limit()), (2, 2));
        let _both = (one.try_enter().unwrap(), other.try_enter().unwrap());
        let waiting = tokio::spawn(async move { other.enter(source(1)).await });
        tokio::task::yield_now().await;
        assert!(one.try_enter().is_none() && !waiting.is_finished());
        process.set_limit(Some(9));
        assert_eq!(one.limit(), 3, "the file descriptors carry no more");
        let _third = timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap();
        process.set_limit(None);
        assert!(one.try_enter().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_raised_limit_has_room_at_once_and_a_lowered_one_waits_until_it_is_met() {
        let gate = gate(&Arc::new(ProcessGate::new(9, 1, Arc::default())), 1);
        let first = gate.try_enter().unwrap();
        set_limit(&gate, 2);
        let second = gate.try_enter().unwrap();
        drop(first);
        set_limit(&gate, 1);
        assert!(gate.try_enter().is_none());
        drop(second);
        assert!(gate.try_enter().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_evicted_and_an_established_one_is_not() {
        let gate = gate(&Arc::new(ProcessGate::new(9, 1, Arc::default())), 3);
        let _established = gate.try_enter().unwrap();
        let silent = [1, 1].map(|last| silent(gate.try_enter().unwrap(), last));
        tokio::task::yield_now().await;
        let _in = timeout(Duration::from_secs(1), gate.enter(source(2))).await.unwrap();
        tokio::task::yield_now().await;
        assert_eq!(silent.map(|task| task.is_finished()), [true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_task_has_not_run_yet_is_evicted_once_it_has() {
        let process = Arc::new(ProcessGate::new(1, 1, Arc::default()));
        let (one, other) = (gate(&process, 9), gate(&process, 9));
        let permit = one.try_enter().unwrap();
        let waiting = tokio::spawn(async move { other.enter(source(2)).await });
        tokio::task::yield_now().await;
        let silent = silent(permit, 1);
        let _in = timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap();
        assert_eq!(silent.await.unwrap(), Evicted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_handshake_is_complete_is_never_evicted() {
        let gate = gate(&Arc::new(ProcessGate::new(1, 1, Arc::default())), 1);
        let permit = gate.try_enter().unwrap();
        let pending = permit.pending(source(1));
        assert!(timeout(Duration::ZERO, pending.evicted()).await.is_err(), "listed");
        pending.unlist().unwrap();
        let waiting = gate.enter(source(2));
        assert!(timeout(Duration::from_secs(60), waiting).await.is_err());
    }
}
