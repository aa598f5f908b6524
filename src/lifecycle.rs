//! The stop of the process: Running → Draining → Closing → Drained.
//!
//! **Promises.** A drain runs once, whatever requests it first. In order: the process is not ready but still accepts,
//! for `delay`; the listeners close, and connections may end by themselves for `drain_timeout`, or are closed at a pause
//! within `drain_spread`; the rest is forced, each with a close_notify. The process answers its admin port until it
//! exits.
//!
//! **Not here.** Signals and exit codes (`main.rs`), `POST /drain` (`control/admin.rs`), the ends of sessions
//! (`sessions/drain.rs`, `sessions/stop.rs`).

pub mod signals;

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::config;
use crate::events::{Events, Happened};
use crate::terms::closed_set::closed_set;

/// Time for the streams of the admin port to end with the process. Their clients learn the end, and the log has it.
const STREAMS_TIMEOUT: Duration = Duration::from_millis(500);

/// Time for forced connections to close: a little more than the second that one of them waits for its client
/// (`proxy/close.rs`).
const FORCE_TIMEOUT: Duration = Duration::from_secs(2);

closed_set! {
    /// Phase of a process.
    pub enum Phase {
        /// Binding its sockets.
        Starting => "starting",
        /// Accepting.
        Running => "running",
        /// Not ready, and still accepting for `delay`, so that load balancers notice first.
        Draining => "draining",
        /// Not accepting. Connections are ending.
        Closing => "closing",
        /// No connection is left.
        Drained => "drained",
    }
}

/// The live sessions of a process, as its drain ends them.
pub(crate) trait EndSessions: Send + Sync {
    /// Ends every session evenly over this time, each as soon as no exchange is in progress.
    fn end_over(&self, spread: Duration);
    /// Ends every session that is left. It is called once or twice.
    fn end_now(&self);
    /// Returns the number of sessions whose time has come, and whose exchange is still in progress.
    fn waiting(&self) -> usize;
    /// Returns the least time in which all sessions can be ended at the limit of closes per second.
    fn least_time(&self) -> Duration;
}

/// The effect of `shutdown.max_closes_per_second` on a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CloseLimit {
    pub(crate) per_second: NonZeroU32,
    /// The least time in which the drain can close all sessions at a pause.
    pub(crate) least_time: Duration,
    /// The time is longer than `drain_timeout`: sessions will be forced.
    pub(crate) exceeds_timeout: bool,
}

/// The stop of one process. Clones share it.
#[derive(Clone)]
pub struct Shutdown {
    inner: Arc<ShutdownState>,
}

struct ShutdownState {
    /// A reload can change them.
    times: watch::Sender<config::ShutdownConfig>,
    phase: watch::Sender<Phase>,
    outcome: watch::Sender<Option<Drained>>,
    drain: CancellationToken,
    stop_accepting: CancellationToken,
    /// Ends the waits of the drain.
    force: CancellationToken,
    sessions: Box<dyn EndSessions>,
    events: Arc<Events>,
    drain_started: OnceLock<SystemTime>,
    /// The least time to end all sessions, when the drain began to.
    least_time: OnceLock<Duration>,
    /// Connections that were left when they were forced.
    left: OnceLock<usize>,
    /// Waited for before the connections, because an accept loop can still add one.
    listeners: TaskTracker,
    connections: TaskTracker,
    streams: TaskTracker,
}

/// Keeps a stream open at the end of the process.
pub(crate) type OpenStream = TaskTrackerToken;

/// Result of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every connection ended by itself.
    Clean,
    /// This number of connections had to be forced.
    Forced(usize),
}

impl Shutdown {
    /// Creates the stop of a process that is starting, with default times.
    #[must_use]
    pub(crate) fn new(sessions: impl EndSessions + 'static, events: Arc<Events>) -> Self {
        Self {
            inner: Arc::new(ShutdownState {
                times: watch::Sender::default(),
                phase: watch::Sender::new(Phase::Starting),
                outcome: watch::Sender::new(None),
                drain: CancellationToken::new(),
                stop_accepting: CancellationToken::new(),
                force: CancellationToken::new(),
                sessions: Box::new(sessions),
                events,
                drain_started: OnceLock::new(),
                least_time: OnceLock::new(),
                left: OnceLock::new(),
                listeners: TaskTracker::new(),
                connections: TaskTracker::new(),
                streams: TaskTracker::new(),
            }),
        }
    }

    /// Sets the times of a drain that has not begun yet.
    pub(crate) fn set_times(&self, times: config::ShutdownConfig) {
        self.inner.times.send_replace(times);
    }

    /// Requests a drain. Idempotent.
    pub fn drain(&self) {
        self.inner.drain.cancel();
    }

    /// Ends all connections now, and the waits of the drain.
    pub fn force(&self) {
        self.drain();
        self.force_the_rest();
    }

    /// Forces the remaining connections. Returns their number at the first call.
    fn force_the_rest(&self) -> usize {
        // Counted first: connections that end at once would not be counted afterwards.
        let left = *self.inner.left.get_or_init(|| self.inner.connections.len());
        self.inner.force.cancel();
        self.inner.sessions.end_now();
        left
    }

