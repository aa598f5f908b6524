//! How much is read at a time: more where it goes through.
//!
//! A call costs the kernel the same for 64 KiB as for 256 KiB, and the copying is not all: with large
//! reads a stream takes a fifth less CPU. But what a slow sink does not take has to be held, and
//! thousands of devices that load their firmware are slow. So only a sink that takes what it gets
//! without a wait, most of the time, is read for in large pieces.
//!
//! **Not here.** Where the bytes go (`relay.rs`), whose buffers they pass (`tls/scratch.rs`).

use crate::proxy::tls::scratch::MAX_READ_BYTES;

/// What is read for a sink of which nothing is known, or that has had to be waited for.
const CAREFUL_READ_BYTES: usize = 64 * 1024;

/// Score at which reads grow: 1.5 MiB written without blocking. That is more than the kernel takes for a
/// peer that never reads: `KERNEL_UNSENT_BYTES` of `socket.rs` and the peer's first window.
const TRUSTED: u8 = 24;

/// No trust grows above this, or it would take long to lose.
const MOST_TRUST: u8 = 32;

/// How much is read at a time in one direction.
#[derive(Debug, Default)]
pub(super) struct ReadSize {
    /// One more for each large read that was taken whole, two less for each wait.
    trust: u8,
}

impl ReadSize {
    /// How much to read now.
    pub(super) const fn bytes(&self) -> usize {
        if self.trust < TRUSTED { CAREFUL_READ_BYTES } else { MAX_READ_BYTES }
    }

    /// Learns what has become of a read: how long it was, and whether the sink has taken all of it.
    pub(super) fn learn(&mut self, read: usize, taken: bool) {
        if !taken {
            self.trust = self.trust.saturating_sub(2);
        } else if read >= CAREFUL_READ_BYTES / 2 {
            self.trust = MOST_TRUST.min(self.trust + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_grow_where_they_go_through() {
        let mut size = ReadSize::default();
        for _ in 0..TRUSTED {
            assert_eq!(size.bytes(), CAREFUL_READ_BYTES);
            // A message says nothing about a stream.
            size.learn(128, true);
            size.learn(CAREFUL_READ_BYTES, true);
        }
        assert_eq!(size.bytes(), MAX_READ_BYTES);
        size.learn(128, true);
        assert_eq!(size.bytes(), MAX_READ_BYTES);
    }

    #[test]
    fn a_sink_that_has_to_be_waited_for_loses_its_large_reads() {
        let mut size = ReadSize { trust: MOST_TRUST };
        size.learn(MAX_READ_BYTES, true);
        for _ in 0..5 {
            assert_eq!(size.bytes(), MAX_READ_BYTES);
            size.learn(MAX_READ_BYTES, false);
        }
        assert_eq!(size.bytes(), CAREFUL_READ_BYTES);
        // One that is slow all the time never gets there.
        for _ in 0..100 {
            size.learn(CAREFUL_READ_BYTES, true);
            size.learn(CAREFUL_READ_BYTES, false);
            assert_eq!(size.bytes(), CAREFUL_READ_BYTES);
        }
    }
}
