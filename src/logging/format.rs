//! The format of log lines.
//!
//! **Not here.** The formatting itself (`logging.rs`, `one_line.rs`).

use std::str::FromStr;

use crate::value::{InvalidValue, TextValue};

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line of text for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}

impl TextValue for Format {
    const EXPECTED: &'static str = "\"text\" or \"json\"";
}

impl FromStr for Format {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(InvalidValue::of::<Self>()),
        }
    }
}