    /// Returns the phase of the process.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.inner.phase.borrow()
    }

    /// Returns the time at which the drain began, if it has.
    pub(crate) fn drain_started(&self) -> Option<SystemTime> {
        self.inner.drain_started.get().copied()
    }

    /// Returns the longest time of a drain, without the time to force connections.
    pub(crate) fn drain_timeout(&self) -> Duration {
        let times = *self.inner.times.borrow();
        times.delay + times.drain_timeout
    }

    /// Returns the time over which a drain closes sessions; none if it waits until they end by themselves.
    pub(crate) fn drain_spread(&self) -> Option<Duration> {
        Some(self.inner.times.borrow().drain_spread).filter(|spread| !spread.is_zero())
    }

    /// Returns the effect of the limit of closes per second on a drain: on the one that has begun, or on one that would
    /// begin now. None if there is no limit, or if a drain waits until sessions end by themselves.
    pub(crate) fn close_limit(&self) -> Option<CloseLimit> {
        let times = *self.inner.times.borrow();
        let per_second = times.max_closes_per_second.filter(|_| !times.drain_spread.is_zero())?;
        let least_time = self.inner.least_time.get().copied();
        let least_time = least_time.unwrap_or_else(|| self.inner.sessions.least_time());
        let exceeds_timeout = least_time > times.drain_timeout;
        Some(CloseLimit { per_second, least_time, exceeds_timeout })
    }

    /// Ends every session over the spread, and logs if the limit of closes per second makes that too slow.
    fn end_sessions(&self, spread: Duration) {
        self.inner.least_time.get_or_init(|| self.inner.sessions.least_time());
        if let Some(CloseLimit { per_second, least_time, exceeds_timeout: true }) =
            self.close_limit()
        {
            tracing::warn!(
                max_closes_per_second = per_second,
                ?least_time,
                "the drain takes longer than shutdown.drain_timeout; the rest will be forced"
            );
        }
        self.inner.sessions.end_over(spread);
    }

    /// Returns the number of sessions that a drain closes as soon as their exchange has ended.
    pub(crate) fn waiting(&self) -> usize {
        match self.drain_started() {
            Some(_) => self.inner.sessions.waiting(),
            None => 0,
        }
    }

    /// Waits for the end of a drain, and returns its result.
    pub async fn drained(&self) -> Drained {
        let mut outcome = self.inner.outcome.subscribe();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.unwrap_or(Drained::Clean),
            Err(_) => unreachable!("self holds the sender"),
        }
    }

    /// Waits until a drain has begun.
    pub(crate) async fn begun(&self) {
        let begun = |phase: &Phase| !matches!(phase, Phase::Starting | Phase::Running);
        let mut phase = self.inner.phase.subscribe();
        phase.wait_for(begun).await.map_or_else(|_| unreachable!("self holds the sender"), |_| ());
    }

    pub(crate) fn running(&self) {
        self.inner.phase.send_replace(Phase::Running);
    }

    /// Cancelled when the listeners have to close.
    pub(crate) fn stop_accepting(&self) -> &CancellationToken {
        &self.inner.stop_accepting
    }

    /// Cancelled when the waits of the drain have to end.
    pub(crate) fn forced(&self) -> &CancellationToken {
        &self.inner.force
    }

    /// The accept loops.
    pub(crate) fn listeners(&self) -> &TaskTracker {
        &self.inner.listeners
    }

    /// The connections that are still open.
    pub(crate) fn connections(&self) -> &TaskTracker {
        &self.inner.connections
    }

    /// The responses of the admin port that continue until the drain has ended.
    pub(crate) fn streams(&self) -> &TaskTracker {
        &self.inner.streams
    }

    /// Waits after the drain until the streams have ended, but not for a client that does not read.
    pub async fn end_streams(&self) {
        let streams = self.streams();
        streams.close();
        // The process ends in any case.
        let _in_time = timeout(STREAMS_TIMEOUT, streams.wait()).await.is_ok();
    }

    /// Enters a phase of the drain.
    fn enter(&self, phase: Phase) {
        self.inner.phase.send_replace(phase);
        let connections = self.inner.connections.len();
        self.inner.events.note(Happened::Drain { phase: phase.as_str(), connections });
    }

    /// Waits until a drain is requested, and runs it.
    pub(crate) async fn run(&self) {
        let ShutdownState {
            times,
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
        self.enter(Phase::Draining);
        let (connected, delay) = (connections.len(), times.delay.as_secs_f64());
        tracing::info!(connections = connected, delay = %format_args!("{delay}s"), "draining");
        force.run_until_cancelled(sleep(times.delay)).await;
        self.enter(Phase::Closing);
        stop_accepting.cancel();
        listeners.close();
        listeners.wait().await;
        connections.close();
        // Every connection is listed by now: the listeners have ended.
        if !times.drain_spread.is_zero() {
            self.end_sessions(times.drain_spread);
        }
        let ending = timeout(times.drain_timeout, connections.wait());
        let _ended_late_or_forced = force.run_until_cancelled(ending).await;
        let left = self.force_the_rest();
        if timeout(FORCE_TIMEOUT, connections.wait()).await.is_err() {
            tracing::error!(connections = connections.len(), "connections did not end when forced");
        }
        self.enter(Phase::Drained);
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
        let shutdown = Shutdown::new(OneSession(stop), Arc::default());
        shutdown.connections().spawn(stopped.cancelled_owned());
        // Like a second signal that arrives before the drain counts connections.
        shutdown.force();
        eventually_ended(&shutdown).await;
        shutdown.run().await;
        assert_eq!(shutdown.drained().await, Drained::Forced(1));
    }

    struct OneSession(CancellationToken);

    impl EndSessions for OneSession {
        fn end_over(&self, _spread: Duration) {}

        fn end_now(&self) {
            self.0.cancel();
        }

        fn waiting(&self) -> usize {
            0
        }

        fn least_time(&self) -> Duration {
            Duration::ZERO
        }
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
