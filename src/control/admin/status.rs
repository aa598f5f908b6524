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
use crate::metrics::{
    ActiveCa, ActiveCertificate, ActiveCrl, BackendMetrics, ListenerMetrics, Load, NameStatus,
    Reported,
};
use crate::reload::ReloadStatus;
use crate::terms::labels::{ConnectResult, Direction, ReloadOutcome};
use crate::terms::reason::Reason;
use crate::text::one_line;
use crate::time::unix_seconds;

/// The listeners with their addresses, the start of the process, and its recent past.
pub(crate) struct Status {
    started: Instant,
    host: String,
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
    certificates: Vec<OfListener<'a, ActiveCertificate>>,
    rollouts: Vec<OfListener<'a, RolloutView>>,
    client_cas: Vec<OfListener<'a, ActiveCa>>,
    crls: Vec<OfListener<'a, ActiveCrl>>,
    reload: ReloadView<'a>,
    backends: Vec<OfListener<'a, BackendView>>,
    names: Vec<NameView<'a>>,
}

#[derive(Serialize)]
struct DrainView {
    started: Option<i64>,
    timeout_seconds: f64,
    spread_seconds: f64,
    /// Sessions that are closed as soon as their exchange has ended.
    waiting: usize,
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
    /// Only reasons that occurred.
    closed: BTreeMap<&'static str, u64>,
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
    closed: BTreeMap<&'static str, Vec<u64>>,
}

/// A value with the name of its listener beside its own keys.
#[derive(Serialize)]
struct OfListener<'a, T> {
    listener: &'a str,
    #[serde(flatten)]
    value: T,
}

#[derive(Serialize)]
struct BackendView {
    backend: String,
    up: Option<bool>,
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
    /// Starts the history of these listeners, which listen on these addresses.
    pub(crate) fn new(listeners: Vec<(SocketAddr, Arc<ListenerMetrics>)>) -> Self {
        let (addresses, listeners) = listeners.into_iter().unzip();
        // uname(2). A host without it, or a hidden /proc, has no name on the page.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = one_line(host.trim()).into_owned();
        Self { started: Instant::now(), host, addresses, history: History::new(listeners) }
    }

    /// Returns the current status as JSON.
    pub(super) fn json(
        &self,
        shutdown: &Shutdown,
        reload: &ReloadStatus,
        names: &[NameStatus],
    ) -> String {
        let listeners = self.history.listeners.iter().zip(&self.addresses);
        let reported = |listener: &Arc<ListenerMetrics>| listener.active().reported();
        let reported: Vec<Reported> = self.history.listeners.iter().map(reported).collect();
        to_json(&StatusView {
            version: env!("CARGO_PKG_VERSION"),
            host: &self.host,
            now: unix_seconds(SystemTime::now()),
            uptime_seconds: self.started.elapsed().as_secs(),
            phase: shutdown.phase().as_str(),
            drain: DrainView {
                started: shutdown.drain_started().map(unix_seconds),
                timeout_seconds: shutdown.drain_timeout().as_secs_f64(),
                spread_seconds: shutdown.drain_spread().unwrap_or_default().as_secs_f64(),
                waiting: shutdown.waiting(),
            },
            listeners: listeners.map(|(metrics, at)| listener(metrics, *at)).collect(),
            recent: self.recent(),
            certificates: self.each(&reported, |reported| &reported.certificates),
            rollouts: self.rollouts(),
            client_cas: self.each(&reported, |reported| &reported.cas),
            crls: self.each(&reported, |reported| &reported.crls),
            reload: reload_view(reload),
            backends: self.backends(),
            names: names.iter().map(name).collect(),
        })
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
            metrics.backends().iter().map(|b| backend(b)).collect::<Vec<_>>()
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

fn past<'a>(samples: &[Sample], place: usize, listener: &'a str) -> PastView<'a> {
    let increases: Vec<&Increase> = samples.iter().map(|s| &s.increases[place]).collect();
    let mut closed = BTreeMap::new();
    for (at, increase) in increases.iter().enumerate() {
        for (reason, count) in &increase.closed {
            let counts = closed.entry(reason.as_str()).or_insert_with(|| vec![0; samples.len()]);
            counts[at] = *count;
        }
    }
    PastView {
        listener,
        accepted: increases.iter().map(|increase| increase.accepted).collect(),
        handshakes: increases.iter().map(|increase| increase.handshakes).collect(),
        active: increases.iter().map(|increase| increase.active).collect(),
        closed,
    }
}

fn listener(metrics: &ListenerMetrics, address: SocketAddr) -> ListenerView<'_> {
    let totals = metrics.totals();
    let closed = Reason::ALL.iter().zip(&totals.closed).filter(|(_, count)| **count > 0);
    ListenerView {
        name: metrics.name(),
        address,
        load: metrics.load(),
        accepted: totals.accepted,
        handshakes: totals.handshakes,
        bytes_to_backend: metrics.bytes(Direction::ToBackend),
        bytes_to_client: metrics.bytes(Direction::ToClient),
        closed: closed.map(|(reason, count)| (reason.as_str(), *count)).collect(),
    }
}

fn backend(backend: &BackendMetrics) -> BackendView {
    let connects = ConnectResult::ALL.iter();
    BackendView {
        backend: backend.address().to_owned(),
        up: backend.is_up(),
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
