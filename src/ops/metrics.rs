//! Every metric of the process.
//!
//! **Promises.** All names and label sets are here and in docs/metrics.md, which a test compares.
//! Label values come from closed sets or from the configuration, never from a client. Children
//! exist from the first scrape, so a counter's first increase is seen, and the data path moves them
//! by one atomic addition, without a look-up.
//!
//! **Not here.** The port that they are read from (`admin.rs`).

mod labels;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use self::labels::{AcceptError, Cipher, Direction, HandshakeKind, ReloadOutcome};
use crate::proxy::reason::Reason;

/// From a millisecond on an idle core to a minute of a slow device in a storm.
const HANDSHAKE_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// From loopback to the connect timeout.
const CONNECT_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// The metrics of one process, in a registry of their own.
pub struct Metrics {
    registry: Registry,
    families: Families,
    reloads: Vec<IntCounter>,
    reload_failing: IntGauge,
    reload_last_success: Gauge,
    log_lines_dropped: IntCounter,
}

struct Families {
    accepted: IntCounterVec,
    active: IntGaugeVec,
    limit: IntGaugeVec,
    at_limit: IntGaugeVec,
    accept_errors: IntCounterVec,
    closed: IntCounterVec,
    bytes: IntCounterVec,
    handshakes: IntCounterVec,
    handshake_duration: HistogramVec,
    connect_duration: HistogramVec,
    not_after: GaugeVec,
}

/// The metrics of one listener: handles that are moved without a look-up.
pub struct ListenerMetrics {
    name: String,
    accepted: IntCounter,
    active: IntGauge,
    limit: IntGauge,
    at_limit: IntGauge,
    /// In the order of [`AcceptError::ALL`].
    accept_errors: Vec<IntCounter>,
    /// In the order of [`Reason::ALL`].
    closed: Vec<IntCounter>,
    /// In the order of [`Direction::ALL`].
    bytes: Vec<IntCounter>,
    /// In the order of [`HandshakeKind::ALL`].
    handshake_duration: Vec<Histogram>,
    connect_duration: Histogram,
    /// In the order of [`Cipher::ALL`], and for each of [`HandshakeKind::ALL`].
    handshakes: Vec<IntCounter>,
    not_after: GaugeVec,
}

