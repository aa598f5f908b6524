//! The pauses of a relay: the moments at which its end interrupts nothing.
//!
//! **Promises.** A relay that is asked to end at a pause, by a drain or near its maximum age, ends while it holds no byte,
//! after [`QUIET`] without one, or after [`ANSWER_TIME`] if the device sent last: its request may still get an answer.
//!
//! **Not here.** The timer (`relay.rs`), the times of orders (`sessions/pace.rs`).

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Relay;
use super::bounds::Bound;
use crate::sessions::pace::jitter;
use crate::terms::reason::Reason;

/// Silence after which an exchange has ended.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// Longest wait for the answer to bytes of the device. A device whose messages are never answered is closed after it.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(10);

impl<C, B> Relay<'_, C, B>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    /// Next pause at which the relay has to end, if no byte is relayed before.
    pub(super) fn next_pause(&self) -> Option<(Instant, Bound)> {
        let (from, reason) = match (self.ends_at_pause, self.grows_old()) {
            (Some(reason), _) => (self.last_progress, reason),
            (None, Some(from)) => (from, Reason::MaxAge),
            (None, None) => return None,
        };
        // Bytes that are held move soon, or another bound applies.
        if self.held() > 0 {
            return None;
        }
        let quiet = if self.awaits_answer { ANSWER_TIME } else { QUIET };
        Some((from.max(self.last_progress + quiet), Bound::Pause(reason)))
    }

    /// Returns the instant until which this end has to wait for its turn, if closes per second are limited.
    pub(super) fn wait_for_turn(&mut self, bound: Bound, now: Instant) -> Option<Instant> {
        match bound {
            Bound::Pause(_) | Bound::MaxAge => self.sessions.closes.wait(&mut self.turn, now),
            Bound::Idle(_) | Bound::HalfClose(_) => None,
        }
    }

    /// Instant from which on the relay ends at a pause because of its age: within the last tenth of the maximum age.
    /// Devices that connect together, after a restart, must not all end together.
    fn grows_old(&self) -> Option<Instant> {
        let too_old = self.bounds.too_old?;
        let age = too_old.saturating_duration_since(Instant::from_std(self.session.opened));
        Some(too_old - jitter(age / 10, self.session.id))
    }
}
