//! The flags of `tlsidecar events`.
//!
//! **Not here.** The command (`commands/events.rs`).

use std::time::Duration;

use clap::Args;

use super::admin::AdminArgs;
use super::check::OutputFormat;
use super::selection::SelectionArgs;
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
    /// The devices.
    #[command(flatten)]
    pub selection: SelectionArgs,
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
