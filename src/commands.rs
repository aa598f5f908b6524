//! The commands of the program, one file each, and their flags.
//!
//! **Not here.** The choice of the command (`main.rs`).

mod admin_client;
pub mod check;
pub mod demo;
pub mod drain;
pub mod events;
pub mod exit;
pub mod flags;
mod output;
pub mod pages;
pub mod probe;
pub mod reload;
pub mod run;
pub mod sessions;
pub mod status;
mod stop;
mod table;
pub mod top;
pub mod trace;
pub mod version;
