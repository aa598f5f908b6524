//! A writer that keeps each event on one line.
//!
//! **Promises.** A name, an error or a peer's text can neither end a log line nor control a terminal.
//!
//! **Not here.** The set of escaped characters (`text.rs`).

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

use super::format::Format;
use super::terminal::Terminal;
use crate::text;

/// Escapes the control characters in each line.
#[derive(Clone)]
pub(super) struct OneLine<W> {
    pub(super) to: W,
    pub(super) format: Format,
    /// The terminal that shows the text, if there is one.
    pub(super) terminal: Option<Terminal>,
}

impl<W: Write> Write for OneLine<W> {
    /// Writes a line. tracing_subscriber calls this once per event.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let (text, end) = match line {
            [text @ .., b'\n'] => (text, "\n"),
            text => (text, ""),
        };
        let terminal = self.terminal.filter(|_| self.format == Format::Text);
        if terminal.is_none() && text::is_printable_ascii(text) {
            return self.to.write(line);
        }
        let text = String::from_utf8_lossy(text);
        let escaped = match self.format {
            Format::Text => text::one_line(&text),
            Format::Json => text::json_line(&text),
        };
        let shown = match terminal {
            Some(terminal) => terminal.shown(&escaped).into(),
            None => escaped,
        };
        self.to.write_all(format!("{shown}{end}").as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<'a, W: Clone + Write + 'a> MakeWriter<'a> for OneLine<W> {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format, line: &str) -> String {
        let mut writer = OneLine { to: Vec::new(), format, terminal: None };
        writer.write_all(line.as_bytes()).unwrap();
        String::from_utf8(writer.to).unwrap()
    }

    #[test]
    fn control_characters_in_an_event_are_escaped() {
        let text = |line| written(Format::Text, line);
        assert_eq!(text("INFO pump-7 \u{fc}\n"), "INFO pump-7 \u{fc}\n");
        assert_eq!(text("a\nERROR b\u{1b}[31m\u{9b}\n"), "a\\nERROR b\\u{1b}[31m\\u{9b}\n");
    }

    #[test]
    fn a_peer_cannot_add_colours_on_a_terminal() {
        let terminal = Some(Terminal { is_coloured: true });
        let mut writer = OneLine { to: Vec::new(), format: Format::Text, terminal };
        writer.write_all(b"2026-11-30T10:00:00Z  INFO access: sni=\x1b[31m\n").unwrap();
        let written = String::from_utf8(writer.to).unwrap();
        assert!(written.ends_with("access: sni=\\u{1b}[31m\n"), "{written:?}");
    }

    #[test]
    fn a_line_of_json_stays_json() {
        let line = "{\"file\":\"a\\n\u{9b}\u{2028}\u{fc}\"}\n";
        let json = written(Format::Json, line);
        assert_eq!(json, "{\"file\":\"a\\n\\u009b\\u2028\u{fc}\"}\n");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["file"], "a\n\u{9b}\u{2028}\u{fc}");
    }
}
