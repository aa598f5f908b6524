//! The composition root: binds every socket, connects the parts, and returns the bound addresses.
//!
//! **Promises.** Everything that can be checked is checked before a socket is bound. No listener accepts before
//! all sockets are bound. The returned addresses are the bound ones, also for port 0.
//!
//! **Not here.** Flags, signals and exit codes (`commands/`).

mod check;
mod finding;
pub(crate) mod live;
mod sockets;
mod start_error;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

pub use self::check::{Checked, check};
use self::check::{check_sources, excess, listening_sockets, load, load_token};
pub use self::finding::Finding;
use self::sockets::{AdminSockets, Bound, bind_all};
pub use self::start_error::StartError;
use crate::blocking::BlockingPool;
use crate::config::Config;
use crate::config::file::ConfigSource;
use crate::control::admin::endpoint::Endpoint;
use crate::control::admin::status::Status;
use crate::control::admin::{self, Admin};
use crate::control::sockets::ActivatedSockets;
use crate::lifecycle::Shutdown;
use crate::logging;
use crate::metrics::Metrics;
use crate::proxy::admission::{Gate, ProcessGate};
use crate::proxy::backend::lookup;
use crate::proxy::listener::Listener;
use crate::proxy::socket::{self, diag::AcceptQueue};
use crate::reload::{self, ProcessWide, ReloadTarget};
use crate::sessions::Sessions;
use crate::sessions::drain::SessionDrain;
use crate::sessions::recheck::{CheckedListener, Recheck};
use crate::trust::snapshot::Current;

/// The work that fails if the system has no thread to give.
const THREAD: &str = "start a thread";

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
    #[cfg(feature = "bench")]
    sessions: Arc<Sessions>,
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
    check_sources(&config)?;
    let (sockets, admin) = bind_all(&config, passed)?;
    let capacity = socket::capacity(listening_sockets(&config));

    let metrics = Arc::new(Metrics::new());
    let sessions = Arc::new(Sessions::default());
    let (shutdown, pool_of_sessions) = shutdown(&sessions, &metrics).map_err(system(THREAD))?;
    let budget = Arc::clone(&sessions.budget);
    let workers = tokio::runtime::Handle::current().metrics().num_workers();
    let gate = Arc::new(ProcessGate::new(capacity.connections, workers, budget));
    let process_wide = process_wide(&shutdown, &metrics, &gate, &sessions);
    process_wide(&config);
    let over_capacity = excess(&config, capacity.connections);
    let mut listeners = Vec::new();
    let mut targets = Vec::new();
    let mut accepting = Vec::new();
    let mut queues = Vec::new();
    for ((snapshot, warnings), bound) in loaded.into_iter().zip(sockets) {
        let Bound { socket, address, is_shared } = bound;
        let metrics = metrics.listener(&snapshot.listener.name);
        reload::announce(&snapshot, &warnings, &metrics);
        listeners.push((snapshot.listener.name.clone(), address));
        let (names, resolving) = lookup::keep(snapshot.listener.backends());
        resolving.map_err(system("start a thread to resolve names"))?;
        let target = ReloadTarget { current: Arc::new(Current::new(snapshot)), metrics };
        queues.push(AcceptQueue::of(&socket));
        accepting.push(Listener {
            socket,
            is_shared,
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
    refresh(&metrics, &shutdown, &sessions, &targets, gates, queues);
    let recheck = recheck(&targets, &sessions, pool_of_sessions);
    let shown = listeners.iter().zip(&targets);
    let shown = shown.map(|((_, address), target)| (*address, Arc::clone(&target.metrics)));
    let is_local = admin.address.is_some_and(|address| address.ip().to_canonical().is_loopback());
    let status = Arc::new(Status::new(shown.collect(), token.is_some() || is_local));
    let pool = BlockingPool::of_one_thread("admin").map_err(system(THREAD))?;
    let (for_reload, metrics_too) = (token.clone(), Arc::clone(&metrics));
    let reload = reload::start(targets, config, source, process_wide, for_reload, metrics_too)
        .map_err(system(THREAD))?;

    // All sockets are bound. Nothing after this can fail.
    for (name, address) in &listeners {
        tracing::info!(listener = name, %address, "listening");
    }
    admin.log();
    for warning in over_capacity.into_iter().chain(admin_warnings) {
        tracing::warn!("{warning}");
    }
    let answering = Admin {
        metrics: Arc::clone(&metrics),
        sessions: Arc::clone(&sessions),
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
        #[cfg(feature = "bench")]
        sessions,
    };
    recheck.start();
    app.run(accepting, endpoints, answering, capacity.admin);
    Ok(app)
}

impl App {
    /// Lists `count` sessions like the established one, of devices that do not exist.
    ///
    /// # Panics
    /// If no session is established.
    #[cfg(feature = "bench")]
    pub fn imagine_devices(&self, count: u64) {
        self.sessions.imagine(count);
    }

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

/// Returns the stop of the process, and the pool that plans the ends of its sessions.
fn shutdown(
    sessions: &Arc<Sessions>,
    metrics: &Metrics,
) -> io::Result<(Shutdown, Arc<BlockingPool>)> {
    let pool = Arc::new(BlockingPool::of_one_thread("sessions")?);
    let drain = SessionDrain::new(Arc::clone(sessions), Arc::clone(&pool));
    Ok((Shutdown::new(drain, Arc::clone(metrics.events())), pool))
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
        gate.set_limit(config.process.max_connections);
        sessions.closes.set_limit(config.shutdown.max_closes_per_second);
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
    queues: Vec<Option<AcceptQueue>>,
) {
    let (shutdown, sessions) = (shutdown.clone(), Arc::clone(sessions));
    let listeners: Vec<_> = targets.iter().map(|target| Arc::clone(&target.metrics)).collect();
    let runtime = tokio::runtime::Handle::current().metrics();
    metrics.refresh_by(move |metrics| {
        sessions.publish_stats(&listeners);
        for ((listener, gate), queue) in listeners.iter().zip(&gates).zip(&queues) {
            if let Some(length) = queue.as_ref().and_then(AcceptQueue::length) {
                listener.set_accept_queue(length);
            }
            listener.publish_backends();
            listener.set_waiting(gate.waiting());
            listener.set_limit(gate.limit());
        }
        metrics.set_phase(shutdown.phase(), shutdown.drain_started());
        metrics.set_drain_waiting(shutdown.waiting());
        metrics.set_names(lookup::statuses());
        metrics.set_log_lines_dropped(logging::dropped_lines());
        let busy = (0..runtime.num_workers()).map(|w| runtime.worker_total_busy_duration(w));
        metrics.set_runtime(runtime.num_workers(), busy.sum());
    });
}

/// Prepares the re-check of live sessions.
fn recheck(targets: &[ReloadTarget], sessions: &Arc<Sessions>, pool: Arc<BlockingPool>) -> Recheck {
    let checked = targets.iter().map(|target| {
        CheckedListener::new(Arc::clone(&target.metrics), target.current.subscribe())
    });
    Recheck::new(Arc::clone(sessions), checked.collect(), pool)
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |cause| StartError::System { what, cause }
}
