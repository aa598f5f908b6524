//! The format of log lines.
//!
//! **Not here.** How a line is written in it (`logging.rs`, `one_line.rs`).

/// The shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
