//! The families of which each listener has children: names, labels, help, buckets.
//!
//! **Not here.** The children, and who moves them (`listener.rs`).

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use super::family::Maker;
use super::in_force::InForceFamilies;

/// From a millisecond on an idle core to a minute of a slow device in a storm.
const HANDSHAKE_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Of its parts, cryptography has a fraction of a millisecond; eight say enough.
const PART_BUCKETS: &[f64] = &[0.0001, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0];

/// From loopback to the connect timeout.
const CONNECT_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// From a report and a goodbye to a month.
const DURATION_BUCKETS: &[f64] =
    &[1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0];

const LISTENER: &[&str] = &["listener"];

/// The families of which each listener has children.
pub(super) struct Families {
    pub(super) connections: Connections,
    pub(super) handshakes: Handshakes,
    pub(super) offers: Offers,
    pub(super) backends: Backends,
    pub(super) sessions: Sessions,
    pub(super) in_force: InForceFamilies,
}

/// Of connections, from accept to close.
pub(super) struct Connections {
    pub(super) accepted: IntCounterVec,
    pub(super) active: IntGaugeVec,
    pub(super) limit: IntGaugeVec,
    pub(super) at_limit: IntGaugeVec,
    pub(super) accept_errors: IntCounterVec,
    pub(super) closed: IntCounterVec,
    pub(super) duration: HistogramVec,
    pub(super) bytes: IntCounterVec,
    pub(super) buffered: IntGaugeVec,
}

/// Of handshakes that are in progress or completed.
pub(super) struct Handshakes {
    pub(super) in_progress: IntGaugeVec,
    pub(super) handshakes: IntCounterVec,
    pub(super) handshake_duration: HistogramVec,
    pub(super) handshake_parts: HistogramVec,
    pub(super) groups: IntCounterVec,
    pub(super) certificates: IntCounterVec,
    pub(super) clients: IntCounterVec,
}

/// Of what clients offer and refuse.
pub(super) struct Offers {
    pub(super) hellos: IntCounterVec,
    pub(super) alerts: IntCounterVec,
    pub(super) incompatible: IntCounterVec,
    pub(super) refused_suites: IntCounterVec,
}

/// Of backends.
pub(super) struct Backends {
    pub(super) connect_duration: HistogramVec,
    pub(super) connects: IntCounterVec,
    pub(super) backend_up: IntGaugeVec,
}

/// Of sessions, as they are at the moment of a scrape.
pub(super) struct Sessions {
    pub(super) ages: IntGaugeVec,
    pub(super) silences: IntGaugeVec,
    pub(super) expiries: IntGaugeVec,
}

impl Families {
    pub(super) fn register(make: &Maker<'_>) -> Self {
        Self {
            connections: Connections::register(make),
            handshakes: Handshakes::register(make),
            offers: Offers::register(make),
            backends: Backends::register(make),
            sessions: Sessions::register(make),
            in_force: InForceFamilies::register(make),
        }
    }
}

impl Connections {
    fn register(make: &Maker<'_>) -> Self {
        Self {
            accepted: make.counters(
                "tlsidecar_connections_accepted_total",
                "Connections accepted.",
                LISTENER,
            ),
            active: make.gauges(
                "tlsidecar_connections_active",
                "Connections open now, those in their handshake included.",
                LISTENER,
            ),
            limit: make.gauges(
                "tlsidecar_connections_limit",
                "How many connections may be open at a time.",
                LISTENER,
            ),
            at_limit: make.gauges(
                "tlsidecar_connections_at_limit",
                "1 while the limit is reached and new connections wait in the kernel's backlog.",
                LISTENER,
            ),
            accept_errors: make.counters(
                "tlsidecar_accept_errors_total",
                "Connections that could not be accepted.",
                &["listener", "kind"],
            ),
            closed: make.counters(
                "tlsidecar_connections_closed_total",
                "Connections ended, by reason.",
                &["listener", "reason"],
            ),
            duration: make.histograms(
                "tlsidecar_connection_duration_seconds",
                "From accept to the end of a connection, whatever its reason.",
                LISTENER,
                DURATION_BUCKETS,
            ),
            bytes: make.counters(
                "tlsidecar_bytes_total",
                "Plaintext bytes relayed.",
                &["listener", "direction"],
            ),
            buffered: make.gauges(
                "tlsidecar_buffered_bytes",
                "What sessions hold because a peer does not take it yet, or as unfinished records.",
                LISTENER,
            ),
        }
    }
}

