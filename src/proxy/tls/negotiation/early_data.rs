//! Rejected early data between the ClientHello and the client's next flight.
//!
//! rustls skips records that it cannot open, but tries all skipped records again with each call, and so reaches
//! its limit of 16 KiB after a few. So a copy of each record is tried here, and rustls gets only the client's
//! flight.
//!
//! **Promises.** 16 KiB of early data are skipped, whatever the size of its records (RFC 8446 section 4.2.10),
//! and no more.
//!
//! **Not here.** Early data between two ClientHellos (`proxy/hello/message.rs`).

use tokio_rustls::rustls::{Error, PeerMisbehaved};

use super::record::APPLICATION_DATA;
use crate::trust::provider::HandshakeScope;

/// OpenSSL's default limit for early data, both sent and skipped.
const MAX_BYTES: usize = 16 * 1024;

/// Early data that may still come.
pub(super) struct EarlyData {
    left: usize,
}

impl Default for EarlyData {
    fn default() -> Self {
        Self { left: MAX_BYTES }
    }
}

impl EarlyData {
    pub(super) const fn left(&self) -> usize {
        self.left
    }

    /// Returns whether a complete record is early data; none if it is not encrypted.
    ///
    /// # Errors
    /// If the limit is exceeded.
    pub(super) fn passes_over(
        &mut self,
        record: &[u8],
        scope: &HandshakeScope,
    ) -> Result<Option<bool>, Error> {
        let [kind, _, _, _, _, payload @ ..] = record else { return Ok(None) };
        if *kind != APPLICATION_DATA || !scope.can_open() {
            return Ok(None);
        }
        if scope.opens_first(&mut payload.to_vec()) {
            return Ok(Some(false));
        }
        let data = early_data_bytes(payload.len());
        self.left = self.left.checked_sub(data).ok_or(PeerMisbehaved::TooMuchEarlyDataReceived)?;
        Ok(Some(true))
    }
}

/// Returns the least number of bytes of early data in a sealed record: RFC 8446 section 5.2. An empty record
/// counts as one byte, since it costs CPU time.
pub(crate) const fn early_data_bytes(sealed: usize) -> usize {
    // The type, and a tag of 16 bytes (all suites).
    let data = sealed.saturating_sub(17);
    if data == 0 { 1 } else { data }
}
