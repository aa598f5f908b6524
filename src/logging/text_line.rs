//! The lines of the text format: time, level, target, message and fields.
//!
//! They are those of tracing_subscriber, byte for byte. Its own code formats each value as `dyn Debug`, and took twice as many
//! instructions for the line of a connection. No code of this process opens a span, so a line has none.
//!
//! **Promises.** A value is written as its `Debug` writes it.
//!
//! **Not here.** The escapes of what a `Display` writes (`one_line.rs`), terminals (`terminal.rs`).

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::text::is_printable_ascii;

/// The format of a line.
pub(super) struct TextLine;

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        SystemTime.format_time(&mut writer)?;
        writer.write_str(level(*metadata.level()))?;
        writer.write_str(metadata.target())?;
        writer.write_char(':')?;
        let mut fields = Fields { to: writer, written: Ok(()) };
        event.record(&mut fields);
        fields.written?;
        fields.to.write_char('\n')
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => " ERROR ",
        Level::WARN => "  WARN ",
        Level::INFO => "  INFO ",
        Level::DEBUG => " DEBUG ",
        Level::TRACE => " TRACE ",
    }
}

/// Writes the fields of an event, each after a space: `key=value`, and the message without a key.
struct Fields<'a> {
    to: Writer<'a>,
    written: fmt::Result,
}

impl Fields<'_> {
    fn write(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        let key = || {
            self.to.write_char(' ')?;
            if field.name() != "message" {
                self.to.write_str(field.name())?;
                self.to.write_char('=')?;
            }
            value(&mut self.to)
        };
        if self.written.is_ok() {
            self.written = key();
        }
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.write(field, |to| write!(to, "{value:?}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write(field, |to| write!(to, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // `Debug` escapes no other printable characters of ASCII.
        let is_plain = is_printable_ascii(value.as_bytes()) && !value.contains(['"', '\\']);
        self.write(field, |to| {
            if !is_plain {
                return write!(to, "{value:?}");
            }
            to.write_char('"')?;
            to.write_str(value)?;
            to.write_char('"')
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.write(field, |to| write!(to, "{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// Returns the lines of `log` behind their times, in this format and in tracing_subscriber's.
    fn in_both(log: impl Fn()) -> [String; 2] {
        let (ours, theirs) = (Lines::default(), Lines::default());
        let builder = || tracing_subscriber::fmt().with_max_level(Level::TRACE).with_ansi(false);
        let subscriber = builder().event_format(TextLine).with_writer(ours.clone()).finish();
        tracing::subscriber::with_default(subscriber, &log);
        let subscriber = builder().with_writer(theirs.clone()).finish();
        tracing::subscriber::with_default(subscriber, &log);
        [ours, theirs].map(|lines| {
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            text.lines().map(|line| line[27..].to_owned() + "\n").collect()
        })
    }

    #[test]
    fn a_line_is_the_one_of_tracing_subscriber() {
        let [ours, theirs] = in_both(|| {
            let none: Option<&str> = None;
            let (huge, least, net) = (u64::MAX, i64::MIN, [192, 0, 2, 1]);
            tracing::info!(target: "access", connection = 7_u64, none, sni = "a\"\\\u{1b}\u{fc}'", "done");
            tracing::error!(huge, zero = 0_u64, least, yes = true, ?net, empty = "");
            tracing::warn!("{} of {}", 1, 2);
            tracing::debug!(error = %fmt::Error, third = 1.0 / 3.0, whole = 1.0, fraction = 105.36);
            tracing::trace!("message behind {}", "a target");
        });
        assert_eq!(ours, theirs);
        assert_eq!(ours.lines().count(), 5);
    }
}
