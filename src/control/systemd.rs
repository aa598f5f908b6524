//! What systemd is told while we run: sd_notify(3).
//!
//! **Promises.** Without a `NOTIFY_SOCKET` nothing happens. READY comes once everything accepts,
//! STOPPING only where the process is really going to end, and nothing of a reload after it.
//! Messages go out in the order in which they were told, and before the process ends; a service
//! manager that does not read holds up nobody for long, and has some dropped. WATCHDOG says that
//! every worker of the runtime turns, not just the one that sends it.
//!
//! **Not here.** Sockets that systemd passes (`control/sockets.rs`), signals (`main.rs`), the pace
//! of a stop (`lifecycle.rs`).

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

/// Messages that wait for the service manager to read. It reads at once, or is in trouble itself.
const WAITING_MESSAGES: usize = 64;

/// How long the end of the process waits until the service manager has read what was told.
const LAST_MESSAGES: Duration = Duration::from_secs(2);

/// How often a drain tells how far it is.
const DRAIN_INTERVAL: Duration = Duration::from_secs(1);

/// How long a drain that has told nothing more may live past the unit's `TimeoutStopSec`.
const DRAIN_EXTENSION_USEC: u32 = 15_000_000;

/// How often, in half of the watchdog's time, it is looked whether one that was stuck turns again.
const LOOKS_AT_WHO_IS_STUCK: u32 = 10;

/// A status is one line on an operator's terminal.
const MAX_STATUS_CHARS: usize = 240;

/// The service manager of this process, if it has one.
#[derive(Clone)]
pub struct Systemd {
    told: Option<mpsc::Sender<Told>>,
    listeners: usize,
    shutdown: Shutdown,
    /// Whether the process is going to end, rather than to stay after its drain.
    stopping: Arc<Lock<bool>>,
    /// One reload at a time, so that the READY of one does not end another's RELOADING.
    reloading: Arc<sync::Mutex<()>>,
}

/// What waits to be told.
enum Told {
    Message(String),
    /// Answered once everything before it has been told.
    Everything(oneshot::Sender<()>),
}

impl Systemd {
    /// Tells that everything accepts, on so many listeners, and from here on how a drain goes and
    /// that the runtime turns. Call it within the runtime.
    #[must_use]
    pub fn ready(listeners: usize, shutdown: &Shutdown) -> Self {
        let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let told = match name.map(|name| connect(&name)) {
            None => None,
            Some(Ok(socket)) => {
                let (told, messages) = mpsc::channel(WAITING_MESSAGES);
                tokio::spawn(deliver(socket, messages));
                Some(told)
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "systemd cannot be told anything: NOTIFY_SOCKET");
                None
            }
        };
        let (stopping, reloading) = (Arc::default(), Arc::default());
        let systemd = Self { told, listeners, shutdown: shutdown.clone(), stopping, reloading };
        if systemd.told.is_some() {
            systemd.tell(&[NotifyState::Ready, NotifyState::Status(&systemd.what_it_does())]);
            tokio::spawn(systemd.clone().tell_of_the_drain());
            if let Some(timeout) = sd_notify::watchdog_enabled() {
                tokio::spawn(systemd.clone().ping(timeout));
            }
        }
        systemd
    }

    /// Reloads by `reload`, and tells of it.
    pub async fn reload(&self, reload: &reload::Handle) {
        let _one_at_a_time = self.reloading.lock().await;
        // `Type=notify-reload` waits for a RELOADING that is not older than its signal.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell_unless_stopping(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "systemd is not told of the reload"),
        }
        let report = reload.reload().await;
        let status = report.map_or_else(|| "stopping".to_owned(), |r| self.reloaded(&r));
        self.tell_unless_stopping(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// Tells that the process drains and is going to end.
    pub fn stopping(&self) {
        let longer = NotifyState::ExtendTimeoutUsec(DRAIN_EXTENSION_USEC);
        let mut stopping = self.stopping.lock();
        *stopping = true;
        self.tell(&[NotifyState::Stopping, longer]);
    }

    /// Completes when the service manager has what was told, or takes too long to read it. Call it
    /// before the end of the runtime, which takes with it what waits.
    pub async fn told_everything(&self) {
        let Some(told) = &self.told else { return };
        let everything = async {
            let (answer, answered) = oneshot::channel();
            told.send(Told::Everything(answer)).await.ok()?;
            answered.await.ok()
        };
        let _it_does_not_read = timeout(LAST_MESSAGES, everything).await;
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.lock()
    }

    /// A reload that is over when the stop begins would tell that we are ready.
    fn tell_unless_stopping(&self, states: &[NotifyState<'_>]) {
        let stopping = self.stopping.lock();
        if !*stopping {
            self.tell(states);
        }
    }

    fn what_it_does(&self) -> String {
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
        let mut status = format!("{}; last reload by signal: {outcome}", self.what_it_does());
        for detail in failures.iter().chain(waiting) {
            status.push_str("; ");
            status.push_str(detail);
        }
        one_line(&status)
    }

    async fn tell_of_the_drain(self) {
        self.shutdown.begun().await;
        let mut drained = std::pin::pin!(self.shutdown.drained());
        let mut turns = interval(DRAIN_INTERVAL);
        loop {
            tokio::select! {
                biased;
                _ = &mut drained => break,
                _ = turns.tick() => {}
            }
            let status = self.what_it_does();
            let mut told = vec![NotifyState::Status(&status)];
            // Only who is stopping has a time to be extended.
            if self.is_stopping() {
                told.push(NotifyState::ExtendTimeoutUsec(DRAIN_EXTENSION_USEC));
            }
            self.tell(&told);
        }
        self.tell(&[NotifyState::Status(&self.what_it_does())]);
    }

    /// Pings twice as often as asked for, as long as every worker turns.
    async fn ping(self, timeout: Duration) {
        let mut turning = Turning::new(Handle::current().metrics());
        let half = (timeout / 2).max(Duration::from_millis(1));
        loop {
            self.tell(&[NotifyState::Watchdog]);
            turning.remember();
            sleep(half).await;
            if let Some(worker) = turning.stuck() {
                tracing::error!(worker, "a worker has not turned: systemd gets no ping");
                // It may turn again while there is time.
                while turning.stuck().is_some() {
                    sleep(half / LOOKS_AT_WHO_IS_STUCK).await;
                }
                tracing::info!("every worker turns again");
            }
        }
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if let Some(told) = &self.told {
            let message: String = states.iter().map(|state| format!("{state}\n")).collect();
            // It fails if nobody reads: what came first matters most.
            let _dropped = told.try_send(Told::Message(message));
        }
    }
}

/// Whether the workers of a runtime turn.
struct Turning {
    metrics: RuntimeMetrics,
    last: Vec<Worker>,
}

/// How far a worker is: the figures change whenever it comes round.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Worker {
    /// How often it has fallen asleep and woken up: odd while it sleeps.
    turns_of_sleep: u64,
    busy: Duration,
}

