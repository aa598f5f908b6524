//! The flags of `tlsidecar check`.
//!
//! **Not here.** The check itself (`commands/check.rs`).

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::admin::{AdminArgs, AdminTarget};
use super::run::RunArgs;
use crate::config::Config;
use crate::config::file::{ConfigError, is_standard_input};
use crate::value::parse;

/// The flags of a check.
#[derive(Debug, Args)]
#[command(
    override_usage = "tlsidecar check [OPTIONS] FILE\n       tlsidecar check [OPTIONS] --listen ADDR --backend ADDR --cert FILE --key FILE",
    mut_arg("listen", |flag| flag.required_unless_present("file")),
    mut_arg("backend", |flag| flag.required_unless_present("file")),
    mut_arg("cert", |flag| flag.required_unless_present("file")),
    mut_arg("key", |flag| flag.required_unless_present("file"))
)]
pub struct CheckArgs {
    /// The configuration file. "-": standard input.
    #[arg(value_name = "FILE", conflicts_with_all = ["config", "listen", "backend", "cert", "key", "client_ca"])]
    file: Option<PathBuf>,
    /// The flags of the run that is checked.
    #[command(flatten)]
    run: RunArgs,
    /// Fail if there are warnings.
    #[arg(long)]
    pub strict: bool,
    /// The format of the report.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
    /// Look up the absolute paths of the configuration below this directory: those of a container on a laptop.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Report the connected devices of a running sidecar that a reload with this configuration would end, and those that
    /// it would refuse when they connect again. ADDR is its admin port: an address, or unix:/path.
    #[arg(long, value_name = "ADDR", value_parser = parse::<AdminTarget>)]
    live: Option<AdminTarget>,
    /// With --live: send the token in this file, if the admin port needs one.
    #[arg(long, env = "TLSIDECAR_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// The format of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
}

impl CheckArgs {
    /// Returns the path of the configuration file: the argument, whatever the environment says. None if flags describe
    /// the configuration.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.file.as_deref().or(self.run.config.as_deref())
    }

    /// Returns the name of the configuration in messages.
    #[must_use]
    pub fn name(&self) -> &Path {
        match self.path() {
            Some(path) if is_standard_input(path) => Path::new("<stdin>"),
            Some(path) => path,
            None => Path::new("<flags>"),
        }
    }

    /// Returns the admin port of the sidecar to compare with, if there is one.
    pub(in crate::commands) fn live(&self) -> Option<AdminArgs> {
        let admin = self.live.clone()?;
        Some(AdminArgs { admin, token_file: self.token_file.clone() })
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// The problems of the file.
    pub fn configuration(&self) -> Result<Config, ConfigError> {
        let root = self.root.as_deref();
        let read = match &self.file {
            Some(file) => self.run.read(file.clone(), root),
            None => self.run.configuration(root),
        };
        read.map(|(config, _)| config)
    }
}
