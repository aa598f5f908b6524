//! Backends: their addresses, and the use of several.
//!
//! **Promises.** A list has at least one address, and none twice.
//!
//! **Not here.** Connections to them (`proxy/backend.rs`), the selection by a route (`config/route.rs`).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::source::SourceAddress;
use super::values;
use crate::terms::name_pattern::is_dns_name;
use crate::text::Shown;
use crate::value::{InvalidValue, TextValue, choices};

/// The backend of a listener or of a route: one address, or several of which each can serve every device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendList(Vec<BackendAddress>);

impl BackendList {
    /// Returns the list of these addresses; none if it is empty or contains an address twice.
    #[must_use]
    pub fn new(addresses: Vec<BackendAddress>) -> Option<Self> {
        let is_new = |(i, address)| !addresses[..i].contains(address);
        let is_valid = !addresses.is_empty() && addresses.iter().enumerate().all(is_new);
        is_valid.then_some(Self(addresses))
    }

    /// Returns the addresses in their order in the file.
    #[must_use]
    pub fn addresses(&self) -> &[BackendAddress] {
        &self.0
    }
}

impl From<BackendAddress> for BackendList {
    fn from(address: BackendAddress) -> Self {
        Self(vec![address])
    }
}

/// The use of the backends of a listener and of its routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// The address of a list that a connection gets if all of them work.
    pub policy: BalancePolicy,
    /// The time between two checks of an address by a connect. None: only the connects of devices show its state.
    pub check_interval: Option<Duration>,
    /// The time at which the backend is connected.
    pub connect: ConnectTime,
    /// Connects to one address at a time; more wait. None: no limit.
    pub max_connects_in_progress: Option<usize>,
    /// The address from which the backends are connected.
    pub source: SourceAddress,
}

/// The address of a list that a connection gets if all of them work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BalancePolicy {
    /// The first one of the list. The others are its replacements.
    #[default]
    First,
    /// One after the other.
    RoundRobin,
    /// The one with the fewest sessions of this listener.
    LeastSessions,
}

choices!(BalancePolicy {
    "first" => First, "round_robin" => RoundRobin, or "least_sessions" => LeastSessions
});

/// The time at which the backend is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectTime {
    /// After the handshake: a client that is refused never reaches the backend.
    #[default]
    AfterHandshake,
    /// Once the ClientHello is read: no cryptography for a device that cannot be served.
    BeforeHandshake,
}

choices!(ConnectTime {
    "after_handshake" => AfterHandshake, or "before_handshake" => BeforeHandshake
});

/// The address of a legacy server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendAddress {
    /// A host and a port. A name is resolved again for each connect.
    Tcp {
        /// An IP address without brackets, or a DNS name. A dot at its end makes the name absolute.
        host: String,
        /// 1 to 65535.
        port: u16,
    },
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl TextValue for BackendAddress {
    const EXPECTED: &'static str = "\"host:port\", \"tcp://host:port\" or \"unix:/path\"";
}

impl FromStr for BackendAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let address = match text.strip_prefix("unix:") {
            // `sun_path` holds 108 bytes with its NUL (unix(7)).
            Some(path) => (1..108).contains(&path.len()).then(|| Self::Unix(PathBuf::from(path))),
            None => tcp_backend(text.strip_prefix("tcp://").unwrap_or(text)),
        };
        address.ok_or(InvalidValue::of::<Self>())
    }
}

fn tcp_backend(text: &str) -> Option<BackendAddress> {
    let (host, port) = text.rsplit_once(':')?;
    let port = values::port(port).filter(|&port| port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').filter(|v6| v6.parse::<Ipv6Addr>().is_ok())?,
        None => Some(host).filter(|host| is_host(host))?,
    };
    Some(BackendAddress::Tcp { host: host.to_owned(), port })
}

fn is_host(host: &str) -> bool {
    // With a dot at its end a name is absolute: the search list of resolv.conf does not apply.
    let name = host.strip_suffix('.').unwrap_or(host);
    // A resolver does not know an IPv4 address that ends in a dot.
    let is_dotted_address = name != host && name.parse::<IpAddr>().is_ok();
    is_dns_name(name) && !is_dotted_address
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", Shown(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_a_host_and_port_or_a_unix_socket() {
        let parse = |text: &str| text.parse::<BackendAddress>().ok();
        let tcp = |host: &str, port| Some(BackendAddress::Tcp { host: host.to_owned(), port });
        assert_eq!(parse("127.0.0.1:1883"), tcp("127.0.0.1", 1883));
        assert_eq!(parse("tcp://broker.plant:1883"), tcp("broker.plant", 1883));
        assert_eq!(parse("broker.plant.:1883"), tcp("broker.plant.", 1883));
        assert_eq!(parse("[::1]:1883"), tcp("::1", 1883));
        assert_eq!(
            parse("unix:/run/plant.sock"),
            Some(BackendAddress::Unix("/run/plant.sock".into()))
        );
        for bad in [
            "",
            "host",
            "host:",
            "host:0",
            "host:70000",
            ":1883",
            "::1:1883",
            "unix:",
            "http://a:1",
            ".:1883",
            "broker..:1883",
            "127.0.0.1.:1883",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_backend_is_printed_as_it_is_written() {
        for text in ["127.0.0.1:1883", "broker.plant:1883", "[::1]:1883", "unix:/run/plant.sock"] {
            assert_eq!(text.parse::<BackendAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_list_of_backends_is_not_empty_and_has_no_address_twice() {
        let list = |texts: &[&str]| {
            let addresses = texts.iter().map(|text| text.parse::<BackendAddress>().unwrap());
            BackendList::new(addresses.collect())
        };
        assert_eq!(list(&["a:1", "a:2"]).unwrap().addresses().len(), 2);
        assert_eq!(list(&[]), None);
        assert_eq!(list(&["a:1", "b:1", "tcp://a:1"]), None);
    }
}
