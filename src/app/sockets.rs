//! The sockets of a process: those that were passed to it, and those that it binds.
//!
//! **Promises.** All sockets are bound, or none. The returned addresses are the bound ones, also for port 0.
//!
//! **Not here.** The options of sockets (`proxy/socket.rs`), accepting (`proxy/listener.rs`).

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpListener;

use super::start_error::StartError;
use crate::config::{self, AdminConfig, Config, Tcp};
use crate::control::admin::endpoint::{Endpoint, Scope};
use crate::control::sockets::ActivatedSockets;
use crate::proxy::socket;
use crate::text::Shown;

/// A listening socket.
pub(super) struct Bound {
    pub(super) socket: TcpListener,
    /// The bound address.
    pub(super) address: SocketAddr,
    /// Another process can take over from it: it was bound with `reuse_port`, and was not passed to the process.
    pub(super) is_shared: bool,
}

/// The sockets of the admin port.
#[derive(Default)]
pub(super) struct AdminSockets {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) address: Option<SocketAddr>,
    pub(super) metrics_address: Option<SocketAddr>,
    pub(super) socket: Option<PathBuf>,
}

impl AdminSockets {
    /// Logs where the admin port listens.
    pub(super) fn log(&self) {
        if let Some(address) = self.address {
            tracing::info!(%address, "admin port");
        }
        if let Some(socket) = &self.socket {
            tracing::info!(path = %Shown(socket), "admin socket");
        }
        if let Some(address) = self.metrics_address {
            tracing::info!(%address, "metrics and probes");
        }
    }
}

/// Returns the sockets of the listeners and of the admin port.
pub(super) fn bind_all(
    config: &Config,
    passed: ActivatedSockets,
) -> Result<(Vec<Bound>, AdminSockets), StartError> {
    let AdminConfig { listen, socket, metrics_listen, token_file: _ } = &config.admin;
    let wanted = config.listeners.iter().map(|listener| (listener.name.as_str(), listener.listen));
    // The admin port is last, so that a listener can be named "admin" or "metrics".
    let of_admin = [("admin", listen.address()), ("metrics", *metrics_listen)];
    let of_admin = of_admin.into_iter().filter_map(|(name, address)| Some((name, address?)));
    let wanted: Vec<_> = wanted.chain(of_admin).collect();
    let mut passed = passed.assign(&wanted).map_err(StartError::Activation)?.into_iter();
    let bind_listener = |(listener, passed): (&config::ListenerConfig, _)| {
        let what = format!("listener {:?}", listener.name);
        bind(&what, listener.listen, (listener.tcp, listener.reuse_port), passed)
    };
    let sockets = config.listeners.iter().zip(passed.by_ref()).map(bind_listener);
    let sockets = sockets.collect::<Result<_, _>>()?;
    let mut admin = AdminSockets::default();
    if let Some(address) = listen.address() {
        let passed = passed.next().flatten();
        let options = (Tcp::default(), false);
        let Bound { socket, address, .. } = bind("the admin port", address, options, passed)?;
        admin.endpoints.push(Endpoint::tcp(socket, address, Scope::Whole));
        admin.address = Some(address);
    }
    if let Some(address) = *metrics_listen {
        let passed = passed.next().flatten();
        let options = (Tcp::default(), false);
        let Bound { socket, address, .. } = bind("metrics and probes", address, options, passed)?;
        admin.endpoints.push(Endpoint::tcp(socket, address, Scope::Metrics));
        admin.metrics_address = Some(address);
    }
    if let Some(path) = socket {
        let bound = Endpoint::unix(path)
            .map_err(|cause| StartError::BindUnix { path: path.clone(), cause })?;
        admin.endpoints.push(bound);
        admin.socket = Some(path.clone());
    }
    Ok((sockets, admin))
}

fn bind(
    what: &str,
    address: SocketAddr,
    (options, reuse_port): (Tcp, bool),
    passed: Option<std::net::TcpListener>,
) -> Result<Bound, StartError> {
    let was_passed = passed.is_some();
    let bound = match passed {
        Some(socket) => socket::adopt(socket, options),
        None => socket::listen(address, options, reuse_port),
    };
    let bound = bound.and_then(|socket| {
        let real = socket.local_addr()?;
        if was_passed && real != address && address.port() != 0 {
            tracing::warn!("{what}: configured for {address}, but was passed a socket on {real}");
        }
        Ok(Bound { socket, address: real, is_shared: reuse_port && !was_passed })
    });
    let hint = if reuse_port {
        "; with reuse_port, each process on this address needs it, and the same user"
    } else {
        ""
    };
    bound.map_err(|cause| StartError::Bind { what: what.to_owned(), address, cause, hint })
}
