//! Sources whose handshakes keep failing.
//!
//! **Promises.** The memory is fixed. A completed handshake clears its source at once. Two sources can share an entry:
//! then both are slowed until one succeeds, and neither is refused.
//!
//! **Not here.** The effect: `handshake_slots/queue.rs`.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::proxy::source::ClientSource;

const ENTRIES: usize = 4096;

/// Failed handshakes in a row after which a source comes last.
const MANY: u8 = 8;

/// Numbers of failed handshakes since the last completed one, by a hash of the source.
#[derive(Debug)]
pub(crate) struct FailingSources {
    /// Keyed at random, so that nobody can choose addresses that share another's entry.
    hasher: RandomState,
    failures: Box<[AtomicU8]>,
}

impl Default for FailingSources {
    fn default() -> Self {
        let failures = (0..ENTRIES).map(|_| AtomicU8::new(0)).collect();
        Self { hasher: RandomState::new(), failures }
    }
}

impl FailingSources {
    /// A handshake of the source has failed in a way that will recur.
    pub(super) fn failed(&self, source: ClientSource) {
        let more = |failures: u8| Some(failures.saturating_add(1));
        let _before = self.entry(source).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// A handshake of the source was completed.
    pub(super) fn succeeded(&self, source: ClientSource) {
        let entry = self.entry(source);
        // Mostly nothing has failed: the cache line stays shared.
        if entry.load(Ordering::Relaxed) > 0 {
            entry.store(0, Ordering::Relaxed);
        }
    }

    /// Returns whether the last handshakes of the source have failed.
    pub(super) fn contains(&self, source: ClientSource) -> bool {
        self.entry(source).load(Ordering::Relaxed) >= MANY
    }

    fn entry(&self, source: ClientSource) -> &AtomicU8 {
        let hash = self.hasher.hash_one(source);
        &self.failures[usize::try_from(hash % ENTRIES as u64).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_fails_until_it_succeeds() {
        let (sources, source) =
            (FailingSources::default(), ClientSource::of([192, 0, 2, 1].into()));
        (1..MANY).for_each(|_| sources.failed(source));
        assert!(!sources.contains(source));
        sources.failed(source);
        assert!(sources.contains(source));
        sources.succeeded(source);
        assert!(!sources.contains(source));
    }

    #[test]
    fn the_count_of_failures_does_not_wrap() {
        let (sources, source) =
            (FailingSources::default(), ClientSource::of([192, 0, 2, 1].into()));
        (0..300).for_each(|_| sources.failed(source));
        assert!(sources.contains(source));
    }
}
