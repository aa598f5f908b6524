//! What is made from the command line's own description: completions for shells, pages for man.
//!
//! **Promises.** Both name every command and flag that there is, since they come from the same place.
//!
//! **Not here.** What the flags are (`cli.rs`).

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

/// Writes a shell's completions to standard output.
///
/// # Errors
/// If standard output does not take them.
pub fn completions(shell: Shell) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tlsidecar", &mut script);
    print(&script)
}

/// Writes the page `tlsidecar(1)` to standard output or, with a directory, it and one for each
/// command into that: `tlsidecar.1`, `tlsidecar-check.1` and so on.
///
/// # Errors
/// If standard output, or the directory, does not take them.
pub fn man(dir: Option<&Path>) -> io::Result<()> {
    // clap adds its own command `help`, which has nothing to say in a page.
    let command = Cli::command().disable_help_subcommand(true);
    if let Some(dir) = dir {
        fs::create_dir_all(dir)?;
        return clap_mangen::generate_to(command, dir);
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    print(&page)
}

/// Whoever reads only the beginning, such as `head`, is no error.
fn print(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
