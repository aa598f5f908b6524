//! The environment variables that count for a command.
//!
//! **Promises.** Empty variables count as unset, and so do variables that the command does not use.
//!
//! **Not here.** The flags that have variables (`run.rs`, `admin.rs`).

use std::ffi::OsString;

use clap::builder::Resettable;

/// Removes the environment variables that are set to an empty value: manifests and unit files use it for "unset".
pub(super) fn without_empty(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        if value.is_some_and(|value| value.is_empty()) { arg.env(Resettable::Reset) } else { arg }
    });
    command.mut_subcommands(without_empty)
}

/// Removes the environment variables that the command in `arguments` does not use. clap parses all variables, and
/// an invalid one would fail a probe that does not need it: a container's health command has the environment of
/// the sidecar.
pub(super) fn without_unused(command: clap::Command, arguments: &[OsString]) -> clap::Command {
    let without_all = |command: clap::Command| command.mut_args(|arg| arg.env(Resettable::Reset));
    // A command excludes the flags of a run, so it is the first argument.
    let Some(name) = arguments.get(1).and_then(|name| name.to_str()) else { return command };
    if command.find_subcommand(name).is_none() {
        return command;
    }
    let uses_admin_port = |argument: &OsString| {
        ["--live", "--started", "--ready", "--help", "-h"].iter().any(|flag| argument == flag)
    };
    let command = without_all(command);
    if name == "check" && names_a_file(command.clone(), arguments) {
        // The token is for the sidecar of `--live`, and no part of a configuration.
        let of_run = |arg: clap::Arg| match arg.get_id() == "token_file" {
            true => arg,
            false => arg.env(Resettable::Reset),
        };
        return command.mut_subcommand(name, |check| check.mut_args(of_run));
    }
    if name == "probe" && !arguments.iter().any(uses_admin_port) {
        return command.mut_subcommand(name, without_all);
    }
    command
}

/// Returns whether the arguments of a check name a configuration file. It counts, and not the variables.
fn names_a_file(command: clap::Command, arguments: &[OsString]) -> bool {
    let without_all = |command: clap::Command| command.mut_args(|arg| arg.env(Resettable::Reset));
    // Its errors are reported by the parse that counts.
    let command = command.mut_subcommand("check", without_all).ignore_errors(true);
    let parsed = command.try_get_matches_from(arguments).ok();
    let check = parsed.as_ref().and_then(|parsed| parsed.subcommand_matches("check"));
    check.is_some_and(|check| check.contains_id("file") || check.contains_id("config"))
}

/// Returns whether the program was started without any argument, or only with `check`, and without its variables.
pub(super) fn has_nothing(arguments: &[OsString]) -> bool {
    let is_ours = |name: OsString| name.to_string_lossy().starts_with("TLSIDECAR_");
    let is_bare = match arguments {
        [] | [_] => true,
        [_, command] => command == "check",
        _ => false,
    };
    is_bare && !std::env::vars_os().any(|(name, _)| is_ours(name))
}
