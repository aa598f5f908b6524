//! What the operator sees and does.
//!
//! **Not here.** What is logged: each module tells its own, and `proxy/record.rs` how connections ended.

pub mod admin;
pub mod ask;
pub mod core_dumps;
pub(crate) mod history;
pub mod metrics;
pub(crate) mod sessions;
pub mod shutdown;
pub mod signals;
pub mod systemd;
pub(crate) mod top;
