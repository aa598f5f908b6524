//! Shell completions and manual pages, generated from the definition of the command line.
//!
//! **Promises.** Both list every command and flag. A manual page lists the environment variables, the exit codes and
//! examples too. `tlsidecar.toml(5)` lists every key of the configuration.
//!
//! **Not here.** The flags (`flags.rs`), the pages (`pages/`).

mod command_page;
mod exit_codes;
mod file_page;
pub mod keys;
mod roff;

use std::fs;
use std::io;
use std::path::Path;

use clap_complete::Shell;

use self::command_page::page;
use super::exit::Exit;
use super::flags;
use super::output::{fail, print};
use crate::text::Shown;

/// Prints the completions for a shell.
#[must_use]
pub fn completions(shell: Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut flags::command(), "tlsidecar", &mut script);
    exit(print(&script))
}

/// Prints the manual page `tlsidecar(1)` or, with a directory, writes it and a page for each command:
/// `tlsidecar.1`, `tlsidecar-check.1` and so on, and `tlsidecar.toml.5`.
#[must_use]
pub fn man(dir: Option<&Path>) -> Exit {
    exit(write_man(dir))
}

fn exit(written: io::Result<()>) -> Exit {
    written.map_or_else(|error| fail(error, Exit::Failed), |()| Exit::Success)
}

fn write_man(dir: Option<&Path>) -> io::Result<()> {
    // clap adds a command `help`, which needs no page.
    let mut command = flags::command().disable_help_subcommand(true);
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
    let file = dir.join("tlsidecar.toml.5");
    fs::write(&file, file_page::page()).map_err(|error| at(&file, &error))
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write {}: {error}", Shown(path)))
}
