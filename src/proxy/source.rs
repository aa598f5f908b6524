//! The source of connections, by which they are counted and ordered.
//!
//! **Not here.** The limits (`admission.rs`), the order of handshakes (`handshake_slots.rs`).

use std::net::{IpAddr, Ipv4Addr};

/// The origin of connections: an IPv4 address, or an IPv6 network, because one host can use every address of it (RFC
/// 4291 section 2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ClientSource {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address.
    V6([u16; 4]),
}

impl ClientSource {
    /// Returns the source of an address. An IPv4-mapped IPv6 address counts as IPv4.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}
