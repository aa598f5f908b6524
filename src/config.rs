//! The configuration: validated types, the same for a file, for flags and for tests.
//!
//! **Promises.** A value of these types can be used without further checks: no `Option` that must be
//! `Some`, no string that must still be parsed, no relative path without its base.
//!
//! **Not here.** The file format and its problems ([`mod@file`]), the command line (`commands/flags.rs`), the
//! contents of the files named here (`trust/certs.rs`).

pub(crate) mod admin;
mod allow;
mod backend;
mod client_trust;
pub mod file;
mod guards;
mod limits;
mod process;
mod proxy_protocol;
pub(crate) mod rollout;
mod route;
mod source;
pub(crate) mod suites;
pub(crate) mod values;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use self::admin::{AdminConfig, AdminListen};
pub use self::allow::{Allow, AllowRules, SpkiSha256};
pub use self::backend::{BackendAddress, BackendList, Balance, BalancePolicy, ConnectTime};
pub use self::client_trust::{ClientTrust, CrlCheck, CrlRules, ExpiredCrl, UnknownStatus};
pub use self::guards::{GuardAction, Guards};
pub use self::limits::{IdentityLimit, Limits, OverIdentityLimit, SourcePrefix};
pub use self::process::ProcessConfig;
pub use self::proxy_protocol::{Cidr, HeaderTlv, ProxyProtocol, SendHeader};
pub use self::rollout::Rollout;
pub use self::source::SourceAddress;
pub(crate) use self::suites::AcceptedVersions;
pub use self::suites::KeyGroup;
use crate::logging::{Filter, Format};
use crate::terms::labels::Cipher;
use crate::terms::name_pattern::NamePattern;
use crate::value::{InvalidValue, TextValue, choices};

/// The configuration of a process.
#[derive(Clone, Debug)]
pub struct Config {
    /// The admin port.
    pub admin: AdminConfig,
    /// The format and the filter of the log.
    pub log: LogConfig,
    /// The permissions and limits of the process.
    pub process: ProcessConfig,
    /// The times of a drain.
    pub shutdown: ShutdownConfig,
    /// The listeners: at least one, with distinct names and addresses.
    pub listeners: Vec<ListenerConfig>,
}

impl Config {
    /// Returns a configuration with one listener, and the defaults for everything else.
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

/// The format and the filter of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// Text for people, or JSON for collectors.
    pub format: Format,
    /// The levels by target.
    pub filter: Filter,
}

/// The times of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownConfig {
    /// The time for which connections are still accepted after `/readyz` has changed to 503, so that load
    /// balancers notice.
    pub delay: Duration,
    /// The time over which connections are closed, evenly and each at a pause, once the listeners are closed. At most
    /// `drain_timeout`. Zero: they end by themselves.
    pub drain_spread: Duration,
    /// The time for connections to end once the listeners are closed.
    pub drain_timeout: Duration,
    /// Connections that a drain, a re-check and the maximum age together close per second. None: no limit.
    pub max_closes_per_second: Option<NonZeroU32>,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            drain_spread: Duration::ZERO,
            drain_timeout: Duration::from_secs(25),
            max_closes_per_second: None,
        }
    }
}

/// A listener: its address, its TLS, and its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The name in metrics and logs: 1 to 64 of `A-Z a-z 0-9 _ . -`.
    pub name: String,
    /// The address that devices connect to.
    pub listen: SocketAddr,
    /// Lets another process of the same user listen on the same address (`SO_REUSEPORT`), to take over from this one.
    pub reuse_port: bool,
    /// The backend of connections that match no route. None only if there are routes.
    pub backend: Option<BackendList>,
    /// The use of the backends, also of those of the routes.
    pub balance: Balance,
    /// The TLS of the listener.
    pub tls: TlsConfig,
    /// The routes. The first match applies.
    pub routes: Vec<Route>,
    /// The treatment of clients that send a server name which no route and no certificate has.
    pub unknown_name: UnknownName,
    /// The time limits of connections.
    pub timeouts: Timeouts,
    /// The limits of connections and of what they send.
    pub limits: Limits,
    /// The options of TCP sockets to clients and to backends.
    pub tcp: Tcp,
    /// The use of the PROXY protocol.
    pub proxy_protocol: ProxyProtocol,
}

