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
//! The walk of a connection is `proxy/connection.rs`: start reading there. The library exists so
//! that tests can start the whole proxy in their own process; its interface is [`app::start`], what
//! that needs and what it returns.
//!
//! **Not here.** Signals and exit codes: the process is `main.rs`.

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

pub mod terms;

mod blocking;
mod lock;
pub mod logging;
mod regular_file;
pub mod text;
mod time;
