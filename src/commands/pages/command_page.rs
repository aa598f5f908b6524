//! The manual page of a command, in section 1.
//!
//! **Not here.** Its options (`flags.rs`), its exit codes (`exit_codes.rs`).

use std::io::{self, Write};

use clap_mangen::Man;

use super::exit_codes;
use super::roff::{escaped, section};
use crate::commands::flags::examples;

const FILES: &[(&str, &str)] = &[
    (
        "/etc/tlsidecar/tlsidecar.toml",
        "The configuration of the service that the package installs. Other starts have --config.",
    ),
    ("/run/tlsidecar/admin.sock", "The admin port as a Unix socket, if admin.socket names it so."),
];

const SIGNALS: &[(&str, &str)] = &[
    ("SIGHUP", "Reads the configuration and all files that it names again."),
    (
        "SIGTERM, SIGINT",
        "Drain: no new connections, and an end with exit code 0 once all have ended, or with 1 at the deadline \
         (shutdown.drain_timeout). The second one ends the drain at once.",
    ),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "TLSIDECAR_...",
        "Every flag of a run has a variable with its name, listed with the flag. Flags count more. A variable that is \
         set to an empty value counts as unset.",
    ),
    ("${NAME}", "Variables in paths and addresses of the configuration: tlsidecar.toml(5)."),
    ("TOKIO_WORKER_THREADS", "The number of worker threads, 1 to 1024, instead of one per core."),
    ("NO_COLOR", "If set, log lines on a terminal have no colours."),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS",
        "Set by systemd: readiness, the watchdog, and sockets that are passed (sd_notify(3), sd_listen_fds(3)).",
    ),
];

/// Returns the file name and the text of the page of a command.
pub(super) fn page(command: &clap::Command) -> io::Result<(String, Vec<u8>)> {
    // The examples have a section of their own.
    let man = Man::new(command.clone().after_help(""));
    let mut page = Vec::new();
    man.render(&mut page)?;
    let name = command.get_name();
    writeln!(page, ".SH \"EXIT STATUS\"")?;
    for (code, meaning) in exit_codes::of(name) {
        writeln!(page, ".TP\n{}\n{}", code as u8, escaped(meaning))?;
    }
    if name == "tlsidecar" {
        for (title, paragraphs) in
            [("SIGNALS", SIGNALS), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)]
        {
            page.write_all(section(title, paragraphs).as_bytes())?;
        }
    }
    writeln!(page, ".SH EXAMPLES")?;
    for (purpose, line) in examples::of(name) {
        writeln!(page, ".PP\n{}:\n.PP\n.EX\n    {}\n.EE", escaped(purpose), escaped(line))?;
    }
    writeln!(page, ".SH \"SEE ALSO\"\n{}", see_also(command))?;
    Ok((man.get_filename(), page))
}

/// Returns the other pages.
fn see_also(command: &clap::Command) -> String {
    let commands = command.get_subcommands().map(|one| format!("tlsidecar\\-{}", one.get_name()));
    let main = (command.get_name() != "tlsidecar").then(|| "tlsidecar".to_owned());
    let pages = main.into_iter().chain(commands).map(|name| format!("\\fB{name}\\fR(1)"));
    let file = std::iter::once("\\fBtlsidecar.toml\\fR(5)".to_owned());
    pages.chain(file).collect::<Vec<_>>().join(", ")
}
