//! Buffers that belong to a thread, lent to whichever connection it is working for.
//!
//! **Promises.** A connection has them for one poll, never across an `.await`; it finds them with
//! whatever was left by another, and so reads back only what it wrote.
//!
//! **Not here.** What outlives a poll: a session's partial record (`tls/stream.rs`), bytes unsent
//! (`proxy/write_buffer.rs`).

use std::cell::RefCell;
use std::ops::Range;

/// How many bytes are read from a socket at a time, at most.
pub(crate) const MAX_READ_BYTES: usize = 256 * 1024;

/// The same in a handshake.
pub(crate) const HANDSHAKE_READ_BYTES: usize = 64 * 1024;

/// Room for what is held already and a whole read behind it.
const INCOMING_BYTES: usize = MAX_READ_BYTES + super::HELD_BYTES_TRAFFIC;
const _: () = assert!(HANDSHAKE_READ_BYTES + super::HELD_BYTES_HANDSHAKE <= INCOMING_BYTES);

/// One thread's buffers.
pub(crate) struct Scratch {
    /// What came from a socket, and was opened where it lies.
    pub(crate) incoming: Box<[u8]>,
    /// Where in `incoming` the plaintext is.
    pub(crate) plain: Range<usize>,
    /// What goes to a client's socket, record by record.
    pub(crate) sealed: Vec<Vec<u8>>,
}

impl Scratch {
    /// What was opened.
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
