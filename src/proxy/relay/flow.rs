//! The states of one direction of a relay.
//!
//! **Not here.** What moves it from one to the next (`relay.rs`).

/// Where a direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Its source may send more.
    Open,
    /// Its source has ended; what is queued has to go, and then the end.
    Ending,
    /// Its sink is gone. What its source still says is read and forgotten: a source that is stuck
    /// in writing could not read what the other direction has for it.
    Discarding,
    /// The end has been passed on, or there is nobody to take it.
    Done,
}

impl Flow {
    /// Whether nothing more will come of it, so that it does not hold up the relay's end.
    pub(super) const fn is_over(self) -> bool {
        matches!(self, Self::Discarding | Self::Done)
    }

    /// Whether its source is still read.
    pub(super) const fn is_read(self) -> bool {
        matches!(self, Self::Open | Self::Discarding)
    }
}
