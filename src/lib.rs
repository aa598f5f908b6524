//! tlsidecar terminates the TLS of device fleets next to a legacy server that speaks plain TCP.
//!
//! ```text
//!            ┌────────────────────────── tlsidecar ──────────────────────────┐
//!  device ──▶│ listener ─▶ admission ─▶ handshake ─▶ route ─▶ backend ─▶ relay │──▶ legacy server
//!   (TLS)    │             one Record, from accept to close                  │   (plain TCP, Unix)
//!            └──────┬────────────────────────┬───────────────────────┬───────┘
//!            trust: certificates,      control: admin port,    metrics, sessions,
//!            CAs, CRLs; reload         systemd; lifecycle      config, terms
//! ```
//!
//! Start reading at `proxy/connection.rs`, the walk of a connection. The library exists so that tests can start the
//! whole proxy in their own process. Its interface is [`app::start`] with its arguments and its result.
//!
//! **Not here.** The choice of the command (`main.rs`).

pub mod commands;

pub mod app;
pub mod runtime;

pub mod proxy;

pub mod control;
pub mod sessions;

pub mod reload;

pub mod metrics;

pub mod trust;

pub mod lifecycle;

pub mod config;

mod events;

pub mod terms;

mod blocking;
mod lock;
pub mod logging;
pub mod memory;
mod regular_file;
pub mod text;
mod time;
pub mod transparent;
mod value;
