//! The metrics of one listener.
//!
//! **Promises.** All children exist from the first scrape, except those of certificates, CAs, CRLs and backends,
//! which come and go with the configuration, those of rollouts and of missing routes, which begin with it, and those of other
//! protocols than TLS and of unfinished handshakes, which begin with their first connection.
//!
//! **Not here.** Backends (`backends.rs`), TLS material (`active.rs`), rollouts (`rollouts.rs`). `proxy/record.rs`
//! alone updates the connection metrics, except for the relayed bytes, which the session counts (`sessions.rs`).

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge, Registry};

use super::active::{Active, ActiveFamilies};
use super::backends::{BackendFamilies, BackendMetrics, Backends};
use super::declare::{BySuite, Later, Set, declare_metrics};
use super::rollouts::{RolloutFamilies, Rollouts};
use crate::config::{BackendList, Balance};
use crate::events::Events;
use crate::terms::closed_set::ClosedSet;
use crate::terms::labels::{
    AcceptError, Age, Alert, ClientCertificate, Direction, Expiry, Group, HandshakeKind,
    HandshakePart, HandshakeStage, Incompatible, Interruption, KeyKind, LooksLike, NoRouteCause,
    OfferedVersion, RejectionCause, ResumptionOutcome, Silence, SuiteKind,
};
use crate::terms::negotiated::Negotiated;
use crate::terms::reason::Reason;

/// From a millisecond on an idle core to a minute of a slow device in a storm.
const HANDSHAKE_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Cryptography takes a fraction of a millisecond. Eight buckets are enough to see which part grows.
const PART_BUCKETS: &[f64] = &[0.0001, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0];

/// From loopback to the connect timeout.
const CONNECT_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// From a server on the same machine to one that hangs. Few, because the order of magnitude is enough.
const FIRST_BYTE_BUCKETS: &[f64] = &[0.01, 0.1, 1.0, 10.0];

/// From a device that sends one report to a month.
const DURATION_BUCKETS: &[f64] =
    &[1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0];

