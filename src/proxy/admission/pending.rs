//! Connections that have not completed their handshake, and the order in which they are evicted.
//!
//! **Promises.** The source (client address or IPv6 network) with the most such connections loses its oldest one first;
//! among equal sources, the oldest connection of all. Connections without a complete ClientHello are evicted before
//! those with one. The latter are protected for [`GRACE`], unless another source has more of them than the new
//! device's. So neither one source nor many can lock others out by sending nothing, and devices that reconnect all at
//! once do not evict each other in mid-handshake. Each operation takes time logarithmic in the number of connections.
//!
//! **Not here.** The limits (`admission.rs`), the end of an evicted connection (`connection.rs`).

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::proxy::source::ClientSource;

/// Time from its listing for which a handshake is protected against devices of sources with as many
/// handshakes: a few round trips of a mobile network.
const GRACE: Duration = Duration::from_millis(500);

/// Progress of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The ClientHello is not complete.
    AwaitingHello,
    /// The ClientHello was read.
    HelloRead,
}

/// Set of connections from which one is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Connections of the listener with this number.
    Listener(usize),
    /// Connections of all listeners.
    Process,
}

/// Result of an attempt to evict a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eviction {
    /// A connection was ordered to end.
    Ordered,
    /// All candidates are protected until this instant.
    NotBefore(Instant),
    /// There is no candidate.
    NoCandidate,
}

/// The connections that have not completed their handshake.
#[derive(Debug, Default)]
pub(super) struct PendingSet {
    next: u64,
    /// By number, which increases with time.
    entries: HashMap<u64, PendingEntry>,
    process: Queues,
    /// By listener number.
    listeners: Vec<Queues>,
}

#[derive(Debug)]
struct PendingEntry {
    source: ClientSource,
    listener: usize,
    stage: Stage,
    since: Instant,
    evict: oneshot::Sender<()>,
}

impl PendingSet {
    /// Adds a listener and returns its number.
    pub(super) fn add_listener(&mut self) -> usize {
        self.listeners.push(Queues::default());
        self.listeners.len() - 1
    }

    /// Lists a connection. Returns its number, and a receiver that completes when it is evicted.
    pub(super) fn list(
        &mut self,
        listener: usize,
        source: ClientSource,
        stage: Stage,
    ) -> (u64, oneshot::Receiver<()>) {
        let id = self.next;
        self.next += 1;
        let (evict, evicted) = oneshot::channel();
        let entry = PendingEntry { source, listener, stage, since: Instant::now(), evict };
        self.entries.insert(id, entry);
        for queues in [&mut self.process, &mut self.listeners[listener]] {
            queues.of(stage).insert(source, id);
        }
        (id, evicted)
    }

    /// The ClientHello of a listed connection was read.
    pub(super) fn on_client_hello(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let before = std::mem::replace(&mut entry.stage, Stage::HelloRead);
        let (source, listener) = (entry.source, entry.listener);
        for queues in [&mut self.process, &mut self.listeners[listener]] {
            queues.of(before).remove(source, id);
            queues.of(Stage::HelloRead).insert(source, id);
        }
    }

    /// Removes a connection from the list. Returns false if it was evicted.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        self.take(id).is_some()
    }

    /// Evicts a connection of `scope` for a device of `source`.
    pub(super) fn evict_for(&mut self, scope: Scope, source: ClientSource) -> Eviction {
        let queues = match scope {
            Scope::Process => &self.process,
            Scope::Listener(number) => &self.listeners[number],
        };
        let victim = match (queues.awaiting_hello.first(), queues.hello_read.first()) {
            (Some(oldest), _) => oldest,
            (None, Some(oldest)) if queues.hello_read.is_outnumbered(source) => oldest,
            (None, Some(oldest)) => {
                let until = self.entries[&oldest].since + GRACE;
                if Instant::now() < until {
                    return Eviction::NotBefore(until);
                }
                oldest
            }
            (None, None) => return Eviction::NoCandidate,
        };
        if let Some(entry) = self.take(victim) {
            // If its task has just ended by itself, there is room as well.
            let _ended = entry.evict.send(());
        }
        Eviction::Ordered
    }

    fn take(&mut self, id: u64) -> Option<PendingEntry> {
        let entry = self.entries.remove(&id)?;
        for queues in [&mut self.process, &mut self.listeners[entry.listener]] {
            queues.of(entry.stage).remove(entry.source, id);
        }
        // The table shrinks after a flood.
        if self.entries.len() < self.entries.capacity() / 8 {
            self.entries.shrink_to_fit();
        }
        Some(entry)
    }
}

