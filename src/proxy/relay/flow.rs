//! The states of one direction of a relay.
//!
//! **Not here.** The transitions (`relay.rs`).

/// State of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// The source may send more.
    Open,
    /// The source has ended. Buffered bytes are written, and then the end.
    Ending,
    /// The sink takes no more bytes. The source is read and its bytes are discarded: a source that blocks in a write
    /// could not read the bytes of the other direction.
    Discarding,
    /// The end was passed on, or the sink is closed.
    Done,
}

impl Flow {
    /// Returns true if the direction delivers no more bytes, so that the relay can end.
    pub(super) const fn is_over(self) -> bool {
        matches!(self, Self::Discarding | Self::Done)
    }

    /// Returns true if the source is still read.
    pub(super) const fn is_read(self) -> bool {
        matches!(self, Self::Open | Self::Discarding)
    }
}
