//! What a peer says, fit to be shown on a terminal.
//!
//! **Promises.** No control character, no change of the direction of writing, nothing invisible comes
//! out: letters that are written from right to left are escaped too, since a terminal may turn round what
//! stands beside them. It is never more than [`LONGEST`] characters of the text and an ellipsis. A
//! backslash is doubled, so that what was escaped can be told from what was said.
//!
//! **Not here.** What is said about it (`report.rs`).

use std::time::Duration;

/// How much of one text is shown.
const LONGEST: usize = 256;

/// Names, certificates, or names of CAs that a list shows.
pub(super) const MOST: usize = 32;

/// A text as it may be shown.
pub(super) fn text(peers: &str) -> String {
    let mut shown: String = peers.chars().take(LONGEST).fold(String::new(), |mut shown, c| {
        match c {
            '"' | '\'' => shown.push(c),
            _ if is_blank(c) || is_right_to_left(c) => shown.extend(c.escape_unicode()),
            _ => shown.extend(c.escape_debug()),
        }
        shown
    });
    if peers.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// What counts as a letter or a symbol, and leaves no mark; `escape_debug` has the rest.
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

/// The blocks whose characters are written from right to left, assigned or not: Unicode Standard Annex 9
/// with its table `DerivedBidiClass.txt`.
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

/// Joins texts that are printable already, and counts those past the first [`MOST`].
pub(super) fn list(texts: &[String]) -> String {
    let shown: Vec<_> = texts.iter().take(MOST).map(String::as_str).collect();
    match texts.len().saturating_sub(MOST) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Milliseconds, rounded to a tenth.
pub(super) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Bytes as they may be shown: what is text as text, the rest escaped.
pub(super) fn bytes(peers: &[u8]) -> String {
    let shown = &peers[..peers.len().min(LONGEST)];
    let more = if peers.len() > LONGEST { "…" } else { "" };
    format!("{}{more}", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_or_hides_comes_out() {
        let hostile = "a\u{1b}[2J\r\n\u{9b}31m\u{202e}\u{200b}\u{7f}\\é\"'";
        assert_eq!(text(hostile), r#"a\u{1b}[2J\r\n\u{9b}31m\u{202e}\u{200b}\u{7f}\\é"'"#);
        assert_eq!(bytes(b"220 hi\r\n\x1b\xff"), r"220 hi\r\n\x1b\xff");
    }

    #[test]
    fn nothing_that_looks_like_nothing_comes_out_nor_what_turns_the_line_round() {
        // Fillers and blanks that count as letters or symbols; letters of Hebrew, Arabic, Adlam.
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
        assert_eq!(text(&"é".repeat(1000)).chars().count(), LONGEST + 1);
        assert_eq!(text(&"é".repeat(LONGEST)).chars().count(), LONGEST);
        assert_eq!(bytes(&[b'x'; 1000]).chars().count(), LONGEST + 1);
    }
}
