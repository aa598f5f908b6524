//! Connections that have not completed their handshake, and which of them makes room for another.
//!
//! **Promises.** The oldest connection of the source that has most of them goes first, and of sources
//! that have as many, the oldest connection of all. Those whose ClientHello has not come whole go
//! before those whose has; these have [`GRACE`], except where another source has more of them than
//! the newcomer's. So neither one source nor many can keep others out by saying nothing, and devices
//! that come back all at once do not push each other out in mid-handshake. Each step takes a time that
//! grows with the logarithm of how many connections there are.
//!
//! **Not here.** When room is needed (`admission.rs`), what ends a connection (`connection.rs`).

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a handshake may take, from its listing, before it makes room for one of a source that has
/// as many: a few round trips of a mobile network.
const GRACE: Duration = Duration::from_millis(500);

/// Where connections come from: one host, or one network of IPv6, of which any host can use all
/// addresses (RFC 4291 section 2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Source {
    /// An address of IPv4.
    V4(Ipv4Addr),
    /// The first 64 bits of an address of IPv6.
    V6([u16; 4]),
}

impl Source {
    /// The source of an address; one of IPv4 that is mapped into IPv6 is one of IPv4.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// How far a handshake has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The ClientHello has not come whole.
    Silent,
    /// The ClientHello has been read.
    Heard,
}

/// Whose connections make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those of one listener, by its number.
    Listener(usize),
    /// Those of all listeners.
    Process,
}

/// What comes of asking for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// A connection has been asked to end.
    Made,
    /// None may be asked before then.
    From(Instant),
    /// There is none that could be asked.
    None,
}

/// The connections that have not completed their handshake.
#[derive(Debug, Default)]
pub(super) struct Pending {
    next: u64,
    /// By their numbers, which increase with time.
    entries: HashMap<u64, Entry>,
    process: Queues,
    /// By the listeners' numbers.
    listeners: Vec<Queues>,
}

#[derive(Debug)]
struct Entry {
    source: Source,
    listener: usize,
    stage: Stage,
    since: Instant,
    evict: oneshot::Sender<()>,
}

impl Pending {
    /// Adds a listener and returns its number.
    pub(super) fn add_listener(&mut self) -> usize {
        self.listeners.push(Queues::default());
        self.listeners.len() - 1
    }

    /// Lists a connection; returns its number, and what completes when it has to make room.
    pub(super) fn list(
        &mut self,
        listener: usize,
        source: Source,
        stage: Stage,
    ) -> (u64, oneshot::Receiver<()>) {
        let id = self.next;
        self.next += 1;
        let (evict, evicted) = oneshot::channel();
        let entry = Entry { source, listener, stage, since: Instant::now(), evict };
        self.entries.insert(id, entry);
        for queues in [&mut self.process, &mut self.listeners[listener]] {
            queues.of(stage).insert(source, id);
        }
        (id, evicted)
    }

    /// The ClientHello of a listed connection has been read.
    pub(super) fn heard(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let before = std::mem::replace(&mut entry.stage, Stage::Heard);
        let (source, listener) = (entry.source, entry.listener);
        for queues in [&mut self.process, &mut self.listeners[listener]] {
            queues.of(before).remove(source, id);
            queues.of(Stage::Heard).insert(source, id);
        }
    }

    /// Lists a connection no more; false if it had to make room.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        self.take(id).is_some()
    }

    /// Asks a connection of `scope` to end, so that there is room for one of `source`.
    pub(super) fn make_room(&mut self, scope: Scope, source: Source) -> Room {
        let queues = match scope {
            Scope::Process => &self.process,
            Scope::Listener(number) => &self.listeners[number],
        };
        let victim = match (queues.silent.first(), queues.heard.first()) {
            (Some(silent), _) => silent,
            (None, Some(heard)) if queues.heard.is_outnumbered(source) => heard,
            (None, Some(heard)) => {
                let until = self.entries[&heard].since + GRACE;
                if Instant::now() < until {
                    return Room::From(until);
                }
                heard
            }
            (None, None) => return Room::None,
        };
        if let Some(entry) = self.take(victim) {
            // Its task may just have ended by itself: then there is room as well.
            let _ended = entry.evict.send(());
        }
        Room::Made
    }

    fn take(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        for queues in [&mut self.process, &mut self.listeners[entry.listener]] {
            queues.of(entry.stage).remove(entry.source, id);
        }
        // What a flood has left is given back.
        if self.entries.len() < self.entries.capacity() / 8 {
            self.entries.shrink_to_fit();
        }
        Some(entry)
    }
}

/// The connections of one scope, by their stage.
#[derive(Debug, Default)]
struct Queues {
    silent: Queue,
    heard: Queue,
}

impl Queues {
    const fn of(&mut self, stage: Stage) -> &mut Queue {
        match stage {
            Stage::Silent => &mut self.silent,
            Stage::Heard => &mut self.heard,
        }
    }
}

/// Connections in the order in which they go.
#[derive(Debug, Default)]
struct Queue {
    by_source: HashMap<Source, BTreeSet<u64>>,
    /// How many each source has, and its oldest: the last one goes first.
    order: BTreeSet<(usize, Reverse<u64>, Source)>,
}

impl Queue {
    fn insert(&mut self, source: Source, id: u64) {
        self.change(source, |ids| ids.insert(id));
    }

    fn remove(&mut self, source: Source, id: u64) {
        self.change(source, |ids| ids.remove(&id));
    }

