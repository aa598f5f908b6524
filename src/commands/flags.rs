//! The command line.
//!
//! **Promises.** An invalid value is an error that lists the allowed values.
//!
//! **Not here.** The configuration file (`config/file.rs`), the parsers of values (`value.rs`,
//! `config/values.rs`), the flags of single commands (`flags/`), exit codes (`exit.rs`).

pub mod admin;
pub mod check;
mod environment;
pub mod events;
pub mod examples;
pub mod probe;
pub mod rollout;
pub mod run;
pub mod selection;
pub mod sessions;
pub mod trace;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use self::admin::AdminArgs;
use self::check::CheckArgs;
use self::environment::{has_nothing, without_empty, without_unused};
use self::events::EventsArgs;
use self::probe::ProbeArgs;
use self::rollout::RolloutArgs;
use self::run::RunArgs;
use self::sessions::{SessionsArgs, TopArgs};
use self::trace::TraceArgs;
use super::version;
use crate::config::admin::DEFAULT_ADMIN;
use crate::config::values::{ListenAddress, NonZeroDuration};
use crate::value::parse_into;

/// The message for a run or a check without any argument or variable.
const HOW_TO_START: &str = "\
there is nothing to run. Name a configuration file, or describe one listener:

    tlsidecar --config tlsidecar.toml
    tlsidecar --listen :8883 --backend 127.0.0.1:1883 --cert server.crt --key server.key

Both can be checked first, with 'tlsidecar check' and the same flags. Or start a sidecar with development certificates in front of an echo server:

    tlsidecar demo

For all flags and commands, try 'tlsidecar --help'.
";

/// Terminates the TLS of device fleets next to a legacy server that speaks plain TCP.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// The command. Without one, the program runs a proxy.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The flags of a run.
    #[command(flatten)]
    pub run: RunArgs,
    /// With --version: also print the commit, the compiler, the TLS libraries and the target.
    #[arg(short, long, requires = "version")]
    verbose: bool,
}

impl Cli {
    /// Parses the arguments and the environment of the process. Exits with code 2 if they are invalid, and with
    /// 0 after it has printed the help or the version.
    #[must_use]
    pub fn read() -> Self {
        let arguments: Vec<_> = std::env::args_os().collect();
        let mut command = without_unused(without_empty(command()), &arguments);
        if arguments.iter().any(|flag| flag == "-v" || flag == "--verbose") {
            command = command.version(version::VERBOSE);
        }
        let matches = command.try_get_matches_from_mut(&arguments).unwrap_or_else(|error| {
            if error.kind() == ErrorKind::MissingRequiredArgument && has_nothing(&arguments) {
                clap::Error::raw(error.kind(), HOW_TO_START).exit();
            }
            error.exit()
        });
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
    }
}

/// Returns the command line, with examples at the end of each help text.
#[must_use]
pub fn command() -> clap::Command {
    with_examples(Cli::command())
}

fn with_examples(command: clap::Command) -> clap::Command {
    let examples = examples::help(command.get_name());
    command.after_help(examples).mut_subcommands(with_examples)
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a configuration and the files that it names, without binding a socket.
    Check(Box<CheckArgs>),
    /// Connect as a device would and report the result, or check the health of a running sidecar.
    Probe(Box<ProbeArgs>),
    /// Start a drain of a running sidecar and return at once, for a container's preStop hook.
    Drain {
        /// The admin port.
        #[command(flatten)]
        admin: AdminArgs,
        /// Wait until the drain is complete, and print the number of open connections.
        #[arg(long)]
        wait: bool,
        /// Wait at most this long. Without it, wait until the drain is complete.
        #[arg(long, value_name = "TIME", value_parser = parse_into::<NonZeroDuration, Duration>, requires = "wait")]
        timeout: Option<Duration>,
    },
    /// Show the live sessions of a running sidecar, or end some of them.
    Sessions(Box<SessionsArgs>),
    /// Show the devices with the most failures, connections or bytes of a running sidecar.
    Top(TopArgs),
    /// Follow the events of a running sidecar: sessions, refused connections, reloads, certificates, backends, the drain.
    Events(Box<EventsArgs>),
    /// Show each step of a device's connections as it happens, over reconnects and failed handshakes.
    Trace(Box<TraceArgs>),
    /// Show the status of a running sidecar.
    Status {
        /// The admin port.
        #[command(flatten)]
        admin: AdminArgs,
        /// Print the answer of the admin port, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Reload the files of a running sidecar, or decide about a certificate rollout, and report the result.
    Reload {
        /// The admin port.
        #[command(flatten)]
        admin: AdminArgs,
        /// The decision about a rollout.
        #[command(flatten)]
        rollout: RolloutArgs,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Create development certificates, and start a sidecar in front of an echo server.
    Demo(DemoArgs),
    /// Print the completions for a shell.
    Completions {
        /// The shell.
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Print the manual page.
    Man {
        /// Write the page, and one for each command, to this directory.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// The flags of the demo.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// The directory of the development certificates.
    #[arg(long, value_name = "DIR", default_value = "certs/dev")]
    pub dir: PathBuf,
    /// The address that devices connect to.
    #[arg(long, value_name = "ADDR", value_parser = parse_into::<ListenAddress, SocketAddr>, default_value = "127.0.0.1:8883")]
    pub listen: SocketAddr,
    /// The admin port.
    #[arg(long, value_name = "ADDR", value_parser = parse_into::<ListenAddress, SocketAddr>, default_value_t = DEFAULT_ADMIN)]
    pub admin: SocketAddr,
    /// Only issue a new server certificate; a running demo reloads it.
    #[arg(long)]
    pub renew: bool,
}
