//! Values that people write as text or as numbers, each with the sentence that says what is
//! allowed.
//!
//! **Promises.** A refused value's message names the value found and [`FromText::EXPECTED`].
//!
//! **Not here.** Checks that need more than the one value (`file.rs`).

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

use crate::config::{BackendAddress, NamePattern, TlsVersion};
use crate::logging::{Filter, Format};

/// A value that is written as text.
pub(super) trait FromText: Sized {
    /// What is allowed, to stand after "expected".
    const EXPECTED: &'static str;

    /// Parses the text; none if it is not allowed.
    fn from_text(text: &str) -> Option<Self>;
}

/// Lets serde read a [`FromText`] value.
pub(super) struct Text<T>(pub(super) T);

impl<'de, T: FromText> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor<T>(PhantomData<T>);

        impl<T: FromText> Visitor<'_> for TextVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
                T::from_text(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_str(TextVisitor(PhantomData)).map(Text)
    }
}

/// A whole number from `MIN` to `MAX`.
pub(super) struct Whole<const MIN: u32, const MAX: u32>(pub(super) u32);

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WholeVisitor<const MIN: u32, const MAX: u32>;

        impl<const MIN: u32, const MAX: u32> Visitor<'_> for WholeVisitor<MIN, MAX> {
            type Value = u32;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<u32, E> {
                u32::try_from(number)
                    .ok()
                    .filter(|n| (MIN..=MAX).contains(n))
                    .ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }
        }

        deserializer.deserialize_i64(WholeVisitor::<MIN, MAX>).map(Whole)
    }
}

impl FromText for SocketAddr {
    const EXPECTED: &'static str =
        "an IP address and a port, such as \"0.0.0.0:8883\" or \"[::]:8883\"";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for BackendAddress {
    const EXPECTED: &'static str = "\"host:port\", \"tcp://host:port\" or \"unix:/path\"";

    fn from_text(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl FromText for NamePattern {
    const EXPECTED: &'static str = "a DNS name, or \"*.\" and a DNS name to match one label more";

    fn from_text(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl FromText for Format {
    const EXPECTED: &'static str = "\"text\" or \"json\"";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl FromText for TlsVersion {
    const EXPECTED: &'static str = "\"1.2\" or \"1.3\", in quotation marks";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "1.2" => Some(Self::Tls12),
            "1.3" => Some(Self::Tls13),
            _ => None,
        }
    }
}

/// Whether devices are asked for certificates; which are believed stands beside it.
#[derive(Clone, Copy)]
pub(super) enum AuthChoice {
    None,
    Optional,
    Required,
}

impl FromText for AuthChoice {
    const EXPECTED: &'static str = "\"none\", \"optional\" or \"required\"";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "none" => Some(Self::None),
            "optional" => Some(Self::Optional),
            "required" => Some(Self::Required),
            _ => None,
        }
    }
}

impl FromText for Filter {
    const EXPECTED: &'static str = Self::EXPECTED;

    fn from_text(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

/// The longest duration that is taken for one: beyond it lies a typing error.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A duration from zero to a year.
pub(super) struct AnyDuration(pub(super) Duration);

impl FromText for AnyDuration {
    const EXPECTED: &'static str =
        "a duration from \"0s\" to \"365d\", such as \"500ms\" or \"1h 30m\"";

    fn from_text(text: &str) -> Option<Self> {
        humantime::parse_duration(text).ok().filter(|&d| d <= LONGEST).map(Self)
    }
}

/// A duration that is not zero, since nothing waits for ever behind it.
pub(super) struct SomeDuration(pub(super) Duration);

impl FromText for SomeDuration {
    const EXPECTED: &'static str =
        "a duration from \"1ms\" to \"365d\", such as \"500ms\" or \"1h 30m\"";

    fn from_text(text: &str) -> Option<Self> {
        AnyDuration::from_text(text).filter(|d| d.0 >= Duration::from_millis(1)).map(|d| Self(d.0))
    }
}

/// The bytes of the certificates that a client may send.
pub(super) struct ChainBytes(pub(super) usize);

impl FromText for ChainBytes {
    const EXPECTED: &'static str = "a size from \"1KiB\" to \"64KiB\", such as \"32KiB\"";

    fn from_text(text: &str) -> Option<Self> {
        size(text).filter(|bytes| (1 << 10..=64 << 10).contains(bytes)).map(Self)
    }
}

/// A count of bytes with its unit: `512B`, `32KiB`, `1MiB`, `2GiB`.
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

/// The length of a ClientHello.
pub(super) struct HelloBytes(pub(super) usize);

impl FromText for HelloBytes {
    const EXPECTED: &'static str = "a size from \"512B\" to \"64KiB\", such as \"16KiB\"";

    fn from_text(text: &str) -> Option<Self> {
        size(text).filter(|bytes| (512..=64 << 10).contains(bytes)).map(Self)
    }
}

/// What all handshakes in progress hold together.
pub(super) struct HandshakeBytes(pub(super) usize);

impl FromText for HandshakeBytes {
    const EXPECTED: &'static str = "a size from \"1MiB\" to \"64GiB\", such as \"64MiB\"";

    fn from_text(text: &str) -> Option<Self> {
        size(text).filter(|bytes| (1 << 20..=64 << 30).contains(bytes)).map(Self)
    }
}

/// An ALPN protocol, RFC 7301 section 3.1: 1 to 255 bytes.
pub(super) struct Alpn(String);

impl FromText for Alpn {
    const EXPECTED: &'static str = "an ALPN protocol of 1 to 255 bytes, such as \"mqtt\"";

    fn from_text(text: &str) -> Option<Self> {
        (1..=255).contains(&text.len()).then(|| Self(text.to_owned()))
    }
}

impl From<Alpn> for Vec<u8> {
    fn from(alpn: Alpn) -> Self {
        alpn.0.into_bytes()
    }
}

/// A listener's name: a metric label and part of log lines.
pub(super) struct ListenerName(String);

impl FromText for ListenerName {
    const EXPECTED: &'static str = "a name of 1 to 64 letters, digits, \"_\", \".\" or \"-\"";

    fn from_text(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        ((1..=64).contains(&text.len()) && text.bytes().all(allowed)).then(|| Self(text.to_owned()))
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
