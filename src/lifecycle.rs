//! How the process stops: Running → Draining → Closing → Drained.
//!
//! **Promises.** A drain runs once, whoever asks for it first. While it runs: not ready; still
//! accepting for `delay`; then the listeners are closed and connections may end by themselves for
//! `drain_timeout`; then the rest is forced, each with a close_notify. The process goes on answering
//! its admin port until main ends it.
//!
//! **Not here.** Signals and exit codes (`main.rs`), `POST /drain` (`admin.rs`).

pub mod signals;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::terms::closed_set::closed_set;

/// How long connections that are being forced may take for their last words: a little more than
/// one of them lingers.
const FORCE_TIMEOUT: Duration = Duration::from_secs(2);

closed_set! {
    /// How far a process is in its life.
    pub enum Phase {
        /// Not all sockets are bound yet.
        Starting => "starting",
        /// Accepting.
        Running => "running",
        /// Not ready, and perhaps still accepting, so that load balancers notice first.
        Draining => "draining",
        /// The listeners are closed; connections are ending.
        Closing => "closing",
        /// No connection is left.
        Drained => "drained",
    }
}

/// The stop of one process; cloned to whoever takes part in it.
#[derive(Clone)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

struct Inner {
    /// A reload can set other ones.
    times: watch::Sender<config::ShutdownConfig>,
    phase: watch::Sender<Phase>,
    outcome: watch::Sender<Option<Drained>>,
    drain: CancellationToken,
    stop_accepting: CancellationToken,
    /// Ends the waits of the drain.
    force: CancellationToken,
    /// Stops every session that is left.
    stop_sessions: Box<dyn Fn() + Send + Sync>,
    drain_started: OnceLock<SystemTime>,
    /// How many connections were left when the rest was forced.
    left: OnceLock<usize>,
    /// Waited for before the connections: a loop that is just accepting adds one more.
    listeners: TaskTracker,
    connections: TaskTracker,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every connection ended by itself.
    Clean,
    /// So many connections had to be forced.
    Forced(usize),
}

impl Shutdown {
    /// Creates the stop of a process that is starting, with default times. `stop_sessions` orders every session
    /// that is left to stop; it is called once or twice.
    #[must_use]
    pub(crate) fn new(stop_sessions: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            inner: Arc::new(Inner {
                times: watch::Sender::default(),
                phase: watch::Sender::new(Phase::Starting),
                outcome: watch::Sender::new(None),
                drain: CancellationToken::new(),
                stop_accepting: CancellationToken::new(),
                force: CancellationToken::new(),
                stop_sessions: Box::new(stop_sessions),
                drain_started: OnceLock::new(),
                left: OnceLock::new(),
                listeners: TaskTracker::new(),
                connections: TaskTracker::new(),
            }),
        }
    }

    /// Sets the times of a drain that has not begun yet.
    pub(crate) fn set_times(&self, times: config::ShutdownConfig) {
        self.inner.times.send_replace(times);
    }

    /// Asks for a drain. Again is as good as once.
    pub fn drain(&self) {
        self.inner.drain.cancel();
    }

    /// Ends every connection now, and the drain's waits with them.
    pub fn force(&self) {
        self.drain();
        self.force_the_rest();
    }

    /// Forces what is left, and returns how many connections that were when it was first asked for.
    fn force_the_rest(&self) -> usize {
        // Counted before: of those that end at once, the drain would find none.
        let left = *self.inner.left.get_or_init(|| self.inner.connections.len());
        self.inner.force.cancel();
        (self.inner.stop_sessions)();
        left
    }

    /// How far the process is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.inner.phase.borrow()
    }

    /// When the drain began, if it has.
    pub(crate) fn drain_started(&self) -> Option<SystemTime> {
        self.inner.drain_started.get().copied()
    }

    /// How long a drain takes at the most, but for what forcing the rest takes.
    pub(crate) fn drain_timeout(&self) -> Duration {
        let times = *self.inner.times.borrow();
        times.delay + times.drain_timeout
    }

    /// Completes once a drain, whoever asked for it, is over, and tells how it ended.
    pub async fn drained(&self) -> Drained {
        let mut outcome = self.inner.outcome.subscribe();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.unwrap_or(Drained::Clean),
            Err(_) => unreachable!("the sender is ours"),
        }
    }

    /// Completes once a drain has begun.
    pub(crate) async fn begun(&self) {
        let begun = |phase: &Phase| !matches!(phase, Phase::Starting | Phase::Running);
        let mut phase = self.inner.phase.subscribe();
        phase.wait_for(begun).await.map_or_else(|_| unreachable!("the sender is ours"), |_| ());
    }

    pub(crate) fn running(&self) {
        self.inner.phase.send_replace(Phase::Running);
    }

    /// Cancelled when the listeners are to close.
    pub(crate) fn stop_accepting(&self) -> &CancellationToken {
        &self.inner.stop_accepting
    }

    /// The accept loops.
    pub(crate) fn listeners(&self) -> &TaskTracker {
        &self.inner.listeners
    }

    /// The connections that are still open.
    pub(crate) fn connections(&self) -> &TaskTracker {
        &self.inner.connections
    }

    /// Waits until a drain is asked for, and runs it.
    pub(crate) async fn run(&self) {
        let Inner {
            times,
            phase,
            outcome,
            drain,
            stop_accepting,
            force,
            drain_started,
            listeners,
            connections,
            ..
        } = &*self.inner;
        drain.cancelled().await;
        drain_started.get_or_init(SystemTime::now);
        let times = *times.borrow();
        phase.send_replace(Phase::Draining);
        let (connected, delay) = (connections.len(), times.delay.as_secs_f64());
        tracing::info!(connections = connected, delay = %format_args!("{delay}s"), "draining");
        force.run_until_cancelled(sleep(times.delay)).await;
        phase.send_replace(Phase::Closing);
        stop_accepting.cancel();
        listeners.close();
        listeners.wait().await;
        connections.close();
        let ending = timeout(times.drain_timeout, connections.wait());
        let _ended_late_or_forced = force.run_until_cancelled(ending).await;
        let left = self.force_the_rest();
        if timeout(FORCE_TIMEOUT, connections.wait()).await.is_err() {
            tracing::error!(connections = connections.len(), "connections did not end when forced");
        }
        phase.send_replace(Phase::Drained);
        tracing::info!(forced = left, "drained");
        let drained = if left == 0 { Drained::Clean } else { Drained::Forced(left) };
        outcome.send_replace(Some(drained));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_ends_as_soon_as_it_is_forced_counts_as_forced() {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let shutdown = Shutdown::new(move || stop.cancel());
        shutdown.connections().spawn(stopped.cancelled_owned());
        // As by a second signal, before the drain counts.
        shutdown.force();
        eventually_ended(&shutdown).await;
        shutdown.run().await;
        assert_eq!(shutdown.drained().await, Drained::Forced(1));
    }

    async fn eventually_ended(shutdown: &Shutdown) {
        let ended = async {
            while !shutdown.connections().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(FORCE_TIMEOUT, ended).await.unwrap();
    }
}
