//! Memory that handshakes in progress hold for their clients, over all listeners.
//!
//! Nobody is authenticated before the end of a handshake, and a client can have us hold a ClientHello or
//! a Certificate message of 64 KiB for as long as the deadlines allow.
//!
//! **Promises.** Together they hold no more than the ceiling and what [`FREE_BYTES`] allows to each: past
//! it the largest ends. An ordinary handshake holds less than [`FREE_BYTES`], is not listed and takes no
//! lock.
//!
//! **Not here.** What holds the bytes (`hello.rs`, `tls/negotiation.rs`), how many connections there may be
//! (`admission.rs`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};

use tokio::sync::Notify;

use crate::lock::Lock;

/// What each handshake may hold without being listed: a ClientHello with a post-quantum key share and a
/// ticket, or a chain of two certificates.
const FREE_BYTES: usize = 4 * 1024;

/// The memory for all handshakes of a process.
#[derive(Debug)]
pub(crate) struct HandshakeMemory {
    ceiling: AtomicUsize,
    listed: Lock<Listed>,
}

#[derive(Debug, Default)]
struct Listed {
    /// By how much each holds, and its number.
    shares: BTreeMap<(usize, u64), Arc<Notify>>,
    total: usize,
    next: u64,
}

/// What one handshake holds.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Arc<HandshakeMemory>,
    /// How it is listed, if it is.
    entry: Lock<Option<(usize, u64)>>,
    ended: Arc<Notify>,
}

impl Default for Share {
    /// A share of memory without a ceiling.
    fn default() -> Self {
        Arc::new(HandshakeMemory::new(usize::MAX)).share()
    }
}

/// The ceiling was reached, and this handshake held most.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory for handshakes in progress is used up, and this one held the largest part")]
pub(crate) struct Exceeded;

impl HandshakeMemory {
    /// Memory of at most `ceiling` bytes.
    pub(crate) fn new(ceiling: usize) -> Self {
        Self { ceiling: AtomicUsize::new(ceiling), listed: Lock::default() }
    }

    /// Changes the ceiling, for what is held from now on.
    pub(crate) fn set_ceiling(&self, bytes: usize) {
        self.ceiling.store(bytes, Ordering::Relaxed);
    }

    /// The share of a handshake that begins.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { memory: Arc::clone(self), entry: Lock::default(), ended: Arc::default() }
    }

    fn listed(&self) -> MutexGuard<'_, Listed> {
        self.listed.lock()
    }
}

impl Share {
    /// The handshake holds so many bytes now.
    pub(crate) fn set(&self, bytes: usize) {
        let mut entry = self.entry.lock();
        let held = if bytes > FREE_BYTES { bytes } else { 0 };
        if entry.map_or(0, |(listed, _)| listed) == held {
            return;
        }
        let mut listed = self.memory.listed();
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
    }

    /// Completes `handshake`, unless the ceiling ends it before.
    ///
    /// # Errors
    /// If it does.
    pub(crate) async fn or_exceeded<T>(
        &self,
        handshake: impl Future<Output = T>,
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

impl Listed {
    fn remove(&mut self, entry: (usize, u64)) {
        // One that was ended is listed no more.
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
    use super::*;

    async fn is_ended(share: &Share) -> bool {
        share.or_exceeded(tokio::task::yield_now()).await == Err(Exceeded)
    }

    #[tokio::test]
    async fn past_the_ceiling_the_largest_ends() {
        let memory = Arc::new(HandshakeMemory::new(100_000));
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
    async fn one_that_grows_past_the_ceiling_ends_itself() {
        let memory = Arc::new(HandshakeMemory::new(50_000));
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
        let memory = Arc::new(HandshakeMemory::new(0));
        let shares: Vec<_> = std::iter::repeat_with(|| memory.share()).take(1000).collect();
        for share in &shares {
            share.set(FREE_BYTES);
            assert!(!is_ended(share).await);
        }
        assert!(memory.listed().shares.is_empty());
    }
}
