//! Who we are and whom we believe.
//!
//! **Not here.** Connections: a handshake takes what is in force, and asks nothing more.

pub(crate) mod certs;
pub(crate) mod snapshot;

pub(crate) mod digest;
pub(crate) mod files;
pub(crate) mod identity;
pub(crate) mod provider;
mod resolver;
mod revocation;
mod tickets;
pub(crate) mod x509;

#[cfg(test)]
pub(crate) mod testing;
