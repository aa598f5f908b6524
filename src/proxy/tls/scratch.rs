//! Buffers of a worker thread, shared by its connections.
//!
//! **Promises.** A connection borrows them for one poll, never across an `.await`. They may hold bytes of
//! another connection, so a borrower reads only what it has written itself.
//!
//! **Not here.** Bytes that outlive a poll: partial records (`tls/stream.rs`), queued bytes
//! (`proxy/write_buffer.rs`).

use std::cell::RefCell;
use std::ops::Range;

/// Largest read from a socket.
pub(crate) const MAX_READ_BYTES: usize = 256 * 1024;

/// Largest read from a socket during a handshake.
pub(crate) const HANDSHAKE_READ_BYTES: usize = 64 * 1024;

/// Unprocessed ciphertext that may be held after the handshake: the longest record has 18,437 bytes
/// (RFC 5246 section 6.2.3).
pub(crate) const HELD_BYTES_TRAFFIC: usize = 20 * 1024;

/// Room for the bytes that are held already and a whole read behind them.
const INCOMING_BYTES: usize = MAX_READ_BYTES + HELD_BYTES_TRAFFIC;
const _: () = assert!(HANDSHAKE_READ_BYTES <= INCOMING_BYTES);

/// One thread's buffers.
pub(crate) struct Scratch {
    /// Ciphertext from a socket, opened in place.
    pub(crate) incoming: Box<[u8]>,
    /// Range of the plaintext in `incoming`.
    pub(crate) plain: Range<usize>,
    /// Records for a client's socket.
    pub(crate) sealed: Vec<Vec<u8>>,
}

impl Scratch {
    /// Returns the plaintext.
    pub(crate) fn plain(&self) -> &[u8] {
        &self.incoming[self.plain.clone()]
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        incoming: vec![0; INCOMING_BYTES].into_boxed_slice(),
        plain: 0..0,
        sealed: Vec::new(),
    });
}

/// Lends this thread's buffers to `work`.
pub(crate) fn with<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with_borrow_mut(work)
}
