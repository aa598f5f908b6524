//! The command line.
//!
//! **Promises.** Every flag of a run has an environment variable, `TLSIDECAR_` and its name. An invalid value
//! is an error that lists the allowed values. Empty variables count as unset, and so do variables that the
//! command does not use.
//!
//! **Not here.** The configuration file (`config/file.rs`), the parsers of values (`value.rs`,
//! `config/values.rs`), the flags of the probe (`flags/probe.rs`), exit codes (`exit.rs`).

pub mod admin;
pub mod probe;
pub mod rollout;
pub mod sessions;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, Resettable};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use self::admin::AdminArgs;
use self::probe::ProbeArgs;
use self::rollout::RolloutArgs;
use self::sessions::{SessionsArgs, TopArgs};
use crate::config::admin::DEFAULT_ADMIN;
use crate::config::file::{ConfigError, ConfigSource, Overrides};
use crate::config::values::NonZeroDuration;
use crate::config::{
    AdminListen, BackendAddress, CertificateFiles, ClientAuth, ClientTrust, Config, ListenerConfig,
};
use crate::logging::Filter;
use crate::value::{parse, parse_into};

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
}

impl Cli {
    /// Parses the arguments and the environment of the process. Exits with code 2 if they are invalid, and with
    /// 0 after it has printed the help or the version.
    #[must_use]
    pub fn read() -> Self {
        let arguments: Vec<_> = std::env::args_os().collect();
        let mut command = without_unused(without_empty(Self::command()), &arguments);
        let matches = command.get_matches_mut();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
    }
}

/// Removes the environment variables that are set to an empty value: manifests and unit files use it for "unset".
fn without_empty(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        if value.is_some_and(|value| value.is_empty()) { arg.env(Resettable::Reset) } else { arg }
    });
    command.mut_subcommands(without_empty)
}

/// Removes the environment variables that the command in `arguments` does not use. clap parses all variables, and
/// an invalid one would fail a probe that does not need it: a container's health command has the environment of
/// the sidecar.
fn without_unused(command: clap::Command, arguments: &[OsString]) -> clap::Command {
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
    if name == "probe" && !arguments.iter().any(uses_admin_port) {
        return command.mut_subcommand(name, without_all);
    }
    command
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a configuration file and the files that it names, without binding a socket.
    Check {
        /// The configuration file.
        #[arg(long, env = "TLSIDECAR_CONFIG", value_name = "FILE")]
        config: PathBuf,
    },
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
    #[arg(long, value_name = "ADDR", value_parser = parse::<SocketAddr>, default_value = "127.0.0.1:8883")]
    pub listen: SocketAddr,
    /// The admin port.
    #[arg(long, value_name = "ADDR", value_parser = parse::<SocketAddr>, default_value_t = DEFAULT_ADMIN)]
    pub admin: SocketAddr,
    /// Only issue a new server certificate; a running demo reloads it.
    #[arg(long)]
    pub renew: bool,
}

/// The flags of a run: a configuration file, or one listener.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration file.
    #[arg(long, env = "TLSIDECAR_CONFIG", value_name = "FILE", conflicts_with_all = ["listen", "backend", "cert", "key", "client_ca"])]
    pub config: Option<PathBuf>,
    /// The address that devices connect to, such as 0.0.0.0:8883.
    #[arg(long, env = "TLSIDECAR_LISTEN", value_name = "ADDR", value_parser = parse::<SocketAddr>, required_unless_present = "config")]
    pub listen: Option<SocketAddr>,
    /// The legacy server: host:port, tcp://host:port or unix:/path.
    #[arg(long, env = "TLSIDECAR_BACKEND", value_name = "ADDR", value_parser = parse::<BackendAddress>, required_unless_present = "config")]
    pub backend: Option<BackendAddress>,
    /// The certificate chain in PEM, the server certificate first.
    #[arg(long, env = "TLSIDECAR_CERT", value_name = "FILE", required_unless_present = "config")]
    pub cert: Option<PathBuf>,
    /// The private key of the server certificate in PEM.
    #[arg(long, env = "TLSIDECAR_KEY", value_name = "FILE", required_unless_present = "config")]
    pub key: Option<PathBuf>,
    /// Require client certificates issued by these CAs, a bundle in PEM.
    #[arg(long, env = "TLSIDECAR_CLIENT_CA", value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// The address of the admin port, instead of 127.0.0.1:9901 or the file's. "off": no port.
    #[arg(long, env = "TLSIDECAR_ADMIN", value_name = "ADDR", value_parser = parse::<AdminListen>)]
    pub admin: Option<AdminListen>,
    /// An address for metrics and probes alone, instead of the file's.
    #[arg(long, env = "TLSIDECAR_METRICS_LISTEN", value_name = "ADDR", value_parser = parse::<SocketAddr>)]
    pub metrics_listen: Option<SocketAddr>,
    /// Log levels in the syntax of RUST_LOG, such as info,access=warn, instead of the file's.
    #[arg(long, env = "TLSIDECAR_LOG_FILTER", value_name = "FILTER", value_parser = parse::<Filter>)]
    pub log_filter: Option<Filter>,
    /// Allow core dumps and debuggers, which can read the private keys.
    #[arg(long, env = "TLSIDECAR_DUMPABLE", value_parser = BoolishValueParser::new())]
    pub dumpable: bool,
}

impl RunArgs {
    /// Returns the configuration, and its source if that is a file.
    ///
    /// # Errors
    /// The problems of the file.
    pub fn configuration(&self) -> Result<(Config, Option<ConfigSource>), ConfigError> {
        let overrides = Overrides {
            admin: self.admin,
            metrics_listen: self.metrics_listen,
            log_filter: self.log_filter.clone(),
            dumpable: self.dumpable,
        };
        if let Some(path) = self.config.clone() {
            let source = ConfigSource { path, overrides };
            return Ok((source.load()?, Some(source)));
        }
        let mut config = Config::of(self.listener());
        overrides.apply(&mut config);
        Ok((config, None))
    }

    /// Returns the listener that the flags describe.
    fn listener(&self) -> ListenerConfig {
        let client_auth = match self.client_ca.clone() {
            Some(ca) => ClientAuth::Required(ClientTrust::new(ca)),
            None => ClientAuth::None,
        };
        let complete = "clap requires it without a file";
        let pair = CertificateFiles {
            cert: self.cert.clone().expect(complete),
            key: self.key.clone().expect(complete),
        };
        let listen = self.listen.expect(complete);
        let backend = self.backend.clone().expect(complete);
        ListenerConfig::new("default", listen, backend, pair, client_auth)
    }
}
