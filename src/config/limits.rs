//! The limits of a listener.
//!
//! **Not here.** Their effect: `proxy/admission.rs`, `proxy/handshake_slots.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::value::choices;

/// The limits of connections and of what they send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of this listener at a time. None: as many as the process's limit of file descriptors allows.
    pub max_connections: Option<usize>,
    /// Connections of one source at a time. None: no limit.
    pub max_connections_per_source: Option<usize>,
    /// The size of a source of that limit.
    pub source_prefix: SourcePrefix,
    /// Connections of one client identity at a time. None: no limit.
    pub per_identity: Option<IdentityLimit>,
    /// Handshakes whose cryptography is in progress at a time. None: one for each worker of the process.
    pub max_handshakes_in_progress: Option<usize>,
    /// Full handshakes begun per second. None: no limit.
    pub max_handshakes_per_second: Option<u32>,
    /// The longest ClientHello, from 512 B to 64 KiB, the limit of rustls.
    pub max_hello_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: None,
            max_connections_per_source: None,
            source_prefix: SourcePrefix::default(),
            per_identity: None,
            max_handshakes_in_progress: None,
            max_handshakes_per_second: None,
            max_hello_bytes: 64 * 1024,
        }
    }
}

/// The networks that count as one source of connections, by the lengths of their prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePrefix {
    /// Bits of an IPv4 network, 1 to 32.
    pub v4: u8,
    /// Bits of an IPv6 network, 1 to 128.
    pub v6: u8,
}

impl Default for SourcePrefix {
    /// Returns one address of IPv4, and one IPv6 subnet, of which one host can use every address (RFC 4291 section
    /// 2.5.1).
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

impl SourcePrefix {
    /// Returns the first address of the network of an address. An IPv4-mapped IPv6 address counts as IPv4.
    pub(crate) fn network(self, address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let host_bits = u32::BITS.saturating_sub(self.v4.into());
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() & mask).into()
            }
            IpAddr::V6(address) => {
                let host_bits = u128::BITS.saturating_sub(self.v6.into());
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
        }
    }
}

/// The limit of connections of one client identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityLimit {
    /// Connections at a time, at least 1.
    pub max: usize,
    /// The treatment of a connection over the limit.
    pub over: OverIdentityLimit,
}

/// The treatment of a connection over the limit of its identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverIdentityLimit {
    /// It replaces the connection of this identity that was silent longest.
    #[default]
    Replace,
    /// It is refused.
    Refuse,
}

choices!(OverIdentityLimit { "replace" => Replace, or "refuse" => Refuse });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_the_network_of_an_address() {
        let of = |v4, v6, text: &str| SourcePrefix { v4, v6 }.network(text.parse().unwrap());
        let is = |network: IpAddr, text: &str| assert_eq!(network, text.parse::<IpAddr>().unwrap());
        is(of(32, 64, "192.0.2.7"), "192.0.2.7");
        is(of(24, 64, "192.0.2.7"), "192.0.2.0");
        is(of(24, 64, "::ffff:192.0.2.7"), "192.0.2.0");
        is(of(24, 56, "2001:db8:0:1ff::1"), "2001:db8:0:100::");
        is(of(1, 128, "2001:db8::1"), "2001:db8::1");
        is(of(1, 1, "192.0.2.7"), "128.0.0.0");
    }
}
