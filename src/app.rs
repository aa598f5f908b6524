//! The composition root: binds every socket, wires the parts, tells where they listen.
//!
//! **Promises.** Nothing is bound before everything that can be checked has been; nothing accepts
//! before everything is bound. The addresses that are returned are the real ones, also for port 0.
//!
//! **Not here.** Flags, signals and exit codes (`cli.rs`, `main.rs`).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;

use crate::config::{self, Config, Tcp};
use crate::ops::admin::{self, Admin};
use crate::ops::metrics::Metrics;
use crate::ops::shutdown::Shutdown;
use crate::proxy::admission::{Admission, Places};
use crate::proxy::listener::Listener;
use crate::proxy::socket;
use crate::trust::certs::{self, CertError, Loaded, Warning};
use crate::trust::reload::{self, Target};
use crate::trust::snapshot::{Current, Snapshot};

/// File descriptors that connections leave to everything else: listeners, the admin port, epoll,
/// log, certificates being read, name look-ups. A quarter of them all, where there are few.
const RESERVED_FDS: u64 = 160;

/// A connection's descriptors: the client's and the backend's socket.
const FDS_PER_CONNECTION: u64 = 2;

/// A running proxy. It goes on after this is dropped, until the runtime ends.
pub struct App {
    /// Where each listener listens, in the order of the configuration.
    pub listeners: Vec<(String, SocketAddr)>,
    /// Where the admin port listens.
    pub admin: SocketAddr,
    /// Stops it.
    pub shutdown: Shutdown,
    /// Reloads it.
    pub reload: reload::Handle,
    /// What it counts.
    pub metrics: Arc<Metrics>,
}

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What the configuration names cannot be used: each problem in a sentence.
    #[error("{}", .0.join("\n"))]
    Material(Vec<String>),
    /// A socket cannot be bound.
    #[error("cannot listen on {address} for {what}: {cause}")]
    Bind {
        /// Whose address it is.
        what: String,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        cause: io::Error,
    },
    /// The system refuses something else that we need.
    #[error("cannot {what}: {cause}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        cause: io::Error,
    },
}

/// Loads everything that a configuration names and tells what it should be known for, without
/// binding anything. It blocks on the disk.
///
/// # Errors
/// Each listener's first problem, in a sentence.
pub fn check(config: &Config) -> Result<Vec<String>, StartError> {
    let loaded = load(config)?;
    Ok(loaded.iter().flat_map(|(_, warnings)| warnings.iter().map(ToString::to_string)).collect())
}

/// Starts a proxy on a configuration, which came from `source` if from a file. Call it within a
/// runtime.
///
/// # Errors
/// If anything that it needs is missing; nothing is left bound then.
pub fn start(config: Config, source: Option<PathBuf>) -> Result<App, StartError> {
    let loaded = load(&config)?;
    let mut bound = Vec::new();
    for listener in &config.listeners {
        let what = format!("listener {:?}", listener.name);
        bound.push(bind(what, listener.listen, listener.tcp)?);
    }
    let (admin_socket, admin) =
        bind("the admin port".to_owned(), config.admin.listen, Tcp::default())?;

    let metrics = Arc::new(Metrics::new());
    let shutdown = Shutdown::new();
    let capacity = capacity().map_err(system("find the limit on file descriptors"))?;
    let places = Arc::new(Places::default());
    let mut targets = Vec::new();
    let mut listeners = Vec::new();
    let mut accepting = Vec::new();
    for ((snapshot, warnings), (socket, address)) in loaded.into_iter().zip(bound) {
        let name = snapshot.listener.name.clone();
        let listener_metrics = metrics.listener(&name);
        for warning in warnings {
            tracing::warn!(listener = name, "{warning}");
        }
        warn_of_capacity(&snapshot.listener, capacity);
        reload::announce(&snapshot, &listener_metrics);
        tracing::info!(listener = name, %address, "listening");
        let current = Arc::new(Current::new(*snapshot));
        accepting.push(Listener {
            socket,
            snapshots: current.subscribe(),
            admission: Admission::new(Arc::clone(&places), capacity),
            metrics: Arc::clone(&listener_metrics),
            shutdown: shutdown.clone(),
        });
        targets.push(Target { current, metrics: listener_metrics });
        listeners.push((name, address));
    }

    let times = config.shutdown;
    let reload = reload::start(targets, config, source, Arc::clone(&metrics))
        .map_err(system("start a thread"))?;
    for listener in accepting {
        shutdown.listeners().spawn(listener.run());
    }
    let page =
        Admin { metrics: Arc::clone(&metrics), shutdown: shutdown.clone(), reload: reload.clone() };
    tokio::spawn(admin::serve(admin_socket, Arc::new(page)));
    tracing::info!(address = %admin, "admin port");
    tokio::spawn({
        let shutdown = shutdown.clone();
        async move { shutdown.run(times).await }
    });
    shutdown.running();
    Ok(App { listeners, admin, shutdown, reload, metrics })
}

type LoadedListener = (Box<Snapshot>, Vec<Warning>);

fn load(config: &Config) -> Result<Vec<LoadedListener>, StartError> {
    let mut loaded = Vec::new();
    let mut problems = Vec::new();
    for listener in &config.listeners {
        match load_first(listener) {
            Ok(first) => loaded.push(first),
            Err(error) => problems.push(format!("listener {:?}: {error}", listener.name)),
        }
    }
    if problems.is_empty() { Ok(loaded) } else { Err(StartError::Material(problems)) }
}

fn load_first(listener: &config::Listener) -> Result<LoadedListener, CertError> {
    match certs::load(listener, None, SystemTime::now())? {
        Loaded::New(snapshot, warnings) => Ok((snapshot, warnings)),
        Loaded::Unchanged => unreachable!("there is nothing that it could be unchanged from"),
    }
}

fn bind(
    what: String,
    address: SocketAddr,
    options: Tcp,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = socket::listen(address, options).and_then(|socket| {
        let address = socket.local_addr()?;
        Ok((socket, address))
    });
    bound.map_err(|cause| StartError::Bind { what, address, cause })
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |cause| StartError::System { what, cause }
}

/// How many connections the process can have: what its limit on file descriptors carries, which is
/// first raised as far as the system allows.
fn capacity() -> io::Result<usize> {
    let limit = getrlimit(Resource::Nofile);
    // It cannot fail: the soft limit may always be raised to the hard one.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let fds = limit.maximum.unwrap_or(u64::MAX);
    let connections = (fds - RESERVED_FDS.min(fds / 4)) / FDS_PER_CONNECTION;
    // Semaphores and gauges end somewhere; so does memory, long before.
    Ok(usize::try_from(connections).unwrap_or(usize::MAX).min(1 << 24))
}

fn warn_of_capacity(listener: &config::Listener, capacity: usize) {
    if let Some(wanted) = listener.limits.max_connections.filter(|&wanted| wanted > capacity) {
        tracing::warn!(
            listener = listener.name,
            wanted,
            capacity,
            "max_connections is more than the limit on file descriptors carries (ulimit -Hn)"
        );
    }
}
