//! `tlsidecar check`: loads a configuration and every file that it names, and binds nothing.
//!
//! **Not here.** The checks themselves (`config/file.rs`, `app.rs`), the formats of the report (`check/report.rs`), the
//! comparison with a running sidecar (`check/live.rs`).

mod live;
mod report;

use self::report::Report;
use super::exit::Exit;
use super::flags::check::{CheckArgs, OutputFormat};
use super::output::{complain, fail};
use crate::app::{self, StartError};

/// Checks a configuration, and prints its problems, its warnings, the contents of its files and, with `--live`, its
/// effects on connected devices. With `--strict`, a warning or an effect is a failure. A report that cannot be written is
/// one too, and a sidecar that does not answer.
#[must_use]
pub fn run(args: &CheckArgs) -> Exit {
    let mut report = Report::new(args.name());
    match args.configuration() {
        Ok(config) => match app::check(&config) {
            Ok(checked) => {
                let candidate = report.note_checked(checked);
                let compared = args.live().map(|admin| live::compare(&candidate, &admin));
                match compared.transpose() {
                    Ok(live) => report.live = live,
                    Err(error) => report.live_error = Some(error.to_string()),
                }
            }
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
    let is_complete = written.is_ok() && report.live_error.is_none();
    if let Err(error) = written {
        complain(format_args!("cannot write the report: {error}"));
    }
    if let Some(error) = &report.live_error {
        complain(error);
    }
    let exit = if is_complete { Exit::Success } else { Exit::Failed };
    if report.is_good() { exit } else { Exit::BadConfiguration }
}
