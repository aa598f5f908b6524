//! The flags of `tlsidecar events`.
//!
//! **Not here.** The command (`commands/events.rs`).

use std::time::Duration;

use clap::Args;

use super::admin::AdminArgs;
use super::check::OutputFormat;
use super::sessions::one_of;
use crate::config::values::NonZeroDuration;
use crate::events::EventKind;
use crate::value::parse_into;

/// The flags of `tlsidecar events`.
#[derive(Clone, Debug, Args)]
pub struct EventsArgs {
    /// The admin port.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Only events of these kinds, separated by commas.
    #[arg(long = "kind", value_name = "KIND", value_parser = one_of::<EventKind>(), value_delimiter = ',')]
    pub kinds: Vec<String>,
    /// Only devices whose certificate has this name, verified or refused. * matches any part of a label: *.plant.example.
    #[arg(long, value_name = "NAME")]
    pub identity: Option<String>,
    /// Only devices at this address, with or without a port.
    #[arg(long, value_name = "ADDR")]
    pub peer: Option<String>,
    /// Only devices that send this server name.
    #[arg(long, value_name = "NAME")]
    pub sni: Option<String>,
    /// Only events of this listener.
    #[arg(long, value_name = "NAME")]
    pub listener: Option<String>,
    /// Begin after the event with this number, or with 0 at the oldest event that is kept. Without it, begin with new events.
    #[arg(long, value_name = "N")]
    pub since: Option<u64>,
    /// End after this time. Without it, end at SIGINT or SIGTERM.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_into::<NonZeroDuration, Duration>)]
    pub time: Option<Duration>,
    /// The format of the events.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
}
