//! `GET /status`: overall status as JSON, for the page and for scripts.
//!
//! **Promises.** The keys are public: added to, never renamed (docs/operations.md). Instants are in Unix time,
//! in whole seconds. The size depends on the configuration, not on the number of devices.
//!
//! **Not here.** Counting (`metrics.rs`, `control/history.rs`), the page (`page.rs`), the sessions (`views.rs`).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde::Serialize;

use super::response::to_json;
use super::rollouts::RolloutView;
use crate::control::history::{History, Increase, Sample};
use crate::lifecycle::Shutdown;
use crate::memory;
use crate::metrics::{
    ActiveCa, ActiveCertificate, ActiveCrl, BackendMetrics, ListenerMetrics, Load, Metrics,
    NameStatus, Reported, Resources,
};
use crate::reload::ReloadStatus;
use crate::terms::closed_set::ClosedSet;
use crate::terms::labels::{
    Alert, ConnectResult, Direction, Incompatible, LooksLike, NoRouteCause, RejectionCause,
    ReloadOutcome, SuiteKind,
};
use crate::terms::reason::Reason;
use crate::text::one_line;
use crate::time::unix_seconds;

/// The listeners with their addresses, the start of the process, and its recent past.
pub(crate) struct Status {
    started: Instant,
    host: String,
    /// In bytes; none if it is unknown.
    memory_limit: Option<u64>,
    page_ends_sessions: bool,
    /// In the order of the history's listeners.
    addresses: Vec<SocketAddr>,
    pub(super) history: History,
}

#[derive(Serialize)]
struct StatusView<'a> {
    version: &'static str,
    /// The name of the host, which is that of the Pod in Kubernetes.
    host: &'a str,
    now: i64,
    uptime_seconds: u64,
    phase: &'static str,
    drain: DrainView,
    listeners: Vec<ListenerView<'a>>,
    recent: RecentView<'a>,
    certificates: Vec<OfListener<'a, CertificateView<'a>>>,
    rollouts: Vec<OfListener<'a, RolloutView>>,
    client_cas: Vec<OfListener<'a, ActiveCa>>,
    crls: Vec<OfListener<'a, ActiveCrl>>,
    reload: ReloadView<'a>,
    backends: Vec<OfListener<'a, BackendView>>,
    names: Vec<NameView<'a>>,
    resources: ResourcesView,
    /// True if the status page may end sessions (`guard.rs`).
    page_ends_sessions: bool,
}

#[derive(Serialize)]
struct DrainView {
    started: Option<i64>,
    timeout_seconds: f64,
    spread_seconds: f64,
    /// Sessions that are closed as soon as their exchange has ended.
    waiting: usize,
    max_closes_per_second: Option<u32>,
    /// The least time to close all sessions at this limit.
    least_seconds: Option<f64>,
    /// The time is longer than the timeout.
    exceeds_timeout: bool,
}

#[derive(Serialize)]
struct ListenerView<'a> {
    name: &'a str,
    address: SocketAddr,
    #[serde(flatten)]
    load: Load,
    accepted: u64,
    handshakes: u64,
    bytes_to_backend: u64,
    bytes_to_client: u64,
    /// Only reasons that occurred, as all the following.
    closed: BTreeMap<&'static str, u64>,
    /// Fatal alerts of clients in their handshakes.
    alerts: BTreeMap<&'static str, u64>,
    /// The likely causes of those about the server certificate.
    certificate_rejections: BTreeMap<&'static str, u64>,
    /// Parameters that client and listener did not have in common.
    incompatible: BTreeMap<&'static str, u64>,
    /// The best kind of cipher suite that refused clients offered.
    refused_suites: BTreeMap<&'static str, u64>,
    /// The protocol that the first bytes of other connections than TLS look like.
    not_tls: BTreeMap<&'static str, u64>,
    /// The condition that connections without a route do not meet.
    no_route: BTreeMap<&'static str, u64>,
}

/// The last minutes. Each list is as long as `ended_seconds_ago`.
#[derive(Serialize)]
struct RecentView<'a> {
    ended_seconds_ago: Vec<u64>,
    listeners: Vec<PastView<'a>>,
}

