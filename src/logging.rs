//! Log lines: text or JSON, to standard error.
//!
//! **Promises.** A stuck reader of standard error holds up no connection: lines wait in a bounded
//! queue, and those that find it full are dropped and counted. So are those that standard error does not
//! take: the disk is full, the reader has gone. A line is written at once, or 10 ms after the last ones,
//! together with what has come since. A filter that would silence everything by mistake is refused.
//!
//! **Not here.** What is logged. One line a connection comes from `proxy/record.rs`.

mod filter;
mod format;
mod one_line;

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

/// Lines that wait for standard error; some 2 MiB, and by all that peers can do some 12 MiB: of what
/// they make up, a line has a server name and 256 characters of an error.
const QUEUED_LINES: usize = 8192;

/// A batch of lines that is written by one call.
const BATCH_BYTES: usize = 64 * 1024;

/// How long lines gather before the next batch.
const BATCH_INTERVAL: Duration = Duration::from_millis(10);

/// Lines that found the queue full.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines that standard error did not take.
static FAILED: AtomicU64 = AtomicU64::new(0);

/// Sets another filter; its type depends on the format.
static SET_FILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Starts logging, for the whole process. What is still queued is written when the guard is
/// dropped.
pub fn start(format: Format, filter: &Filter) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUED_LINES)
        .finish(Batches::to(io::stderr()));
    let dropped = writer.error_counter();
    let lines = tracing_subscriber::fmt().with_env_filter(filter.for_tracing());
    let lines = lines.with_writer(OneLine { to: writer, format });
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
struct Batches<W> {
    to: W,
    batch: Vec<u8>,
    /// Whether a line was written in part and then lost.
    is_broken: bool,
}

impl<W: Write> Batches<W> {
    const fn to(to: W) -> Self {
        Self { to, batch: Vec::new(), is_broken: false }
    }

    /// Writes the batch. Lines that are not taken are counted, and given up: later ones may be taken.
    fn write_batch(&mut self) {
        // What is left of a line must not begin another.
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

    /// Writes as much of the batch as is taken.
    fn write_some(&mut self) -> usize {
        let mut written = 0;
        while written < self.batch.len() {
            match self.to.write(&self.batch[written..]) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process that shares standard error has made it non-blocking: its reader is slow, not gone.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => pause(),
                Err(_) => break,
            }
        }
        written
    }
}

impl<W: Write> Write for Batches<W> {
    /// Called for each line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.batch.extend_from_slice(line);
        if self.batch.len() >= BATCH_BYTES {
            self.write_batch();
        }
        Ok(line.len())
    }

    /// Called once no more lines wait.
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

/// How many lines were lost since the start.
pub(crate) fn lost_lines() -> u64 {
    let dropped = DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64);
    dropped + FAILED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes of the next writes, then fails.
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
    fn lines_that_a_full_disk_does_not_take_are_counted_and_no_half_line_begins_another() {
        let disk = Disk { room: vec![4, 8], has: Vec::new() };
        let mut batches = Batches::to(disk);
        let before = FAILED.load(Ordering::Relaxed);
        let lost = || FAILED.load(Ordering::Relaxed) - before;
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            batches.write_all(line.as_bytes()).unwrap();
        }
        batches.flush().unwrap();
        assert_eq!((batches.to.has.as_slice(), lost()), (&b"one\ntwo\nthre"[..], 2));
        batches.write_all(b"five\n").unwrap();
        batches.flush().unwrap();
        assert_eq!(lost(), 3);
        batches.to.room = vec![100];
        batches.write_all(b"six\n").unwrap();
        batches.flush().unwrap();
        assert_eq!(batches.to.has, b"one\ntwo\nthre\nsix\n");
    }
}