declare_metrics! {
    struct ListenerHandles of OwnFamilies {
        accepted: IntCounter
            = "tlsidecar_connections_accepted_total" ["listener"]
            "Connections accepted.";
        active: IntGauge
            = "tlsidecar_connections_active" ["listener"]
            "Open connections, including those in their handshake.";
        limit: IntGauge
            = "tlsidecar_connections_limit" ["listener"]
            "Maximum number of open connections.";
        at_limit: IntGauge
            = "tlsidecar_connections_at_limit" ["listener"]
            "1 while as many connections are open as may be, and the next ones wait in the backlog.";
        accept_errors: Set<AcceptError, IntCounter>
            = "tlsidecar_accept_errors_total" ["listener", "kind"]
            "Connections that could not be accepted.";
        closed: Set<Reason, IntCounter>
            = "tlsidecar_connections_closed_total" ["listener", "reason"]
            "Connections ended, by reason.";
        duration: Histogram
            = "tlsidecar_connection_duration_seconds" ["listener"]
            "Time from accept to the end of a connection, for all reasons.", DURATION_BUCKETS;
        bytes: Set<Direction, IntCounter>
            = "tlsidecar_bytes_total" ["listener", "direction"]
            "Plaintext bytes relayed.";
        buffered: IntGauge
            = "tlsidecar_buffered_bytes" ["listener"]
            "Bytes that sessions hold because a peer does not read them yet, or as incomplete records.";
        handshakes_in_progress: IntGauge
            = "tlsidecar_handshakes_in_progress" ["listener"]
            "Connections in their handshake.";
        handshakes_waiting: IntGauge
            = "tlsidecar_handshakes_waiting" ["listener"]
            "Connections whose ClientHello waits for its turn.";
        handshakes: BySuite<Set<HandshakeKind, IntCounter>>
            = "tlsidecar_handshakes_total" ["listener", "version", "cipher", "kind"]
            "TLS handshakes completed.";
        handshake_duration: Set<HandshakeKind, Histogram>
            = "tlsidecar_handshake_duration_seconds" ["listener", "kind"]
            "Time from accept to the end of a completed TLS handshake.", HANDSHAKE_BUCKETS;
        handshake_parts: Set<HandshakePart, Histogram>
            = "tlsidecar_handshake_part_seconds" ["listener", "part"]
            "Parts of the time of a TLS handshake.", PART_BUCKETS;
        unfinished: Set<Interruption, Set<HandshakeStage, Later<IntCounter>>>
            = "tlsidecar_handshake_unfinished_total" ["listener", "how", "stage"]
            "TLS handshakes that the client did not finish, by how it stopped and how far it had come.";
        accept_queue: IntGauge
            = "tlsidecar_accept_queue" ["listener"]
            "Connections that the kernel has established and that are not accepted yet.";
        groups: Set<Group, IntCounter>
            = "tlsidecar_handshake_groups_total" ["listener", "group"]
            "TLS handshakes completed, by the group of the key exchange.";
        certificates: Set<KeyKind, IntCounter>
            = "tlsidecar_handshake_certificates_total" ["listener", "key"]
            "TLS handshakes completed, by the key type of the server certificate.";
        clients: Set<ClientCertificate, IntCounter>
            = "tlsidecar_handshake_clients_total" ["listener", "certificate"]
            "TLS handshakes completed, by the client's certificate.";
        resumptions: Set<ResumptionOutcome, IntCounter>
            = "tlsidecar_resumptions_total" ["listener", "outcome"]
            "Sessions that clients offered to resume, in completed TLS handshakes.";
        hellos: Set<OfferedVersion, IntCounter>
            = "tlsidecar_client_hellos_total" ["listener", "version"]
            "ClientHellos read, by the highest version that they offer.";
        alerts: Set<Alert, IntCounter>
            = "tlsidecar_client_alerts_total" ["listener", "alert"]
            "Fatal alerts that clients sent in their handshakes.";
        rejections: Set<RejectionCause, Later<IntCounter>>
            = "tlsidecar_certificate_rejections_total" ["listener", "likely_cause"]
            "Handshakes in which the client rejected the server certificate with an alert, by the likely cause.";
        incompatible: Set<Incompatible, IntCounter>
            = "tlsidecar_handshake_incompatible_total" ["listener", "what"]
            "TLS handshakes refused because client and listener have nothing in common.";
        refused_suites: Set<SuiteKind, IntCounter>
            = "tlsidecar_refused_suites_total" ["listener", "best"]
            "Clients refused because no cipher suite is in common, by the best kind that they offered.";
        not_tls: Set<LooksLike, Later<IntCounter>>
            = "tlsidecar_not_tls_total" ["listener", "looks_like"]
            "Connections that do not begin with TLS, by the protocol that their first bytes look like. Those that end as proxy_header_unexpected count too.";
        no_route: Later<Set<NoRouteCause, IntCounter>>
            = "tlsidecar_no_route_total" ["listener", "what"]
            "Connections without a route, by the condition that they do not meet.";
        connect_duration: Histogram
            = "tlsidecar_backend_connect_duration_seconds" ["listener"]
            "Time from the look-up of the backend's name to the open connection.", CONNECT_BUCKETS;
        first_byte: Histogram
            = "tlsidecar_backend_first_byte_seconds" ["listener"]
            "Time from the first byte to the backend, or from the connect, to its first byte.", FIRST_BYTE_BUCKETS;
        waiting_for_backend: IntGauge
            = "tlsidecar_backend_silent_sessions" ["listener"]
            "Sessions whose device sent last and has had no answer for 30 seconds.";
        ages: Set<Age, IntGauge>
            = "tlsidecar_sessions_by_age" ["listener", "age"]
            "Sessions, by age.";
        silences: Set<Silence, IntGauge>
            = "tlsidecar_sessions_by_silence" ["listener", "silence"]
            "Sessions, by the time since their last relayed byte.";
        expiries: Set<Expiry, IntGauge>
            = "tlsidecar_sessions_by_certificate_expiry" ["listener", "expires"]
            "Sessions, by the expiry of the client's certificate.";
    }
}

