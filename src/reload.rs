//! Reloads changed files, or keeps the current state.
//!
//! **Promises.** Certificates, keys, CAs, CRLs and the configuration file are read again when they
//! change, on request, and every [`POLL_INTERVAL`] if there are no change events. A new snapshot
//! replaces the current one whole or not at all. An invalid file keeps its current content and delays no other
//! file. It is logged once, counted, and visible in a gauge until it is valid again. An invalid certificate of one
//! listener does not affect other listeners. Open connections are never touched. A change that needs a restart
//! is logged by every reload until the restart.
//!
//! Reloading has its own thread, because reading and checking a large CRL would block connections.
//!
//! **Not here.** The checks of a new snapshot (`trust/`).

mod announce;
mod changes;
mod events;
pub(crate) mod rollouts;
mod target;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{oneshot, watch as latest};

pub(crate) use self::announce::announce;
use self::announce::{announce_changes, announce_key_types, announce_trust_changes, note_swapped};
use self::rollouts::RolloutOrder;
pub(crate) use self::target::ReloadTarget;
use self::target::usable;
use self::watch::Watcher;
use crate::config::file::{ConfigError, ConfigSource};
use crate::config::{self, Config};
use crate::events::Happened;
use crate::metrics::{Metrics, Objects};
use crate::terms::labels::{ReloadObject, ReloadOutcome};
use crate::text::{Shown, one_line};
use crate::trust::findings::CertError;
use crate::trust::material;
use crate::trust::policy::Policy;
use crate::trust::snapshot::{Reloaded, Snapshot};
use crate::trust::token::TokenFile;

/// Interval between reads of the files without an event: some network and overlay file systems send none, and
/// a certificate can become valid.
const POLL_INTERVAL: Duration = Duration::from_secs(60);

/// Time without events before the files are read: most tools write several files in a row.
const QUIET: Duration = Duration::from_millis(100);

/// Bound of the wait for that time.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Failures of a listener that are listed; the others are counted.
const MAX_LISTED: usize = 100;

/// The result of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadReport {
    /// A failure if there was one, else a swap if there was one, else unchanged.
    pub outcome: ReloadOutcome,
    /// The problems of files that could not be loaded, one sentence each.
    pub failures: Vec<String>,
    /// The changes of the configuration that need a restart, one sentence each.
    pub waiting: Vec<String>,
}

/// Applies the parts of a configuration that belong to no listener: `[shutdown]`,
/// `process.max_handshake_bytes` and `log.filter`.
pub(crate) type ProcessWide = Box<dyn Fn(&Config) + Send>;

/// The state of the files at the last reload.
#[derive(Clone, Debug)]
pub(crate) struct ReloadStatus {
    pub(crate) report: ReloadReport,
    /// The last time at which all files were valid.
    pub(crate) last_success: SystemTime,
    /// The last time at which something changed; none since the start.
    pub(crate) last_swap: Option<SystemTime>,
}

/// Requests reloads. The thread ends when the last handle is dropped.
#[derive(Clone)]
pub struct Handle {
    events: Arc<StopOnDrop>,
    status: latest::Receiver<ReloadStatus>,
}

struct StopOnDrop(Sender<Event>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        // Sending fails only if the thread has ended.
        let _ended = self.0.send(Event::Stop);
    }
}

enum Event {
    FilesChanged,
    Request(oneshot::Sender<ReloadReport>),
    /// An operator decides about rollouts.
    Order(RolloutOrder, oneshot::Sender<Vec<String>>),
    /// A rollout was decided.
    Decided,
    Stop,
}

impl Handle {
    /// Reloads now and returns the result; none if the process is ending.
    pub async fn reload(&self) -> Option<ReloadReport> {
        let (answer, report) = oneshot::channel();
        self.events.0.send(Event::Request(answer)).ok()?;
        report.await.ok()
    }

    /// Decides about the rollouts of server certificates. Returns a sentence for each of them; none if the process is
    /// ending.
    pub(crate) async fn decide(&self, order: RolloutOrder) -> Option<Vec<String>> {
        let (answer, decided) = oneshot::channel();
        self.events.0.send(Event::Order(order, answer)).ok()?;
        decided.await.ok()
    }