impl Worker {
    fn is_stuck_since(self, last: Self) -> bool {
        self.turns_of_sleep.is_multiple_of(2) && self == last
    }
}

impl Turning {
    fn new(metrics: RuntimeMetrics) -> Self {
        let mut turning = Self { metrics, last: Vec::new() };
        turning.remember();
        turning
    }

    fn remember(&mut self) {
        self.last = self.look();
    }

    fn look(&self) -> Vec<Worker> {
        let look = |worker| Worker {
            turns_of_sleep: self.metrics.worker_park_unpark_count(worker),
            busy: self.metrics.worker_total_busy_duration(worker),
        };
        (0..self.metrics.num_workers()).map(look).collect()
    }

    /// A worker that is awake and has not come round since what is remembered.
    fn stuck(&self) -> Option<usize> {
        let now = self.look();
        now.iter().zip(&self.last).position(|(now, last)| now.is_stuck_since(*last))
    }
}

async fn deliver(socket: UnixDatagram, mut told: mpsc::Receiver<Told>) {
    while let Some(told) = told.recv().await {
        match told {
            Told::Message(message) => {
                if let Err(error) = socket.send(message.as_bytes()).await {
                    tracing::debug!(%error, "systemd was not told");
                }
            }
            Told::Everything(answer) => {
                // Who has asked may have given up.
                let _given_up = answer.send(());
            }
        }
    }
}

/// The crate's own way would block a worker where nobody reads, and knows no abstract names.
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

/// A line break would begin another message.
fn one_line(text: &str) -> String {
    let mut printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut line: String = printable.by_ref().take(MAX_STATUS_CHARS).collect();
    if printable.next().is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_worker_that_is_stuck_is_seen_and_one_that_sleeps_or_works_is_not() {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).build().unwrap();
        let mut turning = Turning::new(runtime.metrics());
        let (stuck, is_stuck) = channel();
        let (release, released) = channel();
        let task = runtime.spawn(async move {
            stuck.send(()).unwrap();
            released.recv().unwrap();
        });
        is_stuck.recv().unwrap();
        // It may have come round between the last look and the task.
        turning.remember();
        assert!(turning.stuck().is_some(), "it is stuck");
        turning.remember();
        assert!(turning.stuck().is_some(), "it is still stuck");
        release.send(()).unwrap();
        runtime.block_on(task).unwrap();
        let start = Instant::now();
        while turning.stuck().is_some() {
            assert!(start.elapsed().as_secs() < 20, "it has come round since");
            std::thread::yield_now();
        }
        runtime.block_on(async {
            // Busy without an end, and never asleep: but it comes round.
            let busy = tokio::spawn(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
            for _ in 0..3 {
                turning.remember();
                let start = Instant::now();
                while turning.stuck().is_some() {
                    assert!(start.elapsed().as_secs() < 20, "it does not come round");
                    tokio::task::yield_now().await;
                }
            }
            busy.abort();
        });
    }

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(one_line("a\nREADY=1"), "a READY=1");
        let long = one_line(&"ä".repeat(1000));
        assert_eq!(long.chars().count(), MAX_STATUS_CHARS + 1);
        assert!(long.ends_with('…'));
    }
}
