//! Text from outside, made safe for one line of a log or for a terminal.
//!
//! One rule has two strengths. A log line, a status and a name keep every script, so that an operator can read
//! the name of a device. The report of `probe` stands on a terminal among our own words, and its text comes
//! from a server that may be hostile: right-to-left letters and invisible characters are escaped there as well,
//! because a terminal may reorder or hide the characters beside them.
//!
//! **Promises.** No character in the result ends a line, moves a cursor, changes a colour or turns the direction of
//! writing. Each is replaced by its escape, for example `\n` or `\u{1b}`.
//!
//! **Not here.** Limits on the length of a text, except in [`shortened`] and for the terminal.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::path::Path;

/// Largest number of characters, or bytes, of one text on the terminal.
const MAX_TERMINAL_CHARS: usize = 256;

/// A path that is shown in one line.
pub struct Shown<'a>(pub &'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.0.to_string_lossy()))
    }
}

/// Returns whether all bytes are printable ASCII. No character of such text is unsafe, and most text is: this is a fast check
/// before a look at each character.
pub(crate) fn is_printable_ascii(text: &[u8]) -> bool {
    // Without an early end within a chunk, the compiler compares several bytes at a time.
    let is_printable = |byte: &u8| matches!(byte, b' '..=b'~');
    text.chunks(64).all(|chunk| chunk.iter().fold(true, |all, byte| all & is_printable(byte)))
}

/// Returns the text on one line: unsafe characters are escaped.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |escaped, c| escaped.extend(c.escape_default()))
}

/// Returns a line of JSON with the same value on one line. JSON requires an escape for some of the unsafe
/// characters only (RFC 8259 section 7).
pub(crate) fn json_line(json: &str) -> Cow<'_, str> {
    escaped(json, |escaped, c| {
        // All unsafe characters are below U+10000. Writing to a String cannot fail.
        let _infallible = write!(escaped, "\\u{:04x}", u32::from(c));
    })
}

/// Returns the text on one line. If it has more than `max_chars` characters, it is cut and ends in an ellipsis.
pub(crate) fn shortened(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        None => one_line(text).into_owned(),
        Some((end, _)) => one_line(&text[..end]).into_owned() + "…",
    }
}

