//! What is made from the command line's own description: completions for shells, pages for man.
//!
//! **Promises.** Both name every command and flag that there is, since they come from the same place. A
//! page has the environment twins and the exit codes too.
//!
//! **Not here.** What the flags are (`commands/flags.rs`).

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::flags::Cli;

use crate::text::Shown;

/// Writes a shell's completions to standard output.
///
/// # Errors
/// If standard output does not take them.
pub fn completions(shell: Shell) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tlsidecar", &mut script);
    super::flags::print(&script)
}

/// Writes the page `tlsidecar(1)` to standard output or, with a directory, it and one for each
/// command into that: `tlsidecar.1`, `tlsidecar-check.1` and so on.
///
/// # Errors
/// If standard output, or the directory, does not take them.
pub fn man(dir: Option<&Path>) -> io::Result<()> {
    // clap adds its own command `help`, which has nothing to say in a page.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let Some(dir) = dir else {
        return super::flags::print(&page(&command)?.1);
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

/// The name of a command's page, and the page.
fn page(command: &clap::Command) -> io::Result<(String, Vec<u8>)> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render(&mut page)?;
    writeln!(page, ".SH \"EXIT STATUS\"")?;
    for (code, means) in exit_codes(command.get_name()) {
        // A hyphen as it is typed, not as it is set: groff_char(7).
        writeln!(page, ".TP\n{code}\n{}", means.replace('-', "\\-"))?;
    }
    Ok((man.get_filename(), page))
}

/// What the exit codes of a command mean, which `main.rs` and `commands/probe.rs` give.
fn exit_codes(command: &str) -> Vec<(u8, &'static str)> {
    const FLAGS: (u8, &str) = (2, "Flags that make no sense.");
    match command {
        "check" => vec![
            (0, "Good."),
            FLAGS,
            (78, "A problem in the configuration, or in a file that it names."),
        ],
        "probe" => vec![
            (0, "Good, or well."),
            (1, "A problem, or not well; or the report could not be written."),
            FLAGS,
            (3, "Nothing but that a certificate ends within --min-days."),
            (78, "A file that cannot be used."),
        ],
        "drain" => vec![
            (0, "The drain has begun; with --wait, it is over."),
            (1, "No answer; or with --wait, not drained in time, or connections had to be forced."),
            FLAGS,
        ],
        "completions" | "man" => vec![(0, "Written."), (1, "It could not be written."), FLAGS],
        // A run, and the demo.
        _ => vec![
            (0, "Stopped in order."),
            (1, "It could not start, or the drain had to force connections."),
            FLAGS,
            (78, "Bad configuration, or a file that cannot be used."),
        ],
    }
}
