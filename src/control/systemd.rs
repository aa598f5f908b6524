//! Notifications to systemd: sd_notify(3).
//!
//! **Promises.** Without `NOTIFY_SOCKET` nothing is sent. READY is sent once every socket accepts, STOPPING
//! only if the process is going to end, and no state of a reload after it. Messages leave in order, and before
//! the process ends. A service manager that does not read delays the process only briefly, and some messages
//! are dropped. WATCHDOG is sent only while every worker of the runtime makes progress, not just the one that
//! sends it.
//!
//! **Not here.** Sockets from systemd (`control/sockets.rs`), signals (`main.rs`), the stop (`lifecycle.rs`).

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{self, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::UnixDatagram;
use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::sync::{self, mpsc, oneshot};
use tokio::time::{interval, sleep, timeout};

use crate::lifecycle::{Phase, Shutdown};
use crate::lock::Lock;
use crate::reload::{self, ReloadReport};
use crate::text::shortened;

/// Messages that wait for the service manager. It reads at once unless it has a problem itself.
const QUEUED_MESSAGES: usize = 64;

/// Time that the end of the process waits for the service manager to read all messages.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval of the status messages of a drain.
const DRAIN_INTERVAL: Duration = Duration::from_secs(1);

/// Extension of the unit's `TimeoutStopSec` with each message of a drain.
const DRAIN_EXTENSION_USEC: u32 = 15_000_000;

/// Checks of a stalled worker in half of the watchdog's time.
const STALL_CHECKS: u32 = 10;

/// A status is one line of `systemctl status`.
const MAX_STATUS_CHARS: usize = 240;

/// The service manager of this process, if it has one.
#[derive(Clone)]
pub struct Systemd {
    messages: Option<mpsc::Sender<Outgoing>>,
    listeners: usize,
    shutdown: Shutdown,
    /// True if the process ends after its drain, rather than staying.
    stopping: Arc<Lock<bool>>,
    /// One reload at a time, so that the READY of one does not end another's RELOADING.
    reloading: Arc<sync::Mutex<()>>,
}

/// An entry of the queue of messages.
enum Outgoing {
    Message(String),
    /// Answered once everything before it has been sent.
    Flush(oneshot::Sender<()>),
}

impl Systemd {
    /// Sends READY: all `listeners` accept. From then on, sends the progress of a drain and the watchdog's
    /// pings. Call it within the runtime.
    #[must_use]
    pub fn ready(listeners: usize, shutdown: &Shutdown) -> Self {
        let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let messages = match name.map(|name| connect(&name)) {
            None => None,
            Some(Ok(socket)) => {
                let (messages, queue) = mpsc::channel(QUEUED_MESSAGES);
                tokio::spawn(deliver(socket, queue));
                Some(messages)
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot connect to NOTIFY_SOCKET, systemd is not notified");
                None
            }
        };
        let (stopping, reloading) = (Arc::default(), Arc::default());
        let systemd = Self { messages, listeners, shutdown: shutdown.clone(), stopping, reloading };
        if systemd.messages.is_some() {
            systemd.notify(&[NotifyState::Ready, NotifyState::Status(&systemd.activity())]);
            tokio::spawn(systemd.clone().report_drain());
            if let Some(timeout) = sd_notify::watchdog_enabled() {
                tokio::spawn(systemd.clone().ping(timeout));
            }
        }
        systemd
    }

    /// Reloads through `reload`, and notifies systemd of it.
    pub async fn reload(&self, reload: &reload::Handle) {
        let _one_at_a_time = self.reloading.lock().await;
        // `Type=notify-reload` waits for a RELOADING that is not older than its signal.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify_unless_stopping(&[NotifyState::Reloading, now]),
            Err(error) => {
                tracing::warn!(%error, "no monotonic clock, systemd is not notified of the reload");
            }
        }
        let report = reload.reload().await;
        let status = report.map_or_else(|| "stopping".to_owned(), |r| self.reloaded(&r));
        self.notify_unless_stopping(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// Sends STOPPING: the process drains and then ends.
    pub fn stopping(&self) {
        let longer = NotifyState::ExtendTimeoutUsec(DRAIN_EXTENSION_USEC);
        let mut stopping = self.stopping.lock();
        *stopping = true;
        self.notify(&[NotifyState::Stopping, longer]);
    }

    /// Completes when the service manager has read all messages, or after a timeout. Call it before the runtime
    /// ends, which discards the queue.
    pub async fn flush(&self) {
        let Some(messages) = &self.messages else { return };
        let flushed = async {
            let (answer, answered) = oneshot::channel();
            messages.send(Outgoing::Flush(answer)).await.ok()?;
            answered.await.ok()
        };
        let _not_read = timeout(FLUSH_TIMEOUT, flushed).await;
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.lock()
    }

    /// Sends states unless the process stops: the READY of a reload would undo STOPPING.
    fn notify_unless_stopping(&self, states: &[NotifyState<'_>]) {
        let stopping = self.stopping.lock();
        if !*stopping {
            self.notify(states);
        }
    }

    fn activity(&self) -> String {
        match self.shutdown.phase() {
            Phase::Starting | Phase::Running => {
                let s = if self.listeners == 1 { "" } else { "s" };
                format!("listening on {} listener{s}", self.listeners)
            }
            Phase::Draining | Phase::Closing => {
                let left = self.shutdown.connections().len();
                let s = if left == 1 { "" } else { "s" };
                format!("draining: {left} connection{s} left")
            }
            phase @ Phase::Drained => phase.to_string(),
        }
    }

    fn reloaded(&self, report: &ReloadReport) -> String {
        let ReloadReport { outcome, failures, waiting } = report;
        let mut status = format!("{}; last reload by signal: {outcome}", self.activity());
        for detail in failures.iter().chain(waiting) {
            status.push_str("; ");
            status.push_str(detail);
        }
        // A line break would begin another state.
        shortened(&status, MAX_STATUS_CHARS)
    }

    async fn report_drain(self) {
        self.shutdown.begun().await;
        let mut drained = std::pin::pin!(self.shutdown.drained());
        let mut ticks = interval(DRAIN_INTERVAL);
        loop {
            tokio::select! {
                biased;
                _ = &mut drained => break,
                _ = ticks.tick() => {}
            }
            let status = self.activity();
            let mut states = vec![NotifyState::Status(&status)];
            // Only a unit that stops has a timeout to extend.
            if self.is_stopping() {
                states.push(NotifyState::ExtendTimeoutUsec(DRAIN_EXTENSION_USEC));
            }
            self.notify(&states);
        }
        self.notify(&[NotifyState::Status(&self.activity())]);
    }

    /// Pings twice as often as systemd requires, while every worker makes progress.
    async fn ping(self, timeout: Duration) {
        let mut detector = StallDetector::new(Handle::current().metrics());
        let half = (timeout / 2).max(Duration::from_millis(1));
        loop {
            self.notify(&[NotifyState::Watchdog]);
            detector.remember();
            sleep(half).await;
            if let Some(worker) = detector.stalled() {
                tracing::error!(worker, "worker stalled, withholding the watchdog ping");
                // It may continue before systemd's timeout.
                while detector.stalled().is_some() {
                    sleep(half / STALL_CHECKS).await;
                }
                tracing::info!("every worker makes progress again");
            }
        }
    }

    fn notify(&self, states: &[NotifyState<'_>]) {
        if let Some(messages) = &self.messages {
            let message: String = states.iter().map(|state| format!("{state}\n")).collect();
            // It fails if the service manager does not read. The first messages matter most.
            let _dropped = messages.try_send(Outgoing::Message(message));
        }
    }
}

/// Finds workers of the runtime that make no progress.
struct StallDetector {
    metrics: RuntimeMetrics,
    last: Vec<Worker>,
}

/// The progress of a worker: its figures change with each round of its scheduler loop.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Worker {
    /// The number of times that it parked and unparked: odd while it is parked.
    parks_and_unparks: u64,
    busy: Duration,
}

impl Worker {
    fn is_stalled_since(self, last: Self) -> bool {
        self.parks_and_unparks.is_multiple_of(2) && self == last
    }
}

impl StallDetector {
    fn new(metrics: RuntimeMetrics) -> Self {
        let mut detector = Self { metrics, last: Vec::new() };
        detector.remember();
        detector
    }

    fn remember(&mut self) {
        self.last = self.workers();
    }

    fn workers(&self) -> Vec<Worker> {
        let progress = |worker| Worker {
            parks_and_unparks: self.metrics.worker_park_unpark_count(worker),
            busy: self.metrics.worker_total_busy_duration(worker),
        };
        (0..self.metrics.num_workers()).map(progress).collect()
    }

    /// Returns a worker that is awake and has made no progress since [`Self::remember`].
    fn stalled(&self) -> Option<usize> {
        let now = self.workers();
        now.iter().zip(&self.last).position(|(now, last)| now.is_stalled_since(*last))
    }
}

async fn deliver(socket: UnixDatagram, mut queue: mpsc::Receiver<Outgoing>) {
    while let Some(outgoing) = queue.recv().await {
        match outgoing {
            Outgoing::Message(message) => {
                if let Err(error) = socket.send(message.as_bytes()).await {
                    tracing::debug!(%error, "cannot notify systemd");
                }
            }
            Outgoing::Flush(answer) => {
                // The waiting side may have timed out.
                let _timed_out = answer.send(());
            }
        }
    }
}

/// Connects to the socket of the service manager. sd_notify's own function blocks if the service manager does
/// not read, and does not support abstract names.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = net::UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_stalled_worker_is_found_and_one_that_sleeps_or_works_is_not() {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).build().unwrap();
        let mut detector = StallDetector::new(runtime.metrics());
        let (stalled, is_stalled) = channel();
        let (release, released) = channel();
        let task = runtime.spawn(async move {
            stalled.send(()).unwrap();
            released.recv().unwrap();
        });
        is_stalled.recv().unwrap();
        // It may have made progress between the detector's start and the task's.
        detector.remember();
        assert!(detector.stalled().is_some(), "it is stalled");
        detector.remember();
        assert!(detector.stalled().is_some(), "it is still stalled");
        release.send(()).unwrap();
        runtime.block_on(task).unwrap();
        let start = Instant::now();
        while detector.stalled().is_some() {
            assert!(start.elapsed().as_secs() < 20, "it has made progress since");
            std::thread::yield_now();
        }
        runtime.block_on(async {
            // Always busy and never parked, but it makes progress.
            let busy = tokio::spawn(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
            for _ in 0..3 {
                detector.remember();
                let start = Instant::now();
                while detector.stalled().is_some() {
                    assert!(start.elapsed().as_secs() < 20, "it makes no progress");
                    tokio::task::yield_now().await;
                }
            }
            busy.abort();
        });
    }
}
