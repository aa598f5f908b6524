//! Log lines: text or JSON, to standard error.
//!
//! **Promises.** A stuck reader of standard error holds up no connection: lines wait in a bounded
//! queue, and those that find it full are dropped and counted.
//!
//! **Not here.** What is logged. One line a connection comes from `proxy/record.rs`.

use std::fmt;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that wait for standard error; some 2 MiB, and by all that peers can do some 12 MiB: of what
/// they make up, a line has a server name and 256 characters of an error.
const QUEUED_LINES: usize = 8192;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

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
        .finish(std::io::stderr());
    let dropped = writer.error_counter();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::builder().parse_lossy(&filter.0))
        .with_writer(writer);
    let started = match format {
        Format::Text => lines.with_ansi(false).try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
    // It fails only where a process starts twice, as tests do: the first goes on.
    if started.is_ok() {
        let _first = DROPPED.set(dropped);
    }
    guard
}

/// How many lines were dropped since the start.
pub(crate) fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}
