//! What the program runs on: validated types, the same whether they came from a file, from flags
//! or from a test.
//!
//! **Promises.** A value of these types is usable as it stands: no `Option` that must be `Some`,
//! no string still to be parsed, no relative path whose base was lost.
//!
//! **Not here.** The file format and its problems ([`mod@file`]), the command line (`commands/flags.rs`), what is
//! inside the files named here (`trust/certs.rs`).

pub mod file;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::logging::{Filter, Format};
use crate::text::Shown;

/// Everything that one process runs on.
#[derive(Clone, Debug)]
pub struct Config {
    /// The admin port.
    pub admin: AdminConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// What the process may do and take.
    pub process: ProcessConfig,
    /// How a stop is paced.
    pub shutdown: ShutdownConfig,
    /// At least one; names and addresses are distinct.
    pub listeners: Vec<ListenerConfig>,
}

impl Config {
    /// A configuration with one listener, and the defaults for everything else.
    #[must_use]
    pub fn of(listener: ListenerConfig) -> Self {
        Self {
            admin: AdminConfig::default(),
            log: LogConfig::default(),
            process: ProcessConfig::default(),
            shutdown: ShutdownConfig::default(),
            listeners: vec![listener],
        }
    }
}

/// The admin port: metrics, probes, reload, drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// Where it listens. Loopback by default: whoever reaches it can drain us.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9901)) }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// Text for people or JSON for collectors.
    pub format: Format,
    /// Levels by target.
    pub filter: Filter,
}

/// What the process may do and take, over all listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessConfig {
    /// Whether a crash may write a core file, and a debugger of the same user may attach.
    pub dumpable: bool,
    /// What handshakes in progress may hold together of what their clients have sent, each beyond 4 KiB.
    pub max_handshake_bytes: usize,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self { dumpable: false, max_handshake_bytes: 64 * 1024 * 1024 }
    }
}

/// How a stop is paced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownConfig {
    /// How long we still accept after `/readyz` has turned to 503, so that load balancers notice.
    pub delay: Duration,
    /// How long connections may take to end by themselves once the listeners are closed.
    pub drain_timeout: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { delay: Duration::ZERO, drain_timeout: Duration::from_secs(25) }
    }
}

/// One listener: where devices come in, who we are to them, and where their bytes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Names it in metrics and logs: 1 to 64 of `A-Z a-z 0-9 _ . -`.
    pub name: String,
    /// The address that devices connect to.
    pub listen: SocketAddr,
    /// Where connections go that no route takes. None only where there are routes.
    pub backend: Option<BackendAddress>,
    /// The listener's TLS.
    pub tls: TlsConfig,
    /// Tried in order; the first match wins.
    pub routes: Vec<Route>,
    /// The bounds on every wait.
    pub timeouts: Timeouts,
    /// The bounds on how many.
    pub limits: Limits,
    /// Options of the TCP sockets, towards clients and backends alike.
    pub tcp: Tcp,
}

impl ListenerConfig {
    /// A listener with one certificate and one backend, and the defaults for everything else.
    #[must_use]
    pub fn new(
        name: &str,
        listen: SocketAddr,
        backend: BackendAddress,
        certificate: CertificateFiles,
        client_auth: ClientAuth,
    ) -> Self {
        Self {
            name: name.to_owned(),
            listen,
            backend: Some(backend),
            tls: TlsConfig {
                certificates: vec![certificate],
                min_version: TlsVersion::Tls12,
                client_auth,
                alpn: Vec::new(),
                tickets: 1,
                max_chain_certificates: DEFAULT_CHAIN_CERTIFICATES,
                max_chain_bytes: DEFAULT_CHAIN_BYTES,
                allow_v1: true,
            },
            routes: Vec::new(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            tcp: Tcp::default(),
        }
    }

    /// Every backend that a connection may go to, those of the routes first; some perhaps twice.
    pub fn backends(&self) -> impl Iterator<Item = &BackendAddress> {
        self.routes.iter().map(|route| &route.backend).chain(&self.backend)
    }
}

/// Whether two addresses cannot both be listened on: the same one twice, or one beside all of its
/// kind, with the same port. Port 0 stands for any free one.
pub(crate) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // "[::]" takes IPv4 as well, see `proxy/socket.rs`.
    let covers =
        |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port() && one.port() != 0 && (a == b || covers(a, b) || covers(b, a))
}

