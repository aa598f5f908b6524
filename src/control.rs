//! The interfaces that operators and the system call: the admin port, systemd, inherited sockets.
//!
//! **Not here.** Measuring (`metrics/`), live sessions (`sessions.rs`), the stop (`lifecycle.rs`).

pub mod admin;
pub mod core_dumps;
pub(crate) mod history;
pub mod sockets;
pub mod systemd;