impl ListenerConfig {
    /// Returns a listener with one certificate and one backend, and the defaults for everything else.
    #[must_use]
    pub fn new(
        name: &str,
        listen: SocketAddr,
        backend: impl Into<BackendList>,
        certificate: CertificateFiles,
        client_auth: ClientAuth,
    ) -> Self {
        Self {
            name: name.to_owned(),
            listen,
            reuse_port: false,
            backend: Some(backend.into()),
            balance: Balance::default(),
            tls: TlsConfig::new(vec![certificate], client_auth),
            routes: Vec::new(),
            unknown_name: UnknownName::default(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            tcp: Tcp::default(),
            proxy_protocol: ProxyProtocol::default(),
        }
    }

    /// Returns every backend of the listener, those of the routes first. The same backend can occur twice.
    pub fn backends(&self) -> impl Iterator<Item = &BackendList> {
        self.routes.iter().map(|route| &route.backend).chain(&self.backend)
    }
}

/// Returns true if two addresses cannot be bound at the same time: they have the same port, and are equal or one
/// of them is a wildcard address. Port 0 stands for any free port.
pub(crate) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // "[::]" accepts IPv4 too (`proxy/socket.rs`).
    let covers =
        |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port() && one.port() != 0 && (a == b || covers(a, b) || covers(b, a))
}

/// Returns true if a backend is the address of its own listener, as far as that shows without a lookup: connections would
/// go round in circles until no descriptor is left. A connect to a wildcard address reaches the loopback address of its
/// family.
pub(crate) fn is_own(listen: SocketAddr, backend: &BackendAddress) -> bool {
    let BackendAddress::Tcp { host, port } = backend else { return false };
    let host = host.strip_suffix('.').unwrap_or(host);
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    let reached = match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(ip) if ip.is_unspecified() => vec![if ip.is_ipv4() { v4 } else { v6 }],
        Ok(ip) => vec![ip],
        Err(_) if host.eq_ignore_ascii_case("localhost") => vec![v4, v6],
        Err(_) => Vec::new(),
    };
    let own = listen.ip().to_canonical();
    let is_any = |ip: IpAddr| own.is_unspecified() && (own.is_ipv6() || ip.is_ipv4());
    let is_own = |ip: IpAddr| ip == own || is_any(ip) && ip.is_loopback();
    listen.port() == *port && reached.into_iter().any(is_own)
}

/// The TLS of a listener or of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificates: at least one. The first one is for devices that send no SNI or an unknown one.
    pub certificates: Vec<CertificateFiles>,
    /// The treatment of a renewed certificate that some devices may not accept.
    pub guards: Guards,
    /// The rollout of a new certificate. None: all clients get it at once.
    pub rollout: Option<Rollout>,
    /// The lowest TLS version that is accepted.
    pub min_version: TlsVersion,
    /// The accepted cipher suites, in order of preference. Empty: the usual ones, in the client's order where it has no
    /// hardware for AES.
    pub suites: Vec<Cipher>,
    /// Further suites that are accepted, in order of preference and after the others.
    pub legacy_suites: Vec<Cipher>,
    /// The accepted groups, in order of preference. Empty: the usual ones, in the client's order.
    pub groups: Vec<KeyGroup>,
    /// The verification of client certificates.
    pub client_auth: ClientAuth,
    /// The accepted ALPN protocols, in order of preference. Empty: ALPN is ignored. Those of a route are the
    /// listener's.
    pub alpn: Vec<Vec<u8>>,
    /// The longest plaintext of the records that are sent, 512 to 16384. A client can ask for less.
    pub max_record_bytes: u16,
    /// The records of a burst start with at most 4 KiB.
    pub small_first_records: bool,
    /// The number of TLS 1.3 tickets per handshake, 0 to 4. 0 disables resumption in all TLS versions.
    pub tickets: u8,
    /// A file of ticket keys. None: keys of the process, which rotate.
    pub ticket_keys: Option<PathBuf>,
    /// The time after a full handshake for which its session can be resumed.
    pub max_session_age: Duration,
    /// The limit of certificates that a client may send.
    pub max_chain_certificates: usize,
    /// The limit of bytes of all certificates that a client may send.
    pub max_chain_bytes: usize,
    /// Accepts client certificates of X.509 version 1.
    pub allow_v1: bool,
    /// Stops live sessions whose clients would be refused now, after a change of the CAs or CRLs and when a client's
    /// certificate expires.
    pub recheck: bool,
    /// The time over which these sessions are stopped.
    pub recheck_spread: Duration,
}

