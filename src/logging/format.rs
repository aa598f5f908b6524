//! The format of log lines.
//!
//! **Not here.** The formatting itself (`logging.rs`, `one_line.rs`).

use crate::value::choices;

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line of text for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}

choices!(Format { "text" => Text, or "json" => Json });
