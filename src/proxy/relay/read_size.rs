//! The size of reads: larger for a sink that takes bytes without blocking.
//!
//! The fixed cost of a system call is the same for 64 KiB as for 256 KiB: with large reads a stream takes a fifth less
//! CPU. But bytes that a slow sink does not take are buffered, and thousands of devices that download firmware are
//! slow. So reads are large only for a sink that rarely blocks.
//!
//! **Not here.** The relay (`relay.rs`), the buffers (`tls/scratch.rs`).

use crate::proxy::tls::scratch::MAX_READ_BYTES;

/// Size of a read for a new sink, or one that has blocked.
const CAREFUL_READ_BYTES: usize = 64 * 1024;

/// Score at which reads grow: 1.5 MiB written without blocking. That is more than the kernel takes for a
/// peer that never reads: `KERNEL_UNSENT_BYTES` of `socket.rs` and the peer's first window.
const LARGE_READ_SCORE: u8 = 24;

/// Largest score, so that a sink that begins to block loses its large reads soon.
const MAX_SCORE: u8 = 32;

/// The read size of one direction.
#[derive(Debug, Default)]
pub(super) struct ReadSize {
    /// Score: plus one for each large read that was written at once, minus two for each that blocked.
    score: u8,
}

impl ReadSize {
    /// Returns the size of the next read.
    pub(super) const fn bytes(&self) -> usize {
        if self.score < LARGE_READ_SCORE { CAREFUL_READ_BYTES } else { MAX_READ_BYTES }
    }

    /// Updates the score after a read of `read` bytes. `taken` is whether the sink has taken all of it.
    pub(super) fn learn(&mut self, read: usize, taken: bool) {
        if !taken {
            self.score = self.score.saturating_sub(2);
        } else if read >= CAREFUL_READ_BYTES / 2 {
            self.score = MAX_SCORE.min(self.score + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_grow_for_a_sink_that_does_not_block() {
        let mut size = ReadSize::default();
        for _ in 0..LARGE_READ_SCORE {
            assert_eq!(size.bytes(), CAREFUL_READ_BYTES);
            // A small message does not change the score.
            size.learn(128, true);
            size.learn(CAREFUL_READ_BYTES, true);
        }
        assert_eq!(size.bytes(), MAX_READ_BYTES);
        size.learn(128, true);
        assert_eq!(size.bytes(), MAX_READ_BYTES);
    }

    #[test]
    fn a_sink_that_blocks_loses_its_large_reads() {
        let mut size = ReadSize { score: MAX_SCORE };
        size.learn(MAX_READ_BYTES, true);
        for _ in 0..5 {
            assert_eq!(size.bytes(), MAX_READ_BYTES);
            size.learn(MAX_READ_BYTES, false);
        }
        assert_eq!(size.bytes(), CAREFUL_READ_BYTES);
        // A sink that always blocks never gets large reads.
        for _ in 0..100 {
            size.learn(CAREFUL_READ_BYTES, true);
            size.learn(CAREFUL_READ_BYTES, false);
            assert_eq!(size.bytes(), CAREFUL_READ_BYTES);
        }
    }
}