impl TlsConfig {
    /// Returns the TLS with these certificates, and the defaults for everything else.
    #[must_use]
    pub fn new(certificates: Vec<CertificateFiles>, client_auth: ClientAuth) -> Self {
        Self {
            certificates,
            guards: Guards::default(),
            rollout: None,
            min_version: TlsVersion::Tls12,
            suites: Vec::new(),
            legacy_suites: Vec::new(),
            groups: Vec::new(),
            client_auth,
            alpn: Vec::new(),
            max_record_bytes: DEFAULT_RECORD_BYTES,
            small_first_records: false,
            tickets: 1,
            ticket_keys: None,
            max_session_age: DEFAULT_SESSION_AGE,
            max_chain_certificates: DEFAULT_CHAIN_CERTIFICATES,
            max_chain_bytes: DEFAULT_CHAIN_BYTES,
            allow_v1: true,
            recheck: true,
            recheck_spread: DEFAULT_RECHECK_SPREAD,
        }
    }

    /// Returns the accepted versions: those that are not too low, and have a suite and a group.
    pub(crate) fn versions(&self) -> AcceptedVersions {
        let has_suite = |version: &str| {
            let mut named = self.suites.iter().chain(&self.legacy_suites);
            self.suites.is_empty() || named.any(|suite| suite.version() == version)
        };
        let has_group = self.groups.is_empty() || self.groups.iter().any(|g| g.is_in_tls12());
        let is_low = self.min_version == TlsVersion::Tls12;
        AcceptedVersions { tls12: is_low && has_suite("1.2") && has_group, tls13: has_suite("1.3") }
    }
}

/// The longest record of TLS: bulk data costs the fewest bytes and instructions.
pub(crate) const DEFAULT_RECORD_BYTES: u16 = values::MAX_PLAIN_BYTES_U16;

/// A day: devices that connect once a day or more often resume every session but one.
pub(crate) const DEFAULT_SESSION_AGE: Duration = Duration::from_secs(24 * 3600);

/// A device sends its certificate and one or two intermediates. HAProxy and nginx accept about 100.
pub(crate) const DEFAULT_CHAIN_CERTIFICATES: usize = 10;

/// The devices of a large re-check return over this time. A single one is stopped at once.
pub(crate) const DEFAULT_RECHECK_SPREAD: Duration = Duration::from_secs(10);

/// The limit of rustls for a Certificate message.
pub(crate) const DEFAULT_CHAIN_BYTES: usize = 64 * 1024;

/// A certificate chain and its key, as two PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, with the end-entity certificate first.
    pub cert: PathBuf,
    /// The private key of the end-entity certificate: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
}

/// The lowest TLS version of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

impl TextValue for TlsVersion {
    // A TOML number would be a mistake that is hard to see.
    const EXPECTED: &'static str = "\"1.2\" or \"1.3\", in quotation marks";
}