/// The TLS of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// At least one. The first is the default, for devices that send no name or an unknown one.
    pub certificates: Vec<CertificateFiles>,
    /// The lowest version that is accepted.
    pub min_version: TlsVersion,
    /// Whether devices show certificates, and which are believed.
    pub client_auth: ClientAuth,
    /// Protocols accepted by ALPN, in order of preference. Empty: ALPN is ignored.
    pub alpn: Vec<Vec<u8>>,
    /// TLS 1.3 tickets sent after each handshake, 0 to 4. With 0 there is no resumption at all.
    pub tickets: u8,
    /// Certificates that a client may send, its own included.
    pub max_chain_certificates: usize,
    /// Bytes of all certificates that a client may send.
    pub max_chain_bytes: usize,
    /// Whether a client's own certificate may be of X.509 version 1.
    pub allow_v1: bool,
}

/// A device sends its own and an intermediate or two; HAProxy and nginx take up to 100 or so.
pub(crate) const DEFAULT_CHAIN_CERTIFICATES: usize = 10;

/// As many bytes as rustls takes of a Certificate message.
pub(crate) const DEFAULT_CHAIN_BYTES: usize = 64 * 1024;

/// A certificate chain and its key, as two PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The leaf's private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
}

/// The lowest TLS version of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        })
    }
}

/// Whether devices show certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    None,
    /// They are asked; one that is sent must be good.
    Optional(ClientTrust),
    /// They must send a good one.
    Required(ClientTrust),
}

impl ClientAuth {
    /// The files that decide which client certificates are believed, if any are asked for.
    #[must_use]
    pub const fn trust(&self) -> Option<&ClientTrust> {
        match self {
            Self::None => None,
            Self::Optional(trust) | Self::Required(trust) => Some(trust),
        }
    }
}

/// Which client certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTrust {
    /// A PEM bundle of CA certificates.
    pub ca: PathBuf,
    /// CRLs in PEM. Empty: no revocation is checked.
    pub crls: Vec<PathBuf>,
}

/// One rule of the routing table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Server names it takes. Empty: any, and none.
    pub sni: Vec<NamePattern>,
    /// Negotiated ALPN protocols it takes. Empty: any, and none.
    pub alpn: Vec<Vec<u8>>,
    /// Where it leads.
    pub backend: BackendAddress,
}

/// A DNS name, or `*.` and a DNS name to match exactly one label more. Lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(String);

impl NamePattern {
    /// Parses a pattern; none if it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        (text.len() <= 255 && name.split('.').all(label)).then(|| Self(text.to_ascii_lowercase()))
    }

    /// Whether `name` fits, whatever its case.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_prefix("*.") {
            None => name.eq_ignore_ascii_case(&self.0),
            Some(parent) => name.split_once('.').is_some_and(|(label, rest)| {
                !label.is_empty() && rest.eq_ignore_ascii_case(parent)
            }),
        }
    }
}

/// Where a legacy server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendAddress {
    /// A host, by address or by a name that is resolved at each connect, and a port.
    Tcp {
        /// An IP address without brackets, or a DNS name, absolute with a dot at its end.
        host: String,
        /// 1 to 65535.
        port: u16,
    },
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl BackendAddress {
    /// Parses `host:port`, `tcp://host:port` or `unix:/path`; none if it is none of them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            // `sun_path` holds 108 bytes with its NUL, see unix(7).
            return (1..108).contains(&path.len()).then(|| Self::Unix(PathBuf::from(path)));
        }
        let text = text.strip_prefix("tcp://").unwrap_or(text);
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|&port| port != 0)?;
        let host = match host.strip_prefix('[') {
            Some(v6) => {
                let v6 = v6.strip_suffix(']')?;
                v6.parse::<std::net::Ipv6Addr>().ok()?;
                v6
            }
            None => {
                // With its last dot a name is absolute: resolv.conf's search list is not tried.
                let name = host.strip_suffix('.').unwrap_or(host);
                NamePattern::parse(name).filter(|_| !name.starts_with('*'))?;
                // A dot after an IPv4 address is no name that a resolver knows.
                if name != host && name.parse::<IpAddr>().is_ok() {
                    return None;
                }
                host
            }
        };
        Some(Self::Tcp { host: host.to_owned(), port })
    }
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

