//! One connection's life. The modules stand in walking order.
//!
//! **Not here.** Which certificates are shown and believed (`trust/`), how the process stops (`lifecycle.rs`).

pub(crate) mod listener;

pub(crate) mod admission;
mod connection;
mod hello;

pub(crate) mod handshake;
mod handshake_memory;
mod tls;

pub(crate) mod backend;
mod route;

mod close;
mod relay;
mod write_buffer;

mod record;
pub(crate) mod socket;

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "fuzz")]
pub mod fuzz;
