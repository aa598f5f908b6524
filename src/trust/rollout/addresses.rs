//! A set of addresses, in a fixed amount of memory.
//!
//! **Promises.** 32 KiB, however many addresses there are. With 10,000 of them, 2 % are taken for others; with 50,000
//! 9 %. The addresses cannot be read from it.
//!
//! **Not here.** The groups (`trial.rs`).

/// Bits of a set.
const BITS: usize = 1 << 18;

const WORD: usize = u64::BITS as usize;

/// An address, as a hash with a random key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place(pub(super) u64);

impl Place {
    /// Returns a number from 0 to 99. It is independent of the place in a set.
    pub(super) fn percentile(self) -> u32 {
        u32::try_from((self.0 >> 32) % 100).expect("it is below 100")
    }

    /// Returns the index of its word, and its bit there.
    fn bit(self) -> (usize, u64) {
        let bit = usize::try_from(self.0 & (BITS as u64 - 1)).expect("it is below 2^18");
        (bit / WORD, 1 << (bit % WORD))
    }
}

/// A set of addresses.
pub(super) struct Addresses {
    words: Box<[u64]>,
    count: u32,
}

impl Default for Addresses {
    fn default() -> Self {
        Self { words: vec![0; BITS / WORD].into(), count: 0 }
    }
}

impl Addresses {
    /// Adds an address.
    pub(super) fn add(&mut self, place: Place) {
        if !self.has(place) {
            let (word, bit) = place.bit();
            self.words[word] |= bit;
            self.count += 1;
        }
    }

    /// Returns whether the set has an address.
    pub(super) fn has(&self, place: Place) -> bool {
        let (word, bit) = place.bit();
        self.words[word] & bit != 0
    }

    /// Returns the number of addresses.
    pub(super) const fn count(&self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    #[test]
    fn an_address_counts_once_and_few_are_taken_for_others() {
        let hasher = RandomState::new();
        let places: Vec<_> = (0..10_000_u32).map(|n| Place(hasher.hash_one(n))).collect();
        let mut set = Addresses::default();
        for place in places.iter().chain(&places) {
            set.add(*place);
        }
        assert!((9_700..=10_000).contains(&set.count()), "{}", set.count());
        assert!(places.iter().all(|place| set.has(*place)));
        let strangers = (10_000..20_000_u32).map(|n| Place(hasher.hash_one(n)));
        let taken = strangers.filter(|place| set.has(*place)).count();
        assert!(taken < 600, "{taken} of 10,000");
    }

    #[test]
    fn the_percentiles_are_spread_evenly() {
        let hasher = RandomState::new();
        let below = |share| {
            let places = (0..10_000_u32).map(|n| Place(hasher.hash_one(n)));
            places.filter(|place| place.percentile() < share).count()
        };
        assert!((350..650).contains(&below(5)), "{}", below(5));
        assert!((4_600..5_400).contains(&below(50)), "{}", below(50));
    }
}
