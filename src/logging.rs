//! The log: lines of text or JSON, to standard error.
//!
//! **Promises.** A reader of standard error that hangs delays no connection: lines wait in a bounded queue, and
//! are dropped and counted while it is full. Lines that standard error does not accept (full disk, closed pipe)
//! are dropped and counted too. Lines are written in batches, at least 10 ms apart.
//!
//! **Not here.** The contents of the lines. The line for each connection is in `proxy/record.rs`.

mod filter;
mod format;
mod one_line;
mod terminal;
mod text_line;

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

pub use self::filter::Filter;
pub use self::format::Format;
use self::one_line::OneLine;
use self::terminal::Terminal;
use self::text_line::TextLine;

/// The limit of lines that wait for standard error: typically 3 MiB. Peers without a valid certificate can make it 45
/// MiB, with names in refused certificates and errors whose characters are escaped: some 5.5 KiB per line.
const QUEUED_LINES: usize = 8192;

/// The size of a batch, which is written in one call.
const BATCH_BYTES: usize = 64 * 1024;

/// The interval between batches.
const BATCH_INTERVAL: Duration = Duration::from_millis(10);

/// Lines dropped because the queue was full.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines dropped because standard error did not accept them.
static FAILED: AtomicU64 = AtomicU64::new(0);

/// Replaces the filter. The type of the subscriber depends on the format.
static SET_FILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Starts the log of the process. Dropping the guard writes the lines that are still queued.
pub fn start(format: Format, filter: &Filter) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUED_LINES)
        .finish(Batches::to(io::stderr()));
    let dropped = writer.error_counter();
    let lines = tracing_subscriber::fmt().with_env_filter(filter.for_tracing());
    let lines = lines.with_writer(OneLine { to: writer, format, terminal: Terminal::of_stderr() });
    let (started, set_filter) = match format {
        Format::Text => {
            let lines = lines.event_format(TextLine).with_filter_reloading();
            let set_filter = filter_setter(lines.reload_handle());
            (lines.try_init(), set_filter)
        }
        Format::Json => {
            let lines = lines.json().flatten_event(true).with_filter_reloading();
            let set_filter = filter_setter(lines.reload_handle());
            (lines.try_init(), set_filter)
        }
    };
    // Fails only in tests, which start several proxies in one process. The first log stays.
    if started.is_ok() {
        let _first = DROPPED.set(dropped);
        let _first = SET_FILTER.set(set_filter);
    }
    guard
}

/// Writes lines in batches. The writing thread pauses after each batch, so that a logging thread does not wake it for
/// each line: with a line per connection, that was 5 % of the cost of a handshake.
struct Batches<W> {
    to: W,
    batch: Vec<u8>,
    /// True if the last line was written partially.
    is_broken: bool,
}

impl<W: Write> Batches<W> {
    const fn to(to: W) -> Self {
        Self { to, batch: Vec::new(), is_broken: false }
    }

    /// Writes the batch. Lines that are not accepted are counted and dropped.
    fn write_batch(&mut self) {
        // A new line must not continue a partial one.
        let begins = usize::from(self.is_broken);
        self.batch.splice(0..0, std::iter::repeat_n(b'\n', begins));
        let written = self.write_some();
        let rest = &self.batch[written.max(begins)..];
        let lines = rest.iter().filter(|&&byte| byte == b'\n').count();
        FAILED.fetch_add(lines as u64, Ordering::Relaxed);
        self.is_broken = match written.checked_sub(1) {
            Some(last) => self.batch[last] != b'\n',
            None => self.is_broken,
        };
        self.batch.clear();
    }

    /// Writes the batch, and returns the number of bytes that were accepted.
    fn write_some(&mut self) -> usize {
        let mut written = 0;
        while written < self.batch.len() {
            match self.to.write(&self.batch[written..]) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process that shares standard error has made it non-blocking. The reader is slow.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => pause(),
                Err(_) => break,
            }
        }
        written
    }
}

impl<W: Write> Write for Batches<W> {
    /// Adds a line. tracing_appender calls this once per line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.batch.extend_from_slice(line);
        if self.batch.len() >= BATCH_BYTES {
            self.write_batch();
        }
        Ok(line.len())
    }

    /// Writes the batch. tracing_appender calls this when its queue is empty.
    fn flush(&mut self) -> io::Result<()> {
        if !self.batch.is_empty() {
            self.write_batch();
            pause();
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "the thread that writes the log does nothing else")]
fn pause() {
    thread::sleep(BATCH_INTERVAL);
}

fn filter_setter<S: 'static>(handle: Handle<EnvFilter, S>) -> Box<dyn Fn(EnvFilter) + Send + Sync> {
    Box::new(move |filter| {
        // Fails only without a subscriber, when nothing is logged.
        let _gone = handle.reload(filter);
    })
}

/// Replaces the filter, if the log has started.
pub(crate) fn set_filter(filter: &Filter) {
    if let Some(set) = SET_FILTER.get() {
        set(filter.for_tracing());
    }
}

/// Returns the number of dropped lines since the start.
pub(crate) fn dropped_lines() -> u64 {
    let dropped = DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64);
    dropped + FAILED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepts these numbers of bytes, one for each write, then fails.
    struct Disk {
        room: Vec<usize>,
        has: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = self.room.remove(0).min(bytes.len());
            self.has.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_a_full_disk_rejects_are_counted_and_no_line_continues_a_partial_one() {
        let disk = Disk { room: vec![4, 8], has: Vec::new() };
        let mut batches = Batches::to(disk);
        let before = FAILED.load(Ordering::Relaxed);
        let dropped = || FAILED.load(Ordering::Relaxed) - before;
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            batches.write_all(line.as_bytes()).unwrap();
        }
        batches.flush().unwrap();
        assert_eq!((batches.to.has.as_slice(), dropped()), (&b"one\ntwo\nthre"[..], 2));
        batches.write_all(b"five\n").unwrap();
        batches.flush().unwrap();
        assert_eq!(dropped(), 3);
        batches.to.room = vec![100];
        batches.write_all(b"six\n").unwrap();
        batches.flush().unwrap();
        assert_eq!(batches.to.has, b"one\ntwo\nthre\nsix\n");
    }
}
