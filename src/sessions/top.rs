//! Who stands out: the devices that fail most, move most, connect most.
//!
//! **Promises.** However many devices there are, each table holds [`NAMES`] names: when it is full, the
//! least of them makes room for a new one, which takes over its count (Metwally, Agrawal, El Abbadi:
//! "Efficient computation of frequent and top-k elements in data streams", 2005). So a count is never
//! too low, is too high by at most what the answer states, and who counts for more than that is in the
//! table. Counts are of the last one to two hours: there is a table for the present hour and one for the hour
//! before.
//!
//! **Not here.** Who asks (`admin/views.rs`), what a failure is (`Reason::is_failure`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use crate::lock::Lock;
use crate::terms::closed_set::closed_set;
use crate::terms::reason::Reason;

/// Names that a table holds: a hundred bytes or so each.
const NAMES: usize = 256;

/// How long a table is the present one.
const PERIOD: Duration = Duration::from_secs(3600);

closed_set! {
    /// What devices are told apart by.
    pub(crate) enum By {
        /// Who they are by their verified certificates.
        Identity => "identity",
        /// The address that they come from.
        Peer => "peer",
    }
}

closed_set! {
    /// What is counted of them.
    pub(crate) enum What {
        /// Connections that ended by a fault of the device, the network, the backend or ours.
        Failures => "failures",
        /// Plaintext bytes of connections that have ended, both directions.
        Bytes => "bytes",
        /// Connections that have begun.
        Connections => "connections",
    }
}

/// The tables, one for each pair of [`By`] and [`What`].
#[derive(Default)]
pub(crate) struct Top {
    tables: [[Lock<Hours>; What::ALL.len()]; By::ALL.len()],
}

/// Who counts most, and how sure that is.
pub(crate) struct Standing {
    /// In no order.
    pub(crate) counts: HashMap<Box<str>, u64>,
    /// How much too high each count may be.
    pub(crate) error_at_most: u64,
    /// Since when it is counted; none if nothing has been.
    pub(crate) since: Option<SystemTime>,
}

impl Top {
    /// A connection has begun.
    pub(crate) fn connected(&self, by: By, name: &str) {
        self.count(by, What::Connections, name, 1);
    }

    /// Counts a connection that ended after `bytes` in both directions.
    pub(crate) fn ended(&self, peer: IpAddr, identity: Option<&str>, bytes: u64, reason: Reason) {
        let peer = peer.to_string();
        let names = [(By::Peer, Some(peer.as_str())), (By::Identity, identity)];
        for (by, name) in names.into_iter().filter_map(|(by, name)| Some((by, name?))) {
            if reason.is_failure() {
                self.count(by, What::Failures, name, 1);
            }
            if bytes > 0 {
                self.count(by, What::Bytes, name, bytes);
            }
        }
    }

    /// Who counts most now.
    pub(crate) fn standing(&self, by: By, what: What) -> Standing {
        let mut hours = self.table(by, what).lock();
        hours.turn(Beginning::now());
        hours.standing()
    }

    fn count(&self, by: By, what: What, name: &str, amount: u64) {
        let mut hours = self.table(by, what).lock();
        hours.turn(Beginning::now());
        hours.present.count(name, amount);
    }

    const fn table(&self, by: By, what: What) -> &Lock<Hours> {
        &self.tables[by as usize][what as usize]
    }
}

/// The present hour and the one before.
#[derive(Default)]
struct Hours {
    present: Table,
    before: Table,
    /// When the present one began.
    began: Option<Beginning>,
    /// When the one before began, if there is one.
    before_began: Option<Beginning>,
}

/// A moment, by a clock that nobody sets, and as people know it.
#[derive(Clone, Copy)]
struct Beginning(Instant, SystemTime);

impl Beginning {
    fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }
}

impl Hours {
    /// Begins a new hour if the present one is over.
    fn turn(&mut self, now: Beginning) {
        let began = *self.began.get_or_insert(now);
        let age = now.0.saturating_duration_since(began.0);
        if age < PERIOD {
            return;
        }
        let last = std::mem::take(&mut self.present);
        (self.before, self.before_began, self.began) = if age < 2 * PERIOD {
            (last, Some(began), Some(Beginning(began.0 + PERIOD, began.1 + PERIOD)))
        } else {
            // It has been quiet for a whole hour.
            (Table::default(), None, Some(now))
        };
    }