impl FromStr for TlsVersion {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "1.2" => Ok(Self::Tls12),
            "1.3" => Ok(Self::Tls13),
            _ => Err(InvalidValue::of::<Self>()),
        }
    }
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        })
    }
}

/// The verification of client certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate is requested.
    None,
    /// A certificate is requested, and must be valid if the client sends it.
    Optional(ClientTrust),
    /// Clients must send a valid certificate.
    Required(ClientTrust),
}

impl ClientAuth {
    /// Returns the requirements on client certificates. None if no certificate is requested.
    #[must_use]
    pub const fn trust(&self) -> Option<&ClientTrust> {
        match self {
            Self::None => None,
            Self::Optional(trust) | Self::Required(trust) => Some(trust),
        }
    }
}

/// A route: its conditions, its backend, and its TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The SNI names that match. Empty: any name, or none.
    pub sni: Vec<NamePattern>,
    /// The negotiated ALPN protocols that match. Empty: any protocol, or none.
    pub alpn: Vec<Vec<u8>>,
    /// The backend.
    pub backend: BackendList,
    /// The whole TLS of the route. None: the listener's own.
    pub tls: Option<TlsConfig>,
}

/// The treatment of a client that sends an unknown server name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownName {
    /// It gets the default certificate, and the backend of the first route that matches any name, or else the
    /// listener's own.
    #[default]
    Default,
    /// It is refused.
    Refuse,
}

choices!(UnknownName { "default" => Default, or "refuse" => Refuse });

/// The time limits of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of the ClientHello to the last.
    pub hello: Duration,
    /// From accept to the end of the handshake.
    pub handshake: Duration,
    /// From the lookup of the backend's name to a connected socket, over all of its addresses.
    pub connect: Duration,
    /// The time without a byte in either direction. None: no limit.
    pub idle: Option<Duration>,
    /// The same after one side has closed its direction. None: as `idle`.
    pub half_close: Option<Duration>,
    /// The age of a connection, less a random part of up to a tenth. None: no limit.
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

/// The options of TCP sockets.
///
/// A peer that vanishes (expired NAT entry, empty battery) is lost after `user_timeout` if data is in flight. If none is,
/// probes follow a silence of `keepalive` at a quarter of it, and the kernel closes the connection at the first one that is
/// due after `user_timeout`; without `user_timeout`, after four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// The idle time before the first keepalive probe (`TCP_KEEPIDLE`). None: no probes.
    pub keepalive: Option<Duration>,
    /// The time for which data may stay unacknowledged, or the peer's window closed, before the kernel closes the
    /// connection (`TCP_USER_TIMEOUT`). None: the kernel's default, about 15 minutes.
    pub user_timeout: Option<Duration>,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            keepalive: Some(Duration::from_secs(60)),
            // A silent peer is lost at the third probe, after 105 s, and any peer within two minutes.
            user_timeout: Some(Duration::from_secs(100)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_version_without_a_suite_or_a_group_is_not_accepted() {
        let accepts = |suites: &[Cipher], groups: &[KeyGroup], min_version| {
            let mut tls = TlsConfig::new(Vec::new(), ClientAuth::None);
            (tls.suites, tls.groups, tls.min_version) =
                (suites.to_vec(), groups.to_vec(), min_version);
            let AcceptedVersions { tls12, tls13 } = tls.versions();
            [tls12, tls13]
        };
        let (low, high) = (TlsVersion::Tls12, TlsVersion::Tls13);
        assert_eq!(accepts(&[], &[], low), [true, true]);
        assert_eq!(accepts(&[], &[], high), [false, true]);
        assert_eq!(accepts(&[Cipher::Tls13Aes128], &[], low), [false, true]);
        assert_eq!(accepts(&[Cipher::RsaAes128], &[], low), [true, false]);
        assert_eq!(accepts(&[Cipher::RsaAes128], &[], high), [false, false]);
        assert_eq!(accepts(&[], &[KeyGroup::X25519MlKem768], low), [false, true]);
    }
}
