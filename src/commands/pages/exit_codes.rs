//! The exit codes of each command.
//!
//! **Not here.** The codes themselves (`commands/exit.rs`).

use crate::commands::exit::Exit;

/// Returns the exit codes of a command, with their meaning.
pub(super) fn of(command: &str) -> Vec<(Exit, &'static str)> {
    const FLAGS: (Exit, &str) = (Exit::BadFlags, "Invalid flags.");
    match command {
        "check" => vec![
            (Exit::Success, "The configuration is valid."),
            (
                Exit::Failed,
                "The configuration is valid, but the report could not be written, or the admin port of --live did not answer.",
            ),
            FLAGS,
            (Exit::BadConfiguration, "The configuration, or a file that it names, is invalid."),
        ],
        "probe" => vec![
            (Exit::Success, "No problem was found, or the health check succeeded."),
            (
                Exit::Failed,
                "A problem was found, the health check failed, or the report could not be written.",
            ),
            FLAGS,
            (Exit::ExpiresSoon, "The only problem is a certificate that ends within --min-days."),
            (Exit::BadConfiguration, "A file is invalid or cannot be read."),
        ],
        "drain" => vec![
            (Exit::Success, "The drain has started; with --wait, it is complete."),
            (
                Exit::Failed,
                "The admin port did not answer; with --wait, the drain did not end in time, or connections were forced.",
            ),
            FLAGS,
        ],
        "status" | "sessions" | "top" => vec![
            (Exit::Success, "The output was written; with --end, the sessions were ended."),
            (Exit::Failed, "The admin port did not answer, or nothing was ended."),
            FLAGS,
        ],
        "events" => vec![
            (
                Exit::Success,
                "A signal or --for has ended it, or the reader of its output has left.",
            ),
            (
                Exit::Failed,
                "The admin port did not answer at the start or, without a drain, at the end of --for, refused the request, or the output could not be written.",
            ),
            FLAGS,
        ],
        "trace" => vec![
            (
                Exit::Success,
                "The trace has ended: after its time, with a drain, at a signal, or because the reader of the output has left.",
            ),
            (
                Exit::Failed,
                "The admin port did not answer, has left or has sent invalid packets, or a file could not be written.",
            ),
            FLAGS,
        ],
        "reload" => vec![
            (Exit::Success, "All files are valid."),
            (Exit::Failed, "A file could not be loaded, or the admin port did not answer."),
            FLAGS,
        ],
        "completions" | "man" => vec![
            (Exit::Success, "The output was written."),
            (Exit::Failed, "The output could not be written."),
            FLAGS,
        ],
        // A run, and the demo.
        _ => vec![
            (Exit::Success, "The proxy stopped after a complete drain."),
            (
                Exit::Failed,
                "The proxy could not start, or connections were forced at the deadline of the drain.",
            ),
            FLAGS,
            (Exit::BadConfiguration, "The configuration, or a file that it names, is invalid."),
        ],
    }
}
