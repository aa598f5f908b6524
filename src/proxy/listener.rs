//! Accepts connections and starts their walk.
//!
//! **Promises.** Only a drain ends the accept loop. Any other error is counted, and accept is tried again: at once if
//! the error was the connection's, after a pause if a resource is exhausted, since the connection is then still in
//! the backlog and the next accept fails as well. A reload applies to every connection accepted after it. A socket that
//! another process shares is closed without a reset of the connections in its queues.
//!
//! **Not here.** The life of a connection (`connection.rs`), limits (`admission.rs`).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::admission::{Gate, Permit};
use super::backend::lookup::KeptNames;
use super::connection;
use super::record::Record;
use super::route::Routes;
use super::socket;
use super::source::ClientSource;
use crate::config;
use crate::lifecycle::Shutdown;
use crate::metrics::ListenerMetrics;
use crate::sessions::Sessions;
use crate::terms::labels::AcceptError;
use crate::trust::snapshot::Snapshot;

/// First pause after an accept that failed because a resource is exhausted. It doubles up to [`LONGEST_PAUSE`]. The
/// values are those of Go's net/http.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Connections accepted in a row at least.
const ACCEPTED_IN_A_ROW: u32 = 8;

/// Time for connections that have begun to be completed before their socket is closed. Less than the second after which
/// clients repeat a SYN, so that one that is dropped is not dropped again.
const HANDED_OVER_AFTER: Duration = Duration::from_millis(900);

/// While devices wait for their turn, accept has one of this number of parts of the time. Reading a ClientHello and
/// closing the connection of a device that has left cost a few times the accept, and handshakes need the rest. With less
/// time, connections would wait in the kernel's backlog, from the oldest, until all of them are dead; and a backlog that
/// overflows hides from us which devices have left.
const PART_OF_TIME: u32 = 9;

/// Shortest interval between two warnings about the limit of connections.
const LIMIT_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// One bound listener.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    /// Another process can take over from this one.
    pub(crate) is_shared: bool,
    /// The current snapshot, now and after each reload.
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) gate: Gate,
    pub(crate) metrics: Arc<ListenerMetrics>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) shutdown: Shutdown,
    /// Keeps the backends' names resolved until the first snapshot is applied.
    pub(crate) names: KeptNames,
}

/// State of the accept loop that is kept when a reload interrupts a wait.
#[derive(Default)]
struct Waiting {
    /// An accepted device that waits for a permit: a connection is evicted only for one that has come.
    device: Option<(TcpStream, SocketAddr)>,
    /// Time of the last warning about the limit.
    warned: Option<Instant>,
    turn: AcceptTurn,
}

/// Accepts in a row, until other tasks have a turn.
struct AcceptTurn {
    accepted: u32,
    since: Instant,
    /// The time after which others have a turn.
    allowed: Duration,
}

impl Default for AcceptTurn {
    fn default() -> Self {
        Self { accepted: 0, since: Instant::now(), allowed: Duration::ZERO }
    }
}

impl Listener {
    /// Accepts until the drain closes the listener.
    pub(crate) async fn run(mut self) {
        let names = std::mem::take(&mut self.names);
        let stop = self.shutdown.stop_accepting().clone();
        let mut accepting = pin!(self.accept_all(names));
        // Polls the stop first: a busy listener might never reach it otherwise.
        let _stopped = stop.run_until_cancelled(accepting.as_mut()).await;
        if self.is_shared {
            self.hand_over(accepting).await;
        }
    }

    /// Accepts the connections that the kernel has begun for this socket, and leaves new ones to another process.
    async fn hand_over(&self, accepting: impl Future<Output = ()>) {
        if let Err(error) = socket::drop_new(&self.socket) {
            let listener = self.metrics.name();
            tracing::warn!(listener, %error, "cannot hand over the port without loss");
            return;
        }
        let accepting = timeout(HANDED_OVER_AFTER, accepting);
        let _stopped = self.shutdown.forced().run_until_cancelled(accepting).await;
    }

