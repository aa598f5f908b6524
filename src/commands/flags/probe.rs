//! The flags of `tlsidecar probe`.
//!
//! **Promises.** An invalid value is an error that lists the allowed values.
//!
//! **Not here.** The probe itself (`commands/probe.rs`).

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};

use super::admin::AdminTarget;
use crate::config::values::{AlpnProtocol, NonZeroDuration};
use crate::config::{BackendAddress, TlsVersion};
use crate::value::{InvalidValue, TextValue, parse, parse_into};

/// The flags of a probe.
#[derive(Clone, Debug, Args)]
#[command(
    override_usage = "tlsidecar probe [OPTIONS] HOST:PORT\n       tlsidecar probe --live|--started|--ready [--admin ADDR] [--timeout TIME]"
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct ProbeArgs {
    /// The address that devices connect to: a name or an IP address, and a port, such as localhost:8883.
    #[arg(value_name = "HOST:PORT", value_parser = parse::<ProbeTarget>, required_unless_present = "health", conflicts_with = "health")]
    pub target: Option<ProbeTarget>,
    /// Verify the certificate chain with these CAs, a bundle in PEM. Without it the chain is shown, not verified.
    #[arg(long, value_name = "FILE", conflicts_with = "health")]
    pub ca: Option<PathBuf>,
    /// Send this client certificate, a chain in PEM.
    #[arg(long, value_name = "FILE", conflicts_with = "health", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The private key of the client certificate in PEM.
    #[arg(long, value_name = "FILE", conflicts_with = "health", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Send this name as SNI, and expect it in the certificate, instead of HOST.
    #[arg(long, value_name = "NAME", value_parser = parse_into::<ExpectedName, String>, conflicts_with = "health")]
    pub name: Option<String>,
    /// Send no SNI, as simple devices do. The certificate must contain the name nevertheless.
    #[arg(long, conflicts_with = "health")]
    pub no_sni: bool,
    /// Offer these ALPN protocols, in this order, separated by commas.
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',', value_parser = parse_into::<AlpnProtocol, String>, conflicts_with = "health")]
    pub alpn: Vec<String>,
    /// Offer only this TLS version.
    #[arg(long, value_name = "VERSION", value_parser = PossibleValuesParser::new(["1.2", "1.3"]).try_map(|text| parse::<TlsVersion>(&text)), conflicts_with = "health")]
    pub tls: Option<TlsVersion>,
    /// Connect once, and test neither resumption nor the other TLS version.
    #[arg(long, conflicts_with = "health")]
    pub once: bool,
    /// Fail if the legacy server shows no sign of life: no data, and no end of the connection after ours.
    #[arg(long, conflicts_with = "health")]
    pub expect_answer: bool,
    /// Exit with 3 if a certificate of the chain, or its CA, ends within this number of days.
    #[arg(long, value_name = "DAYS", conflicts_with = "health")]
    pub min_days: Option<u32>,
    /// The time limit for each step: name lookup, connect, handshake.
    #[arg(long, value_name = "TIME", value_parser = parse_into::<NonZeroDuration, Duration>, default_value = "10s")]
    pub timeout: Duration,
    /// The format of the report.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = ReportFormat::Text, conflicts_with = "health")]
    pub format: ReportFormat,
    /// Check through the admin port that the process makes progress: a container's health command.
    #[arg(long, group = "health")]
    pub live: bool,
    /// Check through the admin port that the start is complete.
    #[arg(long, group = "health")]
    pub started: bool,
    /// Check through the admin port that the process is ready for connections.
    #[arg(long, group = "health")]
    pub ready: bool,
    /// The admin port for --live, --started and --ready: an address, or unix:/path.
    #[arg(long, env = "TLSIDECAR_ADMIN", value_name = "ADDR", value_parser = parse::<AdminTarget>, default_value_t = AdminTarget::default())]
    pub admin: AdminTarget,
}

/// The format of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
}

/// The address that a probe connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    /// An IP address without brackets, or a DNS name.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl std::fmt::Display for ProbeTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        BackendAddress::Tcp { host: self.host.clone(), port: self.port }.fmt(f)
    }
}

impl TextValue for ProbeTarget {
    const EXPECTED: &'static str = "host:port, such as localhost:8883 or [::1]:8883";
}

impl FromStr for ProbeTarget {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.parse() {
            Ok(BackendAddress::Tcp { host, port }) if !text.starts_with("tcp://") => {
                Ok(Self { host, port })
            }
            _ => Err(InvalidValue::of::<Self>()),
        }
    }
}

/// A name or an IP address that a certificate can be issued for.
struct ExpectedName(String);

impl TextValue for ExpectedName {
    const EXPECTED: &'static str = "a DNS name or an IP address";
}

impl FromStr for ExpectedName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_address = text.parse::<IpAddr>().is_ok();
        // The rules for a host, without its port.
        let is_host = || format!("{text}:1").parse::<BackendAddress>().is_ok();
        let allowed = is_address || !text.contains(':') && is_host();
        allowed.then(|| Self(text.to_owned())).ok_or(InvalidValue::of::<Self>())
    }
}

impl From<ExpectedName> for String {
    fn from(name: ExpectedName) -> Self {
        name.0
    }
}
