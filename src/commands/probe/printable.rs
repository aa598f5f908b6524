//! Lists and durations in a report for a terminal, and the escaping of peers' text in it.
//!
//! **Not here.** The rule of escaping (`text.rs`), the sentences (`report.rs`).

use std::time::Duration;

pub(super) use crate::text::{bytes_for_terminal as bytes, for_terminal as text};

/// The limit of names, certificates, or CAs in a list.
pub(super) const MAX_LISTED: usize = 32;

/// Joins escaped texts, and counts those after the first [`MAX_LISTED`].
pub(super) fn list(texts: &[String]) -> String {
    let shown: Vec<_> = texts.iter().take(MAX_LISTED).map(String::as_str).collect();
    match texts.len().saturating_sub(MAX_LISTED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Milliseconds, rounded to a tenth.
pub(super) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}