    /// Returns the state of the files at the last reload.
    pub(crate) fn status(&self) -> ReloadStatus {
        self.status.borrow().clone()
    }
}

/// Starts the thread that reloads. `config` is the current configuration, which was read from `source` if there is
/// one. `process_wide` is called when a part of the configuration changes that belongs to no listener.
///
/// # Errors
/// If the system cannot start a thread.
pub(crate) fn start(
    targets: Vec<ReloadTarget>,
    config: Config,
    source: Option<ConfigSource>,
    process_wide: ProcessWide,
    token: Option<Arc<TokenFile>>,
    metrics: Arc<Metrics>,
) -> std::io::Result<Handle> {
    let (sender, events) = channel();
    let (changed, decided) = (sender.clone(), sender.clone());
    let watcher = Watcher::new(move || {
        // Sending fails only if the thread has ended.
        let _ended = changed.send(Event::FilesChanged);
    });
    let watcher = watcher
        .inspect_err(|error| {
            tracing::warn!(
                %error,
                "cannot watch files, reading them once a minute instead (check fs.inotify.max_user_instances)"
            );
        })
        .ok();
    metrics.looked_at(ReloadOutcome::Unchanged, SystemTime::now());
    let mut reloader = Reloader::new(targets, config, source, process_wide, metrics);
    reloader.token = token;
    reloader.decided = Some(decided);
    let status = reloader.status.subscribe();
    let thread = std::thread::Builder::new().name("reload".to_owned());
    thread.spawn(move || reloader.run(&events, watcher, POLL_INTERVAL))?;
    Ok(Handle { events: Arc::new(StopOnDrop(sender)), status })
}

struct Reloader {
    targets: Vec<ReloadTarget>,
    /// The configuration at the start of the process: some of it cannot change later.
    started: Config,
    /// The last valid configuration.
    config: Config,
    source: Option<ConfigSource>,
    process_wide: ProcessWide,
    /// The token of the admin port.
    token: Option<Arc<TokenFile>>,
    /// Receives the decisions about rollouts.
    decided: Option<Sender<Event>>,
    metrics: Arc<Metrics>,
    status: latest::Sender<ReloadStatus>,
}

