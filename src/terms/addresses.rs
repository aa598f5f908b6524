//! Addresses of the project that the program prints. `Cargo.toml` has them.
//!
//! **Not here.** The addresses in deploy/ and docs/, which tests/deploy/addresses.py writes.

/// The issue tracker.
pub(crate) const ISSUES: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/issues");