impl Handshakes {
    fn register(make: &Maker<'_>) -> Self {
        Self {
            in_progress: make.gauges(
                "tlsidecar_handshakes_in_progress",
                "Connections that are in their handshake now.",
                LISTENER,
            ),
            handshakes: make.counters(
                "tlsidecar_handshakes_total",
                "TLS handshakes completed.",
                &["listener", "version", "cipher", "kind"],
            ),
            handshake_duration: make.histograms(
                "tlsidecar_handshake_duration_seconds",
                "From accept to the end of a completed TLS handshake.",
                &["listener", "kind"],
                HANDSHAKE_BUCKETS,
            ),
            handshake_parts: make.histograms(
                "tlsidecar_handshake_part_seconds",
                "What the time of a completed TLS handshake went into.",
                &["listener", "part"],
                PART_BUCKETS,
            ),
            groups: make.counters(
                "tlsidecar_handshake_groups_total",
                "TLS handshakes completed, by the group of their key exchange.",
                &["listener", "group"],
            ),
            certificates: make.counters(
                "tlsidecar_handshake_certificates_total",
                "TLS handshakes completed, by the key of the certificate that the client was shown.",
                &["listener", "key"],
            ),
            clients: make.counters(
                "tlsidecar_handshake_clients_total",
                "TLS handshakes completed, by whether the client has shown a certificate.",
                &["listener", "certificate"],
            ),
        }
    }
}

impl Offers {
    fn register(make: &Maker<'_>) -> Self {
        Self {
            hellos: make.counters(
                "tlsidecar_client_hellos_total",
                "ClientHellos read, by the highest version that they offer.",
                &["listener", "version"],
            ),
            alerts: make.counters(
                "tlsidecar_client_alerts_total",
                "Fatal alerts that clients have given in their handshakes.",
                &["listener", "alert"],
            ),
            incompatible: make.counters(
                "tlsidecar_handshake_incompatible_total",
                "TLS handshakes refused for want of something in common.",
                &["listener", "what"],
            ),
            refused_suites: make.counters(
                "tlsidecar_refused_suites_total",
                "Clients refused for want of a common suite, by the best kind that they offered.",
                &["listener", "best"],
            ),
        }
    }
}

impl Backends {
    fn register(make: &Maker<'_>) -> Self {
        Self {
            connect_duration: make.histograms(
                "tlsidecar_backend_connect_duration_seconds",
                "From the look-up of the backend's name to an open connection.",
                LISTENER,
                CONNECT_BUCKETS,
            ),
            connects: make.counters(
                "tlsidecar_backend_connects_total",
                "Attempts to connect to a backend.",
                &["listener", "backend", "result"],
            ),
            backend_up: make.gauges(
                "tlsidecar_backend_up",
                "1 if the last attempt to connect to the backend succeeded, 0 if not.",
                &["listener", "backend"],
            ),
        }
    }
}

impl Sessions {
    fn register(make: &Maker<'_>) -> Self {
        Self {
            ages: make.gauges(
                "tlsidecar_sessions_by_age",
                "Sessions, by how old they are.",
                &["listener", "age"],
            ),
            silences: make.gauges(
                "tlsidecar_sessions_by_silence",
                "Sessions, by how long ago their last byte was relayed.",
                &["listener", "silence"],
            ),
            expiries: make.gauges(
                "tlsidecar_sessions_by_certificate_expiry",
                "Sessions, by when the client's own certificate expires.",
                &["listener", "expires"],
            ),
        }
    }
}
