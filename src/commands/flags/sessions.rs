//! The flags of `tlsidecar sessions` and `tlsidecar top`.
//!
//! **Not here.** The commands (`commands/sessions.rs`, `commands/top.rs`).

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};

use super::admin::AdminArgs;
use super::selection::SelectionArgs;
use crate::sessions::top::{By, What};
use crate::terms::closed_set::ClosedSet;

/// The flags of `tlsidecar sessions`.
#[derive(Clone, Debug, Args)]
#[group(id = "selection", multiple = true, args = ["id", "identity", "peer", "sni", "listener"])]
pub struct SessionsArgs {
    /// The admin port.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Only the session with this id.
    #[arg(long, value_name = "ID", conflicts_with_all = ["identity", "peer", "sni", "listener"])]
    pub id: Option<u64>,
    /// The devices.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// The order of the table.
    #[arg(long, value_name = "KEY", value_enum, default_value_t = SessionOrder::Age)]
    pub sort: SessionOrder,
    /// The number of sessions that are shown.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// End the selected sessions, after a confirmation. Needs --id or a filter.
    #[arg(long, requires = "selection")]
    pub end: bool,
    /// End them without a confirmation.
    #[arg(long, requires = "end")]
    pub yes: bool,
}

/// The order of sessions, the highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SessionOrder {
    /// By age.
    Age,
    /// By the time without a byte.
    Idle,
    /// By the bytes in both directions.
    Bytes,
    /// By the first name of the certificate, in alphabetical order.
    Identity,
}

impl SessionOrder {
    /// Returns the key of `GET /sessions`.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Idle => "idle",
            Self::Bytes => "bytes",
            Self::Identity => "identity",
        }
    }
}

/// The flags of `tlsidecar top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// The admin port.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Count by this name: the address without its port, or the first name of the certificate.
    #[arg(long, value_name = "NAME", value_parser = one_of::<By>(), default_value = By::Peer.as_str())]
    pub by: String,
    /// Count this.
    #[arg(long, value_name = "COUNT", value_parser = one_of::<What>(), default_value = What::Failures.as_str())]
    pub what: String,
    /// The number of devices that are shown, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: u16,
    /// Print the answer of the admin port, as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Returns the parser of a label of a closed set.
pub(super) fn one_of<L: ClosedSet>() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(L::all().iter().map(|allowed| allowed.label()))
}
