//! The size of the records that a session sends.
//!
//! A device can open a record when its last byte has arrived, and needs memory for a whole one. A record of 16 KiB
//! takes seconds over a slow radio link. Small records at the start of a burst give the device its first bytes
//! earlier. nginx (with Cloudflare's patch), HAProxy (`tune.ssl.maxrecord`) and Go's `crypto/tls` do the same, and also
//! start again after a second without data: by then, TCP may have reduced its window.
//!
//! **Promises.** A session needs eight bytes for its size, and the clock is read only if records start small.
//!
//! **Not here.** The records of the handshake (`trust/provider/flight.rs`).

use super::clock::clock;

/// Size of the small records at the start of a burst.
const SMALL_BYTES: u16 = 4096;

/// Bytes that leave in small records: 1 MiB. Then the device reads fast enough for large ones, whose
/// overhead is a quarter.
const SMALL_UNITS: u16 = 1 << 14;
const UNIT_BYTES: usize = 64;

/// Pause after which records are small again: a second, in units of [`Started::last`].
const PAUSE: u16 = 16;

/// The record sizes of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SentSizes {
    /// Longest plaintext of a record, at least 63 bytes.
    pub(crate) max: u16,
    /// The records of a burst start small.
    pub(crate) starts_small: bool,
}

/// The size of the next record of a session.
#[derive(Debug)]
pub(super) struct RecordSize {
    max: u16,
    start: Option<Started>,
}

/// The start of a burst.
#[derive(Debug)]
struct Started {
    /// The rest that leaves in small records, in units of [`UNIT_BYTES`].
    units_left: u16,
    /// Time of the last write, in sixteenths of a second. It wraps after an hour: a burst after such a pause may start
    /// with large records.
    last: u16,
}

impl Started {
    fn at(last: u16) -> Self {
        Self { units_left: SMALL_UNITS, last }
    }

    /// Returns whether a write of this many bytes leaves in small records.
    fn takes(&mut self, bytes: usize) -> bool {
        let now = sixteenths();
        if now.wrapping_sub(self.last) >= PAUSE {
            *self = Self::at(now);
        }
        self.last = now;
        let is_small = self.units_left > 0;
        let units = u16::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u16::MAX);
        self.units_left = self.units_left.saturating_sub(units);
        is_small
    }
}

impl RecordSize {
    pub(super) fn new(sizes: SentSizes) -> Self {
        let start = sizes.starts_small && sizes.max > SMALL_BYTES;
        Self { max: sizes.max, start: start.then(|| Started::at(sixteenths())) }
    }

    /// Returns the size of the records for a write of this many bytes.
    pub(super) fn of_write(&mut self, bytes: usize) -> usize {
        let is_small = self.start.as_mut().is_some_and(|start| start.takes(bytes));
        usize::from(if is_small { SMALL_BYTES } else { self.max })
    }
}

/// Returns the time in sixteenths of a second. It wraps; only differences are used.
#[expect(
    clippy::cast_possible_truncation,
    reason = "only differences are used, which wrap correctly"
)]
fn sixteenths() -> u16 {
    (clock() / 62) as u16
}
