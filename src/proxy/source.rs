//! The source of connections, by which they are counted and ordered.
//!
//! **Not here.** The limits (`admission.rs`), the order of handshakes (`handshake_slots.rs`).

use std::net::IpAddr;

use crate::config::SourcePrefix;

/// The origin of connections: the first address of the network that one host can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientSource(IpAddr);

impl ClientSource {
    /// Returns the source of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(SourcePrefix::default().network(address))
    }
}
