//! The flags of `tlsidecar trace`.
//!
//! **Not here.** The command (`commands/trace.rs`).

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, value_parser};

use super::admin::AdminArgs;
use super::check::OutputFormat;
use super::selection::SelectionArgs;
use crate::config::values::NonZeroDuration;
use crate::sessions::trace::MAX_CAPTURE_BYTES;
use crate::value::parse_into;

/// The flags of `tlsidecar trace`.
#[derive(Clone, Debug, Args)]
#[group(id = "selection", required = true, multiple = true, args = ["identity", "peer", "sni", "listener"])]
pub struct TraceArgs {
    /// The admin port.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// The devices.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// End the trace after this time, at most 1h.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_into::<NonZeroDuration, Duration>, default_value = "10m")]
    pub time: Duration,
    /// Append the secrets of these connections to this file, for Wireshark. Needs the token or the Unix socket.
    #[arg(long, value_name = "FILE")]
    pub keylog: Option<PathBuf>,
    /// Append the bytes of these connections to this file, which Wireshark opens (pcapng).
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Write the secrets into the file of --pcap too, so that Wireshark decrypts it. Needs the token or the Unix socket.
    #[arg(long, requires = "pcap")]
    pub pcap_secrets: bool,
    /// End the file of --pcap after this many bytes of connections, at most 1 GiB.
    #[arg(long, value_name = "BYTES", requires = "pcap", value_parser = value_parser!(u64).range(1..=MAX_CAPTURE_BYTES), default_value_t = 16 << 20)]
    pub pcap_bytes: u64,
    /// The format of the steps.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
}
