//! The content of a header, and its faults.
//!
//! **Not here.** The two formats (`v1.rs`, `v2.rs`).

use crate::sessions::ForwardedAddresses;

/// Longest header that is accepted or sent. The addresses and all TLVs except a client's certificate have less than 2
/// KiB.
pub(crate) const MAX_HEADER_BYTES: usize = 4096;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// None for a connection of the proxy's own, such as a health check, and for addresses that are not those of TCP:
    /// the addresses of the socket apply.
    pub(crate) addresses: Option<ForwardedAddresses>,
    /// Number of its bytes.
    pub(crate) length: usize,
}

/// A rule of the specification that a header breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderFault {
    #[error("the first bytes are not a PROXY protocol header")]
    NoHeader,
    #[error("the PROXY protocol header of version 1 has {0}")]
    V1(&'static str),
    #[error("the PROXY protocol header of version 2 has {0}")]
    V2(&'static str),
    #[error("the PROXY protocol header has more than {MAX_HEADER_BYTES} bytes")]
    TooLong,
    #[error("the CRC32c of the PROXY protocol header is wrong")]
    Checksum,
}
