//! The filter of log lines: levels by target.
//!
//! **Promises.** A typing error is an error. It does not silence the log.
//!
//! **Not here.** The log lines (`logging.rs`).

use std::fmt;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::value::{InvalidValue, TextValue};

/// Log levels by target, in the syntax of `RUST_LOG`: `info,access=warn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

impl Default for Filter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl TextValue for Filter {
    const EXPECTED: &'static str = "off, error, warn, info, debug or trace, \
        or a list with levels by target such as \"info,access=warn\"";
}

impl FromStr for Filter {
    type Err = InvalidValue;

    /// Parses a filter that sets a level for at least one target of ours.
    ///
    /// In the syntax of `RUST_LOG` a single word is a target, and all other targets are off: `warning` or
    /// `debgu` would silence the log. So a single word must be a level or a target of ours.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let invalid = InvalidValue::of::<Self>();
        EnvFilter::builder().parse(text).map_err(|_| invalid)?;
        let directives =
            || text.split(',').map(str::trim).filter(|directive| !directive.is_empty());
        let is_word = |directive: &&str| !directive.contains(['=', '[']);
        let is_known = |word: &str| is_level(word) || is_ours(word);
        let are_words_known = directives().filter(is_word).all(is_known);
        let target = |directive: &str| directive.split(['=', '[']).next().map(str::to_owned);
        // `[span]` without a target applies to all targets.
        let is_for_us = |name: String| name.is_empty() || is_known(&name);
        let is_any_for_us = directives().filter_map(target).any(is_for_us);
        if are_words_known && is_any_for_us { Ok(Self(text.to_owned())) } else { Err(invalid) }
    }
}

impl Filter {
    pub(super) fn for_tracing(&self) -> EnvFilter {
        EnvFilter::builder().parse_lossy(&self.0)
    }
}

fn is_level(word: &str) -> bool {
    word.parse::<LevelFilter>().is_ok()
}

/// Returns true for the targets of our log lines: the modules of the program, and the access log.
fn is_ours(target: &str) -> bool {
    let mut parts = target.split("::");
    matches!(parts.next(), Some("access" | "tlsidecar"))
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_levels_and_targets_of_ours() {
        for good in [
            "off",
            "error",
            "WARN",
            "info",
            "debug",
            "trace",
            "info,access=warn",
            "info,access=off,",
            "access=debug",
            "access",
            "tlsidecar::proxy=trace,warn",
            "info,hyper=trace",
        ] {
            assert!(good.parse::<Filter>().is_ok(), "{good}");
        }
        for bad in [
            "",
            " ",
            ",",
            "warning",
            "verbose",
            "debgu",
            "info,verbose",
            "access=warning",
            "hyper=info",
            "tlsidecarr=info",
            "acces",
        ] {
            assert!(bad.parse::<Filter>().is_err(), "{bad:?}");
        }
    }
}
