//! Output of the commands: results to standard output, errors to standard error.
//!
//! **Promises.** A reader that closes the pipe early, such as `head`, is not an error.
//!
//! **Not here.** Log lines (`logging.rs`).

use std::fmt;
use std::io::{self, Write};
use std::ops::ControlFlow;

use super::exit::Exit;

/// Prints the result of a command to standard output.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn print(text: impl AsRef<[u8]>) -> io::Result<()> {
    print_next(text).map(|_| ())
}

/// Prints a part of a result that continues. Breaks if its reader has left.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn print_next(text: impl AsRef<[u8]>) -> io::Result<ControlFlow<()>> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error),
    }
}

/// Prints a line of progress to standard output. Errors are ignored, because the exit code carries the
/// result too.
pub(super) fn print_line(line: impl fmt::Display) {
    let _unread = print(format!("{line}\n"));
}

/// Writes a line to standard error. Errors are ignored; `eprintln!` would panic on a closed pipe or a
/// full disk.
pub(super) fn complain(line: impl fmt::Display) {
    let _unread = writeln!(io::stderr().lock(), "{line}");
}

/// Reports why a command failed, and returns its exit code.
pub(super) fn fail(error: impl fmt::Display, exit: Exit) -> Exit {
    complain(error);
    exit
}
