//! The composition root: binds every socket, connects the parts, and returns the bound addresses.
//!
//! **Promises.** Everything that can be checked is checked before a socket is bound. No listener accepts before
//! all sockets are bound. The returned addresses are the bound ones, also for port 0.
//!
//! **Not here.** Flags, signals and exit codes (`commands/`).

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpListener;

use crate::blocking::BlockingPool;
use crate::config::file::ConfigSource;
use crate::config::{self, AdminConfig, Config, Tcp};
use crate::control::admin::endpoint::{Endpoint, Scope};
use crate::control::admin::status::Status;
use crate::control::admin::{self, Admin};
use crate::control::sockets::{ActivatedSockets, ActivationError};
use crate::lifecycle::Shutdown;
use crate::logging;
use crate::metrics::Metrics;
use crate::proxy::admission::{self, Gate, ProcessGate};
use crate::proxy::backend::lookup;
use crate::proxy::listener::Listener;
use crate::proxy::socket;
use crate::reload::{self, ProcessWide, ReloadTarget};
use crate::sessions::Sessions;
use crate::sessions::drain::SessionDrain;
use crate::sessions::recheck::{CheckedListener, Recheck};
use crate::terms::labels::MaterialKind;
use crate::text::{Shown, one_line};
use crate::trust::certs::summary::FileSummary;
use crate::trust::snapshot::{Current, Loaded, Snapshot};
use crate::trust::token::TokenFile;

/// A running proxy. Dropping it does not stop the proxy; the end of the runtime does.
pub struct App {
    /// The name and the bound address of each listener, in the order of the configuration.
    pub listeners: Vec<(String, SocketAddr)>,
    /// The bound address of the admin port, unless it is off.
    pub admin: Option<SocketAddr>,
    /// The bound address for metrics and probes, if there is one.
    pub admin_metrics: Option<SocketAddr>,
    /// Stops the proxy.
    pub shutdown: Shutdown,
    /// Reloads the configuration.
    pub reload: reload::Handle,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// The warnings and the files of a valid configuration.
pub struct Checked {
    /// Warnings: a certificate that expires soon, a limit that cannot be reached, and the like.
    pub warnings: Vec<String>,
    /// The contents of each file, one line each.
    pub files: Vec<String>,
}

/// A failed start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificates, keys, CAs or CRLs of the configuration are invalid.
    #[error("{}", self.lines().join("\n"))]
    Material(Vec<String>),
    /// Sockets that were passed to the process cannot be used.
    #[error("{}", self.lines().join("\n"))]
    Activation(Vec<ActivationError>),
    /// A socket cannot be bound.
    #[error("cannot listen on {address} for {what}: {cause}")]
    Bind {
        /// The owner of the address.
        what: String,
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        cause: io::Error,
    },
    /// The Unix socket of the admin port cannot be bound.
    #[error("cannot listen on {} for the admin port: {cause}", Shown(path))]
    BindUnix {
        /// The path.
        path: PathBuf,
        /// The error of the system.
        cause: io::Error,
    },
    /// Another error of the system.
    #[error("cannot {what}: {cause}")]
    System {
        /// The failed action.
        what: &'static str,
        /// The error of the system.
        cause: io::Error,
    },
}

impl StartError {
    /// Returns one line for each problem.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Material(problems) => problems.iter().map(|line| shown(line)).collect(),
            Self::Activation(errors) => sentences(errors).iter().map(|line| shown(line)).collect(),
            Self::Bind { .. } | Self::BindUnix { .. } | Self::System { .. } => {
                vec![shown(&self.to_string())]
            }
        }
    }
}

/// Loads the files of a configuration, and returns its warnings, without binding a socket. Blocks on the disk.
///
/// # Errors
/// All problems of all listeners.
pub fn check(config: &Config) -> Result<Checked, StartError> {
    let loaded = load(config)?;
    let (_, admin_warnings) = load_token(&config.admin)?;
    let files = loaded.iter().flat_map(|(snapshot, _)| contents(snapshot));
    let files = files.collect();
    let capacity = socket::capacity(listening_sockets(config));
    let warnings = loaded.iter().flat_map(|(snapshot, warnings)| {
        let config::ListenerConfig { name, limits, .. } = &snapshot.listener;
        let excess = admission::excess(*limits, capacity.connections);
        let excess = excess.map(|excess| format!("listener {name:?}: {excess}"));
        warnings.iter().map(|warning| shown(&warning.to_string())).chain(excess)
    });
    Ok(Checked { warnings: warnings.chain(admin_warnings).collect(), files })
}

