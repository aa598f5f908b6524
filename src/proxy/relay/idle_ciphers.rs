//! The ciphers of an idle session, which are more than a third of its memory, are dropped.
//!
//! **Promises.** Ciphers are dropped [`IDLE_AFTER`] the last relayed byte, and rebuilt by the next record of their direction. A
//! record that relays nothing (a key_update, an alert) keeps a rebuilt cipher for its own read only. A device that sends more
//! often pays one wake-up of its task in that time.
//!
//! **Not here.** The timer (`relay.rs`), the ciphers (`tls/keys.rs`).

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Relay;

/// Silence after which a session is idle. To rebuild both ciphers takes a fifth to a half of the CPU time of an exchange, and
/// devices that report every few seconds should not pay it.
pub(super) const IDLE_AFTER: Duration = Duration::from_secs(10);

impl<C, B> Relay<'_, C, B>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    /// Drops the ciphers of the session if it is idle. Returns the instant at which it will be.
    pub(super) fn drop_idle_ciphers(&mut self, now: Instant) -> Option<Instant> {
        let due = self.last_progress + IDLE_AFTER;
        if !self.client.has_cipher() {
            return None;
        }
        if now < due {
            return Some(due);
        }
        self.client.drop_ciphers();
        None
    }
}