/// The families of which each listener has children.
pub(super) struct ListenerFamilies {
    own: OwnFamilies,
    backends: BackendFamilies,
    active: ActiveFamilies,
    rollouts: RolloutFamilies,
    events: Arc<Events>,
}

/// The metrics of one listener: handles that are moved without a look-up.
pub struct ListenerMetrics {
    name: String,
    own: ListenerHandles,
    backends: Backends,
    active: Active,
    rollouts: Rollouts,
    events: Arc<Events>,
}

/// The load of a listener at one moment. Its fields are keys of `listeners` in `GET /status`.
#[derive(serde::Serialize)]
pub(crate) struct Load {
    pub(crate) active: i64,
    pub(crate) limit: i64,
    pub(crate) at_limit: bool,
    pub(crate) handshakes_in_progress: i64,
    /// As of the last scrape, as the next.
    pub(crate) sessions: i64,
    /// Sessions whose client sent last and has had no answer for 30 seconds.
    pub(crate) backend_silent_sessions: i64,
}

/// The counters of a listener since the process started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) accepted: u64,
    /// Completed handshakes.
    pub(crate) handshakes: u64,
    /// For each of [`Direction::ALL`].
    pub(crate) bytes: Vec<u64>,
    /// For each of [`Reason::ALL`].
    pub(crate) closed: Vec<u64>,
    /// For each of [`Alert::ALL`].
    pub(crate) alerts: Vec<u64>,
    /// For each of [`RejectionCause::ALL`].
    pub(crate) certificate_rejections: Vec<u64>,
    /// For each of [`Incompatible::ALL`].
    pub(crate) incompatible: Vec<u64>,
    /// For each of [`SuiteKind::ALL`].
    pub(crate) refused_suites: Vec<u64>,
    /// For each of [`LooksLike::ALL`].
    pub(crate) not_tls: Vec<u64>,
    /// For each of [`NoRouteCause::ALL`].
    pub(crate) no_route: Vec<u64>,
}

/// Statistics of the sessions of a listener at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionStats {
    pub(crate) ages: [u32; Age::ALL.len()],
    pub(crate) silences: [u32; Silence::ALL.len()],
    pub(crate) expiries: [u32; Expiry::ALL.len()],
    pub(crate) buffered_bytes: u64,
    /// Sessions whose client sent last and has had no answer for 30 seconds.
    pub(crate) waiting_for_backend: u32,
}

impl ListenerFamilies {
    pub(super) fn register(registry: &Registry, events: &Arc<Events>) -> Self {
        Self {
            own: OwnFamilies::register(registry),
            backends: BackendFamilies::register(registry),
            active: ActiveFamilies::register(registry),
            rollouts: RolloutFamilies::register(registry),
            events: Arc::clone(events),
        }
    }

    /// Returns the metrics of the listener `name`.
    pub(super) fn listener(&self, name: &str) -> ListenerMetrics {
        ListenerMetrics {
            name: name.to_owned(),
            own: self.own.children(&[name]),
            backends: self.backends.listener(name, &self.events),
            active: self.active.listener(name),
            rollouts: self.rollouts.listener(name),
            events: Arc::clone(&self.events),
        }
    }
}

impl ListenerMetrics {
    /// Returns the listener's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The events of the process.
    pub(crate) const fn events(&self) -> &Arc<Events> {
        &self.events
    }

    pub(crate) fn accepted(&self) {
        self.own.accepted.inc();
        self.own.active.inc();
        self.own.handshakes_in_progress.inc();
    }

    pub(crate) fn closed(&self, reason: Reason, age: Duration) {
        self.own.active.dec();
        self.own.closed[reason].inc();
        self.own.duration.observe(age.as_secs_f64());
    }

