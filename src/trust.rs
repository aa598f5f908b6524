//! Who we are and whom we believe.

pub(crate) mod certs;
pub(crate) mod snapshot;

pub mod reload;

mod digest;
mod files;
mod resolver;
mod tickets;
mod x509;

#[cfg(test)]
pub(crate) mod testing;
