//! Devices that stand out: those that fail most, transfer most, connect most.
//!
//! **Promises.** Each table holds at most [`NAMES`] names, however many devices there are. In a full table a
//! new name replaces the one with the lowest count and inherits that count (Metwally, Agrawal, El Abbadi:
//! "Efficient computation of frequent and top-k elements in data streams", 2005). A count is therefore never
//! too low, is too high by at most the error that is returned with it, and every device with a higher count
//! than this error is in the table. Counts cover the last one to two hours: one table is for the current hour,
//! one for the hour before.
//!
//! **Not here.** The output (`admin/views.rs`), the definition of a failure (`Reason::is_failure`).

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::lock::Lock;
use crate::terms::closed_set::closed_set;

/// Names in a table, about a hundred bytes each.
const NAMES: usize = 256;

/// Duration of the current table.
const PERIOD: Duration = Duration::from_secs(3600);

closed_set! {
    /// The name by which devices are counted.
    pub(crate) enum By {
        /// The identity in the verified certificate.
        Identity => "identity",
        /// The source address.
        Peer => "peer",
        /// The certificate that was refused.
        Certificate => "certificate",
    }
}

closed_set! {
    /// The counted quantity.
    pub(crate) enum What {
        /// Connections that ended by a fault of the device, the network, the backend or tlsidecar.
        Failures => "failures",
        /// Plaintext bytes in both directions, of connections that have ended.
        Bytes => "bytes",
        /// Connections that have begun.
        Connections => "connections",
    }
}

/// The tables, by name and quantity.
#[derive(Default)]
pub(crate) struct Top {
    identities: Tables<Arc<str>>,
    peers: Tables<IpAddr>,
    certificates: Tables<Arc<str>>,
}

/// The tables of one kind of names, one for each [`What`].
type Tables<N> = [Lock<Hours<N>>; What::ALL.len()];

/// The highest counts, and their error.
pub(crate) struct Counts {
    /// In no order.
    pub(crate) counts: HashMap<Box<str>, u64>,
    /// Upper bound of the excess in each count.
    pub(crate) error_at_most: u64,
    /// Start of the counted time; none if nothing has been counted.
    pub(crate) since: Option<Instant>,
}

impl Top {
    /// Counts a connection of a peer that has begun.
    pub(crate) fn connected(&self, peer: IpAddr) {
        count(&self.peers, Instant::now(), What::Connections, &peer, 1);
    }

    /// Counts a connection of a client whose certificate was verified.
    pub(crate) fn identified(&self, identity: &str) {
        count(&self.identities, Instant::now(), What::Connections, identity, 1);
    }

    /// Counts a connection that has ended, with its plaintext bytes in both directions, and whether it has failed.
    pub(crate) fn ended(&self, peer: IpAddr, identity: Option<&str>, bytes: u64, has_failed: bool) {
        let now = Instant::now();
        let amounts = [(What::Failures, has_failed.into()), (What::Bytes, bytes)];
        for (what, amount) in amounts.into_iter().filter(|(_, amount)| *amount > 0) {
            count(&self.peers, now, what, &peer, amount);
            if let Some(identity) = identity {
                count(&self.identities, now, what, identity, amount);
            }
        }
    }

    /// Counts a connection whose certificate was refused.
    pub(crate) fn refused(&self, certificate: &str) {
        count(&self.certificates, Instant::now(), What::Failures, certificate, 1);
    }

    /// Returns the current counts of a table.
    pub(crate) fn counts(&self, by: By, what: What) -> Counts {
        match by {
            By::Identity => counts(&self.identities, what),
            By::Peer => counts(&self.peers, what),
            By::Certificate => counts(&self.certificates, what),
        }
    }
}

fn count<Q: Name + ?Sized>(
    tables: &Tables<Q::Kept>,
    now: Instant,
    what: What,
    name: &Q,
    amount: u64,
) {
    let mut hours = tables[what as usize].lock();
    hours.turn(now);
    hours.current.count(name, amount);
}

