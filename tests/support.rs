//! Test harness: certificates, clients, backends, the proxy in the test's process or as a separate process.

pub(crate) mod access_log;
pub(crate) mod admin;
pub(crate) mod backend;
pub(crate) mod browser;
pub(crate) mod bytes;
pub(crate) mod certs;
pub(crate) mod client;
pub(crate) mod command;
pub(crate) mod file;
pub(crate) mod fleet;
pub(crate) mod network;
pub(crate) mod page;
pub(crate) mod png;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod skips;
pub(crate) mod terminal;
pub(crate) mod wait;

pub(crate) use self::backend::Backend;
pub(crate) use self::certs::{Authority, Pair};
pub(crate) use self::client::Device;
pub(crate) use self::fleet::Fleet;
pub(crate) use self::process::Sidecar;
pub(crate) use self::proxy::Proxy;
pub(crate) use self::wait::eventually;