impl Metrics {
    /// The metrics of a process; those of its listeners are added by [`Self::listener`].
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let families = Families::register(&registry);
        let reloads = register(
            &registry,
            IntCounterVec::new(
                Opts::new(
                    "tlsidecar_reloads_total",
                    "Attempts to load certificates and configuration again.",
                ),
                &["outcome"],
            ),
        );
        let build = register(
            &registry,
            IntGaugeVec::new(
                Opts::new("tlsidecar_build_info", "Always 1; the labels tell what is running."),
                &["version"],
            ),
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            families,
            reloads: ReloadOutcome::ALL
                .iter()
                .map(|o| reloads.with_label_values(&[o.as_str()]))
                .collect(),
            reload_failing: register(
                &registry,
                IntGauge::new(
                    "tlsidecar_reload_failing",
                    "1 while the last attempt to reload has failed and an older snapshot is in force.",
                ),
            ),
            reload_last_success: register(
                &registry,
                Gauge::new(
                    "tlsidecar_reload_last_success_timestamp_seconds",
                    "When certificates and configuration were last found good, in Unix time.",
                ),
            ),
            log_lines_dropped: register(
                &registry,
                IntCounter::new(
                    "tlsidecar_log_lines_dropped_total",
                    "Log lines lost because standard error did not take them in time.",
                ),
            ),
            registry,
        }
    }

    /// The metrics of the listener `name`, all of them there from now on.
    #[must_use]
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        let f = &self.families;
        let kinds = |cipher| HandshakeKind::ALL.iter().map(move |kind| (cipher, kind));
        let handshakes = Cipher::ALL.iter().flat_map(kinds).map(|(cipher, kind)| {
            let labels = [name, cipher.version(), cipher.as_str(), kind.as_str()];
            f.handshakes.with_label_values(&labels)
        });
        Arc::new(ListenerMetrics {
            name: name.to_owned(),
            accepted: f.accepted.with_label_values(&[name]),
            active: f.active.with_label_values(&[name]),
            limit: f.limit.with_label_values(&[name]),
            at_limit: f.at_limit.with_label_values(&[name]),
            accept_errors: AcceptError::ALL
                .iter()
                .map(|e| f.accept_errors.with_label_values(&[name, e.as_str()]))
                .collect(),
            closed: Reason::ALL
                .iter()
                .map(|r| f.closed.with_label_values(&[name, r.as_str()]))
                .collect(),
            bytes: Direction::ALL
                .iter()
                .map(|d| f.bytes.with_label_values(&[name, d.as_str()]))
                .collect(),
            handshake_duration: HandshakeKind::ALL
                .iter()
                .map(|k| f.handshake_duration.with_label_values(&[name, k.as_str()]))
                .collect(),
            connect_duration: f.connect_duration.with_label_values(&[name]),
            handshakes: handshakes.collect(),
            not_after: f.not_after.clone(),
        })
    }

    /// Counts a reload and remembers whether the last one was good.
    pub(crate) fn reloaded(&self, outcome: ReloadOutcome, now: SystemTime) {
        self.reloads[outcome as usize].inc();
        self.looked_at(outcome, now);
    }

    /// Remembers whether the files were good when they were last looked at.
    pub(crate) fn looked_at(&self, outcome: ReloadOutcome, now: SystemTime) {
        self.reload_failing.set(i64::from(outcome == ReloadOutcome::Failed));
        if outcome != ReloadOutcome::Failed {
            self.reload_last_success.set(unix_seconds(now));
        }
    }

    /// Takes over how many log lines have been dropped since the process started.
    pub(crate) fn set_log_lines_dropped(&self, total: u64) {
        self.log_lines_dropped.inc_by(total.saturating_sub(self.log_lines_dropped.get()));
    }

    /// Everything in the Prometheus text format, and its content type.
    ///
    /// # Errors
    /// If the encoder fails, which for memory it does not.
    pub fn render(&self) -> io::Result<(Vec<u8>, &'static str)> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).map_err(io::Error::other)?;
        Ok((text, prometheus::TEXT_FORMAT))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Families {
    fn register(registry: &Registry) -> Self {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str| {
            register(registry, IntGaugeVec::new(Opts::new(name, help), &["listener"]))
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            register(registry, HistogramVec::new(opts, labels))
        };
        Self {
            accepted: counter(
                "tlsidecar_connections_accepted_total",
                "Connections accepted.",
                &["listener"],
            ),
            active: gauge(
                "tlsidecar_connections_active",
                "Connections open now, those in their handshake included.",
            ),
            limit: gauge(
                "tlsidecar_connections_limit",
                "How many connections may be open at a time.",
            ),
            at_limit: gauge(
                "tlsidecar_connections_at_limit",
                "1 while the limit is reached and new connections wait in the kernel's backlog.",
            ),
            accept_errors: counter(
                "tlsidecar_accept_errors_total",
                "Connections that could not be accepted.",
                &["listener", "kind"],
            ),
            closed: counter(
                "tlsidecar_connections_closed_total",
                "Connections ended, by reason.",
                &["listener", "reason"],
            ),
            bytes: counter(
                "tlsidecar_bytes_total",
                "Plaintext bytes relayed.",
                &["listener", "direction"],
            ),
            handshakes: counter(
                "tlsidecar_handshakes_total",
                "TLS handshakes completed.",
                &["listener", "version", "cipher", "kind"],
            ),
            handshake_duration: histogram(
                "tlsidecar_handshake_duration_seconds",
                "From accept to the end of a completed TLS handshake.",
                &["listener", "kind"],
                HANDSHAKE_BUCKETS,
            ),
            connect_duration: histogram(
                "tlsidecar_backend_connect_duration_seconds",
                "From the look-up of the backend's name to an open connection.",
                &["listener"],
                CONNECT_BUCKETS,
            ),
            not_after: register(
                registry,
                GaugeVec::new(
                    Opts::new(
                        "tlsidecar_certificate_not_after_timestamp_seconds",
                        "When the certificate in force expires, in Unix time.",
                    ),
                    &["listener", "cert"],
                ),
            ),
        }
    }
}

impl ListenerMetrics {
    /// The listener's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn accepted(&self) {
        self.accepted.inc();
        self.active.inc();
    }

    pub(crate) fn closed(&self, reason: Reason) {
        self.active.dec();
        self.closed[reason as usize].inc();
    }

    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    pub(crate) fn set_at_limit(&self, at_limit: bool) {
        self.at_limit.set(i64::from(at_limit));
    }

    pub(crate) fn accept_failed(&self, error: AcceptError) {
        self.accept_errors[error as usize].inc();
    }

    pub(crate) fn relayed(&self, direction: Direction, bytes: u64) {
        self.bytes[direction as usize].inc_by(bytes);
    }

    pub(crate) fn handshaken(&self, cipher: Cipher, kind: HandshakeKind, took: Duration) {
        self.handshakes[cipher as usize * HandshakeKind::ALL.len() + kind as usize].inc();
        self.handshake_duration[kind as usize].observe(took.as_secs_f64());
    }

    pub(crate) fn connected(&self, took: Duration) {
        self.connect_duration.observe(took.as_secs_f64());
    }

    /// Replaces what is told of the certificates in force: each with its expiry in Unix time.
    pub(crate) fn set_certificates<'a>(&self, certificates: impl Iterator<Item = (&'a str, i64)>) {
        let certificates: Vec<_> = certificates.collect();
        for family in self.not_after.collect() {
            for metric in family.get_metric() {
                let label = |name: &str| {
                    metric.get_label().iter().find(|l| l.name() == name).map_or("", |l| l.value())
                };
                let kept = certificates.iter().any(|(cert, _)| *cert == label("cert"));
                if label("listener") == self.name && !kept {
                    // It fails only if another thread was faster.
                    let _gone = self.not_after.remove_label_values(&[&self.name, label("cert")]);
                }
            }
        }
        for (cert, not_after) in certificates {
            #[expect(clippy::cast_precision_loss, reason = "exact until the year 285 million")]
            self.not_after.with_label_values(&[self.name.as_str(), cert]).set(not_after as f64);
        }
    }
}

/// Registers a metric whose name and labels are written above, and so are known to be right.
fn register<T: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<T>,
) -> T {
    let metric = metric.expect("names and labels are constants that a test has seen registered");
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
    metric
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}
