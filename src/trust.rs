//! Our certificates, and the trust in those of clients.
//!
//! **Not here.** Connections: a handshake takes the current snapshot, and nothing else.

pub(crate) mod allow;
pub(crate) mod certs;
pub(crate) mod changes;
pub(crate) mod findings;
pub(crate) mod material;
pub(crate) mod policy;
pub(crate) mod snapshot;

pub(crate) mod authentication;
pub(crate) mod digest;
pub(crate) mod facts;
mod files;
pub(crate) mod identity;
pub(crate) mod issuers;
pub(crate) mod provider;
pub(crate) mod recheck;
pub(crate) mod refused;
pub(crate) mod resolver;
pub(crate) mod revocation;
pub(crate) mod rollout;
pub(crate) mod server_configs;
pub(crate) mod tickets;
pub(crate) mod token;
mod verified_path;
pub(crate) mod x509;

#[cfg(feature = "fuzz")]
pub mod fuzz;
#[cfg(test)]
pub(crate) mod testing;
