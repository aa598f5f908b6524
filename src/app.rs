//! The composition root: binds every socket, wires the parts, tells where they listen.
//!
//! **Promises.** Nothing is bound before everything that can be checked has been; nothing accepts
//! before everything is bound. The addresses that are returned are the real ones, also for port 0.
//!
//! **Not here.** Flags, signals and exit codes (`commands/flags.rs`, `main.rs`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpListener;

use crate::blocking::Aside;
use crate::config::file::Source;
use crate::config::{self, Config, Tcp};
use crate::control::admin::status::Status;
use crate::control::admin::{self, Admin};
use crate::control::sockets::{Passed, PassedError};
use crate::lifecycle::Shutdown;
use crate::logging;
use crate::metrics::Metrics;
use crate::proxy::admission::{self, Admission};
use crate::proxy::backend::lookup;
use crate::proxy::listener::Listener;
use crate::proxy::socket;
use crate::reload::{self, ProcessWide, ReloadTarget};
use crate::sessions::Sessions;
use crate::terms::labels::MaterialKind;
use crate::terms::reason::Reason;
use crate::text::one_line;
use crate::trust::certs::parts::Material;
use crate::trust::certs::{self, Loaded};
use crate::trust::snapshot::Current;

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

/// What a configuration that is good is known for.
pub struct Checked {
    /// What works, but not for long or not for all, each in a sentence.
    pub warnings: Vec<String>,
    /// What each file holds, one line each.
    pub files: Vec<String>,
}

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What the configuration names cannot be used: each problem in a sentence.
    #[error("{}", self.lines().join("\n"))]
    Material(Vec<String>),
    /// A socket came with the process that cannot be used: each in a sentence.
    #[error("{}", self.lines().join("\n"))]
    Passed(Vec<PassedError>),
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

impl StartError {
    /// One line a problem.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Material(problems) => problems.iter().map(|line| shown(line)).collect(),
            Self::Passed(errors) => sentences(errors).iter().map(|line| shown(line)).collect(),
            Self::Bind { .. } | Self::System { .. } => vec![shown(&self.to_string())],
        }
    }
}

/// Loads everything that a configuration names and tells what it should be known for, without
/// binding anything. It blocks on the disk.
///
/// # Errors
/// Every problem of every listener, each in a sentence.
pub fn check(config: &Config) -> Result<Checked, StartError> {
    let loaded = load(config)?;
    let files = loaded.iter().flat_map(|(snapshot, _)| {
        let name = &snapshot.listener.name;
        let material = snapshot.parts.material();
        let first_crl = material.iter().position(|m| m.kind == MaterialKind::Crl).unwrap_or(0);
        let line = |(i, Material { file, kind, count }): (usize, &Material)| {
            let file = match kind {
                // By its place: whatever names the file of a CRL here is about a fault of it.
                MaterialKind::Crl => format!("crls[{}]", i - first_crl),
                _ => file.display().to_string(),
            };
            shown(&format!("listener {name:?}: {file}: {}", counted(*kind, *count)))
        };
        material.iter().enumerate().map(line).collect::<Vec<_>>()
    });
    let files = files.collect();
    let capacity = socket::capacity(config.listeners.len());
    let told = loaded.iter().flat_map(|(snapshot, warnings)| {
        let config::ListenerConfig { name, limits, .. } = &snapshot.listener;
        let excess = admission::excess(*limits, capacity.connections);
        let excess = excess.map(|excess| format!("listener {name:?}: {excess}"));
        warnings.iter().map(|warning| shown(&warning.to_string())).chain(excess)
    });
    Ok(Checked { warnings: told.collect(), files })
}

/// What a file holds, in words.
fn counted(kind: MaterialKind, count: usize) -> String {
    let what = match kind {
        MaterialKind::Certificate | MaterialKind::ClientCa => "certificate",
        MaterialKind::Key => "private key",
        MaterialKind::Crl => "CRL",
    };
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Starts a proxy on a configuration, which came from `source` if from a file, with sockets of its
/// own. Call it within a runtime.
///
/// # Errors
/// If anything that it needs is missing; nothing is left bound then.
pub fn start(config: Config, source: Option<Source>) -> Result<App, StartError> {
    start_on(config, source, Passed::default())
}

/// The same, on sockets that have been passed, as far as there are any.
///
/// # Errors
/// As `start`, and if one that was passed is for nobody.
pub fn start_on(config: Config, source: Option<Source>, passed: Passed) -> Result<App, StartError> {
    let loaded = load(&config)?;
    let (sockets, (admin_socket, admin)) = bind_all(&config, passed)?;
    let capacity = socket::capacity(config.listeners.len());

    let metrics = Arc::new(Metrics::new());
    let sessions = Arc::new(Sessions::default());
    let forced = Arc::clone(&sessions);
    let shutdown = Shutdown::new(move || forced.stop(|_| true, Reason::DrainDeadline));
    let places = Arc::new(admission::Process::new(capacity.connections));
    let process_wide = process_wide(&shutdown, &metrics, &places);
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
            admission: Admission::new(Arc::clone(&places)),
            metrics: Arc::clone(&target.metrics),
            sessions: Arc::clone(&sessions),
            shutdown: shutdown.clone(),
            names,
        });
        targets.push(target);
    }
    refresh(&metrics, &shutdown, &sessions, &targets);
    let shown = listeners.iter().zip(&targets);
    let shown = shown.map(|((_, address), target)| (*address, Arc::clone(&target.metrics)));
    let status = Arc::new(Status::new(shown.collect()));
    let aside = Aside::start().map_err(system("start a thread"))?;
    let reload = reload::start(targets, config, source, process_wide, Arc::clone(&metrics))
        .map_err(system("start a thread"))?;

    // Everything is bound and wired; from here on nothing can fail.
    for (name, address) in &listeners {
        tracing::info!(listener = name, %address, "listening");
    }
    tracing::info!(address = %admin, "admin port");
    let app = App { listeners, admin, shutdown, reload, metrics };
    app.run(accepting, (admin_socket, capacity.admin), sessions, status, aside);
    Ok(app)
}