/// The connections of one scope, by stage.
#[derive(Debug, Default)]
struct Queues {
    awaiting_hello: Queue,
    hello_read: Queue,
}

impl Queues {
    const fn of(&mut self, stage: Stage) -> &mut Queue {
        match stage {
            Stage::AwaitingHello => &mut self.awaiting_hello,
            Stage::HelloRead => &mut self.hello_read,
        }
    }
}

/// Connections in the order of eviction.
#[derive(Debug, Default)]
struct Queue {
    by_source: HashMap<ClientSource, BTreeSet<u64>>,
    /// Each source by its number of connections and its oldest one. The last entry is evicted first.
    order: BTreeSet<(usize, Reverse<u64>, ClientSource)>,
}

impl Queue {
    fn insert(&mut self, source: ClientSource, id: u64) {
        self.change(source, |ids| ids.insert(id));
    }

    fn remove(&mut self, source: ClientSource, id: u64) {
        self.change(source, |ids| ids.remove(&id));
    }

    fn change(&mut self, source: ClientSource, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let mut entry = match self.by_source.entry(source) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert_entry(BTreeSet::new()),
        };
        let ids = entry.get_mut();
        if let Some(&oldest) = ids.first() {
            self.order.remove(&(ids.len(), Reverse(oldest), source));
        }
        change(ids);
        match ids.first() {
            Some(&oldest) => {
                self.order.insert((ids.len(), Reverse(oldest), source));
            }
            None => {
                entry.remove();
                if self.by_source.len() < self.by_source.capacity() / 8 {
                    self.by_source.shrink_to_fit();
                }
            }
        }
    }

    /// Returns the oldest connection of the largest source.
    fn first(&self) -> Option<u64> {
        self.order.last().map(|&(_, Reverse(oldest), _)| oldest)
    }

    /// Returns true if the largest source has more connections than `source` would have with one more.
    fn is_outnumbered(&self, source: ClientSource) -> bool {
        let own = self.by_source.get(&source).map_or(0, BTreeSet::len);
        self.order.last().is_some_and(|&(most, ..)| most > own + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> ClientSource {
        ClientSource::of([192, 0, 2, last].into())
    }

    /// ListedConnections connections, and their receivers by number.
    struct ListedConnections {
        pending: PendingSet,
        ends: Vec<oneshot::Receiver<()>>,
    }

    impl ListedConnections {
        fn new() -> Self {
            let mut pending = PendingSet::default();
            pending.add_listener();
            pending.add_listener();
            Self { pending, ends: Vec::new() }
        }

        fn add(&mut self, from: u8, stage: Stage) {
            let (id, evicted) = self.pending.list(0, source(from), stage);
            assert_eq!(id, self.ends.len() as u64);
            self.ends.push(evicted);
        }

        /// Evicts a connection for a device of source `newcomer`, and returns its number.
        fn evicted_for(&mut self, newcomer: u8) -> Option<usize> {
            let eviction = self.pending.evict_for(Scope::Listener(0), source(newcomer));
            let evicted = self.ends.iter_mut().position(|end| end.try_recv().is_ok());
            assert_eq!(eviction == Eviction::Ordered, evicted.is_some());
            evicted
        }
    }

    #[test]
    fn a_source_is_an_address_of_ipv4_or_a_network_of_ipv6() {
        let of = |text: &str| ClientSource::of(text.parse().unwrap());
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_connection_of_the_largest_source_is_evicted_first() {
        let mut listed = ListedConnections::new();
        for from in [1, 2, 2, 3, 2, 3] {
            listed.add(from, Stage::AwaitingHello);
        }
        // Source 2 has three; then 2 and 3 have two each, of which 2 has the older; then 3 has two.
        assert_eq!([9; 4].map(|newcomer| listed.evicted_for(newcomer)), [1, 2, 3, 0].map(Some));
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_sources_with_one_connection_each_the_oldest_is_evicted() {
        let mut listed = ListedConnections::new();
        for from in 1..=100 {
            listed.add(from, Stage::AwaitingHello);
        }
        assert_eq!([listed.evicted_for(101), listed.evicted_for(102)], [Some(0), Some(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connections_are_evicted_before_those_whose_hello_was_read() {
        let mut listed = ListedConnections::new();
        for from in [1, 1, 1, 2] {
            listed.add(from, Stage::AwaitingHello);
        }
        listed.pending.on_client_hello(0);
        listed.pending.on_client_hello(1);
        listed.pending.on_client_hello(2);
        assert_eq!([listed.evicted_for(9), listed.evicted_for(9)], [Some(3), Some(0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn devices_that_reconnect_all_at_once_do_not_evict_each_other() {
        let mut listed = ListedConnections::new();
        listed.add(1, Stage::HelloRead);
        tokio::time::advance(GRACE / 2).await;
        listed.add(2, Stage::HelloRead);
        assert_eq!(listed.evicted_for(3), None);
        tokio::time::advance(GRACE / 2).await;
        assert_eq!(listed.evicted_for(3), Some(0), "its protection has ended");
        assert_eq!(listed.evicted_for(3), None);
        let until = Instant::now() + GRACE / 2;
        assert_eq!(listed.pending.evict_for(Scope::Process, source(3)), Eviction::NotBefore(until));
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_with_many_handshakes_is_not_protected_against_others() {
        let mut listed = ListedConnections::new();
        for _ in 0..3 {
            listed.add(1, Stage::HelloRead);
        }
        assert_eq!(
            listed.evicted_for(1),
            None,
            "connections of one source do not evict each other"
        );
        assert_eq!([listed.evicted_for(2), listed.evicted_for(2)], [Some(0), Some(1)]);
        assert_eq!(listed.evicted_for(2), None, "it has as many as the other would have");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_another_listener_are_evicted_for_the_process_only() {
        let mut listed = ListedConnections::new();
        listed.add(1, Stage::AwaitingHello);
        let mut ask = |scope| listed.pending.evict_for(scope, source(2));
        assert_eq!(ask(Scope::Listener(1)), Eviction::NoCandidate);
        assert_eq!(ask(Scope::Process), Eviction::Ordered);
        assert_eq!(ask(Scope::Listener(0)), Eviction::NoCandidate);
        assert!(!listed.pending.remove(0), "it was evicted");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_have_ended_leave_nothing_behind() {
        let mut listed = ListedConnections::new();
        for from in 0..=255 {
            listed.add(from, Stage::AwaitingHello);
        }
        (0..256).for_each(|id| listed.pending.on_client_hello(id));
        assert!((0..256).all(|id| listed.pending.remove(id)));
        let PendingSet { entries, process, listeners, .. } = listed.pending;
        assert!(entries.is_empty() && entries.capacity() < 64);
        for Queues { awaiting_hello, hello_read } in listeners.into_iter().chain([process]) {
            for queue in [awaiting_hello, hello_read] {
                assert!(queue.by_source.is_empty() && queue.order.is_empty());
                assert!(queue.by_source.capacity() < 64);
            }
        }
    }
}
