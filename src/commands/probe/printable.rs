//! Text of a peer, escaped for a terminal.
//!
//! **Promises.** The output has no control characters, no invisible characters, and none that change the
//! direction of writing. Right-to-left letters are escaped too, because a terminal may reorder the text next to
//! them. The output has at most [`MAX_CHARS`] characters of the text, and an ellipsis. A backslash is doubled,
//! so that an escape cannot be confused with the text itself.
//!
//! **Not here.** The report (`report.rs`).

use std::time::Duration;

/// The limit of characters of one text.
const MAX_CHARS: usize = 256;

/// The limit of names, certificates, or CAs in a list.
pub(super) const MAX_LISTED: usize = 32;

/// Escapes a text.
pub(super) fn text(peers: &str) -> String {
    let mut shown: String = peers.chars().take(MAX_CHARS).fold(String::new(), |mut shown, c| {
        match c {
            '"' | '\'' => shown.push(c),
            _ if is_blank(c) || is_right_to_left(c) => shown.extend(c.escape_unicode()),
            _ => shown.extend(c.escape_debug()),
        }
        shown
    });
    if peers.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// Returns true for characters that count as letters or symbols and are invisible. `escape_debug` escapes the others.
fn is_blank(c: char) -> bool {
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

/// Returns true for characters in the right-to-left blocks, assigned or not (Unicode Standard Annex 9,
/// `DerivedBidiClass.txt`).
fn is_right_to_left(c: char) -> bool {
    matches!(
        c,
        '\u{590}'..='\u{8ff}'
            | '\u{fb1d}'..='\u{fdff}'
            | '\u{fe70}'..='\u{feff}'
            | '\u{10800}'..='\u{10fff}'
            | '\u{1e800}'..='\u{1efff}'
    )
}

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

/// Escapes bytes: ASCII stays, and everything else is escaped.
pub(super) fn bytes(peers: &[u8]) -> String {
    let shown = &peers[..peers.len().min(MAX_CHARS)];
    let more = if peers.len() > MAX_CHARS { "…" } else { "" };
    format!("{}{more}", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_invisible_ones_are_escaped() {
        let hostile = "a\u{1b}[2J\r\n\u{9b}31m\u{202e}\u{200b}\u{7f}\\é\"'";
        assert_eq!(text(hostile), r#"a\u{1b}[2J\r\n\u{9b}31m\u{202e}\u{200b}\u{7f}\\é"'"#);
        assert_eq!(bytes(b"220 hi\r\n\x1b\xff"), r"220 hi\r\n\x1b\xff");
    }

    #[test]
    fn blank_letters_and_right_to_left_letters_are_escaped() {
        // Fillers and blanks that count as letters or symbols; letters of Hebrew, Arabic and Adlam.
        let blank =
            "\u{3164}\u{115f}\u{1160}\u{ffa0}\u{2800}\u{1d159}\u{13441}\u{a0}\u{ad}\u{fe0f}";
        let turning = "\u{5d0}\u{627}\u{fb1d}\u{fe8d}\u{1e900}\u{10800}\u{200f}";
        for c in blank.chars().chain(turning.chars()) {
            assert_eq!(text(&c.to_string()), format!("\\u{{{:x}}}", u32::from(c)));
        }
        assert_eq!(text("Größe 工厂 завод 한국"), "Größe 工厂 завод 한국");
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(text(&"é".repeat(1000)).chars().count(), MAX_CHARS + 1);
        assert_eq!(text(&"é".repeat(MAX_CHARS)).chars().count(), MAX_CHARS);
        assert_eq!(bytes(&[b'x'; 1000]).chars().count(), MAX_CHARS + 1);
    }
}