    async fn accept_all(&self, names: KeptNames) {
        let mut snapshots = self.snapshots.clone();
        let mut pause = SHORTEST_PAUSE;
        let mut waiting = Waiting::default();
        let (mut routes, mut names) = (None, Some(names));
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            let current = routes.insert(self.apply(snapshot, routes.as_deref()));
            // The routes keep the names from here on.
            drop(names.take());
            loop {
                let accepted = tokio::select! {
                    // A new snapshot applies before the next connection.
                    biased;
                    // It never fails: the sender outlives the listeners.
                    _changed = snapshots.changed() => break,
                    accepted = self.accept(&mut waiting) => accepted,
                };
                match accepted {
                    Ok((tcp, peer, permit)) => {
                        pause = SHORTEST_PAUSE;
                        self.start(tcp, peer, Arc::clone(current), permit);
                        self.give_way(&mut waiting.turn).await;
                    }
                    Err(error) => pause = self.recover(&error, pause).await,
                }
            }
        }
    }

    /// Applies the settings of a snapshot to the listening socket and the gate, and returns its routes.
    fn apply(&self, snapshot: Arc<Snapshot>, before: Option<&Routes>) -> Arc<Routes> {
        let config::ListenerConfig { limits, tcp, .. } = snapshot.listener;
        let listener = self.metrics.name();
        let limit = self.gate.set_limits(limits);
        self.metrics.set_limit(limit);
        let limits_before = before.map(|before| before.snapshot.listener.limits);
        if let Some(excess) = self.gate.excess(limits).filter(|_| limits_before != Some(limits)) {
            tracing::warn!(listener, "{excess}");
        }
        // The socket was bound with the options of the first snapshot.
        if before.is_some_and(|before| before.snapshot.listener.tcp != tcp)
            && let Err(error) = socket::set_options(&self.socket, tcp)
        {
            tracing::error!(listener, %error, "cannot set socket options");
        }
        let (routes, resolving) =
            Routes::new(snapshot, self.snapshots.clone(), &self.metrics, before);
        if let Err(error) = resolving {
            tracing::warn!(listener, %error, "cannot start a thread to resolve names");
        }
        Arc::new(routes)
    }

    /// Accepts a connection and waits for its permit. Beyond the limits, connections wait in the kernel's backlog.
    async fn accept(&self, waiting: &mut Waiting) -> io::Result<(TcpStream, SocketAddr, Permit)> {
        let peer = match &waiting.device {
            Some((_, peer)) => *peer,
            None => tokio::select! {
                biased;
                never = self.watch_limit(&mut waiting.warned) => match never {},
                accepted = self.socket.accept() => waiting.device.insert(accepted?).1,
            },
        };
        let permit = match self.gate.try_enter() {
            Some(permit) => permit,
            None => {
                self.at_limit(&mut waiting.warned);
                self.gate.enter(ClientSource::of(peer.ip())).await
            }
        };
        self.metrics.set_at_limit(false);
        let (tcp, peer) = waiting.device.take().expect("a device was accepted above or before");
        Ok((tcp, peer, permit))
    }

    /// Lets handshakes go on before further connections are accepted, while devices wait for their turn.
    async fn give_way(&self, turn: &mut AcceptTurn) {
        turn.accepted += 1;
        if turn.accepted < ACCEPTED_IN_A_ROW || turn.since.elapsed() < turn.allowed {
            return;
        }
        let since = Instant::now();
        if self.gate.waiting() > 0 {
            tokio::task::yield_now().await;
        }
        let now = Instant::now();
        let allowed = now.duration_since(since) / (PART_OF_TIME - 1);
        *turn = AcceptTurn { accepted: 0, since: now, allowed };
    }

    /// Reports that the limit is reached, and when it no longer is.
    async fn watch_limit(&self, warned: &mut Option<Instant>) -> Infallible {
        if self.gate.is_full() {
            self.at_limit(warned);
            self.gate.room().await;
        }
        self.metrics.set_at_limit(false);
        std::future::pending().await
    }

    /// Reports that the limit is reached.
    fn at_limit(&self, warned: &mut Option<Instant>) {
        self.metrics.set_at_limit(true);
        // At the limit, each connection that ends makes room for one: the limit is reached again each time.
        if warned.is_none_or(|warned| warned.elapsed() > LIMIT_WARNING_INTERVAL) {
            *warned = Some(Instant::now());
            let (listener, limit) = (self.metrics.name(), self.gate.limit());
            tracing::warn!(listener, limit, "the limit of connections is reached");
        }
    }

    fn start(&self, tcp: TcpStream, peer: SocketAddr, routes: Arc<Routes>, permit: Permit) {
        let (metrics, sessions) = (Arc::clone(&self.metrics), Arc::clone(&self.sessions));
        let record = Box::new(Record::open(metrics, sessions, peer, permit));
        let serving = connection::serve(tcp, routes, record);
        self.shutdown.connections().spawn(serving);
    }

    /// Counts a failed accept, and pauses if the next one would fail as well. Returns the next pause.
    async fn recover(&self, error: &io::Error, pause: Duration) -> Duration {
        let kind = socket::accept_error(error);
        self.metrics.accept_failed(kind);
        match kind {
            // accept(2): "treat them like EAGAIN by retrying". The next accept returns another connection.
            AcceptError::Aborted => SHORTEST_PAUSE,
            AcceptError::FdLimit | AcceptError::Memory | AcceptError::Other => {
                if pause == SHORTEST_PAUSE {
                    let listener = self.metrics.name();
                    tracing::warn!(listener, %error, "cannot accept connections; retrying");
                }
                sleep(pause).await;
                (pause * 2).min(LONGEST_PAUSE)
            }
        }
    }
}
