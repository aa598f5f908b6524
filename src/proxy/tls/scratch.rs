//! Buffers that belong to a thread, lent to whichever connection it is working for.
//!
//! **Promises.** A connection has them for one poll, never across an `.await`; it finds them with
//! whatever was left by another, and so reads back only what it wrote.
//!
//! **Not here.** What outlives a poll: a session's partial record (`tls.rs`), bytes unsent
//! (`unsent.rs`).

use std::cell::RefCell;

/// How many bytes are read from a socket at a time.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// Room for what a session holds already and a whole read behind it.
const INCOMING_BYTES: usize = READ_BYTES + super::HELD_BYTES_HANDSHAKE;

/// One thread's buffers.
pub(crate) struct Scratch {
    /// What came from a socket.
    pub(crate) incoming: Box<[u8]>,
    /// What was opened of it.
    pub(crate) plain: Vec<u8>,
    /// What goes to a client's socket, record by record. Empty between polls.
    pub(crate) sealed: Vec<Vec<u8>>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        incoming: vec![0; INCOMING_BYTES].into_boxed_slice(),
        plain: Vec::with_capacity(INCOMING_BYTES),
        sealed: Vec::new(),
    });
}

/// Lends this thread's buffers to `work`.
pub(crate) fn with<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with_borrow_mut(work)
}
