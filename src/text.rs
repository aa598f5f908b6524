//! Text from outside, made fit for one line of a log or a terminal.
//!
//! **Promises.** What comes out has no character that ends a line, moves a cursor, changes a colour or
//! turns the direction of writing: each is replaced by its escape, such as `\n` or `\u{1b}`.
//!
//! **Not here.** How long a text may be: that is its user's to bound.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::path::Path;

/// A path that is shown in one line.
pub struct Shown<'a>(pub &'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.0.to_string_lossy()))
    }
}

/// The text with what draws replaced by its escape.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(draws) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if draws(c) {
            // Writing to a String cannot fail.
            let _infallible = write!(escaped, "{}", c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Whether a character does something to what is around it: control characters, the separators of lines
/// and paragraphs, and those that turn the direction of writing (Unicode Technical Report 36).
pub(crate) const fn draws(c: char) -> bool {
    matches!(c, '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{200e}' | '\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_draws_is_escaped_and_every_script_stays() {
        assert_eq!(one_line("pump-7 \u{fc}\u{6771}.crt"), "pump-7 \u{fc}\u{6771}.crt");
        assert_eq!(one_line("a\nb\r\u{1b}[31m"), "a\\nb\\r\\u{1b}[31m");
        assert_eq!(one_line("a\u{9b}b\u{2028}\u{202e}"), "a\\u{9b}b\\u{2028}\\u{202e}");
        assert_eq!(Shown(Path::new("d/\t.crt")).to_string(), "d/\\t.crt");
    }
}
