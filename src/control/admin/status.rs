//! `GET /status`: how it all is, in one answer, for the page and for scripts.
//!
//! **Promises.** Its keys are public: added to, never renamed (docs/admin-api.md). Instants are in Unix
//! time, in whole seconds. Its size follows from the configuration, not from how many devices there are.
//!
//! **Not here.** What is counted (`metrics.rs`, `control/history.rs`), the page (`page.rs`), who is connected
//! (`views.rs`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde_json::{Map, Value, json};

use crate::control::history::{History, Sample};
use crate::lifecycle::Shutdown;
use crate::metrics::{
    BackendMetrics, CaInForce, CertificateInForce, CrlInForce, ListenerMetrics, NameStatus,
};
use crate::reload::ReloadStatus;
use crate::terms::labels::{ConnectResult, ReloadOutcome};
use crate::terms::reason::Reason;
use crate::time::unix_seconds;

/// What the process is known by for its whole life, and its recent past.
pub(crate) struct Status {
    started: Instant,
    /// In the order of the history's listeners.
    addresses: Vec<SocketAddr>,
    pub(super) history: History,
}

impl Status {
    /// Of these listeners, which listen there.
    pub(crate) fn new(listeners: Vec<(SocketAddr, Arc<ListenerMetrics>)>) -> Self {
        let (addresses, listeners) = listeners.into_iter().unzip();
        Self { started: Instant::now(), addresses, history: History::new(listeners) }
    }

    /// How it all is now.
    pub(super) fn tell(
        &self,
        shutdown: &Shutdown,
        files: &ReloadStatus,
        names: &[NameStatus],
    ) -> Value {
        let listeners = self.history.listeners.iter().zip(&self.addresses);
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "now": unix_seconds(SystemTime::now()),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "phase": shutdown.phase().as_str(),
            "drain": {
                "started": shutdown.drain_started().map(unix_seconds),
                "timeout_seconds": shutdown.drain_timeout().as_secs_f64(),
            },
            "listeners": listeners.map(|(metrics, at)| listener(metrics, *at)).collect::<Vec<_>>(),
            "recent": self.recent(),
            "certificates": self.each(certificates),
            "client_cas": self.each(client_cas),
            "crls": self.each(crls),
            "reload": reload(files),
            "backends": self.each(backends),
            "names": names.iter().map(name).collect::<Vec<_>>(),
        })
    }

    /// What `tell` has to say of each listener, in one list.
    fn each(&self, tell: impl Fn(&ListenerMetrics) -> Vec<Value>) -> Vec<Value> {
        self.history.listeners.iter().flat_map(|listener| tell(listener)).collect()
    }

    /// The last minutes: for each listener and what it counts a list, as long as that which tells how
    /// long ago the samples ended.
    fn recent(&self) -> Value {
        let now = Instant::now();
        let samples = self.history.recent(now);
        let ago = |sample: &Sample| now.saturating_duration_since(sample.ended).as_secs();
        let ended: Vec<_> = samples.iter().map(ago).collect();
        let listeners = self.history.listeners.iter().enumerate();
        let listeners: Vec<_> =
            listeners.map(|(place, metrics)| past(&samples, place, metrics.name())).collect();
        json!({ "ended_seconds_ago": ended, "listeners": listeners })
    }
}

fn past(samples: &[Sample], place: usize, name: &str) -> Value {
    let moved = || samples.iter().map(|sample| &sample.moved[place]);
    let mut closed = Map::new();
    for (at, moved) in moved().enumerate() {
        for (reason, count) in &moved.closed {
            let counts = closed
                .entry(reason.as_str())
                .or_insert_with(|| Value::Array(vec![json!(0); samples.len()]));
            counts[at] = json!(count);
        }
    }
    json!({
        "listener": name,
        "accepted": moved().map(|moved| moved.accepted).collect::<Vec<_>>(),
        "handshakes": moved().map(|moved| moved.handshakes).collect::<Vec<_>>(),
        "active": moved().map(|moved| moved.active).collect::<Vec<_>>(),
        "closed": closed,
    })
}

fn listener(metrics: &ListenerMetrics, address: SocketAddr) -> Value {
    let (load, counted) = (metrics.load(), metrics.counted());
    let closed = Reason::ALL.iter().zip(&counted.closed).filter(|(_, count)| **count > 0);
    let closed: Map<_, _> =
        closed.map(|(reason, count)| (reason.to_string(), json!(count))).collect();
    json!({
        "name": metrics.name(),
        "address": address.to_string(),
        "active": load.active,
        "limit": load.limit,
        "at_limit": load.at_limit,
        "handshakes_in_progress": load.handshakes_in_progress,
        "sessions": load.sessions,
        "accepted": counted.accepted,
        "handshakes": counted.handshakes,
        "closed": closed,
    })
}

fn certificates(metrics: &ListenerMetrics) -> Vec<Value> {
    let told = metrics.in_force().told().certificates;
    let tell = |c: &CertificateInForce| {
        json!({
            "listener": metrics.name(),
            "cert": c.cert,
            "issuer": c.issuer,
            "serial": c.serial,
            "sha256": c.sha256,
            "key": c.key,
            "not_before": c.not_before,
            "not_after": c.not_after,
        })
    };
    told.iter().map(tell).collect()
}

fn client_cas(metrics: &ListenerMetrics) -> Vec<Value> {
    let told = metrics.in_force().told().cas;
    let tell = |ca: &CaInForce| {
        json!({
            "listener": metrics.name(),
            "ca": ca.ca,
            "not_before": ca.not_before,
            "not_after": ca.not_after,
        })
    };
    told.iter().map(tell).collect()
}

fn crls(metrics: &ListenerMetrics) -> Vec<Value> {
    let told = metrics.in_force().told().crls;
    let tell = |crl: &CrlInForce| json!({ "listener": metrics.name(), "crl": crl.crl, "next_update": crl.next_update });
    told.iter().map(tell).collect()
}

fn backends(metrics: &ListenerMetrics) -> Vec<Value> {
    let backends = metrics.backends();
    let tell = |backend: &Arc<BackendMetrics>| {
        let connects = ConnectResult::ALL.iter();
        let connects: Map<_, _> =
            connects.map(|r| (r.to_string(), json!(backend.connects(*r)))).collect();
        json!({
            "listener": metrics.name(),
            "backend": backend.address(),
            "up": backend.is_up(),
            "connects": connects,
        })
    };
    backends.iter().map(tell).collect()
}

fn name(name: &NameStatus) -> Value {
    let NameStatus { name, addresses, age, error } = name;
    json!({
        "name": name,
        "addresses": addresses,
        "age_seconds": age.map(|age| age.as_secs()),
        "error": error,
    })
}

fn reload(files: &ReloadStatus) -> Value {
    json!({
        "failing": files.report.outcome == ReloadOutcome::Failed,
        "last_success": unix_seconds(files.last_success),
        "last_swap": files.last_swap.map(unix_seconds),
        "failures": files.report.failures,
        "waiting": files.report.waiting,
    })
}
