//! What a peer says, fit to be shown on a terminal.
//!
//! **Promises.** No control character, no change of the direction of writing, nothing invisible comes
//! out, and never more than [`LONGEST`] characters of the text and an ellipsis. A backslash is doubled,
//! so that what was escaped can be told from what was said.
//!
//! **Not here.** What is said about it (`report.rs`).

/// How much of one text is shown.
const LONGEST: usize = 256;

/// A text as it may be shown.
pub(super) fn text(peers: &str) -> String {
    let mut shown: String = peers.chars().take(LONGEST).fold(String::new(), |mut shown, c| {
        match c {
            '"' | '\'' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
        shown
    });
    if peers.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
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
    fn a_long_text_is_cut() {
        assert_eq!(text(&"é".repeat(1000)).chars().count(), LONGEST + 1);
        assert_eq!(text(&"é".repeat(LONGEST)).chars().count(), LONGEST);
        assert_eq!(bytes(&[b'x'; 1000]).chars().count(), LONGEST + 1);
    }
}