impl Reloader {
    fn new(
        targets: Vec<ReloadTarget>,
        config: Config,
        source: Option<ConfigSource>,
        process_wide: ProcessWide,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            targets,
            started: config.clone(),
            config,
            source,
            process_wide,
            token: None,
            decided: None,
            metrics,
            status: latest::Sender::new(ReloadStatus {
                report: ReloadReport {
                    outcome: ReloadOutcome::Unchanged,
                    failures: Vec::new(),
                    waiting: Vec::new(),
                },
                last_success: SystemTime::now(),
                last_swap: None,
            }),
        }
    }

    fn run(mut self, events: &Receiver<Event>, mut watcher: Option<Watcher>, poll: Duration) {
        let mut next_poll = Instant::now() + poll;
        loop {
            // A newly watched path may have changed before it was watched, so the files are read again.
            if watcher.as_mut().is_some_and(|watcher| watcher.watch(&self.files())) {
                self.attempt(Trigger::Poll);
                continue;
            }
            let next = rollouts::earlier_of(next_poll, rollouts::review(&self.targets));
            match events.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Event::FilesChanged) => match settle(events) {
                    Some(Settled { requests, orders }) => {
                        self.attempt(Trigger::Change).answer(requests);
                        orders.into_iter().for_each(|(order, answer)| self.decide(&order, answer));
                    }
                    None => return,
                },
                Ok(Event::Request(waiting)) => self.attempt(Trigger::Request).answer([waiting]),
                Ok(Event::Order(order, answer)) => self.decide(&order, answer),
                Ok(Event::Decided) => {
                    self.attempt(Trigger::Decision);
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < next_poll => {}
                Err(RecvTimeoutError::Timeout) => {
                    self.attempt(Trigger::Poll);
                    next_poll = Instant::now() + poll;
                }
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Returns every file that is read.
    fn files(&self) -> Vec<PathBuf> {
        let snapshots = self.targets.iter().map(|target| target.current.load());
        let active = snapshots.flat_map(|snapshot| {
            let files = snapshot.policies.iter().flat_map(Policy::files);
            files.map(|file| file.path.to_owned()).collect::<Vec<_>>()
        });
        let wanted = self.config.listeners.iter().flat_map(config::ListenerConfig::policies);
        let wanted = wanted.flat_map(|(_, tls)| material::named(tls));
        let file = self.source.iter().map(|source| source.path.clone());
        let token = self.token.iter().map(|token| token.path().to_owned());
        active.chain(wanted.map(|(_, path)| path.to_owned())).chain(file).chain(token).collect()
    }

    /// Applies an operator's decision about rollouts.
    fn decide(&mut self, order: &RolloutOrder, answer: oneshot::Sender<Vec<String>>) {
        let decided = rollouts::decide(&self.targets, order);
        self.attempt(Trigger::Decision);
        // Sending fails if the caller has not waited.
        let _gone = answer.send(decided);
    }

    fn attempt(&mut self, trigger: Trigger) -> ReloadReport {
        let mut failures = Vec::new();
        let mut swapped = false;
        let mut objects = Objects::default();
        match self.reload_config() {
            Ok(false) => {}
            Ok(true) => {
                swapped = true;
                objects.note(ReloadObject::Config, ReloadOutcome::Swapped);
            }
            // The certificates are reloaded even if the configuration is invalid, so that none expires.
            Err(error) => {
                failures.extend(error.lines());
                objects.note(ReloadObject::Config, ReloadOutcome::Failed);
            }
        }
        for target in &self.targets {
            let (new, failed) = self.reload_target(target, &mut objects);
            swapped |= new;
            failures.extend(failed);
        }
        failures.extend(self.failures_of_new_listeners(&mut objects));
        let (new, failed) = self.reload_token(&mut objects);
        swapped |= new;
        failures.extend(failed);
        let outcome = match (failures.is_empty(), swapped) {
            (false, _) => ReloadOutcome::Failed,
            (true, true) => ReloadOutcome::Swapped,
            (true, false) => ReloadOutcome::Unchanged,
        };
        let report = ReloadReport { outcome, failures, waiting: self.waiting_for_restart() };
        let now = SystemTime::now();
        self.publish(trigger, &report, objects, now);
        self.status.send_modify(|status| {
            status.report.clone_from(&report);
            if outcome != ReloadOutcome::Failed {
                status.last_success = now;
            }
            if swapped {
                status.last_swap = Some(now);
            }
        });
        report
    }

    /// Logs and counts a reload, except one that nobody asked for and that found nothing new.
    fn publish(&self, trigger: Trigger, report: &ReloadReport, objects: Objects, now: SystemTime) {
        let ReloadReport { outcome, failures, waiting } = report;
        let known = {
            let before = &self.status.borrow().report;
            before.failures == *failures && before.waiting == *waiting
        };
        let is_asked_for = match trigger {
            Trigger::Change | Trigger::Request => true,
            Trigger::Poll | Trigger::Decision => false,
        };
        if !is_asked_for && *outcome != ReloadOutcome::Swapped && known {
            self.metrics.looked_at(*outcome, now);
            return;
        }
        self.metrics.reloaded(*outcome, objects, now);
        self.metrics.events().note(events::reload(*outcome, failures, waiting));
        for failure in failures {
            tracing::error!("reload failed, keeping the current state: {failure}");
        }
        for what in waiting {
            tracing::warn!("{what}");
        }
        // A swap has its own log lines.
        if *outcome == ReloadOutcome::Unchanged && waiting.is_empty() {
            tracing::info!("reload: the files have not changed");
        }
    }

    /// Reloads one listener. Returns whether it changed, and the problems.
    fn reload_target(&self, target: &ReloadTarget, objects: &mut Objects) -> (bool, Vec<String>) {
        let previous = target.current.load();
        previous.policies.iter().for_each(|policy| policy.resumption.remove_ended());
        let running = &previous.listener.name;
        let wanted = self.config.listeners.iter().find(|listener| listener.name == *running);
        let wanted = wanted.cloned().map_or_else(
            || previous.listener.clone(),
            // The socket cannot change.
            |wanted| {
                let config::ListenerConfig { listen, reuse_port, .. } = previous.listener;
                config::ListenerConfig { listen, reuse_port, ..wanted }
            },
        );
        let (wanted, not_allowed) = usable(wanted, previous.listener.balance.source);
        let Reloaded { loaded, errors } = previous.reload(&wanted, SystemTime::now());
        let mut failed = failed(&wanted, &errors, objects);
        if let Some(error) = not_allowed {
            objects.note(ReloadObject::Config, ReloadOutcome::Failed);
            failed.push(format!("listener {running:?}: {error}"));
        }
        let Some((snapshot, warnings)) = loaded else { return (false, failed) };
        note_swapped(&previous, &snapshot, objects);
        announce_changes(&previous.listener, &snapshot.listener, &target.metrics);
        events::certificates(&previous, &snapshot, target.metrics.events());
        announce(&snapshot, &warnings, &target.metrics);
        rollouts::announce(&previous, &snapshot, &target.metrics);
        if let Some(decided) = self.decided.clone() {
            // Sending fails only if the thread has ended.
            rollouts::wake_by(&snapshot, &move || drop(decided.send(Event::Decided)));
        }
        target.current.store(snapshot);
        // After the store: the comparison of long lists delays no revocation.
        announce_trust_changes(&previous, &target.current.load(), &target.metrics);
        announce_key_types(&previous, &target.current.load(), &target.metrics);
        (true, failed)
    }

    /// Reads the configuration file again and applies the parts that belong to no listener. Returns whether
    /// one of them changed.
    fn reload_config(&mut self) -> Result<bool, ConfigError> {
        let Some(source) = &self.source else {
            return Ok(false);
        };
        let new = source.reload()?;
        let old = std::mem::replace(&mut self.config, new);
        let changed = changes::of_process(&old, &self.config);
        if changed.is_empty() {
            return Ok(false);
        }
        (self.process_wide)(&self.config);
        // The words stay, as in `reload/announce.rs`.
        let changed = changed.join(", ");
        tracing::info!(changed, "configuration in force");
        self.metrics.events().note(Happened::Config { listener: None, changed });
        Ok(true)
    }

    /// Reads the token of the admin port again. Returns whether it has changed. If it is invalid, the last valid one
    /// stays, and a sentence is returned.
    fn reload_token(&self, objects: &mut Objects) -> (bool, Option<String>) {
        match self.token.as_ref().map(|token| token.reload()) {
            None | Some(Ok(false)) => (false, None),
            Some(Ok(true)) => {
                objects.note(ReloadObject::AdminToken, ReloadOutcome::Swapped);
                tracing::info!("the token of the admin port has changed");
                (true, None)
            }
            Some(Err(error)) => {
                objects.note(ReloadObject::AdminToken, ReloadOutcome::Failed);
                (false, Some(one_line(&error.to_string()).into_owned()))
            }
        }
    }

    /// Returns the problems of listeners that wait for a restart: the restart would fail because of them.
    fn failures_of_new_listeners(&self, objects: &mut Objects) -> Vec<String> {
        let running = |name: &str| self.started.listeners.iter().any(|l| l.name == name);
        let new = self.config.listeners.iter().filter(|listener| !running(&listener.name));
        new.flat_map(|listener| match Snapshot::load(listener, SystemTime::now()) {
            Ok(_) => Vec::new(),
            Err(errors) => failed(listener, &errors, objects),
        })
        .collect()
    }

    /// Returns the changes of the configuration that need a restart.
    fn waiting_for_restart(&self) -> Vec<String> {
        let Some(source) = &self.source else {
            return Vec::new();
        };
        let differences = changes::that_need_a_restart(&self.started, &self.config).into_iter();
        let file = Shown(&source.path);
        differences.map(|what| format!("{file}: {what}; a restart applies it")).collect()
    }
}

/// The requests that arrived while files were being written.
#[derive(Default)]
struct Settled {
    requests: Vec<oneshot::Sender<ReloadReport>>,
    orders: Vec<(RolloutOrder, oneshot::Sender<Vec<String>>)>,
}

/// Waits until there have been no events for [`QUIET`]. Returns the requests that arrived in the meantime; none if
/// the thread must end.
fn settle(events: &Receiver<Event>) -> Option<Settled> {
    let until = Instant::now() + SETTLE_TIMEOUT;
    let mut settled = Settled::default();
    while Instant::now() < until {
        match events.recv_timeout(QUIET) {
            // The reload that follows applies a decision.
            Ok(Event::FilesChanged | Event::Decided) => {}
            Ok(Event::Request(answer)) => settled.requests.push(answer),
            Ok(Event::Order(order, answer)) => settled.orders.push((order, answer)),
            Ok(Event::Stop) => return None,
            Err(_) => break,
        }
    }
    Some(settled)
}

/// Records the problems of a listener, and returns a sentence for each.
fn failed(
    listener: &config::ListenerConfig,
    errors: &[CertError],
    objects: &mut Objects,
) -> Vec<String> {
    for error in errors {
        objects.note(error.object(), ReloadOutcome::Failed);
    }
    let name = &listener.name;
    let sentence = |error| one_line(&format!("listener {name:?}: {error}")).into_owned();
    let more = errors.len().saturating_sub(MAX_LISTED);
    let more = (more > 0).then(|| format!("listener {name:?}: and {more} more"));
    errors.iter().take(MAX_LISTED).map(sentence).chain(more).collect()
}

/// The cause of a reload.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Change,
    Request,
    Poll,
    /// A rollout was decided.
    Decision,
}

