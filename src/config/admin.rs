//! The configuration of the admin port: its addresses and its protection.
//!
//! **Not here.** The port itself (`control/admin.rs`), the content of the token file (`trust/token.rs`).

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::values::ListenAddress;
use crate::value::{InvalidValue, TextValue};

/// The default address of the admin port.
pub(crate) const DEFAULT_ADMIN: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 9901));

/// The admin port: metrics, probes, status, sessions, reload, drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// The address of the whole port. Loopback by default, because every client of it can start a drain.
    pub listen: AdminListen,
    /// A Unix socket with the same answers.
    pub socket: Option<PathBuf>,
    /// An address that answers only metrics and probes.
    pub metrics_listen: Option<SocketAddr>,
    /// A file with the token that all other requests need.
    pub token_file: Option<PathBuf>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        let listen = AdminListen::At(DEFAULT_ADMIN);
        Self { listen, socket: None, metrics_listen: None, token_file: None }
    }
}

/// The address of the admin port, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminListen {
    /// The port is not opened.
    Off,
    /// The port is opened on this address.
    At(SocketAddr),
}

impl AdminListen {
    /// Returns the address, if the port is opened.
    #[must_use]
    pub const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl TextValue for AdminListen {
    const EXPECTED: &'static str = "an IP address and a port, such as \"127.0.0.1:9901\" or \"[::1]:9901\", \":9901\" for all addresses, \
         \"localhost:9901\", or \"off\"";
}

impl FromStr for AdminListen {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "off" => Ok(Self::Off),
            _ => match text.parse() {
                Ok(ListenAddress(address)) => Ok(Self::At(address)),
                Err(_) => Err(InvalidValue::of::<Self>()),
            },
        }
    }
}

impl fmt::Display for AdminListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}