fn counts<N: Hash + Eq + ToString>(tables: &Tables<N>, what: What) -> Counts {
    let mut hours = tables[what as usize].lock();
    hours.turn(Instant::now());
    hours.counts()
}

/// A name that is counted.
trait Name: Hash + Eq {
    /// The same name in a table.
    type Kept: Borrow<Self> + Hash + Eq + Clone;

    fn kept(&self) -> Self::Kept;
}

impl Name for str {
    type Kept = Arc<Self>;

    fn kept(&self) -> Arc<Self> {
        self.into()
    }
}

// Not as text, which would be made twice for each connection.
impl Name for IpAddr {
    type Kept = Self;

    fn kept(&self) -> Self {
        *self
    }
}

/// The current hour and the one before.
struct Hours<N> {
    current: CountTable<N>,
    before: CountTable<N>,
    /// Start of the current hour.
    began: Option<Instant>,
    /// Start of the hour before, if there is one.
    before_began: Option<Instant>,
}

// Not derived: that would require it of the name.
impl<N> Default for Hours<N> {
    fn default() -> Self {
        let (current, before) = (CountTable::default(), CountTable::default());
        Self { current, before, began: None, before_began: None }
    }
}

impl<N> Hours<N> {
    /// Begins a new hour if the current one is over.
    fn turn(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let age = now.saturating_duration_since(began);
        if age < PERIOD {
            return;
        }
        let last = std::mem::take(&mut self.current);
        (self.before, self.before_began, self.began) = if age < 2 * PERIOD {
            (last, Some(began), Some(began + PERIOD))
        } else {
            // Nothing was counted for a whole hour.
            (CountTable::default(), None, Some(now))
        };
    }

    fn counts(&self) -> Counts
    where
        N: Hash + Eq + ToString,
    {
        let errors = [self.current.error_at_most(), self.before.error_at_most()];
        let mut counts = HashMap::new();
        for (table, other, missed) in
            [(&self.current, &self.before, errors[1]), (&self.before, &self.current, errors[0])]
        {
            for (name, &place) in &table.places {
                // A name that is missing in the other table may have been evicted there, with a count of at most
                // that table's error.
                let elsewhere = other.count_of(name).unwrap_or(missed);
                counts
                    .insert(name.to_string().into(), table.counts[place].saturating_add(elsewhere));
            }
        }
        let error_at_most = errors[0].saturating_add(errors[1]);
        let since = self.before_began.or(self.began);
        Counts { counts, error_at_most, since }
    }
}

impl Counts {
    /// Adds to the count of `name`. A new name was in no table and starts at the error.
    pub(crate) fn add(&mut self, name: Box<str>, amount: u64) {
        let count = self.counts.entry(name).or_insert(self.error_at_most);
        *count = count.saturating_add(amount);
    }
}

/// Counts of at most [`NAMES`] names.
struct CountTable<N> {
    places: HashMap<N, usize>,
    /// The name at each place, so that the one with the lowest count is removed without a walk over the map.
    names: Vec<N>,
    /// Contiguous, so that the lowest is found fast.
    counts: Vec<u64>,
}

impl<N> Default for CountTable<N> {
    fn default() -> Self {
        Self { places: HashMap::default(), names: Vec::new(), counts: Vec::new() }
    }
}

impl<N> CountTable<N> {
    fn count<Q: Name<Kept = N> + ?Sized>(&mut self, name: &Q, amount: u64)
    where
        N: Borrow<Q> + Hash + Eq + Clone,
    {
        if let Some(&place) = self.places.get(name) {
            self.counts[place] = self.counts[place].saturating_add(amount);
            return;
        }
        let name = name.kept();
        if self.counts.len() < NAMES {
            self.places.insert(name.clone(), self.counts.len());
            self.names.push(name);
            self.counts.push(amount);
            return;
        }
        let least = self.counts.iter().enumerate().min_by_key(|(_, count)| **count);
        let Some((place, _)) = least else { return };
        self.places.remove(self.names[place].borrow());
        self.places.insert(name.clone(), place);
        self.names[place] = name;
        self.counts[place] = self.counts[place].saturating_add(amount);
    }

