//! Log lines: text or JSON, to standard error.
//!
//! **Promises.** A stuck reader of standard error holds up no connection: lines wait in a bounded
//! queue, and those that find it full are dropped and counted. A line is written at once, or 10 ms
//! after the last ones, together with what has come since.
//!
//! **Not here.** What is logged. One line a connection comes from `proxy/record.rs`.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

/// Lines that wait for standard error; some 2 MiB, and by all that peers can do some 12 MiB: of what
/// they make up, a line has a server name and 256 characters of an error.
const QUEUED_LINES: usize = 8192;

/// A batch of lines that is written by one call.
const BATCH_BYTES: usize = 64 * 1024;

/// How long lines gather before the next batch.
const BATCH_INTERVAL: Duration = Duration::from_millis(10);

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Sets another filter; its type depends on the format.
static SET_FILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// The shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Levels by target, in the syntax of `RUST_LOG`: `info,access=warn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

impl Default for Filter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl Filter {
    /// Parses a filter; none if it is not in that syntax.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        EnvFilter::builder().parse(text).ok().map(|_| Self(text.to_owned()))
    }

    fn for_tracing(&self) -> EnvFilter {
        EnvFilter::builder().parse_lossy(&self.0)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Starts logging, for the whole process. What is still queued is written when the guard is
/// dropped.
pub fn start(format: Format, filter: &Filter) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUED_LINES)
        .finish(Batches(BufWriter::with_capacity(BATCH_BYTES, io::stderr())));
    let dropped = writer.error_counter();
    let lines = tracing_subscriber::fmt().with_env_filter(filter.for_tracing()).with_writer(writer);
    let (started, set_filter) = match format {
        Format::Text => {
            let lines = lines.with_ansi(false).with_filter_reloading();
            let set_filter = filter_setter(lines.reload_handle());
            (lines.try_init(), set_filter)
        }
        Format::Json => {
            let lines = lines.json().flatten_event(true).with_filter_reloading();
            let set_filter = filter_setter(lines.reload_handle());
            (lines.try_init(), set_filter)
        }
    };
    // It fails only where a process starts twice, as tests do: the first goes on.
    if started.is_ok() {
        let _first = DROPPED.set(dropped);
        let _first = SET_FILTER.set(set_filter);
    }
    guard
}

/// Writes lines in batches. The thread that writes pauses after each, and so who logs need not wake it
/// line by line: with a line for each connection that was a twentieth of a handshake's cost.
struct Batches<W: Write>(BufWriter<W>);

impl<W: Write> Write for Batches<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line)
    }

    /// Called once no more lines wait.
    fn flush(&mut self) -> io::Result<()> {
        if self.0.buffer().is_empty() {
            return Ok(());
        }
        self.0.flush()?;
        #[expect(
            clippy::disallowed_methods,
            reason = "this thread writes the log, and nothing else"
        )]
        thread::sleep(BATCH_INTERVAL);
        Ok(())
    }
}

fn filter_setter<S: 'static>(handle: Handle<EnvFilter, S>) -> Box<dyn Fn(EnvFilter) + Send + Sync> {
    Box::new(move |filter| {
        // It fails only once the subscriber is gone, and then nothing is logged.
        let _gone = handle.reload(filter);
    })
}

/// Logs by another filter from now on, if logging has started.
pub(crate) fn set_filter(filter: &Filter) {
    if let Some(set) = SET_FILTER.get() {
        set(filter.for_tracing());
    }
}

/// How many lines were dropped since the start.
pub(crate) fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}
