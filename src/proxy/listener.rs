//! Accepts connections and starts their walk.
//!
//! **Promises.** The loop ends by a drain and by nothing else: whatever accepting fails with, it is
//! counted, and tried again. Out of file descriptors it waits, instead of turning on the spot,
//! since the connection that could not be accepted is still there. What a reload puts in force
//! holds from the next connection on.
//!
//! **Not here.** What happens to a connection (`connection.rs`).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::admission::{Admission, Admitted, Source};
use super::backend::lookup::{self, Kept};
use super::connection;
use super::record::Record;
use super::socket;
use crate::config;
use crate::lifecycle::Shutdown;
use crate::metrics::ListenerMetrics;
use crate::sessions::Sessions;
use crate::terms::labels::AcceptError;
use crate::trust::snapshot::Snapshot;

/// The first pause after an accept that failed for want of resources; it doubles up to
/// [`LONGEST_PAUSE`]. The bounds are those of Go's net/http.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How often it is logged that the limit of connections is reached.
const LIMIT_TOLD_INTERVAL: Duration = Duration::from_secs(60);

/// One bound listener.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    /// What is in force, now and after each reload.
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) admission: Admission,
    pub(crate) metrics: Arc<ListenerMetrics>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) shutdown: Shutdown,
    /// The names of its backends, as of the start.
    pub(crate) names: Kept,
}

/// What outlives a wait that a reload interrupts.
#[derive(Default)]
struct Waiting {
    /// The device that waits for a place: accepted, since nobody makes room where none comes.
    device: Option<(TcpStream, SocketAddr)>,
    /// When it was last told that the limit is reached.
    told: Option<Instant>,
}

/// What of the snapshots has been applied last.
struct Applied {
    limits: Option<config::Limits>,
    tcp: config::Tcp,
    names: Kept,
}

impl Listener {
    /// Accepts until the drain closes the listener.
    pub(crate) async fn run(mut self) {
        // The socket was bound with its options.
        let tcp = self.snapshots.borrow().listener.tcp;
        let names = std::mem::take(&mut self.names);
        let applied = Applied { limits: None, tcp, names };
        let stop = self.shutdown.stop_accepting().clone();
        // Biased towards the stop, or a busy listener might never see it.
        let _stopped = stop.run_until_cancelled(self.accept_all(applied)).await;
    }

    async fn accept_all(&self, mut applied: Applied) {
        let mut snapshots = self.snapshots.clone();
        let mut pause = SHORTEST_PAUSE;
        let mut waiting = Waiting::default();
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.apply(&snapshot, &mut applied);
            let accepted = tokio::select! {
                // What is in force goes before who is waiting.
                biased;
                // The sender outlives the listeners: an error would be a change like any other.
                _changed = snapshots.changed() => continue,
                accepted = self.accept(&snapshot, &mut waiting) => accepted,
            };
            match accepted {
                Ok((tcp, peer, admitted)) => {
                    pause = SHORTEST_PAUSE;
                    self.start(tcp, peer, snapshot, admitted);
                }
                Err(error) => pause = self.recover(&error, pause).await,
            }
        }
    }

    /// Applies what a snapshot has for the listening socket and for all connections together.
    fn apply(&self, snapshot: &Snapshot, applied: &mut Applied) {
        let config::ListenerConfig { limits, tcp, .. } = snapshot.listener;
        let listener = self.metrics.name();
        if applied.limits != Some(limits) {
            applied.limits = Some(limits);
            self.metrics.set_limit(self.admission.limit(limits));
            if let Some(excess) = self.admission.excess(limits) {
                tracing::warn!(listener, "{excess}");
            }
        }
        let (names, started) = lookup::keep(snapshot.listener.backends());
        applied.names = names;
        if let Err(error) = started {
            tracing::warn!(listener, %error, "cannot start a thread to resolve names");
        }
        if applied.tcp != tcp {
            applied.tcp = tcp;
            if let Err(error) = socket::set_options(&self.socket, tcp) {
                tracing::error!(listener, %error, "cannot set socket options");
            }
        }
    }

    /// Takes a connection and then its places; past the limits the next ones wait in the kernel's
    /// backlog.
    async fn accept(
        &self,
        snapshot: &Snapshot,
        waiting: &mut Waiting,
    ) -> io::Result<(TcpStream, SocketAddr, Admitted)> {
        let limit = self.admission.limit(snapshot.listener.limits);
        let peer = match &waiting.device {
            Some((_, peer)) => *peer,
            None => tokio::select! {
                biased;
                never = self.watch_limit(limit, &mut waiting.told) => match never {},
                accepted = self.socket.accept() => waiting.device.insert(accepted?).1,
            },
        };
        let admitted = match self.admission.try_admit(limit) {
            Some(admitted) => admitted,
            None => {
                self.at_limit(limit, &mut waiting.told);
                self.admission.admit(limit, Source::of(peer.ip())).await
            }
        };
        self.metrics.set_at_limit(false);
        let (tcp, peer) = waiting.device.take().expect("it has just been accepted, or before");
        Ok((tcp, peer, admitted))
    }

    /// Tells that the limit is reached, and when it is no longer.
    async fn watch_limit(&self, limit: usize, told: &mut Option<Instant>) -> Infallible {
        if self.admission.is_full(limit) {
            self.at_limit(limit, told);
            self.admission.room(limit).await;
        }
        self.metrics.set_at_limit(false);
        std::future::pending().await
    }

    /// Tells that the limit is reached.
    fn at_limit(&self, limit: usize, told: &mut Option<Instant>) {
        self.metrics.set_at_limit(true);
        // At the limit each connection that ends makes room for one: once a minute will do.
        if told.is_none_or(|told| told.elapsed() > LIMIT_TOLD_INTERVAL) {
            *told = Some(Instant::now());
            let listener = self.metrics.name();
            tracing::warn!(listener, limit, "the limit of connections is reached");
        }
    }

    fn start(&self, tcp: TcpStream, peer: SocketAddr, snapshot: Arc<Snapshot>, admitted: Admitted) {
        let (metrics, sessions) = (Arc::clone(&self.metrics), Arc::clone(&self.sessions));
        let record = Box::new(Record::open(metrics, sessions, peer, admitted));
        let serving = connection::serve(tcp, snapshot, record);
        self.shutdown.connections().spawn(serving);
    }

    /// Counts a failed accept and pauses if the next would fail as well; returns the next pause.
    async fn recover(&self, error: &io::Error, pause: Duration) -> Duration {
        let kind = socket::accept_error(error);
        self.metrics.accept_failed(kind);
        match kind {
            // accept(2): "treat them like EAGAIN by retrying". The next is another connection.
            AcceptError::Aborted => SHORTEST_PAUSE,
            AcceptError::FdLimit | AcceptError::Memory | AcceptError::Other => {
                if pause == SHORTEST_PAUSE {
                    let listener = self.metrics.name();
                    tracing::warn!(listener, %error, "cannot accept; trying again until it works");
                }
                sleep(pause).await;
                (pause * 2).min(LONGEST_PAUSE)
            }
        }
    }
}