#[derive(Serialize)]
struct PastView<'a> {
    listener: &'a str,
    accepted: Vec<u64>,
    handshakes: Vec<u64>,
    active: Vec<i64>,
    bytes_to_backend: Vec<u64>,
    bytes_to_client: Vec<u64>,
    closed: BTreeMap<&'static str, Vec<u64>>,
    alerts: BTreeMap<&'static str, Vec<u64>>,
    certificate_rejections: BTreeMap<&'static str, Vec<u64>>,
    incompatible: BTreeMap<&'static str, Vec<u64>>,
    refused_suites: BTreeMap<&'static str, Vec<u64>>,
    not_tls: BTreeMap<&'static str, Vec<u64>>,
    no_route: BTreeMap<&'static str, Vec<u64>>,
}

/// A value with the name of its listener beside its own keys.
#[derive(Serialize)]
struct OfListener<'a, T> {
    listener: &'a str,
    #[serde(flatten)]
    value: T,
}

#[derive(Serialize)]
struct CertificateView<'a> {
    #[serde(flatten)]
    active: &'a ActiveCertificate,
    /// The problem of the newer file, for which this certificate is kept.
    rejected: Option<&'a str>,
}

#[derive(Serialize)]
struct ResourcesView {
    memory_limit_bytes: Option<u64>,
    #[serde(flatten)]
    used: Resources,
}

#[derive(Serialize)]
struct BackendView {
    backend: String,
    up: Option<bool>,
    has_replacement: Option<bool>,
    sessions: usize,
    waiting: usize,
    connects: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct NameView<'a> {
    name: &'a str,
    addresses: &'a [IpAddr],
    age_seconds: Option<u64>,
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct ReloadView<'a> {
    failing: bool,
    last_success: i64,
    last_swap: Option<i64>,
    failures: &'a [String],
    waiting: &'a [String],
}

impl Status {
    /// Starts the history of these listeners, which listen on these addresses. `page_ends_sessions`: the guard of the
    /// admin port lets its page do so.
    pub(crate) fn new(
        listeners: Vec<(SocketAddr, Arc<ListenerMetrics>)>,
        page_ends_sessions: bool,
    ) -> Self {
        let (addresses, listeners) = listeners.into_iter().unzip();
        // uname(2). A host without it, or a hidden /proc, has no name on the page.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = one_line(host.trim()).into_owned();
        Self {
            started: Instant::now(),
            host,
            memory_limit: memory::limit(),
            page_ends_sessions,
            addresses,
            history: History::new(listeners),
        }
    }

