//! `tlsidecar check`: loads a configuration and every file that it names, and binds nothing.
//!
//! **Not here.** The checks themselves (`config/file.rs`, `app.rs`), the formats of the report (`check/report.rs`).

mod report;

use self::report::Report;
use super::exit::Exit;
use super::flags::check::{CheckArgs, OutputFormat};
use super::output::{complain, fail};
use crate::app::{self, StartError};

/// Checks a configuration, and prints its problems, its warnings and the contents of its files. With `--strict`, a
/// warning is a failure. A report that cannot be written is one too.
#[must_use]
pub fn run(args: &CheckArgs) -> Exit {
    let mut report = Report::new(args.name());
    match args.configuration() {
        Ok(config) => match app::check(&config) {
            Ok(checked) => report.note_checked(checked, config.listeners.len()),
            Err(StartError::Material(problems)) => report.note_material(problems),
            Err(error) => return fail(error, Exit::BadConfiguration),
        },
        Err(error) => report.note_file(&error),
    }
    report.is_strict = args.strict;
    let written = match args.output {
        OutputFormat::Text => report.print(),
        OutputFormat::Json => report.print_json(),
    };
    let exit = if written.is_ok() { Exit::Success } else { Exit::Failed };
    if let Err(error) = written {
        complain(format_args!("cannot write the report: {error}"));
    }
    if report.is_good() { exit } else { Exit::BadConfiguration }
}
