//! The offers of the last 24 hours: what the devices that have connected can do.
//!
//! **Promises.** At most [`MAX_CLASSES`] classes are kept, with one example each. In a full table a new class replaces the
//! one that was seen longest ago. A handshake costs one look-up under one lock.
//!
//! **Not here.** The classes (`terms/offer_class.rs`), the answer to `GET /offers` (`offer_facts.rs`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::lock::Lock;
use crate::metrics::ListenerMetrics;
use crate::terms::offer_class::OfferClass;
use crate::time::unix_seconds;

/// The classes that are kept at most, of some hundred bytes each.
const MAX_CLASSES: usize = 256;

/// The hours that count.
const HOURS: usize = 24;

const HOUR: i64 = 3600;

/// The offers of all listeners.
#[derive(Default)]
pub(crate) struct Offers(Lock<OfferTable>);

#[derive(Default)]
struct OfferTable {
    by_key: HashMap<OfferKey, OfferCounts>,
    /// The classes of the last 24 hours that did not find a place or lost it, since the start.
    replaced: u64,
}

/// The offers that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct OfferKey {
    /// The address of its metrics, which live as long as the process.
    listener: usize,
    route: Option<usize>,
    class: OfferClass,
}

/// The handshakes with one offer.
struct OfferCounts {
    metrics: Arc<ListenerMetrics>,
    /// The number in each hour of the last 24, by the hour's remainder.
    hours: [u32; HOURS],
    /// The hour of the last handshake, since 1970.
    last: i64,
    example: OfferExample,
}

/// A device with an offer: the first of the last hour in which there was one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OfferExample {
    pub(crate) identity: Option<Box<str>>,
    pub(crate) peer: SocketAddr,
    pub(crate) server_name: Option<Box<str>>,
    pub(crate) alpn: Option<Box<str>>,
}

/// The handshakes of the last 24 hours with one offer.
pub(crate) struct SeenOffer {
    pub(crate) metrics: Arc<ListenerMetrics>,
    pub(crate) route: Option<usize>,
    pub(crate) class: OfferClass,
    pub(crate) handshakes: u64,
    /// Unix time of the hour of the last one.
    pub(crate) last: i64,
    pub(crate) example: OfferExample,
}

impl Offers {
    /// Counts a complete handshake. `example` is called if the class needs a new example.
    pub(crate) fn note(
        &self,
        metrics: &Arc<ListenerMetrics>,
        (route, class): (Option<usize>, OfferClass),
        example: impl FnOnce() -> OfferExample,
    ) {
        let hour = unix_seconds(SystemTime::now()) / HOUR;
        self.0.lock().note(metrics, (route, class), hour, example);
    }

    /// Returns the offers of the last 24 hours, and the number of those that were replaced.
    pub(crate) fn seen(&self) -> (Vec<SeenOffer>, u64) {
        self.0.lock().seen(unix_seconds(SystemTime::now()) / HOUR)
    }
}

impl OfferTable {
    fn note(
        &mut self,
        metrics: &Arc<ListenerMetrics>,
        (route, class): (Option<usize>, OfferClass),
        hour: i64,
        example: impl FnOnce() -> OfferExample,
    ) {
        let key = OfferKey { listener: Arc::as_ptr(metrics).addr(), route, class };
        if let Some(counts) = self.by_key.get_mut(&key) {
            counts.note(hour, example);
            return;
        }
        if self.by_key.len() >= MAX_CLASSES {
            self.make_room(hour);
        }
        let (metrics, example) = (Arc::clone(metrics), example());
        let mut counts = OfferCounts { metrics, hours: [0; HOURS], last: hour, example };
        counts.hours[place(hour)] = 1;
        self.by_key.insert(key, counts);
    }

    /// Removes the class that was seen longest ago; of several, the one with the fewest handshakes in its last hour.
    fn make_room(&mut self, hour: i64) {
        let age = |counts: &OfferCounts| (counts.last, counts.hours[place(counts.last)]);
        let oldest = self.by_key.iter().min_by_key(|(_, counts)| age(counts));
        let oldest = oldest.map(|(key, counts)| (*key, counts.is_recent(hour)));
        if let Some((key, is_recent)) = oldest {
            self.by_key.remove(&key);
            self.replaced += u64::from(is_recent);
        }
    }

