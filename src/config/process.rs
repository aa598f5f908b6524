//! The permissions and limits of the process, over all listeners.
//!
//! **Not here.** Their effect: `control/`, `sessions/budget.rs`, `proxy/handshake_memory.rs`.

use crate::memory;

/// The permissions and limits of the process, over all listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessConfig {
    /// Allows core dumps, and debuggers of the same user.
    pub dumpable: bool,
    /// Confines the process to the directories of the configured files, where the kernel supports it.
    pub landlock: bool,
    /// Connections of all listeners together at a time. None: as many as the limit of file descriptors allows.
    pub max_connections: Option<usize>,
    /// The memory limit for the bytes that the clients of all handshakes in progress have sent, beyond 4 KiB each.
    pub max_handshake_bytes: usize,
    /// The memory limit for all bytes that peers have not taken, and those of handshakes. None: a quarter of the
    /// process's memory limit, at most 256 MiB.
    pub max_buffered_bytes: Option<usize>,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            dumpable: false,
            landlock: true,
            max_connections: None,
            max_handshake_bytes: 64 * 1024 * 1024,
            max_buffered_bytes: None,
        }
    }
}

impl ProcessConfig {
    /// Returns the memory limit for the bytes that peers have not taken. Blocks on /proc and /sys.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        const MOST: u64 = 256 << 20;
        const LEAST: u64 = 16 << 20;
        self.max_buffered_bytes.unwrap_or_else(|| {
            let share = memory::limit().map_or(MOST, |bytes| (bytes / 4).clamp(LEAST, MOST));
            usize::try_from(share).unwrap_or(usize::MAX)
        })
    }
}
