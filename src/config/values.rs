//! The values of the configuration that have no type of their meaning: durations, sizes, names, addresses.
//!
//! **Promises.** Each range has one type, and its description ([`TextValue::EXPECTED`]) states the range.
//!
//! **Not here.** Addresses of backends, name patterns and versions (`config.rs`), the file format (`config/file/`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use crate::value::{InvalidValue, TextValue};

/// An address to listen on.
#[derive(Clone, Copy)]
pub(crate) struct ListenAddress(pub(crate) SocketAddr);

impl TextValue for ListenAddress {
    const EXPECTED: &'static str = "an IP address and a port, such as \"0.0.0.0:8883\" or \"[::]:8883\", \":8883\" for \
        all addresses, or \"localhost:8883\"";
}

impl FromStr for ListenAddress {
    type Err = InvalidValue;

    /// An empty host is `[::]`, which accepts IPv4 too. "localhost" is not looked up: an answer of a resolver must not
    /// open a port to a network (RFC 6761 section 6.3).
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let of = |ip: IpAddr, text: &str| Some(SocketAddr::new(ip, port(text)?));
        let named = match text.split_once(':') {
            Some(("", port)) => of(Ipv6Addr::UNSPECIFIED.into(), port),
            Some((host, port)) if host.eq_ignore_ascii_case("localhost") => {
                of(Ipv4Addr::LOCALHOST.into(), port)
            }
            Some(_) | None => None,
        };
        named.or_else(|| text.parse().ok()).map(Self).ok_or(InvalidValue::of::<Self>())
    }
}

impl From<ListenAddress> for SocketAddr {
    fn from(address: ListenAddress) -> Self {
        address.0
    }
}

/// Parses a port of digits alone; Rust's numbers may have a sign.
pub(super) fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

/// The longest duration. A longer one is a typing error.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// A duration from zero to a year.
#[derive(Clone, Copy)]
pub(crate) struct AnyDuration(pub(crate) Duration);

impl TextValue for AnyDuration {
    const EXPECTED: &'static str =
        "a duration from \"0s\" to \"365d\", such as \"500ms\" or \"1h 30m\"";
}

impl FromStr for AnyDuration {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let parsed = humantime::parse_duration(text).ok().filter(|&d| d <= MAX_DURATION);
        parsed.map(Self).ok_or(InvalidValue::of::<Self>())
    }
}

/// A duration from a millisecond to a year.
#[derive(Clone, Copy)]
pub(crate) struct NonZeroDuration(pub(crate) Duration);

impl TextValue for NonZeroDuration {
    const EXPECTED: &'static str =
        "a duration from \"1ms\" to \"365d\", such as \"500ms\" or \"1h 30m\"";
}

impl FromStr for NonZeroDuration {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let parsed = text.parse::<AnyDuration>().ok().map(|AnyDuration(duration)| duration);
        let parsed = parsed.filter(|&duration| duration >= Duration::from_millis(1));
        parsed.map(Self).ok_or(InvalidValue::of::<Self>())
    }
}

impl From<NonZeroDuration> for Duration {
    fn from(duration: NonZeroDuration) -> Self {
        duration.0
    }
}

/// The age of a session that is resumed: a second to a week. TLS 1.3 has no tickets for more than a week (RFC
/// 8446 section 4.6.1).
pub(crate) struct SessionAge(pub(crate) Duration);

impl TextValue for SessionAge {
    const EXPECTED: &'static str = "a duration from \"1s\" to \"7d\", such as \"24h\"";
}

impl FromStr for SessionAge {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let parsed = text.parse::<AnyDuration>().ok().map(|AnyDuration(duration)| duration);
        let range = Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);
        let parsed = parsed.filter(|duration| range.contains(duration));
        parsed.map(Self).ok_or(InvalidValue::of::<Self>())
    }
}

/// The time over which live sessions are stopped after a re-check: up to an hour. Refused clients stay connected for so
/// long.
pub(crate) struct RecheckSpread(pub(crate) Duration);

impl TextValue for RecheckSpread {
    const EXPECTED: &'static str = "a duration from \"0s\" to \"1h\", such as \"10s\"";
}

impl FromStr for RecheckSpread {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let parsed = text.parse::<AnyDuration>().ok().map(|AnyDuration(duration)| duration);
        let parsed = parsed.filter(|&duration| duration <= Duration::from_secs(3600));
        parsed.map(Self).ok_or(InvalidValue::of::<Self>())
    }
}

/// The time between two checks of a backend: none, or a second to an hour.
pub(crate) struct CheckInterval(pub(crate) Option<Duration>);

