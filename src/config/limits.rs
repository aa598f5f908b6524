//! The limits of a listener.
//!
//! **Not here.** Their effect: `proxy/admission.rs`, `proxy/handshake_slots.rs`.

use crate::value::choices;

/// The limits of connections and of what they send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of this listener at a time. None: as many as the process's limit of file descriptors allows.
    pub max_connections: Option<usize>,
    /// Connections of one source at a time: an IPv4 address, or an IPv6 network of 64 bits. None: no limit.
    pub max_connections_per_source: Option<usize>,
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
            per_identity: None,
            max_handshakes_in_progress: None,
            max_handshakes_per_second: None,
            max_hello_bytes: 64 * 1024,
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
