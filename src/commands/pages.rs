//! Shell completions and manual pages, generated from the definition of the command line.
//!
//! **Promises.** Both list every command and flag. A manual page lists the environment variables and exit
//! codes too.
//!
//! **Not here.** The flags (`flags.rs`).

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::exit::Exit;
use super::flags::Cli;
use super::output::{fail, print};
use crate::text::Shown;

/// Prints the completions for a shell.
#[must_use]
pub fn completions(shell: Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tlsidecar", &mut script);
    exit(print(&script))
}

/// Prints the manual page `tlsidecar(1)` or, with a directory, writes it and a page for each command:
/// `tlsidecar.1`, `tlsidecar-check.1` and so on.
#[must_use]
pub fn man(dir: Option<&Path>) -> Exit {
    exit(write_man(dir))
}

fn exit(written: io::Result<()>) -> Exit {
    written.map_or_else(|error| fail(error, Exit::Failed), |()| Exit::Success)
}

fn write_man(dir: Option<&Path>) -> io::Result<()> {
    // clap adds a command `help`, which needs no page.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let Some(dir) = dir else {
        return print(&page(&command)?.1);
    };
    fs::create_dir_all(dir).map_err(|error| at(dir, &error))?;
    for command in [&command].into_iter().chain(command.get_subcommands()) {
        let (name, page) = page(command)?;
        let file = dir.join(name);
        fs::write(&file, page).map_err(|error| at(&file, &error))?;
    }
    Ok(())
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write {}: {error}", Shown(path)))
}

/// Returns the file name and the text of the page of a command.
fn page(command: &clap::Command) -> io::Result<(String, Vec<u8>)> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render(&mut page)?;
    writeln!(page, ".SH \"EXIT STATUS\"")?;
    for (code, meaning) in exit_codes(command.get_name()) {
        // groff sets "-" as a hyphen, "\-" as the minus sign that is typed (groff_char(7)).
        writeln!(page, ".TP\n{}\n{}", code as u8, meaning.replace('-', "\\-"))?;
    }
    Ok((man.get_filename(), page))
}

/// The exit codes of a command, with their meaning.
fn exit_codes(command: &str) -> Vec<(Exit, &'static str)> {
    const FLAGS: (Exit, &str) = (Exit::BadFlags, "Invalid flags.");
    match command {
        "check" => vec![
            (Exit::Success, "The configuration is valid."),
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
