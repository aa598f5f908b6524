//! The wait of a handshake for its turn.
//!
//! **Promises.** No cryptography is done for a client that left while it waited, and what it sends meanwhile counts in the
//! memory of handshakes. Other tasks of the worker run between two
//! handshakes that waited.
//!
//! **Not here.** The order of those that wait (`proxy/handshake_slots.rs`).

use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls;

use super::error::HandshakeError;
use crate::proxy::handshake_memory::Share;
use crate::proxy::handshake_slots::{Slot, SlotAccess};
use crate::proxy::tls::{Negotiation, RustlsHandshake};

/// The right of one handshake to its cryptography.
#[derive(Clone, Copy)]
pub(super) struct Turn<'a> {
    pub(super) slots: Option<&'a SlotAccess>,
    pub(super) deadline: Instant,
    pub(super) memory: &'a Share,
    /// The client offers to resume a session.
    pub(super) resumes: bool,
}

impl Turn<'_> {
    /// Waits for a slot, but not for longer than the client does. Returns the time that it took.
    ///
    /// # Errors
    /// The client left first, or the deadline passed.
    pub(super) async fn take<Io: AsyncRead + AsyncWrite + Unpin>(
        self,
        negotiation: &mut Negotiation<Io>,
    ) -> Result<(Option<Slot>, Duration), HandshakeError> {
        let Some(slots) = self.slots else { return Ok((None, Duration::ZERO)) };
        if let Some(slot) = slots.try_take(self.resumes) {
            return Ok((Some(slot), Duration::ZERO));
        }
        let since = Instant::now();
        let slot = {
            let granted = pin!(slots.take(self.resumes));
            let granted = timeout_at(self.deadline, unless_left(negotiation, self.memory, granted));
            granted.await.map_err(|_| HandshakeError::NoSlot(since.elapsed()))?
        };
        let slot = slot.ok_or(HandshakeError::Abandoned(since.elapsed()))?;
        // The other tasks of the worker run between two handshakes, and the kernel reports who has left.
        let turned = pin!(tokio::task::yield_now());
        match unless_left(negotiation, self.memory, turned).await {
            Some(()) => Ok((Some(slot), since.elapsed())),
            None => Err(HandshakeError::Abandoned(since.elapsed())),
        }
    }
}

/// Completes `wait`, or returns none if the client leaves first. A client that sends bytes is still there.
async fn unless_left<Io: AsyncRead + AsyncWrite + Unpin, T>(
    negotiation: &mut Negotiation<Io>,
    memory: &Share,
    mut wait: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    let is_there = tokio::select! {
        biased;
        read = negotiation.read() => matches!(read, Ok(true)),
        done = &mut wait => return Some(done),
    };
    if !is_there {
        return None;
    }
    memory.set(negotiation.held_bytes());
    Some(wait.await)
}

/// Releases the slot of a handshake, and tells whether it is a full one.
pub(super) fn release(slot: Option<Slot>, state: &RustlsHandshake) {
    if let Some(mut slot) = slot
        && state.kind() != Some(rustls::HandshakeKind::Resumed)
    {
        slot.on_full_handshake();
    }
}