/// Describes each file of a listener, once.
fn contents(snapshot: &Snapshot) -> Vec<String> {
    let name = &snapshot.listener.name;
    let (mut known, mut lines) = (HashSet::new(), Vec::new());
    for (route, policy) in snapshot.by_route() {
        let mut crls = 0..;
        for FileSummary { role, path, count, .. } in policy.files() {
            let file = match role {
                // By its index: a message with the file name of a CRL reports a fault of the CRL.
                MaterialKind::Crl => {
                    let route = route.map_or_else(String::new, |route| format!("route[{route}]."));
                    format!("{route}crls[{}]", crls.next().unwrap_or(0))
                }
                MaterialKind::Certificate
                | MaterialKind::Key
                | MaterialKind::ClientCa
                | MaterialKind::Allow
                | MaterialKind::TicketKeys => path.display().to_string(),
            };
            if known.insert((role, path.to_owned())) {
                lines.push(shown(&format!("listener {name:?}: {file}: {}", counted(role, count))));
            }
        }
    }
    lines
}

/// Describes the contents of a file.
fn counted(kind: MaterialKind, count: usize) -> String {
    let what = match kind {
        MaterialKind::Certificate | MaterialKind::ClientCa => "certificate",
        MaterialKind::Key => "private key",
        MaterialKind::Crl => "CRL",
        MaterialKind::Allow => "allow rule",
        MaterialKind::TicketKeys => "ticket key",
    };
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Starts a proxy on `config`, and binds its sockets. `source` is the file of the configuration, if there is one. Must
/// be called within a runtime.
///
/// # Errors
/// A file or a socket cannot be used. No socket stays bound.
pub fn start(config: Config, source: Option<ConfigSource>) -> Result<App, StartError> {
    start_on(config, source, ActivatedSockets::default())
}

/// Starts a proxy on the sockets in `passed`, and binds the others.
///
/// # Errors
/// As [`start`], and if no listener matches a passed socket.
pub fn start_on(
    config: Config,
    source: Option<ConfigSource>,
    passed: ActivatedSockets,
) -> Result<App, StartError> {
    let loaded = load(&config)?;
    let (token, admin_warnings) = load_token(&config.admin)?;
    let (sockets, admin) = bind_all(&config, passed)?;
    let capacity = socket::capacity(listening_sockets(&config));

    let metrics = Arc::new(Metrics::new());
    let sessions = Arc::new(Sessions::default());
    let shutdown = Shutdown::new(SessionDrain::new(Arc::clone(&sessions)));
    let budget = Arc::clone(&sessions.budget);
    let workers = tokio::runtime::Handle::current().metrics().num_workers();
    let gate = Arc::new(ProcessGate::new(capacity.connections, workers, budget));
    let process_wide = process_wide(&shutdown, &metrics, &gate, &sessions);
    process_wide(&config);
    let mut listeners = Vec::new();
    let mut targets = Vec::new();
    let mut accepting = Vec::new();
    for ((snapshot, warnings), (socket, address)) in loaded.into_iter().zip(sockets) {
        let metrics = metrics.listener(&snapshot.listener.name);
        reload::announce(&snapshot, &warnings, &metrics);
        listeners.push((snapshot.listener.name.clone(), address));
        let (names, resolving) = lookup::keep(snapshot.listener.backends());
        resolving.map_err(system("start a thread to resolve names"))?;
        let target = ReloadTarget { current: Arc::new(Current::new(snapshot)), metrics };
        accepting.push(Listener {
            socket,
            snapshots: target.current.subscribe(),
            gate: Gate::new(Arc::clone(&gate)),
            metrics: Arc::clone(&target.metrics),
            sessions: Arc::clone(&sessions),
            shutdown: shutdown.clone(),
            names,
        });
        targets.push(target);
    }
    let gates = accepting.iter().map(|listener| listener.gate.clone()).collect();
    refresh(&metrics, &shutdown, &sessions, &targets, gates);
    let recheck = recheck(&targets, &sessions).map_err(system("start a thread"))?;
    let shown = listeners.iter().zip(&targets);
    let shown = shown.map(|((_, address), target)| (*address, Arc::clone(&target.metrics)));
    let status = Arc::new(Status::new(shown.collect()));
    let pool = BlockingPool::of_one_thread("admin").map_err(system("start a thread"))?;
    let (for_reload, metrics_too) = (token.clone(), Arc::clone(&metrics));
    let reload = reload::start(targets, config, source, process_wide, for_reload, metrics_too)
        .map_err(system("start a thread"))?;

    // All sockets are bound. Nothing after this can fail.
    for (name, address) in &listeners {
        tracing::info!(listener = name, %address, "listening");
    }
    admin.log();
    for warning in admin_warnings {
        tracing::warn!("{warning}");
    }
    let answering = Admin {
        metrics: Arc::clone(&metrics),
        sessions,
        shutdown: shutdown.clone(),
        reload: reload.clone(),
        status,
        token,
        pool,
    };
    let AdminSockets { endpoints, address, metrics_address, socket: _ } = admin;
    let app = App {
        listeners,
        admin: address,
        admin_metrics: metrics_address,
        shutdown,
        reload,
        metrics,
    };
    recheck.start();
    app.run(accepting, endpoints, answering, capacity.admin);
    Ok(app)
}

impl App {
    fn run(
        &self,
        accepting: Vec<Listener>,
        endpoints: Vec<Endpoint>,
        admin: Admin,
        admin_connections: usize,
    ) {
        // Before the admin port answers, because it would undo a drain.
        self.shutdown.running();
        for listener in accepting {
            self.shutdown.listeners().spawn(listener.run());
        }
        admin::serve(endpoints, &Arc::new(admin), admin_connections);
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move { shutdown.run().await });
    }
}

