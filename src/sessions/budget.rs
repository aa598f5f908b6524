//! The memory of all connections together that is held for peers.
//!
//! Each connection alone holds at most what one read returns, and reads no more before its peer has taken that. But
//! thousands of devices that stop reading at the same time, while the backend sends, hold as many reads.
//!
//! **Promises.** From half of the ceiling on, reads are small, and from three quarters on tiny: a peer that takes what
//! it gets is relayed further, more slowly, and one that does not holds little. At the ceiling, new connections are
//! refused. No established session ends: beyond the ceiling, each can add a tiny read, and the rest of a record that
//! its device has begun.
//!
//! **Not here.** The buffers (`proxy/write_buffer.rs`), the limit of handshakes alone (`proxy/handshake_memory.rs`), the
//! memory of the kernel's sockets.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::terms::reason::Reason;

/// Size of a read from half of the ceiling on.
const SMALL_READ_BYTES: usize = 4096;

/// Size of a read from three quarters of the ceiling on.
const TINY_READ_BYTES: usize = 512;

/// The bytes that are held, and how many may be.
#[derive(Debug)]
pub(crate) struct Budget {
    ceiling: AtomicUsize,
    held: AtomicUsize,
}

/// As many bytes are held for peers as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory for bytes that peers do not take is exhausted")]
pub(crate) struct Exhausted;

impl Default for Budget {
    /// Returns a budget without a ceiling.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Exhausted {
    /// Returns the stable reason for this end.
    pub(crate) const fn reason(self) -> Reason {
        Reason::ProxyBuffersFull
    }
}

impl Budget {
    /// Creates a budget of `ceiling` bytes.
    pub(crate) const fn new(ceiling: usize) -> Self {
        Self { ceiling: AtomicUsize::new(ceiling), held: AtomicUsize::new(0) }
    }

    /// Sets the ceiling. It applies from the next read.
    pub(crate) fn set_ceiling(&self, bytes: usize) {
        self.ceiling.store(bytes, Ordering::Relaxed);
    }

    /// A holder that held `before` bytes holds `now` bytes.
    pub(crate) fn change(&self, before: usize, now: usize) {
        if now > before {
            self.held.fetch_add(now - before, Ordering::Relaxed);
        } else if now < before {
            self.held.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Returns how many bytes may be read where `wanted` bytes would be.
    pub(crate) fn read_bytes(&self, wanted: usize) -> usize {
        let (held, ceiling) =
            (self.held.load(Ordering::Relaxed), self.ceiling.load(Ordering::Relaxed));
        if held < ceiling / 2 {
            wanted
        } else if held < ceiling / 4 * 3 {
            wanted.min(SMALL_READ_BYTES)
        } else {
            wanted.min(TINY_READ_BYTES)
        }
    }

    /// Admits a new connection.
    ///
    /// # Errors
    /// The ceiling is reached.
    pub(crate) fn admit(&self) -> Result<(), Exhausted> {
        let is_full = self.held.load(Ordering::Relaxed) >= self.ceiling.load(Ordering::Relaxed);
        if is_full { Err(Exhausted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_shrink_as_the_budget_is_used_up_and_grow_again() {
        let budget = Budget::new(8 << 20);
        let reads = [0, 4 << 20, 6 << 20, 9 << 20, 0].map(|held| {
            budget.change(0, held);
            let (read, admitted) = (budget.read_bytes(65_536), budget.admit().is_ok());
            budget.change(held, 0);
            (read, admitted)
        });
        let expected = [(65_536, true), (4096, true), (512, true), (512, false), (65_536, true)];
        assert_eq!(reads, expected);
    }
}
