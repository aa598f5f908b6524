//! Interfaces for operators and the operating system: admin port, systemd, socket activation, confinement.
//!
//! **Not here.** Metrics (`metrics/`), live sessions (`sessions.rs`), the stop (`lifecycle.rs`).

pub mod admin;
pub mod confine;
pub mod core_dumps;
pub(crate) mod history;
pub mod sockets;
pub mod systemd;
