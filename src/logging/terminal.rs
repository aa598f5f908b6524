//! Log lines on a terminal: in colour, and without the modules of the program.
//!
//! **Promises.** A line is changed after its peers' text was escaped, and only before its message: no peer can add a
//! colour. Files, pipes and the journal get the line unchanged.
//!
//! **Not here.** The escapes (`text.rs`).

use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal};

/// The terminal that shows the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminal {
    pub(super) is_coloured: bool,
}

impl Terminal {
    /// Returns the terminal of standard error, if that is one.
    pub(super) fn of_stderr() -> Option<Self> {
        let (no_color, term) = (env::var_os("NO_COLOR"), env::var_os("TERM"));
        let is_coloured = is_coloured(no_color.as_deref(), term.as_deref());
        io::stderr().is_terminal().then_some(Self { is_coloured })
    }

    /// Returns a line, which begins with the time, the level and the target, as the terminal shows it.
    pub(super) fn shown(self, line: &str) -> String {
        let Some((time, level, rest)) = parts(line) else { return line.to_owned() };
        let rest = match rest.split_once(": ") {
            Some((target, message)) if is_module(target) => message,
            Some(_) | None => rest,
        };
        if !self.is_coloured {
            return format!("{time} {level:>5} {rest}");
        }
        let colour = match level {
            "ERROR" => 31,
            "WARN" => 33,
            "INFO" => 32,
            _ => 34,
        };
        format!("\u{1b}[2m{time}\u{1b}[0m \u{1b}[{colour}m{level:>5}\u{1b}[0m {rest}")
    }
}

/// Returns the time, the level and the rest of a line.
fn parts(line: &str) -> Option<(&str, &str, &str)> {
    let (time, rest) = line.split_once(' ')?;
    let (level, rest) = rest.trim_start().split_once(' ')?;
    Some((time, level, rest))
}

/// Returns whether a target is a module of the program, and not one that has a meaning, such as `access`.
fn is_module(target: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
    target.starts_with("tlsidecar") && target.chars().all(is_part)
}

/// Returns whether the terminal shows colours (no-color.org; TERM=dumb, as in editors).
fn is_coloured(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && term.is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_module_and_the_level_in_colour() {
        let line = "2026-11-30T10:00:00.000000Z  WARN tlsidecar::reload: no file: a";
        let plain = Terminal { is_coloured: false }.shown(line);
        assert_eq!(plain, "2026-11-30T10:00:00.000000Z  WARN no file: a");
        let coloured = Terminal { is_coloured: true }.shown(line);
        assert!(coloured.contains("\u{1b}[33m WARN\u{1b}[0m no file: a"), "{coloured:?}");
        let access = "2026-11-30T10:00:00.000000Z  INFO access: reason=ok";
        assert_eq!(Terminal { is_coloured: false }.shown(access), access);
        assert_eq!(Terminal { is_coloured: true }.shown("odd"), "odd");
    }

    #[test]
    fn colours_can_be_turned_off() {
        let (some, empty) = (Some(OsStr::new("1")), Some(OsStr::new("")));
        assert!(is_coloured(None, None) && is_coloured(empty, Some(OsStr::new("xterm"))));
        assert!(!is_coloured(some, None) && !is_coloured(None, Some(OsStr::new("dumb"))));
    }
}
