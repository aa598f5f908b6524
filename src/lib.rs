//! tlsidecar terminates the TLS of device fleets next to a legacy server that speaks plain TCP.
//!
//! ```text
//!            ┌────────────────────────── tlsidecar ──────────────────────────┐
//!  device ──▶│ listener ─▶ admission ─▶ handshake ─▶ route ─▶ backend ─▶ relay │──▶ legacy server
//!   (TLS)    │             one Record, from accept to close                  │   (plain TCP, Unix)
//!            └──────┬────────────────────────┬───────────────────────┬───────┘
//!            trust: certificates,      ops: metrics,           config: what
//!            CAs, CRLs, reload         admin port, drain       it runs on
//! ```
//!
//! The walk of a connection is `proxy/connection.rs`: start reading there. The library exists so
//! that tests can start the whole proxy in their own process; its interface is [`app::start`], what
//! that needs and what it returns.
//!
//! **Not here.** Signals and exit codes: the process is `main.rs`.

pub mod cli;
pub mod demo;
pub mod probe;

pub mod app;
pub mod logging;
pub mod runtime;

pub mod proxy;

pub mod trust;

pub mod ops;

pub mod config;

mod regular_file;
pub mod text;
