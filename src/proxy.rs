//! The life of a connection. The modules are listed in the order of the walk.
//!
//! **Not here.** Certificates and trust (`trust/`), the stop of the process (`lifecycle.rs`).

pub(crate) mod listener;
mod mirror;

pub(crate) mod admission;
mod connection;
mod hello;
mod proxy_protocol;

pub(crate) mod handshake;
mod handshake_memory;
mod handshake_slots;
mod tls;

pub(crate) mod backend;
mod connect;
mod route;

pub(crate) mod rehearsal;

mod close;
mod relay;
mod write_buffer;

mod record;
pub(crate) mod socket;
mod source;

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "fuzz")]
pub mod fuzz;