    /// Returns the names of the listeners.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &str> {
        self.history.listeners.iter().map(|metrics| metrics.name())
    }

    /// Returns the current status as JSON.
    pub(super) fn json(
        &self,
        shutdown: &Shutdown,
        reload: &ReloadStatus,
        metrics: &Metrics,
    ) -> String {
        let names = metrics.names();
        let listeners = self.history.listeners.iter().zip(&self.addresses);
        let reported = |listener: &Arc<ListenerMetrics>| listener.active().reported();
        let reported: Vec<Reported> = self.history.listeners.iter().map(reported).collect();
        to_json(&StatusView {
            version: env!("CARGO_PKG_VERSION"),
            host: &self.host,
            now: unix_seconds(SystemTime::now()),
            uptime_seconds: self.started.elapsed().as_secs(),
            phase: shutdown.phase().as_str(),
            drain: drain(shutdown),
            listeners: listeners.map(|(metrics, at)| listener(metrics, *at)).collect(),
            recent: self.recent(),
            certificates: self.certificates(&reported, &reload.report.failures),
            rollouts: self.rollouts(),
            client_cas: self.each(&reported, |reported| &reported.cas),
            crls: self.each(&reported, |reported| &reported.crls),
            reload: reload_view(reload),
            backends: self.backends(),
            names: names.iter().map(name).collect(),
            resources: ResourcesView {
                memory_limit_bytes: self.memory_limit,
                used: metrics.resources(),
            },
            page_ends_sessions: self.page_ends_sessions,
        })
    }

    fn certificates<'a>(
        &'a self,
        reported: &'a [Reported],
        failures: &'a [String],
    ) -> Vec<OfListener<'a, CertificateView<'a>>> {
        let listeners = self.history.listeners.iter().zip(reported);
        let of_listener = |(metrics, reported): (&'a Arc<ListenerMetrics>, &'a Reported)| {
            let listener = metrics.name();
            reported.certificates.iter().map(move |active| {
                let files = [&active.cert, &active.key_file];
                let is_rejection =
                    |failure: &&String| files.iter().any(|file| is_about(failure, listener, file));
                let rejected = failures.iter().find(is_rejection);
                let rejected = rejected.map(String::as_str);
                OfListener { listener, value: CertificateView { active, rejected } }
            })
        };
        listeners.flat_map(of_listener).collect()
    }

    /// Returns the values of all listeners in one list.
    fn each<'a, T: Clone + 'a>(
        &'a self,
        reported: &'a [Reported],
        values: impl Fn(&'a Reported) -> &'a Vec<T>,
    ) -> Vec<OfListener<'a, T>> {
        let listeners = self.history.listeners.iter().zip(reported);
        let of_listener = |(listener, reported): (&'a Arc<ListenerMetrics>, &'a Reported)| {
            let listener = listener.name();
            values(reported).iter().map(move |value| OfListener { listener, value: value.clone() })
        };
        listeners.flat_map(of_listener).collect()
    }

    fn rollouts(&self) -> Vec<OfListener<'_, RolloutView>> {
        let of_listener = |metrics: &'_ Arc<ListenerMetrics>| {
            metrics.rollouts().listed().iter().map(RolloutView::of).collect::<Vec<_>>()
        };
        let listeners = self.history.listeners.iter();
        let named = listeners.flat_map(|metrics| {
            let listener = metrics.name();
            of_listener(metrics).into_iter().map(move |value| OfListener { listener, value })
        });
        named.collect()
    }

    fn backends(&self) -> Vec<OfListener<'_, BackendView>> {
        let of_listener = |metrics: &'_ Arc<ListenerMetrics>| {
            metrics.backends().iter().map(|b| backend(metrics, b)).collect::<Vec<_>>()
        };
        let listeners = self.history.listeners.iter();
        let named = listeners.flat_map(|metrics| {
            let listener = metrics.name();
            of_listener(metrics).into_iter().map(move |value| OfListener { listener, value })
        });
        named.collect()
    }

    fn recent(&self) -> RecentView<'_> {
        let now = Instant::now();
        let samples = self.history.recent(now);
        let ago = |sample: &Sample| now.saturating_duration_since(sample.ended).as_secs();
        let listeners = self.history.listeners.iter().enumerate();
        let listeners = listeners.map(|(place, metrics)| past(&samples, place, metrics.name()));
        RecentView {
            ended_seconds_ago: samples.iter().map(ago).collect(),
            listeners: listeners.collect(),
        }
    }
}

/// Returns whether a failure of a reload is a problem of this file for this listener (`reload.rs`).
fn is_about(failure: &str, listener: &str, file: &str) -> bool {
    let of_listener = failure.strip_prefix(&format!("listener {listener:?}: "));
    let of_file = of_listener.and_then(|rest| rest.strip_prefix(file));
    of_file.is_some_and(|rest| rest.starts_with([':', ' ']))
}

fn drain(shutdown: &Shutdown) -> DrainView {
    let limit = shutdown.close_limit();
    DrainView {
        started: shutdown.drain_started().map(unix_seconds),
        timeout_seconds: shutdown.drain_timeout().as_secs_f64(),
        spread_seconds: shutdown.drain_spread().unwrap_or_default().as_secs_f64(),
        waiting: shutdown.waiting(),
        max_closes_per_second: limit.map(|limit| limit.per_second.get()),
        least_seconds: limit.map(|limit| limit.least_time.as_secs_f64()),
        exceeds_timeout: limit.is_some_and(|limit| limit.exceeds_timeout),
    }
}