    fn count_of(&self, name: &N) -> Option<u64>
    where
        N: Hash + Eq,
    {
        self.places.get(name).map(|&place| self.counts[place])
    }

    /// Returns the lowest count of a full table: no name outside the table has a higher one.
    fn error_at_most(&self) -> u64 {
        if self.counts.len() < NAMES {
            return 0;
        }
        self.counts.iter().copied().min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_count_above_the_error_is_found_among_very_many() {
        let mut table = CountTable::default();
        let mut total = 0;
        for round in 0..2_000_u64 {
            // Every tenth has the same name, the others are unique.
            let name = if round % 10 == 0 { "often".to_owned() } else { format!("once-{round}") };
            table.count(name.as_str(), 1);
            total += 1;
        }
        assert_eq!(table.places.len(), NAMES);
        assert!(table.error_at_most() <= total / NAMES as u64);
        let often = table.counts[table.places["often"]];
        assert!((200..=200 + table.error_at_most()).contains(&often), "{often}");
    }

    #[test]
    fn no_count_is_too_low_when_two_full_hours_make_one_answer() {
        let mut hours = Hours::default();
        let mut truth = HashMap::new();
        let mut count = |table: &mut CountTable<Arc<str>>, name: String, amount| {
            table.count(name.as_str(), amount);
            *truth.entry(name).or_insert(0) += amount;
        };
        // Evicted from the table of the hour before, and frequent in the current one.
        for n in 0..100 {
            count(&mut hours.before, format!("both-{n}"), 7);
            count(&mut hours.current, format!("both-{n}"), 1_000);
        }
        for n in 0..2_000_u64 {
            count(&mut hours.before, format!("before-{}", n % 700), 10 + n % 3);
            count(&mut hours.current, format!("now-{}", n % 600), 1 + n % 5);
        }
        let found = hours.counts();
        assert!(!hours.before.places.contains_key("both-0"));
        for (name, count) in &found.counts {
            let truth = truth[&**name];
            assert!(*count >= truth, "{name}: {count} for {truth}");
            assert!(*count <= truth + found.error_at_most, "{name}: {count} for {truth}");
        }
        for (name, truth) in truth {
            let known = found.counts.contains_key(name.as_str());
            assert!(known || truth <= found.error_at_most, "{name}: {truth}");
        }
    }

    #[test]
    fn a_count_is_of_one_to_two_hours() {
        let start = Instant::now();
        let mut hours = Hours::default();
        let mut count_at = |minutes: u64, name: &str| {
            hours.turn(start + Duration::from_secs(60 * minutes));
            hours.current.count(name, 1);
            let found = hours.counts();
            let mut counts: Vec<_> = found.counts.into_iter().collect();
            counts.sort_unstable();
            let counts = counts.iter().map(|(name, count)| format!("{name} {count}"));
            let since = found.since.unwrap().duration_since(start).as_secs() / 60;
            (counts.collect::<Vec<_>>().join(", "), since)
        };
        let expected = |counts: &str, since| (counts.to_owned(), since);
        assert_eq!(count_at(0, "a"), expected("a 1", 0));
        assert_eq!(count_at(59, "a"), expected("a 2", 0));
        assert_eq!(count_at(110, "b"), expected("a 2, b 1", 0), "the hour before is included");
        assert_eq!(count_at(121, "b"), expected("b 2", 60), "two hours ago is not");
        assert_eq!(
            count_at(600, "d"),
            expected("d 1", 600),
            "after a long silence nothing is left"
        );
    }
}
