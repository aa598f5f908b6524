//! The harness: certificates, clients, backends, the proxy in this process or as a process.

pub mod backend;
pub mod bytes;
pub mod certs;
pub mod client;
pub mod process;
pub mod proxy;
pub mod wait;

pub use self::backend::Backend;
pub use self::certs::{Authority, Pair};
pub use self::client::Device;
pub use self::process::Sidecar;
pub use self::proxy::Proxy;
pub use self::wait::eventually;