/// The bounds on every wait of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the ClientHello's first byte to its last.
    pub hello: Duration,
    /// From accept to the end of the handshake.
    pub handshake: Duration,
    /// From the look-up of the backend's name to an open socket, over all of its addresses.
    pub connect: Duration,
    /// How long no byte may move in either direction. None: for ever.
    pub idle: Option<Duration>,
    /// The same from the end of one side's stream on. None: as `idle`.
    pub half_close: Option<Duration>,
    /// How old a connection may grow, less a random part of up to a tenth. None: any age.
    pub max_age: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(10),
            handshake: Duration::from_secs(30),
            connect: Duration::from_secs(5),
            idle: Some(Duration::from_secs(3600)),
            half_close: Some(Duration::from_secs(60)),
            max_age: None,
        }
    }
}

/// The bounds on how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of this listener at one time. None: what the process's limit on file
    /// descriptors carries.
    pub max_connections: Option<usize>,
    /// The longest ClientHello, 512 B to 64 KiB, which is where rustls stops.
    pub max_hello_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_connections: None, max_hello_bytes: 64 * 1024 }
    }
}

/// Options of the TCP sockets.
///
/// A peer that vanishes without a word (NAT entry gone, battery empty) is noticed after about
/// `keepalive` plus four probes at a quarter of it when nothing is being sent, and after
/// `user_timeout` when something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Silence before the first keepalive probe (`TCP_KEEPIDLE`). None: no probes.
    pub keepalive: Option<Duration>,
    /// How long sent data may stay unacknowledged, or the peer's window shut, before the kernel
    /// gives up (`TCP_USER_TIMEOUT`). None: the kernel's own retry count, about 15 minutes.
    pub user_timeout: Option<Duration>,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            keepalive: Some(Duration::from_secs(60)),
            user_timeout: Some(Duration::from_secs(120)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_a_host_and_port_or_a_unix_socket() {
        let tcp = |host: &str, port| Some(BackendAddress::Tcp { host: host.to_owned(), port });
        assert_eq!(BackendAddress::parse("127.0.0.1:1883"), tcp("127.0.0.1", 1883));
        assert_eq!(BackendAddress::parse("tcp://broker.plant:1883"), tcp("broker.plant", 1883));
        assert_eq!(BackendAddress::parse("broker.plant.:1883"), tcp("broker.plant.", 1883));
        assert_eq!(BackendAddress::parse("[::1]:1883"), tcp("::1", 1883));
        assert_eq!(
            BackendAddress::parse("unix:/run/plant.sock"),
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
            assert_eq!(BackendAddress::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_backend_is_printed_as_it_is_written() {
        for text in ["127.0.0.1:1883", "broker.plant:1883", "[::1]:1883", "unix:/run/plant.sock"] {
            assert_eq!(BackendAddress::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn addresses_overlap_on_one_port_where_one_covers_the_other() {
        let overlapping = |one: &str, other: &str| {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(overlap(one, other), overlap(other, one));
            overlap(one, other)
        };
        assert!(overlapping("127.0.0.1:1", "127.0.0.1:1"));
        assert!(overlapping("127.0.0.1:1", "0.0.0.0:1"));
        assert!(overlapping("127.0.0.1:1", "[::]:1"));
        assert!(overlapping("0.0.0.0:1", "[::]:1"));
        assert!(!overlapping("127.0.0.1:1", "127.0.0.1:2"));
        assert!(!overlapping("127.0.0.1:1", "127.0.0.2:1"));
        assert!(!overlapping("0.0.0.0:1", "[::1]:1"));
        assert!(!overlapping("127.0.0.1:0", "127.0.0.1:0"));
    }

    #[test]
    fn a_wildcard_stands_for_exactly_one_label() {
        let pattern = NamePattern::parse("*.Plant.example").unwrap();
        assert!(pattern.matches("a.plant.example"));
        assert!(pattern.matches("A.PLANT.EXAMPLE"));
        assert!(!pattern.matches("plant.example"));
        assert!(!pattern.matches("a.b.plant.example"));
        assert!(!pattern.matches(".plant.example"));
        for bad in ["", "*", "*.", "a..b", "a.*.b", "a b"] {
            assert_eq!(NamePattern::parse(bad), None, "{bad:?}");
        }
    }
}
