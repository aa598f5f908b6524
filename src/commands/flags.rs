//! The command line.
//!
//! **Promises.** Every flag of a run has an environment twin, `TLSIDECAR_` and its name. A value that
//! is not allowed is refused here, with what is. What the environment says to flags that are of no use to
//! a command is not looked at, and a twin that is empty counts as unset.
//!
//! **Not here.** The configuration file (`config/file.rs`), exit codes (`main.rs`), the flags of the
//! probe (`commands/flags/probe.rs`), completions and pages (`commands/pages.rs`).

pub mod probe;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, Resettable};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use self::probe::Probe;
use crate::config::file::{ConfigError, Overrides, Source};
use crate::config::{
    AdminConfig, BackendAddress, CertificateFiles, ClientAuth, ClientTrust, Config, ListenerConfig,
};
use crate::logging::Filter;

/// How long a command may be told to wait, as in the configuration file.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Terminates the TLS of device fleets next to a legacy server that speaks plain TCP.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run.
    #[command(flatten)]
    pub run: Run,
}

impl Cli {
    /// Reads the process's arguments and environment. Ends the process, with code 2, if they make
    /// no sense, and with 0 if they ask for help or the version.
    #[must_use]
    pub fn read() -> Self {
        let arguments: Vec<_> = std::env::args_os().collect();
        let mut command = heeding(without_empty(Self::command()), &arguments);
        let matches = command.get_matches_mut();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
    }
}

/// The command line without the environment twins that are set but empty: manifests and unit files set a
/// variable to nothing to say that it has no value.
fn without_empty(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        if value.is_some_and(|value| value.is_empty()) { arg.env(Resettable::Reset) } else { arg }
    });
    command.mut_subcommands(without_empty)
}

/// The command line without the environment twins that are of no use to these arguments. clap reads
/// them all, and one that makes no sense would end a probe that never needs it: a container's health
/// command has the environment of the sidecar's own run.
fn heeding(command: clap::Command, arguments: &[OsString]) -> clap::Command {
    let deaf = |command: clap::Command| command.mut_args(|arg| arg.env(Resettable::Reset));
    // Flags of a run and a command exclude each other: a command stands first.
    let Some(name) = arguments.get(1).and_then(|name| name.to_str()) else { return command };
    if command.find_subcommand(name).is_none() {
        return command;
    }
    let asks_admin = |argument: &OsString| {
        ["--live", "--started", "--ready", "--help", "-h"].iter().any(|flag| argument == flag)
    };
    let command = deaf(command);
    if name == "probe" && !arguments.iter().any(asks_admin) {
        return command.mut_subcommand(name, deaf);
    }
    command
}