fn load(config: &Config) -> Result<Vec<Loaded>, StartError> {
    let mut loaded = Vec::new();
    let mut problems = Vec::new();
    for listener in &config.listeners {
        // A file is checked for this when it is parsed. Flags are checked here.
        let AdminConfig { listen: admin, metrics_listen, .. } = config.admin;
        for admin in [admin.address(), metrics_listen].into_iter().flatten() {
            if config::overlap(listener.listen, admin) {
                let (name, address) = (&listener.name, listener.listen);
                problems.push(format!(
                    "listener {name:?}: {address} overlaps the admin port's {admin}"
                ));
            }
        }
        match Snapshot::load(listener, SystemTime::now()) {
            Ok(first) => loaded.push(first),
            Err(errors) => {
                let name = &listener.name;
                problems.extend(errors.iter().map(|error| format!("listener {name:?}: {error}")));
            }
        }
    }
    if problems.is_empty() { Ok(loaded) } else { Err(StartError::Material(problems)) }
}

/// Returns the function that applies the process-wide settings, at the start and at each reload.
fn process_wide(
    shutdown: &Shutdown,
    metrics: &Arc<Metrics>,
    gate: &Arc<ProcessGate>,
    sessions: &Arc<Sessions>,
) -> ProcessWide {
    let (shutdown, metrics, gate) = (shutdown.clone(), Arc::clone(metrics), Arc::clone(gate));
    let sessions = Arc::clone(sessions);
    Box::new(move |config| {
        gate.memory().set_ceiling(config.process.max_handshake_bytes);
        sessions.budget.set_ceiling(config.process.buffered_bytes());
        shutdown.set_times(config.shutdown);
        metrics.set_drain_timeout(shutdown.drain_timeout());
        logging::set_filter(&config.log.filter);
    })
}

/// Registers the updates that are made before each scrape, for figures that are counted elsewhere.
fn refresh(
    metrics: &Metrics,
    shutdown: &Shutdown,
    sessions: &Arc<Sessions>,
    targets: &[ReloadTarget],
    gates: Vec<Gate>,
) {
    let (shutdown, sessions) = (shutdown.clone(), Arc::clone(sessions));
    let listeners: Vec<_> = targets.iter().map(|target| Arc::clone(&target.metrics)).collect();
    let runtime = tokio::runtime::Handle::current().metrics();
    metrics.refresh_by(move |metrics| {
        sessions.publish_stats(&listeners);
        for (listener, gate) in listeners.iter().zip(&gates) {
            listener.publish_backends();
            listener.set_waiting(gate.waiting());
        }
        metrics.set_phase(shutdown.phase(), shutdown.drain_started());
        metrics.set_drain_waiting(shutdown.waiting());
        metrics.set_names(lookup::statuses());
        metrics.set_log_lines_dropped(logging::dropped_lines());
        let busy = (0..runtime.num_workers()).map(|w| runtime.worker_total_busy_duration(w));
        metrics.set_runtime(runtime.num_workers(), busy.sum());
    });
}

