//! The filter of log lines: levels by target.
//!
//! **Promises.** A filter that would silence everything by mistake is refused.
//!
//! **Not here.** The lines themselves (`logging.rs`).

use std::fmt;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Levels by target, in the syntax of `RUST_LOG`: `info,access=warn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

impl Default for Filter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl Filter {
    /// What is allowed, to stand after "expected".
    pub(crate) const EXPECTED: &'static str = "off, error, warn, info, debug or trace, \
        or a list with levels by target such as \"info,access=warn\"";

    /// Parses a filter; none if it is not in that syntax, or names no level for anything that is logged.
    ///
    /// A word alone is a target in that syntax, all of whose lines are logged, and no others: `warning`
    /// or `debgu` would silence everything. So a word alone has to be a level, or a target of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        EnvFilter::builder().parse(text).ok()?;
        let directives =
            || text.split(',').map(str::trim).filter(|directive| !directive.is_empty());
        let is_word = |directive: &&str| !directive.contains(['=', '[']);
        let is_known = |word: &str| is_level(word) || is_ours(word);
        let are_words_known = directives().filter(is_word).all(is_known);
        let target = |directive: &str| directive.split(['=', '[']).next().map(str::to_owned);
        // `[span]` alone has no target: it is for any.
        let is_for_us = |name: String| name.is_empty() || is_known(&name);
        let is_any_for_us = directives().filter_map(target).any(is_for_us);
        (are_words_known && is_any_for_us).then(|| Self(text.to_owned()))
    }

    pub(super) fn for_tracing(&self) -> EnvFilter {
        EnvFilter::builder().parse_lossy(&self.0)
    }
}

fn is_level(word: &str) -> bool {
    word.parse::<LevelFilter>().is_ok()
}

/// Whether lines of ours have this target: a module of the program, or the access log.
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
    fn a_filter_names_levels_and_what_is_logged() {
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
            assert!(Filter::parse(good).is_some(), "{good}");
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
            assert!(Filter::parse(bad).is_none(), "{bad:?}");
        }
    }
}
