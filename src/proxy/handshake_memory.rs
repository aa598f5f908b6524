//! The memory that all handshakes in progress buffer for their clients.
//!
//! No client is authenticated before the end of its handshake, and each can make us buffer a ClientHello or a
//! Certificate message of 64 KiB until the deadline.
//!
//! **Promises.** All handshakes together buffer at most the ceiling, plus [`FREE_BYTES`] each. Beyond that, the largest
//! one ends. An ordinary handshake buffers less than [`FREE_BYTES`], is not listed and takes no shared lock.
//!
//! **Not here.** The buffers (`hello.rs`, `tls/negotiation.rs`), the number of connections (`admission.rs`).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};

use tokio::sync::Notify;

use crate::lock::Lock;
use crate::sessions::budget::Budget;

/// Bytes that a handshake may buffer without being listed: a ClientHello with a post-quantum key share and a ticket, or
/// a chain of two certificates.
const FREE_BYTES: usize = 4 * 1024;

/// The memory of all handshakes of a process.
#[derive(Debug)]
pub(crate) struct HandshakeMemory {
    ceiling: AtomicUsize,
    listed: Lock<ListedShares>,
    /// The memory of all connections, of which this is a part.
    budget: Arc<Budget>,
}

#[derive(Debug, Default)]
struct ListedShares {
    /// By size, then by number.
    shares: BTreeMap<(usize, u64), Arc<Notify>>,
    total: usize,
    next: u64,
}

/// The part of one handshake.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Arc<HandshakeMemory>,
    /// Its key in the list, if it is listed.
    entry: Lock<Option<(usize, u64)>>,
    ended: Arc<Notify>,
}

impl Default for Share {
    /// Returns a share of memory without a ceiling.
    fn default() -> Self {
        Arc::new(HandshakeMemory::new(usize::MAX, Arc::default())).share()
    }
}

/// The ceiling was reached, and this handshake had the largest share.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the memory for handshakes in progress is exhausted, and this handshake had the largest share"
)]
pub(crate) struct Exceeded;

impl HandshakeMemory {
    /// Creates memory of at most `ceiling` bytes, which counts in `budget`.
    pub(crate) fn new(ceiling: usize, budget: Arc<Budget>) -> Self {
        Self { ceiling: AtomicUsize::new(ceiling), listed: Lock::default(), budget }
    }

    /// Sets the ceiling. It applies from the next change of a share.
    pub(crate) fn set_ceiling(&self, bytes: usize) {
        self.ceiling.store(bytes, Ordering::Relaxed);
    }

    /// Returns the share of a new handshake.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { memory: Arc::clone(self), entry: Lock::default(), ended: Arc::default() }
    }

    fn listed(&self) -> MutexGuard<'_, ListedShares> {
        self.listed.lock()
    }
}

impl Share {
    /// Sets how many bytes the handshake buffers now.
    pub(crate) fn set(&self, bytes: usize) {
        let mut entry = self.entry.lock();
        let held = if bytes > FREE_BYTES { bytes } else { 0 };
        if entry.map_or(0, |(listed, _)| listed) == held {
            return;
        }
        let mut listed = self.memory.listed();
        let before = listed.total;
        if let Some(old) = entry.take() {
            listed.remove(old);
        }
        if held > 0 {
            let number = listed.next;
            listed.next += 1;
            listed.total += held;
            listed.shares.insert((held, number), Arc::clone(&self.ended));
            *entry = Some((held, number));
        }
        listed.keep_below(self.memory.ceiling.load(Ordering::Relaxed));
        self.memory.budget.change(before, listed.total);
    }

    /// Completes `handshake` unless the ceiling ends it first. It is pinned by the caller: an `async fn` would store it
    /// twice.
    ///
    /// # Errors
    /// If the ceiling ends it.
    pub(crate) async fn or_exceeded<T>(
        &self,
        handshake: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Exceeded> {
        tokio::select! {
            biased;
            () = self.ended.notified() => Err(Exceeded),
            done = handshake => Ok(done),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl ListedShares {
    fn remove(&mut self, entry: (usize, u64)) {
        // A share that was ended has been removed from the list.
        if self.shares.remove(&entry).is_some() {
            self.total -= entry.0;
        }
    }

    fn keep_below(&mut self, ceiling: usize) {
        while self.total > ceiling {
            let Some(((bytes, _), ended)) = self.shares.pop_last() else { return };
            self.total -= bytes;
            ended.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    async fn is_ended(share: &Share) -> bool {
        share.or_exceeded(pin!(tokio::task::yield_now())).await == Err(Exceeded)
    }

    #[tokio::test]
    async fn beyond_the_ceiling_the_largest_share_ends() {
        let memory = Arc::new(HandshakeMemory::new(100_000, Arc::default()));
        let shares = [30_000, 50_000, 20_000].map(|bytes| {
            let share = memory.share();
            share.set(bytes);
            share
        });
        assert_eq!(memory.listed().total, 100_000);
        let newcomer = memory.share();
        newcomer.set(10_000);
        assert!(is_ended(&shares[1]).await);
        assert!(!is_ended(&shares[0]).await && !is_ended(&newcomer).await);
        assert_eq!(memory.listed().total, 60_000);
        drop((shares, newcomer));
        assert_eq!(memory.listed().total, 0);
        assert!(memory.listed().shares.is_empty());
    }

    #[tokio::test]
    async fn a_share_that_grows_beyond_the_ceiling_ends_itself() {
        let memory = Arc::new(HandshakeMemory::new(50_000, Arc::default()));
        let share = memory.share();
        for bytes in [5_000, 40_000, 60_000] {
            assert!(!is_ended(&share).await);
            share.set(bytes);
        }
        assert!(is_ended(&share).await);
        assert_eq!(memory.listed().total, 0);
    }

    #[tokio::test]
    async fn an_ordinary_handshake_is_not_listed() {
        let memory = Arc::new(HandshakeMemory::new(0, Arc::default()));
        let shares: Vec<_> = std::iter::repeat_with(|| memory.share()).take(1000).collect();
        for share in &shares {
            share.set(FREE_BYTES);
            assert!(!is_ended(share).await);
        }
        assert!(memory.listed().shares.is_empty());
    }
}