impl App {
    fn run(
        &self,
        accepting: Vec<Listener>,
        (admin, admin_connections): (TcpListener, usize),
        sessions: Arc<Sessions>,
        status: Arc<Status>,
        aside: Aside,
    ) {
        // Before anybody can ask for a drain, which it would undo.
        self.shutdown.running();
        for listener in accepting {
            self.shutdown.listeners().spawn(listener.run());
        }
        let answering = Admin {
            metrics: Arc::clone(&self.metrics),
            sessions,
            shutdown: self.shutdown.clone(),
            reload: self.reload.clone(),
            status,
            is_local: self.admin.ip().to_canonical().is_loopback(),
            aside,
        };
        tokio::spawn(admin::serve(admin, Arc::new(answering), admin_connections));
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move { shutdown.run().await });
    }
}

fn load(config: &Config) -> Result<Vec<Loaded>, StartError> {
    let mut loaded = Vec::new();
    let mut problems = Vec::new();
    for listener in &config.listeners {
        // A file's problem has its place in the file already; flags come this far.
        if config::overlap(listener.listen, config.admin.listen) {
            let (name, address, admin) = (&listener.name, listener.listen, config.admin.listen);
            problems
                .push(format!("listener {name:?}: {address} overlaps the admin port's {admin}"));
        }
        match certs::load(listener, SystemTime::now()) {
            Ok(first) => loaded.push(first),
            Err(errors) => {
                let name = &listener.name;
                problems.extend(errors.iter().map(|error| format!("listener {name:?}: {error}")));
            }
        }
    }
    if problems.is_empty() { Ok(loaded) } else { Err(StartError::Material(problems)) }
}

/// What start and reloads set that is no listener's.
fn process_wide(
    shutdown: &Shutdown,
    metrics: &Arc<Metrics>,
    places: &Arc<admission::Process>,
) -> ProcessWide {
    let (shutdown, metrics, places) = (shutdown.clone(), Arc::clone(metrics), Arc::clone(places));
    Box::new(move |config| {
        places.memory().set_ceiling(config.process.max_handshake_bytes);
        shutdown.set_times(config.shutdown);
        metrics.set_drain_timeout(shutdown.drain_timeout());
        logging::set_filter(&config.log.filter);
    })
}

/// Has brought up to date before each scrape what is counted elsewhere.
fn refresh(
    metrics: &Metrics,
    shutdown: &Shutdown,
    sessions: &Arc<Sessions>,
    targets: &[ReloadTarget],
) {
    let (shutdown, sessions) = (shutdown.clone(), Arc::clone(sessions));
    let listeners: Vec<_> = targets.iter().map(|target| Arc::clone(&target.metrics)).collect();
    let runtime = tokio::runtime::Handle::current().metrics();
    metrics.refresh_by(move |metrics| {
        sessions.take_census(&listeners);
        listeners.iter().for_each(|listener| listener.tell_backends());
        metrics.set_phase(shutdown.phase(), shutdown.drain_started());
        metrics.set_names(lookup::statuses());
        metrics.set_log_lines_dropped(logging::lost_lines());
        let busy = (0..runtime.num_workers()).map(|w| runtime.worker_total_busy_duration(w));
        metrics.set_runtime(runtime.num_workers(), busy.sum());
    });
}

/// A socket, and where it really listens.
type Bound = (TcpListener, SocketAddr);

/// The sockets of the listeners, and that of the admin port.
fn bind_all(config: &Config, passed: Passed) -> Result<(Vec<Bound>, Bound), StartError> {
    let wanted = config.listeners.iter().map(|listener| (listener.name.as_str(), listener.listen));
    // Last, so that a listener may have its name.
    let wanted: Vec<_> = wanted.chain([("admin", config.admin.listen)]).collect();
    let mut passed = passed.assign(&wanted).map_err(StartError::Passed)?;
    let admin = passed.pop().flatten();
    let bind_listener = |(listener, passed): (&config::ListenerConfig, _)| {
        bind(&format!("listener {:?}", listener.name), listener.listen, listener.tcp, passed)
    };
    let sockets = config.listeners.iter().zip(passed).map(bind_listener);
    let sockets = sockets.collect::<Result<_, _>>()?;
    let admin = bind("the admin port", config.admin.listen, Tcp::default(), admin)?;
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
            tracing::warn!(
                "{what}: configured for {address}, and has been passed a socket on {real}"
            );
        }
        Ok((socket, real))
    });
    bound.map_err(|cause| StartError::Bind { what: what.to_owned(), address, cause })
}

/// A sentence as it is logged or printed.
fn shown(line: &str) -> String {
    one_line(line).into_owned()
}

fn sentences(errors: &[PassedError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |cause| StartError::System { what, cause }
}
