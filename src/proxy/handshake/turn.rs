//! The wait of a handshake for its turn.
//!
//! **Promises.** No cryptography is done for a client that left before its turn, and what it sends meanwhile counts in the
//! memory of handshakes. Other tasks of the worker run between the answers to two ClientHellos.
//!
//! **Not here.** The order of those that wait (`proxy/handshake_slots.rs`).

use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls;

use super::course::Course;
use super::error::{HandshakeError, interruption};
use super::steps::Traced;
use crate::proxy::handshake_memory::Share;
use crate::proxy::handshake_slots::{Slot, SlotAccess, Unanswered};
use crate::proxy::hello::HelloLimits;
use crate::proxy::tls::{Negotiation, Progress};
use crate::terms::labels::Interruption;

/// The right of one handshake to its cryptography.
#[derive(Clone, Copy)]
pub(super) struct Turn<'a> {
    pub(super) slots: Option<&'a SlotAccess>,
    pub(super) limits: HelloLimits,
    pub(super) memory: &'a Share,
    /// The client offers to resume a session.
    pub(super) resumes: bool,
    /// The steps of the handshake, if a trace may select it.
    pub(super) traced: Option<Traced<'a>>,
}

impl Turn<'_> {
    /// Waits for a slot, but not for longer than the client does.
    ///
    /// # Errors
    /// The client left first, or the deadline passed.
    pub(super) async fn take<Io: AsyncRead + AsyncWrite + Unpin>(
        self,
        negotiation: &mut Negotiation<Io>,
        course: &Course<Io>,
    ) -> Result<Option<Slot>, HandshakeError> {
        let Some(slots) = self.slots else { return Ok(None) };
        let since = Instant::now();
        let granted = async {
            match slots.try_take(self.resumes) {
                Some(slot) => slot,
                None => slots.take(self.resumes).await,
            }
        };
        let granted = {
            let granted = pin!(granted);
            timeout_at(self.limits.deadline, unless_left(negotiation, self.memory, granted)).await
        };
        let slot = match granted {
            Ok(slot) => slot.map_err(|left| left.error(since.elapsed()))?,
            Err(_) => return Err(HandshakeError::NoSlot(since.elapsed())),
        };
        // It may have left before it was accepted.
        match course.left(negotiation.io()) {
            Some(how) => Err(HandshakeError::Abandoned { waited: since.elapsed(), how }),
            None => Ok(Some(slot)),
        }
    }

    /// Sends the answer to a ClientHello and releases the slot. After the answer to a full handshake, or to the last one
    /// of a series of resumed ones, it is kept until the worker has looked at its sockets: by then the other tasks have had
    /// their turn, and it is known who has left. Without this, all ClientHellos that were read in one turn would be
    /// answered in the next.
    pub(super) async fn answer<Io: AsyncRead + AsyncWrite + Unpin>(
        self,
        mut slot: Slot,
        negotiation: &mut Negotiation<Io>,
        progress: Progress,
    ) -> io::Result<Option<Unanswered>> {
        let is_resumed = negotiation.state().kind() == Some(rustls::HandshakeKind::Resumed);
        // A full handshake is a series of its own.
        let ends_series = !is_resumed || slot.ends_series();
        if !is_resumed {
            slot.on_full_handshake();
        }
        if progress == Progress::WantsSecondHello {
            // It costs the device nothing, and its answer is not counted.
            drop(slot);
            negotiation.flush().await?;
            return Ok(None);
        }
        let mut sent = None;
        if ends_series {
            let mut looked = pin!(tokio::task::yield_now());
            // A device that does not read does not hold the slot.
            sent = tokio::select! {
                biased;
                sent = negotiation.flush() => Some(sent),
                () = &mut looked => None,
            };
            if sent.is_some() {
                looked.await;
            }
        }
        let unanswered = slot.answered(self.limits.since);
        match sent {
            Some(sent) => sent?,
            None => negotiation.flush().await?,
        }
        Ok(Some(unanswered))
    }
}

/// The client left: it closed or reset its connection.
struct Left(io::Result<()>);

impl Left {
    /// Returns the error of a handshake whose client left after it had `waited`.
    fn error(&self, waited: Duration) -> HandshakeError {
        let how = match &self.0 {
            Ok(()) => Interruption::Eof,
            Err(error) => interruption(error),
        };
        HandshakeError::Abandoned { waited, how }
    }
}

/// Completes `wait`, unless the client leaves first. A client that sends bytes is still there.
async fn unless_left<Io: AsyncRead + AsyncWrite + Unpin, T>(
    negotiation: &mut Negotiation<Io>,
    memory: &Share,
    mut wait: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Left> {
    let read = tokio::select! {
        biased;
        read = negotiation.read() => read,
        done = &mut wait => return Ok(done),
    };
    match read {
        Ok(true) => {
            memory.set(negotiation.held_bytes());
            Ok(wait.await)
        }
        Ok(false) => Err(Left(Ok(()))),
        Err(error) => Err(Left(Err(error))),
    }
}
