//! The flags of `tlsidecar probe`.
//!
//! **Promises.** A value that is not allowed is refused here, with what is.
//!
//! **Not here.** What a probe does (`commands/probe.rs`).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};

use super::{address, duration};
use crate::config::{AdminConfig, BackendAddress, TlsVersion};

/// What to probe, and how.
#[derive(Clone, Debug, Args)]
#[command(
    override_usage = "tlsidecar probe [OPTIONS] HOST:PORT\n       tlsidecar probe --live|--started|--ready [--admin ADDR] [--timeout TIME]"
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Probe {
    /// Where a device would connect: a name or an IP address, and a port, such as localhost:8883.
    #[arg(value_name = "HOST:PORT", value_parser = target, required_unless_present = "health", conflicts_with = "health")]
    pub target: Option<ProbeTarget>,
    /// Whose certificates are believed, a bundle in PEM. Without it the chain is shown, not verified.
    #[arg(long, value_name = "FILE", conflicts_with = "health")]
    pub ca: Option<PathBuf>,
    /// Show this client certificate, a chain in PEM.
    #[arg(long, value_name = "FILE", conflicts_with = "health", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The client certificate's private key in PEM.
    #[arg(long, value_name = "FILE", conflicts_with = "health", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Ask for this name, and expect it in the certificate, instead of HOST.
    #[arg(long, value_name = "NAME", value_parser = name, conflicts_with = "health")]
    pub name: Option<String>,
    /// Send no name (SNI), as simple devices do. The certificate is still compared with it.
    #[arg(long, conflicts_with = "health")]
    pub no_sni: bool,
    /// Offer these protocols by ALPN, in order, separated by commas.
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',', value_parser = protocol, conflicts_with = "health")]
    pub alpn: Vec<String>,
    /// Offer this version alone.
    #[arg(long, value_name = "VERSION", value_parser = PossibleValuesParser::new(["1.2", "1.3"]).try_map(|text| version(&text)), conflicts_with = "health")]
    pub tls: Option<TlsVersion>,
    /// Connect once only: try neither resumption nor the other TLS version.
    #[arg(long, conflicts_with = "health")]
    pub once: bool,
    /// End with 3 if a certificate of the chain, or its CA, ends within so many days.
    #[arg(long, value_name = "DAYS", conflicts_with = "health")]
    pub min_days: Option<u32>,
    /// How long each step may take: the name's look-up, the connect, the handshake.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub timeout: Duration,
    /// For people, or for programs.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = ReportFormat::Text, conflicts_with = "health")]
    pub format: ReportFormat,
    /// Ask the admin port instead whether the process turns: the health command of a container.
    #[arg(long, group = "health")]
    pub live: bool,
    /// Ask the admin port instead whether the start is over.
    #[arg(long, group = "health")]
    pub started: bool,
    /// Ask the admin port instead whether it is ready for connections.
    #[arg(long, group = "health")]
    pub ready: bool,
    /// The admin port for --live, --started and --ready.
    #[arg(long, env = "TLSIDECAR_ADMIN", value_name = "ADDR", value_parser = address, default_value_t = AdminConfig::default().listen)]
    pub admin: SocketAddr,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Where a device would connect.
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

fn target(text: &str) -> Result<ProbeTarget, String> {
    match BackendAddress::parse(text) {
        Some(BackendAddress::Tcp { host, port }) if !text.starts_with("tcp://") => {
            Ok(ProbeTarget { host, port })
        }
        _ => Err("expected host:port, such as localhost:8883 or [::1]:8883".to_owned()),
    }
}

fn name(text: &str) -> Result<String, String> {
    let is_address = text.parse::<IpAddr>().is_ok();
    // The rules for a host, without its port.
    if is_address || BackendAddress::parse(&format!("{text}:1")).is_some() && !text.contains(':') {
        return Ok(text.to_owned());
    }
    Err("expected a DNS name or an IP address".to_owned())
}

fn protocol(text: &str) -> Result<String, String> {
    // RFC 7301 section 3.1.
    if (1..=255).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err("expected 1 to 255 bytes".to_owned())
}

fn version(text: &str) -> Result<TlsVersion, String> {
    match text {
        "1.2" => Ok(TlsVersion::Tls12),
        "1.3" => Ok(TlsVersion::Tls13),
        _ => Err("expected 1.2 or 1.3".to_owned()),
    }
}