impl ReloadReport {
    fn answer(self, waiting: impl IntoIterator<Item = oneshot::Sender<Self>>) {
        for answer in waiting {
            // Sending fails if the caller has not waited.
            let _gone = answer.send(self.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::snapshot::Current;
    use crate::trust::testing::{certificate, listener};

    #[test]
    fn without_events_the_poll_finds_the_change_and_reports_a_failure_once() {
        let dir = tempfile::tempdir().unwrap();
        let listener = listener(dir.path());
        let (snapshot, _) = Snapshot::load(&listener, SystemTime::now()).unwrap();
        let metrics = Arc::new(Metrics::new());
        let current = Arc::new(Current::new(snapshot));
        let (before, watched) = (current.load(), Arc::clone(&current));
        let target = ReloadTarget { current, metrics: metrics.listener("test") };
        let (sender, events) = channel();
        let polling = std::thread::spawn({
            let metrics = Arc::clone(&metrics);
            let config = Config::of(listener.clone());
            let reloader = Reloader::new(vec![target], config, None, Box::new(|_| {}), metrics);
            move || reloader.run(&events, None, Duration::from_millis(20))
        });
        let metric = |series: &str| {
            let text = String::from_utf8(metrics.render().unwrap().0).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(series));
            line.unwrap().trim().parse::<f64>().unwrap()
        };
        let wait_until = |what: &str, condition: &dyn Fn() -> bool| {
            let deadline = Instant::now() + Duration::from_secs(20);
            while !condition() {
                assert!(Instant::now() < deadline, "{what}");
                std::thread::yield_now();
            }
        };
        std::fs::write(&listener.tls.certificates[0].cert, "rubbish").unwrap();
        wait_until("it fails", &|| metric("tlsidecar_reload_failing") > 0.5);
        let last_success = || metric("tlsidecar_reload_last_success_timestamp_seconds");
        let good = last_success();
        certificate(dir.path());
        wait_until("it recovers", &|| metric("tlsidecar_reload_failing") < 0.5);
        wait_until("the change is found", &|| !Arc::ptr_eq(&watched.load(), &before));
        wait_until("it is polled repeatedly", &|| last_success() > good + 0.1);
        let failed = metric("tlsidecar_reloads_total{outcome=\"failed\"}");
        assert!(failed < 2.5, "the rubbish, and perhaps a new certificate without its key yet");
        sender.send(Event::Stop).unwrap();
        polling.join().unwrap();
    }
}
