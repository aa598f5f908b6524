//! `tlsidecar check`: loads a configuration file and every file that it names, and binds nothing.
//!
//! **Not here.** The checks themselves (`config/file.rs`, `app.rs`).

use std::path::Path;

use super::exit::Exit;
use super::output::{fail, print_line};
use crate::app;
use crate::config::file;
use crate::text::Shown;

/// Checks the configuration file at `path`, and prints its warnings and the contents of its files.
#[must_use]
pub fn run(path: &Path) -> Exit {
    let config = match file::load(path) {
        Ok(config) => config,
        Err(error) => return fail(error, Exit::BadConfiguration),
    };
    let checked = match app::check(&config) {
        Ok(checked) => checked,
        Err(error) => return fail(error, Exit::BadConfiguration),
    };
    for warning in checked.warnings {
        print_line(format_args!("warning: {warning}"));
    }
    checked.files.iter().for_each(print_line);
    print_line(format_args!("{}: good, {} listener(s)", Shown(path), config.listeners.len()));
    Exit::Success
}