/// Prints what a command has to say, to standard output. Whoever reads only the beginning, such as `head`,
/// is no error.
///
/// # Errors
/// If standard output does not take it.
pub fn print(text: impl AsRef<[u8]>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes a line to standard error, for as long as there is somebody to read it: `eprintln!` panics where
/// there is nobody, or no room on the disk.
pub fn complain(line: impl fmt::Display) {
    let _unread = writeln!(io::stderr().lock(), "{line}");
}

/// What can be done instead of running.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a configuration file and everything that it names, and bind nothing.
    Check {
        /// The configuration file.
        #[arg(long, env = "TLSIDECAR_CONFIG", value_name = "FILE")]
        config: PathBuf,
    },
    /// Connect as a device would, and say what it sees. Or ask the admin port how it is.
    Probe(Box<Probe>),
    /// Ask the running sidecar to drain, and return at once: for a container's preStop hook.
    Drain {
        /// The admin port of the running sidecar.
        #[arg(long, env = "TLSIDECAR_ADMIN", value_name = "ADDR", value_parser = address, default_value_t = AdminConfig::default().listen)]
        admin: SocketAddr,
        /// Stay until it is drained, and say how many connections are left.
        #[arg(long)]
        wait: bool,
        /// Stay no longer than this; without it, as long as the drain takes.
        #[arg(long, value_name = "TIME", value_parser = duration, requires = "wait")]
        timeout: Option<Duration>,
    },
    /// Try it out: make development certificates, start an echo server and a sidecar before it.
    Demo(DemoArgs),
    /// Print a shell's completions.
    Completions {
        /// The shell.
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Print the manual's page.
    Man {
        /// Write it, and a page for each command, into this directory.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Where the demo listens.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where the development certificates are made.
    #[arg(long, value_name = "DIR", default_value = "certs/dev")]
    pub dir: PathBuf,
    /// Where devices connect.
    #[arg(long, value_name = "ADDR", value_parser = address, default_value = "127.0.0.1:8883")]
    pub listen: SocketAddr,
    /// The admin port.
    #[arg(long, value_name = "ADDR", value_parser = address, default_value_t = AdminConfig::default().listen)]
    pub admin: SocketAddr,
    /// Only make a new server certificate; a demo that is running takes it up.
    #[arg(long)]
    pub renew: bool,
}

/// How to run: on a file, or with one listener from flags.
#[derive(Debug, Args)]
pub struct Run {
    /// The configuration file.
    #[arg(long, env = "TLSIDECAR_CONFIG", value_name = "FILE", conflicts_with_all = ["listen", "backend", "cert", "key", "client_ca"])]
    pub config: Option<PathBuf>,
    /// Where devices connect, such as 0.0.0.0:8883.
    #[arg(long, env = "TLSIDECAR_LISTEN", value_name = "ADDR", value_parser = address, required_unless_present = "config")]
    pub listen: Option<SocketAddr>,
    /// The legacy server: host:port, tcp://host:port or unix:/path.
    #[arg(long, env = "TLSIDECAR_BACKEND", value_name = "ADDR", value_parser = backend, required_unless_present = "config")]
    pub backend: Option<BackendAddress>,
    /// The certificate chain in PEM, the server's own first.
    #[arg(long, env = "TLSIDECAR_CERT", value_name = "FILE", required_unless_present = "config")]
    pub cert: Option<PathBuf>,
    /// Its private key in PEM.
    #[arg(long, env = "TLSIDECAR_KEY", value_name = "FILE", required_unless_present = "config")]
    pub key: Option<PathBuf>,
    /// Require client certificates of these CAs, a bundle in PEM.
    #[arg(long, env = "TLSIDECAR_CLIENT_CA", value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// The admin port, instead of 127.0.0.1:9901 or the file's.
    #[arg(long, env = "TLSIDECAR_ADMIN", value_name = "ADDR", value_parser = address)]
    pub admin: Option<SocketAddr>,
    /// Log levels in the syntax of RUST_LOG, such as info,access=warn, instead of the file's.
    #[arg(long, env = "TLSIDECAR_LOG_FILTER", value_name = "FILTER", value_parser = filter)]
    pub log_filter: Option<Filter>,
    /// Leave core dumps as they are, and the memory open to a debugger: keys are in it.
    #[arg(long, env = "TLSIDECAR_DUMPABLE", value_parser = BoolishValueParser::new())]
    pub dumpable: bool,
}

impl Run {
    /// The configuration to run on, and where it comes from if from a file.
    ///
    /// # Errors
    /// The problems of the file.
    pub fn configuration(&self) -> Result<(Config, Option<Source>), ConfigError> {
        let overrides = Overrides {
            admin: self.admin,
            log_filter: self.log_filter.clone(),
            dumpable: self.dumpable,
        };
        if let Some(path) = self.config.clone() {
            let source = Source { path, overrides };
            return Ok((source.load()?, Some(source)));
        }
        let mut config = Config::of(self.listener());
        overrides.apply(&mut config);
        Ok((config, None))
    }

    /// The listener of the flags.
    fn listener(&self) -> ListenerConfig {
        let client_auth = match self.client_ca.clone() {
            Some(ca) => ClientAuth::Required(ClientTrust { ca, crls: Vec::new() }),
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

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an IP address and a port, such as 0.0.0.0:8883".to_owned())
}

fn backend(text: &str) -> Result<BackendAddress, String> {
    BackendAddress::parse(text)
        .ok_or_else(|| "expected host:port, tcp://host:port or unix:/path".to_owned())
}

fn filter(text: &str) -> Result<Filter, String> {
    Filter::parse(text).ok_or_else(|| format!("expected {}", Filter::EXPECTED))
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).ok();
    parsed
        .filter(|duration| !duration.is_zero() && *duration <= LONGEST)
        .ok_or_else(|| "expected a duration from 1ms to 365d, such as 30s or 1m".to_owned())
}
