//! The program: flags to command to exit code.
//!
//! **Not here.** The flags (`commands/flags.rs`), the exit codes (`commands/exit.rs`), the life of a proxy's
//! process (`commands/run.rs`).

use tlsidecar::commands::exit::Exit;
use tlsidecar::commands::flags::{Cli, Command};
use tlsidecar::commands::{
    check, demo, drain, events, pages, probe, reload, run, sessions, status, top, trace,
};
use tlsidecar::control::{confine, core_dumps};

/// jemalloc returns the memory of a burst to the system (docs/performance-rationale.md); `.cargo/config.toml` has its
/// settings.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> Exit {
    let cli = Cli::read();
    // It fails only on a kernel without it.
    let _unsupported = confine::no_new_privileges();
    if cli.command.is_some() {
        // A run reads `process.dumpable` first. The call fails only on a kernel without this limit.
        let _unsupported = core_dumps::forbid();
    }
    match cli.command {
        None => run::run(&cli.run),
        Some(Command::Check(args)) => check::run(&args),
        Some(Command::Probe(args)) => probe::run(&args),
        Some(Command::Drain { admin, wait, timeout }) => drain::run(&admin, wait, timeout),
        Some(Command::Sessions(args)) => sessions::run(&args),
        Some(Command::Top(args)) => top::run(&args),
        Some(Command::Events(args)) => events::run(&args),
        Some(Command::Trace(args)) => trace::run(&args),
        Some(Command::Status { admin, json }) => status::run(&admin, json),
        Some(Command::Reload { admin, rollout, json }) => reload::run(&admin, &rollout, json),
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::Completions { shell }) => pages::completions(shell),
        Some(Command::Man { dir }) => pages::man(dir.as_deref()),
    }
}