    fn standing(&self) -> Standing {
        let errors = [self.present.error_at_most(), self.before.error_at_most()];
        let mut counts = HashMap::new();
        for (table, other, missed) in
            [(&self.present, &self.before, errors[1]), (&self.before, &self.present, errors[0])]
        {
            for (name, &place) in &table.places {
                // Who is not in the other table may have been, for no more than its error.
                let elsewhere = other.count_of(name).unwrap_or(missed);
                counts.insert(name.clone(), table.counts[place].saturating_add(elsewhere));
            }
        }
        let error_at_most = errors[0].saturating_add(errors[1]);
        let since = self.before_began.or(self.began).map(|began| began.1);
        Standing { counts, error_at_most, since }
    }
}

impl Standing {
    /// Adds to the count of `name`, which was in no table if it is new.
    pub(crate) fn add(&mut self, name: Box<str>, amount: u64) {
        let count = self.counts.entry(name).or_insert(self.error_at_most);
        *count = count.saturating_add(amount);
    }
}

/// Counts of at most [`NAMES`] names.
#[derive(Default)]
struct Table {
    places: HashMap<Box<str>, usize>,
    /// Beside each other, so that the least is found fast.
    counts: Vec<u64>,
}

impl Table {
    fn count(&mut self, name: &str, amount: u64) {
        if let Some(&place) = self.places.get(name) {
            self.counts[place] = self.counts[place].saturating_add(amount);
            return;
        }
        if self.counts.len() < NAMES {
            self.places.insert(name.into(), self.counts.len());
            self.counts.push(amount);
            return;
        }
        let least = self.counts.iter().enumerate().min_by_key(|(_, count)| **count);
        let Some((place, _)) = least else { return };
        self.places.retain(|_, taken| *taken != place);
        self.places.insert(name.into(), place);
        self.counts[place] = self.counts[place].saturating_add(amount);
    }

    fn count_of(&self, name: &str) -> Option<u64> {
        self.places.get(name).map(|&place| self.counts[place])
    }

    /// Whoever is not in a full table counts for no more than the least in it.
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
    fn who_counts_for_more_than_the_error_is_found_among_very_many() {
        let mut table = Table::default();
        let mut total = 0;
        for round in 0..2_000_u64 {
            // One in ten is the same, the others come once each.
            let name = if round % 10 == 0 { "often".to_owned() } else { format!("once-{round}") };
            table.count(&name, 1);
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
        let mut count = |table: &mut Table, name: String, amount| {
            table.count(&name, amount);
            *truth.entry(name).or_insert(0) += amount;
        };
        // Thrown out of the hour before, and well known in the present one.
        for n in 0..100 {
            count(&mut hours.before, format!("both-{n}"), 7);
            count(&mut hours.present, format!("both-{n}"), 1_000);
        }
        for n in 0..2_000_u64 {
            count(&mut hours.before, format!("before-{}", n % 700), 10 + n % 3);
            count(&mut hours.present, format!("now-{}", n % 600), 1 + n % 5);
        }
        let standing = hours.standing();
        assert!(!hours.before.places.contains_key("both-0"));
        for (name, count) in &standing.counts {
            let truth = truth[&**name];
            assert!(*count >= truth, "{name}: {count} for {truth}");
            assert!(*count <= truth + standing.error_at_most, "{name}: {count} for {truth}");
        }
        for (name, truth) in truth {
            let known = standing.counts.contains_key(name.as_str());
            assert!(known || truth <= standing.error_at_most, "{name}: {truth}");
        }
    }

    #[test]
    fn a_count_is_of_one_to_two_hours() {
        let start = Beginning::now();
        let mut hours = Hours::default();
        let mut count_at = |minutes: u64, name: &str| {
            let later = Duration::from_secs(60 * minutes);
            hours.turn(Beginning(start.0 + later, start.1 + later));
            hours.present.count(name, 1);
            let standing = hours.standing();
            let mut counts: Vec<_> = standing.counts.into_iter().collect();
            counts.sort_unstable();
            let counts = counts.iter().map(|(name, count)| format!("{name} {count}"));
            let since = standing.since.unwrap().duration_since(start.1).unwrap().as_secs() / 60;
            (counts.collect::<Vec<_>>().join(", "), since)
        };
        let told = |counts: &str, since| (counts.to_owned(), since);
        assert_eq!(count_at(0, "a"), told("a 1", 0));
        assert_eq!(count_at(59, "a"), told("a 2", 0));
        assert_eq!(count_at(110, "b"), told("a 2, b 1", 0), "the hour before counts");
        assert_eq!(count_at(121, "b"), told("b 2", 60), "two hours ago does not");
        assert_eq!(count_at(600, "d"), told("d 1", 600), "nothing is left after a long silence");
    }
}
