//! The address from which a listener connects to its backends.
//!
//! **Not here.** The sockets (`transparent.rs`).

use crate::value::choices;

/// The address from which a listener connects to its backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceAddress {
    /// An address of this machine.
    #[default]
    Own,
    /// The address of the device, for a server that identifies devices by it.
    Client,
}

choices!(SourceAddress { "own" => Own, or "client" => Client });