    fn change(&mut self, source: Source, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let ids = self.by_source.entry(source).or_default();
        if let Some(&oldest) = ids.first() {
            self.order.remove(&(ids.len(), Reverse(oldest), source));
        }
        change(ids);
        match ids.first() {
            Some(&oldest) => {
                self.order.insert((ids.len(), Reverse(oldest), source));
            }
            None => {
                self.by_source.remove(&source);
                if self.by_source.len() < self.by_source.capacity() / 8 {
                    self.by_source.shrink_to_fit();
                }
            }
        }
    }

    /// The oldest connection of the largest source.
    fn first(&self) -> Option<u64> {
        self.order.last().map(|&(_, Reverse(oldest), _)| oldest)
    }

    /// Whether the largest source has more than `source` would have with one more.
    fn is_outnumbered(&self, source: Source) -> bool {
        let own = self.by_source.get(&source).map_or(0, BTreeSet::len);
        self.order.last().is_some_and(|&(most, ..)| most > own + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        Source::of(IpAddr::from([192, 0, 2, last]))
    }

    /// Those of a listener, in the order in which they have been asked to end.
    struct Listed {
        pending: Pending,
        ends: Vec<oneshot::Receiver<()>>,
    }

    impl Listed {
        fn new() -> Self {
            let mut pending = Pending::default();
            pending.add_listener();
            pending.add_listener();
            Self { pending, ends: Vec::new() }
        }

        fn add(&mut self, from: u8, stage: Stage) {
            let (id, evicted) = self.pending.list(0, source(from), stage);
            assert_eq!(id, self.ends.len() as u64);
            self.ends.push(evicted);
        }

        /// Asks for room for `newcomer`; returns which one has to go.
        fn goes(&mut self, newcomer: u8) -> Option<usize> {
            let room = self.pending.make_room(Scope::Listener(0), source(newcomer));
            let gone = self.ends.iter_mut().position(|end| end.try_recv().is_ok());
            assert_eq!(room == Room::Made, gone.is_some());
            gone
        }
    }

    #[test]
    fn a_source_is_an_address_of_ipv4_or_a_network_of_ipv6() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_the_largest_source_goes_first() {
        let mut listed = Listed::new();
        for from in [1, 2, 2, 3, 2, 3] {
            listed.add(from, Stage::Silent);
        }
        // Source 2 has three; then 2 and 3 have two each, of which 2 has the older; then 3 has two.
        assert_eq!([9; 4].map(|newcomer| listed.goes(newcomer)), [1, 2, 3, 0].map(Some));
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_sources_with_one_each_the_oldest_goes() {
        let mut listed = Listed::new();
        for from in 1..=100 {
            listed.add(from, Stage::Silent);
        }
        assert_eq!([listed.goes(101), listed.goes(102)], [Some(0), Some(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_say_nothing_go_before_those_whose_hello_was_read() {
        let mut listed = Listed::new();
        for from in [1, 1, 1, 2] {
            listed.add(from, Stage::Silent);
        }
        listed.pending.heard(0);
        listed.pending.heard(1);
        listed.pending.heard(2);
        assert_eq!([listed.goes(9), listed.goes(9)], [Some(3), Some(0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn devices_that_come_back_all_at_once_do_not_push_each_other_out() {
        let mut listed = Listed::new();
        listed.add(1, Stage::Heard);
        tokio::time::advance(GRACE / 2).await;
        listed.add(2, Stage::Heard);
        assert_eq!(listed.goes(3), None);
        tokio::time::advance(GRACE / 2).await;
        assert_eq!(listed.goes(3), Some(0), "it has had its time");
        assert_eq!(listed.goes(3), None);
        let until = Instant::now() + GRACE / 2;
        assert_eq!(listed.pending.make_room(Scope::Process, source(3)), Room::From(until));
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_with_many_handshakes_has_no_grace_before_others() {
        let mut listed = Listed::new();
        for _ in 0..3 {
            listed.add(1, Stage::Heard);
        }
        assert_eq!(listed.goes(1), None, "its own do not push each other out");
        assert_eq!([listed.goes(2), listed.goes(2)], [Some(0), Some(1)]);
        assert_eq!(listed.goes(2), None, "it has as many as the other would have");
    }

    #[tokio::test(start_paused = true)]
    async fn another_listeners_connections_make_room_for_the_process_alone() {
        let mut listed = Listed::new();
        listed.add(1, Stage::Silent);
        let mut ask = |scope| listed.pending.make_room(scope, source(2));
        assert_eq!(ask(Scope::Listener(1)), Room::None);
        assert_eq!(ask(Scope::Process), Room::Made);
        assert_eq!(ask(Scope::Listener(0)), Room::None);
        assert!(!listed.pending.remove(0), "it had to go");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_left_of_those_that_have_gone() {
        let mut listed = Listed::new();
        for from in 0..=255 {
            listed.add(from, Stage::Silent);
        }
        (0..256).for_each(|id| listed.pending.heard(id));
        assert!((0..256).all(|id| listed.pending.remove(id)));
        let Pending { entries, process, listeners, .. } = listed.pending;
        assert!(entries.is_empty() && entries.capacity() < 64);
        for Queues { silent, heard } in listeners.into_iter().chain([process]) {
            for queue in [silent, heard] {
                assert!(queue.by_source.is_empty() && queue.order.is_empty());
                assert!(queue.by_source.capacity() < 64);
            }
        }
    }
}