    fn seen(&self, hour: i64) -> (Vec<SeenOffer>, u64) {
        let recent = self.by_key.iter().filter(|(_, counts)| counts.is_recent(hour));
        let seen = recent.map(|(key, counts)| SeenOffer {
            metrics: Arc::clone(&counts.metrics),
            route: key.route,
            class: key.class,
            handshakes: counts.within(hour),
            last: counts.last * HOUR,
            example: counts.example.clone(),
        });
        (seen.collect(), self.replaced)
    }
}

impl OfferCounts {
    fn note(&mut self, hour: i64, example: impl FnOnce() -> OfferExample) {
        if hour > self.last {
            // The hours in between had no handshake.
            let first = (self.last + 1).max(hour - hours() + 1);
            (first..=hour).for_each(|passed| self.hours[place(passed)] = 0);
            self.last = hour;
            self.example = example();
        }
        let count = &mut self.hours[place(self.last)];
        *count = count.saturating_add(1);
    }

    const fn is_recent(&self, hour: i64) -> bool {
        hour - self.last < hours()
    }

    /// Returns the handshakes of the 24 hours that end with `hour`.
    fn within(&self, hour: i64) -> u64 {
        let first = (hour - hours() + 1).max(self.last - hours() + 1);
        (first..=self.last).map(|hour| u64::from(self.hours[place(hour)])).sum()
    }
}

const fn hours() -> i64 {
    HOURS as i64
}

/// Returns the place of an hour in the list of hours.
fn place(hour: i64) -> usize {
    usize::try_from(hour.rem_euclid(hours())).expect("it is less than 24")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn class(number: u64) -> OfferClass {
        OfferClass::from_number(number).unwrap()
    }

    fn example(port: u16) -> OfferExample {
        let peer = ([192, 0, 2, 1], port).into();
        OfferExample { identity: None, peer, server_name: None, alpn: None }
    }

    /// Returns the count and the example's port of each class that is seen at `hour`, by its number.
    fn seen(table: &OfferTable, hour: i64) -> Vec<(u64, u64, u16)> {
        let (seen, _) = table.seen(hour);
        let of = |one: &SeenOffer| (one.class.number(), one.handshakes, one.example.peer.port());
        let mut seen: Vec<_> = seen.iter().map(of).collect();
        seen.sort_unstable();
        seen
    }

    #[test]
    fn handshakes_are_counted_for_24_hours_with_an_example_of_the_last_hour() {
        let (metrics, mut table) = (Metrics::new().listener("test"), OfferTable::default());
        let mut note = |hour, number, port| {
            table.note(&metrics, (None, class(number)), hour, || example(port));
            table.seen(hour).0.len()
        };
        assert_eq!((note(100, 1, 1), note(100, 1, 2), note(101, 2, 3)), (1, 1, 2));
        assert_eq!(note(110, 1, 4), 2);
        assert_eq!(seen(&table, 110), [(1, 3, 4), (2, 1, 3)]);
        assert_eq!(seen(&table, 123), [(1, 3, 4), (2, 1, 3)], "the hour 100 is the 24th");
        assert_eq!(seen(&table, 124), [(1, 1, 4), (2, 1, 3)]);
        assert_eq!(seen(&table, 125), [(1, 1, 4)]);
        assert_eq!(seen(&table, 134), []);
        table.note(&metrics, (None, class(1)), 300, || example(5));
        assert_eq!(seen(&table, 300), [(1, 1, 5)], "nothing is left of an earlier day");
    }

    #[test]
    fn listeners_and_routes_are_counted_by_themselves() {
        let metrics = [Metrics::new().listener("a"), Metrics::new().listener("b")];
        let mut table = OfferTable::default();
        for (place, route) in [(0, None), (0, Some(0)), (1, None)] {
            table.note(&metrics[place], (route, class(1)), 1, || example(1));
        }
        assert_eq!(table.seen(1).0.len(), 3);
    }

    #[test]
    fn a_full_table_replaces_the_class_that_was_seen_longest_ago() {
        let (metrics, mut table) = (Metrics::new().listener("test"), OfferTable::default());
        table.note(&metrics, (None, class(0)), 50, || example(1));
        for number in 1..=10 * MAX_CLASSES as u64 {
            table.note(&metrics, (None, class(1)), 51, || example(2));
            table.note(&metrics, (None, class(number)), 51, || example(1));
        }
        assert_eq!(table.by_key.len(), MAX_CLASSES);
        let classes: Vec<_> = seen(&table, 51).iter().map(|(number, ..)| *number).collect();
        assert!(!classes.contains(&0) && classes.contains(&1), "{classes:?}");
        assert_eq!(table.replaced, 9 * MAX_CLASSES as u64 + 1);
    }
}