/// Returns the number of listening sockets, without the first of the admin port, which every process has.
fn listening_sockets(config: &Config) -> usize {
    let AdminConfig { listen, socket, metrics_listen, token_file: _ } = &config.admin;
    let admin = [listen.address().is_some(), socket.is_some(), metrics_listen.is_some()];
    let admin = admin.into_iter().filter(|is_open| *is_open).count();
    config.listeners.len() + admin.saturating_sub(1)
}

/// Prepares the re-check of live sessions.
fn recheck(targets: &[ReloadTarget], sessions: &Arc<Sessions>) -> io::Result<Recheck> {
    let checked = targets.iter().map(|target| {
        CheckedListener::new(Arc::clone(&target.metrics), target.current.subscribe())
    });
    let pool = BlockingPool::of_one_thread("recheck")?;
    Ok(Recheck::new(Arc::clone(sessions), checked.collect(), pool))
}

/// A socket and its bound address.
type Bound = (TcpListener, SocketAddr);

/// The sockets of the admin port.
#[derive(Default)]
struct AdminSockets {
    endpoints: Vec<Endpoint>,
    address: Option<SocketAddr>,
    metrics_address: Option<SocketAddr>,
    socket: Option<PathBuf>,
}

impl AdminSockets {
    fn log(&self) {
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

/// Loads the token of the admin port, if there is one, and returns warnings about its protection.
fn load_token(admin: &AdminConfig) -> Result<(Option<Arc<TokenFile>>, Vec<String>), StartError> {
    let loaded = admin.token_file.as_deref().map(TokenFile::load).transpose();
    let loaded = loaded.map_err(|error| StartError::Material(vec![error.to_string()]))?;
    let (token, readable) = loaded.unzip();
    let is_open = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    let open = admin.listen.address().filter(|address| token.is_none() && is_open(address));
    let open = open.map(|address| {
        format!(
            "admin.listen {address} is not a loopback address and needs no token: every client that reaches it can \
             drain the process and end sessions; metrics_listen is for metrics and probes"
        )
    });
    Ok((token.map(Arc::new), readable.flatten().into_iter().chain(open).collect()))
}

/// Returns the sockets of the listeners and of the admin port.
fn bind_all(
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
        bind(&format!("listener {:?}", listener.name), listener.listen, listener.tcp, passed)
    };
    let sockets = config.listeners.iter().zip(passed.by_ref()).map(bind_listener);
    let sockets = sockets.collect::<Result<_, _>>()?;
    let mut admin = AdminSockets::default();
    if let Some(address) = listen.address() {
        let passed = passed.next().flatten();
        let (listener, address) = bind("the admin port", address, Tcp::default(), passed)?;
        admin.endpoints.push(Endpoint::tcp(listener, address, Scope::Whole));
        admin.address = Some(address);
    }
    if let Some(address) = *metrics_listen {
        let passed = passed.next().flatten();
        let (listener, address) = bind("metrics and probes", address, Tcp::default(), passed)?;
        admin.endpoints.push(Endpoint::tcp(listener, address, Scope::Metrics));
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
    options: Tcp,
    passed: Option<std::net::TcpListener>,
) -> Result<Bound, StartError> {
    let was_passed = passed.is_some();
    let bound = match passed {
        Some(socket) => socket::adopt(socket, options),
        None => socket::listen(address, options),
    };
    let bound = bound.and_then(|socket| {
        let real = socket.local_addr()?;
        if was_passed && real != address && address.port() != 0 {
            tracing::warn!("{what}: configured for {address}, but was passed a socket on {real}");
        }
        Ok((socket, real))
    });
    bound.map_err(|cause| StartError::Bind { what: what.to_owned(), address, cause })
}

/// Escapes a line for the log and the terminal.
fn shown(line: &str) -> String {
    one_line(line).into_owned()
}

fn sentences(errors: &[ActivationError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |cause| StartError::System { what, cause }
}