fn past<'a>(samples: &[Sample], place: usize, listener: &'a str) -> PastView<'a> {
    let increases: Vec<&Increase> = samples.iter().map(|s| &s.increases[place]).collect();
    let mut bytes = by_value(&increases, |increase| &increase.bytes);
    let mut bytes = |direction: Direction| {
        bytes.remove(direction.as_str()).unwrap_or_else(|| vec![0; samples.len()])
    };
    PastView {
        listener,
        accepted: increases.iter().map(|increase| increase.accepted).collect(),
        handshakes: increases.iter().map(|increase| increase.handshakes).collect(),
        active: increases.iter().map(|increase| increase.active).collect(),
        bytes_to_backend: bytes(Direction::ToBackend),
        bytes_to_client: bytes(Direction::ToClient),
        closed: by_value(&increases, |increase| &increase.closed),
        alerts: by_value(&increases, |increase| &increase.alerts),
        certificate_rejections: by_value(&increases, |i| &i.certificate_rejections),
        incompatible: by_value(&increases, |increase| &increase.incompatible),
        refused_suites: by_value(&increases, |increase| &increase.refused_suites),
        not_tls: by_value(&increases, |increase| &increase.not_tls),
        no_route: by_value(&increases, |increase| &increase.no_route),
    }
}

/// Returns for each value that occurred its counts in all samples.
fn by_value<L: ClosedSet>(
    increases: &[&Increase],
    counts: impl Fn(&Increase) -> &Vec<(L, u64)>,
) -> BTreeMap<&'static str, Vec<u64>> {
    let mut found = BTreeMap::new();
    for (at, increase) in increases.iter().enumerate() {
        for (value, count) in counts(increase) {
            let samples = found.entry(value.label()).or_insert_with(|| vec![0; increases.len()]);
            samples[at] = *count;
        }
    }
    found
}

/// Returns the values that occurred, with their counts.
fn occurred<L: ClosedSet>(counts: &[u64]) -> BTreeMap<&'static str, u64> {
    let counts = L::all().iter().zip(counts).filter(|(_, count)| **count > 0);
    counts.map(|(value, count)| (value.label(), *count)).collect()
}

fn listener(metrics: &ListenerMetrics, address: SocketAddr) -> ListenerView<'_> {
    let totals = metrics.totals();
    ListenerView {
        name: metrics.name(),
        address,
        load: metrics.load(),
        accepted: totals.accepted,
        handshakes: totals.handshakes,
        bytes_to_backend: metrics.bytes(Direction::ToBackend),
        bytes_to_client: metrics.bytes(Direction::ToClient),
        closed: occurred::<Reason>(&totals.closed),
        alerts: occurred::<Alert>(&totals.alerts),
        certificate_rejections: occurred::<RejectionCause>(&totals.certificate_rejections),
        incompatible: occurred::<Incompatible>(&totals.incompatible),
        refused_suites: occurred::<SuiteKind>(&totals.refused_suites),
        not_tls: occurred::<LooksLike>(&totals.not_tls),
        no_route: occurred::<NoRouteCause>(&totals.no_route),
    }
}

fn backend(listener: &ListenerMetrics, backend: &BackendMetrics) -> BackendView {
    let connects = ConnectResult::ALL.iter();
    BackendView {
        backend: backend.address().to_owned(),
        up: backend.is_up(),
        has_replacement: listener.has_replacement(backend.address()),
        sessions: backend.uses(),
        waiting: backend.waiting(),
        connects: connects.map(|r| (r.as_str(), backend.connects(*r))).collect(),
    }
}

fn name(status: &NameStatus) -> NameView<'_> {
    let NameStatus { name, addresses, age, error } = status;
    NameView { name, addresses, age_seconds: age.map(|age| age.as_secs()), error: error.as_deref() }
}

fn reload_view(status: &ReloadStatus) -> ReloadView<'_> {
    ReloadView {
        failing: status.report.outcome == ReloadOutcome::Failed,
        last_success: unix_seconds(status.last_success),
        last_swap: status.last_swap.map(unix_seconds),
        failures: &status.report.failures,
        waiting: &status.report.waiting,
    }
}