/// Returns names in quotation marks, at most `max` of them and the number of the others.
pub(crate) fn listed(names: &[String], max: usize) -> String {
    let shown: Vec<_> = names.iter().take(max).map(|name| format!("{name:?}")).collect();
    match names.len().saturating_sub(max) {
        _ if names.is_empty() => "none".to_owned(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Returns the text as it may stand in a report on a terminal, at most 256 characters of it and an ellipsis. A
/// backslash is doubled, so that an escape differs from the same characters in the text.
pub(crate) fn for_terminal(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(MAX_TERMINAL_CHARS) {
        match c {
            '"' | '\'' => shown.push(c),
            _ if is_blank(c) || is_right_to_left(c) => shown.extend(c.escape_unicode()),
            _ => shown.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(MAX_TERMINAL_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// Returns bytes as they may stand in a report on a terminal: everything except printable ASCII is escaped.
pub(crate) fn bytes_for_terminal(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(MAX_TERMINAL_CHARS)];
    let more = if bytes.len() > MAX_TERMINAL_CHARS { "…" } else { "" };
    format!("{}{more}", shown.escape_ascii())
}

fn escaped(text: &str, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            escape(&mut escaped, c);
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Returns whether a character affects the text around it: control characters, the separators of lines and
/// paragraphs, and those that turn the direction of writing (Unicode Technical Report 36). `escape_debug`
/// escapes them all.
const fn is_unsafe(c: char) -> bool {
    matches!(c, '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{200e}' | '\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Returns whether a character counts as a letter or a symbol and leaves no mark. `escape_debug` escapes the other
/// invisible characters.
const fn is_blank(c: char) -> bool {
    matches!(
        c,
        '\u{115f}'
            | '\u{1160}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{ffa0}'
            | '\u{13441}'
            | '\u{13442}'
            | '\u{1d159}'
    )
}

/// Returns whether a character is in a block that is written from right to left, assigned or not: Unicode Standard
/// Annex 9 with its table `DerivedBidiClass.txt`.
const fn is_right_to_left(c: char) -> bool {
    matches!(
        c,
        '\u{590}'..='\u{8ff}'
            | '\u{fb1d}'..='\u{fdff}'
            | '\u{fe70}'..='\u{feff}'
            | '\u{10800}'..='\u{10fff}'
            | '\u{1e800}'..='\u{1efff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_characters_are_escaped_and_every_script_stays() {
        assert_eq!(one_line("pump-7 \u{fc}\u{6771}.crt"), "pump-7 \u{fc}\u{6771}.crt");
        assert_eq!(one_line("a\nb\r\u{1b}[31m"), "a\\nb\\r\\u{1b}[31m");
        assert_eq!(one_line("a\u{9b}b\u{2028}\u{202e}"), "a\\u{9b}b\\u{2028}\\u{202e}");
        assert_eq!(Shown(Path::new("d/\t.crt")).to_string(), "d/\\t.crt");
    }

    #[test]
    fn printable_ascii_is_told_at_every_place_of_a_text() {
        assert!(is_printable_ascii(b"") && is_printable_ascii(&[b' '; 64]));
        for place in [0, 1, 63, 64, 129] {
            for other in [0x1f, 0x7f, 0x80] {
                let mut text = [b'~'; 130];
                text[place] = other;
                assert!(!is_printable_ascii(&text), "{other} at {place}");
            }
        }
    }

    #[test]
    fn a_shortened_text_is_one_line() {
        assert_eq!(shortened("a\nREADY=1", 9), "a\\nREADY=1");
        assert_eq!(shortened(&"ä".repeat(240), 240), "ä".repeat(240));
        assert_eq!(shortened(&"ä".repeat(1000), 240), "ä".repeat(240) + "…");
    }

    #[test]
    fn a_terminal_gets_nothing_that_moves_a_cursor_or_hides() {
        let hostile = "a\u{1b}[2J\r\n\u{9b}31m\u{202e}\u{200b}\u{7f}\\é\"'";
        assert_eq!(for_terminal(hostile), r#"a\u{1b}[2J\r\n\u{9b}31m\u{202e}\u{200b}\u{7f}\\é"'"#);
        assert_eq!(bytes_for_terminal(b"220 hi\r\n\x1b\xff"), r"220 hi\r\n\x1b\xff");
        for c in (0..=0x1_ffff).filter_map(char::from_u32).filter(|c| is_unsafe(*c)) {
            assert!(!for_terminal(&c.to_string()).chars().any(is_unsafe), "{c:?}");
        }
    }

    #[test]
    fn a_terminal_gets_no_invisible_and_no_right_to_left_character() {
        // Fillers and blanks that count as letters or symbols; letters of Hebrew, Arabic, Adlam.
        let blank =
            "\u{3164}\u{115f}\u{1160}\u{ffa0}\u{2800}\u{1d159}\u{13441}\u{a0}\u{ad}\u{fe0f}";
        let turning = "\u{5d0}\u{627}\u{fb1d}\u{fe8d}\u{1e900}\u{10800}\u{200f}";
        for c in blank.chars().chain(turning.chars()) {
            assert_eq!(for_terminal(&c.to_string()), format!("\\u{{{:x}}}", u32::from(c)));
        }
        assert_eq!(for_terminal("Größe 工厂 завод 한국"), "Größe 工厂 завод 한국");
    }

    #[test]
    fn a_long_text_on_a_terminal_is_cut() {
        let chars = |text: &str| for_terminal(text).chars().count();
        assert_eq!(chars(&"é".repeat(1000)), MAX_TERMINAL_CHARS + 1);
        assert_eq!(chars(&"é".repeat(MAX_TERMINAL_CHARS)), MAX_TERMINAL_CHARS);
        assert_eq!(bytes_for_terminal(&[b'x'; 1000]).chars().count(), MAX_TERMINAL_CHARS + 1);
    }
}
