//! The commands of the program, and their flags.
//!
//! **Not here.** Which flags lead to which command and exit code (`main.rs`).

pub mod admin_client;
pub mod demo;
pub mod flags;
pub mod pages;
pub mod probe;