impl TextValue for CheckInterval {
    const EXPECTED: &'static str = "a duration from \"1s\" to \"1h\", or \"0s\": no checks";
}

impl FromStr for CheckInterval {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let parsed = text.parse::<AnyDuration>().map_err(|_| InvalidValue::of::<Self>())?.0;
        let range = Duration::from_secs(1)..=Duration::from_secs(3600);
        match parsed {
            Duration::ZERO => Ok(Self(None)),
            interval if range.contains(&interval) => Ok(Self(Some(interval))),
            _ => Err(InvalidValue::of::<Self>()),
        }
    }
}

/// A size from `MIN` to `MAX` bytes.
pub(crate) struct Size<const MIN: usize, const MAX: usize>(pub(crate) usize);

impl<const MIN: usize, const MAX: usize> FromStr for Size<MIN, MAX>
where
    Self: TextValue,
{
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let size = size(text).filter(|bytes| (MIN..=MAX).contains(bytes));
        size.map(Self).ok_or(InvalidValue::of::<Self>())
    }
}

/// The size of the certificates that a client may send.
pub(crate) type ChainBytes = Size<{ 1 << 10 }, { 64 << 10 }>;

impl TextValue for ChainBytes {
    const EXPECTED: &'static str = "a size from \"1KiB\" to \"64KiB\", such as \"32KiB\"";
}

/// The size of a ClientHello.
pub(crate) type HelloBytes = Size<512, { 64 << 10 }>;

impl TextValue for HelloBytes {
    const EXPECTED: &'static str = "a size from \"512B\" to \"64KiB\", such as \"16KiB\"";
}

/// The memory of all handshakes in progress together.
pub(crate) type HandshakeBytes = Size<{ 1 << 20 }, { 64 << 30 }>;

impl TextValue for HandshakeBytes {
    const EXPECTED: &'static str = "a size from \"1MiB\" to \"64GiB\", such as \"64MiB\"";
}

/// The limit of `process.max_buffered_bytes`: 16 MiB to 64 GiB. With less, even tiny reads of thousands of connections
/// would exceed it.
pub(crate) type BufferedBytes = Size<{ 16 << 20 }, { 64 << 30 }>;

impl TextValue for BufferedBytes {
    const EXPECTED: &'static str = "a size from \"16MiB\" to \"64GiB\", such as \"256MiB\"";
}

/// Longest plaintext of a record: RFC 8446 section 5.1, RFC 5246 section 6.2.1.
pub(crate) const MAX_PLAIN_BYTES: usize = MAX_PLAIN_BYTES_U16 as usize;
pub(crate) const MAX_PLAIN_BYTES_U16: u16 = 1 << 14;

/// The longest plaintext of a record that is sent. Fewer than 512 bytes, the least value of max_fragment_length, would
/// mostly be headers.
pub(crate) type PlainRecordBytes = Size<512, MAX_PLAIN_BYTES>;

impl TextValue for PlainRecordBytes {
    const EXPECTED: &'static str = "a size from 512 to 16384 bytes, such as 4096 or \"4KiB\"";
}

/// Parses a number of bytes with its unit: `512B`, `32KiB`, `1MiB`, `2GiB`.
fn size(text: &str) -> Option<usize> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(1 << shift)
}

/// An ALPN protocol name: 1 to 255 bytes (RFC 7301 section 3.1).
#[derive(Clone, Debug)]
pub(crate) struct AlpnProtocol(String);

impl TextValue for AlpnProtocol {
    const EXPECTED: &'static str = "an ALPN protocol of 1 to 255 bytes, such as \"mqtt\"";
}

impl FromStr for AlpnProtocol {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let allowed = (1..=255).contains(&text.len());
        allowed.then(|| Self(text.to_owned())).ok_or(InvalidValue::of::<Self>())
    }
}

impl From<AlpnProtocol> for String {
    fn from(protocol: AlpnProtocol) -> Self {
        protocol.0
    }
}

impl From<AlpnProtocol> for Vec<u8> {
    fn from(protocol: AlpnProtocol) -> Self {
        protocol.0.into_bytes()
    }
}

/// The name of a listener: a metric label and a field of log lines.
pub(crate) struct ListenerName(String);

impl TextValue for ListenerName {
    const EXPECTED: &'static str = "a name of 1 to 64 letters, digits, \"_\", \".\" or \"-\"";
}

impl FromStr for ListenerName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        let allowed = (1..=64).contains(&text.len()) && text.bytes().all(is_allowed);
        allowed.then(|| Self(text.to_owned())).ok_or(InvalidValue::of::<Self>())
    }
}

impl fmt::Display for ListenerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ListenerName> for String {
    fn from(name: ListenerName) -> Self {
        name.0
    }
}
