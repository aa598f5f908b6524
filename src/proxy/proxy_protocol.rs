//! The PROXY protocol: the header in which a proxy states the addresses of the connection that it forwards.
//!
//! Specification: HAProxy's doc/proxy-protocol.txt, of which the section numbers in these files are.
//!
//! **Promises.** A header is read only from peers that must send one, and a header counts only if it matches the
//! specification exactly. Reading takes nothing from the socket that follows the header, and buffers at most
//! [`header::MAX_HEADER_BYTES`]. A header that is sent precedes every other byte, with the first data in one write.
//!
//! **Not here.** The peers that must send a header (`config/proxy_protocol.rs`).

mod checksum;
mod header;
mod parse;
mod receive;
mod send;
mod tlv;
mod v1;
mod v2;

pub(crate) use self::parse::begins_header;
#[cfg(feature = "fuzz")]
pub(crate) use self::parse::parse;
pub(crate) use self::receive::{ReceiveHeaderError, receive};
pub(crate) use self::send::{SendHeaderError, header, send};