    pub(crate) fn set_limit(&self, limit: usize) {
        self.own.limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    pub(crate) fn set_at_limit(&self, at_limit: bool) {
        self.own.at_limit.set(i64::from(at_limit));
    }

    pub(crate) fn set_waiting(&self, waiting: usize) {
        self.own.handshakes_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    pub(crate) fn accept_failed(&self, error: AcceptError) {
        self.own.accept_errors[error].inc();
    }

    pub(crate) fn relayed(&self, direction: Direction, bytes: u64) {
        self.own.bytes[direction].inc_by(bytes);
    }

    /// Returns the plaintext bytes relayed since the process started.
    pub(crate) fn bytes(&self, direction: Direction) -> u64 {
        self.own.bytes[direction].get()
    }

    pub(crate) fn on_client_hello(&self, version: OfferedVersion) {
        self.own.hellos[version].inc();
    }

    /// Counts the end of a handshake, completed or not.
    pub(crate) fn handshake_ended(&self) {
        self.own.handshakes_in_progress.dec();
    }

    /// Returns the completed handshakes with a certificate of this key type.
    pub(crate) fn handshakes_with(&self, key: KeyKind) -> u64 {
        self.own.certificates[key].get()
    }

    /// Counts a completed handshake: `took` is the time since accept, `wait` the part before a worker first
    /// polled the connection and that between a ClientHello and our answer, `crypto` the part that TLS itself took.
    pub(crate) fn on_handshake(
        &self,
        negotiated: &Negotiated,
        took: Duration,
        wait: Duration,
        crypto: Duration,
    ) {
        let Negotiated { cipher, kind, group, key, client, resumption, offer: _, alpn: _ } =
            *negotiated;
        self.own.handshakes[cipher][kind].inc();
        self.own.handshake_duration[kind].observe(took.as_secs_f64());
        self.own.groups[group].inc();
        self.own.certificates[key].inc();
        self.own.clients[client].inc();
        if let Some(outcome) = resumption {
            self.own.resumptions[outcome].inc();
        }
        let waited_for_client = took.saturating_sub(wait).saturating_sub(crypto);
        for (part, time) in [
            (HandshakePart::Wait, wait),
            (HandshakePart::Client, waited_for_client),
            (HandshakePart::Crypto, crypto),
        ] {
            self.own.handshake_parts[part].observe(time.as_secs_f64());
        }
    }

    pub(crate) fn alerted(&self, alert: Alert) {
        self.own.alerts[alert].inc();
    }

    /// Counts a client that rejected the server certificate.
    pub(crate) fn rejected(&self, cause: RejectionCause) {
        self.own.rejections[cause].used().inc();
    }

    pub(crate) fn refused(&self, what: Incompatible, best_suite: SuiteKind) {
        self.own.incompatible[what].inc();
        if what == Incompatible::CipherSuite {
            self.own.refused_suites[best_suite].inc();
        }
    }

    pub(crate) fn not_tls(&self, looks_like: LooksLike) {
        self.own.not_tls[looks_like].used().inc();
    }

    pub(crate) fn no_route(&self, cause: NoRouteCause) {
        self.own.no_route.used()[cause].inc();
    }

    /// Exports the counters of connections without a route: the listener has no backend of its own.
    pub(crate) fn export_no_route(&self) {
        self.own.no_route.used();
    }

    /// Counts a handshake that its client did not finish.
    pub(crate) fn unfinished(&self, how: Interruption, stage: HandshakeStage) {
        self.own.unfinished[how][stage].used().inc();
    }

    /// Observes the wait of a client whose handshake failed after its ClientHello.
    pub(crate) fn waited(&self, wait: Duration) {
        self.own.handshake_parts[HandshakePart::Wait].observe(wait.as_secs_f64());
    }

    pub(crate) fn set_accept_queue(&self, connections: u32) {
        self.own.accept_queue.set(connections.into());
    }

    pub(crate) fn connected(&self, took: Duration) {
        self.own.connect_duration.observe(took.as_secs_f64());
    }

    /// The first byte of a backend has come, after this time.
    pub(crate) fn first_byte(&self, awaited: Duration) {
        self.own.first_byte.observe(awaited.as_secs_f64());
    }

    /// Returns the metrics of the backend at `address`.
    pub(crate) fn backend(&self, address: &str) -> Arc<BackendMetrics> {
        self.backends.get(address)
    }

    /// Replaces the exported backends by those of these lists, which are used in this way.
    pub(crate) fn set_backends<'a>(
        &self,
        lists: impl Iterator<Item = &'a BackendList>,
        balance: Balance,
    ) {
        let list = |list: &BackendList| list.addresses().iter().map(ToString::to_string).collect();
        self.backends.replace(lists.map(list).collect(), balance);
    }

    /// Returns the configured backends, ordered by address.
    pub(crate) fn backends(&self) -> Vec<Arc<BackendMetrics>> {
        self.backends.all()
    }

    /// Returns whether another backend can serve the devices of the one at this address; none if it is in no list of several.
    pub(crate) fn has_replacement(&self, address: &str) -> Option<bool> {
        self.backends.has_replacement(address)
    }

    /// Brings the state of the backends up to date.
    pub(crate) fn publish_backends(&self) {
        self.backends.publish();
    }

    /// Replaces the statistics of the sessions.
    pub(crate) fn set_session_stats(&self, stats: &SessionStats) {
        fn set<L: ClosedSet>(gauges: &Set<L, IntGauge>, counts: &[u32]) {
            for (&value, &count) in L::all().iter().zip(counts) {
                gauges[value].set(i64::from(count));
            }
        }
        set(&self.own.ages, &stats.ages);
        set(&self.own.silences, &stats.silences);
        set(&self.own.expiries, &stats.expiries);
        self.own.buffered.set(i64::try_from(stats.buffered_bytes).unwrap_or(i64::MAX));
        self.own.waiting_for_backend.set(i64::from(stats.waiting_for_backend));
    }

    /// Returns the current load.
    pub(crate) fn load(&self) -> Load {
        Load {
            active: self.own.active.get(),
            limit: self.own.limit.get(),
            at_limit: self.own.at_limit.get() == 1,
            handshakes_in_progress: self.own.handshakes_in_progress.get(),
            sessions: Age::ALL.iter().map(|&age| self.own.ages[age].get()).sum(),
            backend_silent_sessions: self.own.waiting_for_backend.get(),
        }
    }

    /// Returns the counters since the process started.
    pub(crate) fn totals(&self) -> Totals {
        fn each<L: ClosedSet>(counters: &Set<L, IntCounter>) -> Vec<u64> {
            L::all().iter().map(|&value| counters[value].get()).collect()
        }
        fn each_later<L: ClosedSet>(counters: &Set<L, Later<IntCounter>>) -> Vec<u64> {
            let count = |&value| counters[value].exported().map_or(0, IntCounter::get);
            L::all().iter().map(count).collect()
        }
        let kinds = |kinds: &Set<HandshakeKind, IntCounter>| each(kinds).iter().sum::<u64>();
        Totals {
            accepted: self.own.accepted.get(),
            handshakes: self.own.handshakes.exported().map(kinds).sum(),
            bytes: each(&self.own.bytes),
            closed: each(&self.own.closed),
            alerts: each(&self.own.alerts),
            certificate_rejections: each_later(&self.own.rejections),
            incompatible: each(&self.own.incompatible),
            refused_suites: each(&self.own.refused_suites),
            not_tls: each_later(&self.own.not_tls),
            no_route: match self.own.no_route.exported() {
                Some(counters) => each(counters),
                None => vec![0; NoRouteCause::ALL.len()],
            },
        }
    }

    /// Returns the rollouts of server certificates.
    pub(crate) const fn rollouts(&self) -> &Rollouts {
        &self.rollouts
    }

    /// Returns the metrics of the active certificates, CAs and CRLs.
    pub(crate) fn active(&self) -> &Active {
        &self.active
    }
}
