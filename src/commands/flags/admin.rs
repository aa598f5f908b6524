//! The flags of the clients of the admin port: its address and its token.
//!
//! **Not here.** The requests (`commands/admin_client.rs`).

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use crate::config::admin::DEFAULT_ADMIN;
use crate::config::values::ListenAddress;
use crate::text::Shown;
use crate::value::{InvalidValue, TextValue, parse};

/// The admin port of a running sidecar.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// The admin port of the running sidecar: an address, or unix:/path.
    #[arg(long, env = "TLSIDECAR_ADMIN", value_name = "ADDR", value_parser = parse::<AdminTarget>, default_value_t = AdminTarget::default())]
    pub admin: AdminTarget,
    /// Send the token in this file, if the admin port needs one.
    #[arg(long, env = "TLSIDECAR_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// The address of an admin port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminTarget {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Default for AdminTarget {
    fn default() -> Self {
        Self::Tcp(DEFAULT_ADMIN)
    }
}

impl TextValue for AdminTarget {
    const EXPECTED: &'static str = "an IP address and a port, such as \"127.0.0.1:9901\" or \"localhost:9901\", or \"unix:/path\"";
}

impl FromStr for AdminTarget {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let target = match text.strip_prefix("unix:") {
            Some(path) => (!path.is_empty()).then(|| Self::Unix(PathBuf::from(path))),
            None => text.parse().ok().map(|ListenAddress(address)| Self::Tcp(address)),
        };
        target.ok_or(InvalidValue::of::<Self>())
    }
}

impl fmt::Display for AdminTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", Shown(path)),
        }
    }
}
