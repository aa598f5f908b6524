//! The metrics of one listener.
//!
//! **Promises.** Children exist from the first scrape, so a counter's first increase is seen; those of
//! certificates, CAs, CRLs and backends are named by the configuration and come and go with it.
//!
//! **Not here.** Its backends (`backends.rs`), its certificates (`in_force.rs`). Who updates the connection metrics:
//! `proxy/record.rs` alone, but for the relayed bytes, which the session counts (`sessions.rs`).

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};

use super::backends::{BackendMetrics, Backends};
use super::families::Families;
use super::family::Set;
use super::in_force::InForce;
use crate::terms::closed_set::ClosedSet;
use crate::terms::labels::{
    AcceptError, Age, Alert, Cipher, ClientCertificate, Direction, Expiry, Group, HandshakeKind,
    Incompatible, KeyKind, OfferedVersion, Part, Silence, SuiteKind,
};
use crate::terms::reason::Reason;

/// The metrics of one listener: handles that are moved without a look-up.
pub struct ListenerMetrics {
    name: String,
    accepted: IntCounter,
    active: IntGauge,
    limit: IntGauge,
    at_limit: IntGauge,
    accept_errors: Set<AcceptError, IntCounter>,
    closed: Set<Reason, IntCounter>,
    duration: Histogram,
    bytes: Set<Direction, IntCounter>,
    buffered: IntGauge,
    handshakes_in_progress: IntGauge,
    /// For each of [`Cipher::ALL`].
    handshakes: Vec<Set<HandshakeKind, IntCounter>>,
    handshake_duration: Set<HandshakeKind, Histogram>,
    handshake_parts: Set<Part, Histogram>,
    groups: Set<Group, IntCounter>,
    certificates: Set<KeyKind, IntCounter>,
    clients: Set<ClientCertificate, IntCounter>,
    hellos: Set<OfferedVersion, IntCounter>,
    alerts: Set<Alert, IntCounter>,
    incompatible: Set<Incompatible, IntCounter>,
    refused_suites: Set<SuiteKind, IntCounter>,
    connect_duration: Histogram,
    backends: Backends,
    ages: Set<Age, IntGauge>,
    silences: Set<Silence, IntGauge>,
    expiries: Set<Expiry, IntGauge>,
    in_force: InForce,
}

/// How a listener is, at one moment.
pub(crate) struct Load {
    pub(crate) active: i64,
    pub(crate) limit: i64,
    pub(crate) at_limit: bool,
    pub(crate) handshakes_in_progress: i64,
    /// As of the last census.
    pub(crate) sessions: i64,
}

/// What a listener has counted since the process started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) accepted: u64,
    /// Those that were completed.
    pub(crate) handshakes: u64,
    /// For each of [`Reason::ALL`].
    pub(crate) closed: Vec<u64>,
}

/// A completed handshake, as far as it is counted.
pub(crate) struct Handshake {
    pub(crate) cipher: Cipher,
    pub(crate) kind: HandshakeKind,
    pub(crate) group: Group,
    /// Of the certificate that we have shown.
    pub(crate) key: KeyKind,
    pub(crate) client: ClientCertificate,
    /// From accept to its end.
    pub(crate) took: Duration,
    /// What of it went by before its first turn.
    pub(crate) wait: Duration,
    /// What of it TLS itself needed.
    pub(crate) crypto: Duration,
}

/// What the sessions of a listener are like, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Census {
    pub(crate) ages: [u32; Age::ALL.len()],
    pub(crate) silences: [u32; Silence::ALL.len()],
    pub(crate) expiries: [u32; Expiry::ALL.len()],
    pub(crate) buffered_bytes: u64,
}

impl Families {
    /// The children of the listener `name`.
    pub(super) fn of(&self, name: &str) -> ListenerMetrics {
        let own = &[name];
        let handshakes = Cipher::ALL.iter().map(|cipher| {
            Set::of(&self.handshakes.handshakes, &[name, cipher.version(), cipher.as_str()])
        });
        ListenerMetrics {
            name: name.to_owned(),
            accepted: self.connections.accepted.with_label_values(own),
            active: self.connections.active.with_label_values(own),
            limit: self.connections.limit.with_label_values(own),
            at_limit: self.connections.at_limit.with_label_values(own),
            accept_errors: Set::of(&self.connections.accept_errors, own),
            closed: Set::of(&self.connections.closed, own),
            duration: self.connections.duration.with_label_values(own),
            bytes: Set::of(&self.connections.bytes, own),
            buffered: self.connections.buffered.with_label_values(own),
            handshakes_in_progress: self.handshakes.in_progress.with_label_values(own),
            handshakes: handshakes.collect(),
            handshake_duration: Set::of(&self.handshakes.handshake_duration, own),
            handshake_parts: Set::of(&self.handshakes.handshake_parts, own),
            groups: Set::of(&self.handshakes.groups, own),
            certificates: Set::of(&self.handshakes.certificates, own),
            clients: Set::of(&self.handshakes.clients, own),
            hellos: Set::of(&self.offers.hellos, own),
            alerts: Set::of(&self.offers.alerts, own),
            incompatible: Set::of(&self.offers.incompatible, own),
            refused_suites: Set::of(&self.offers.refused_suites, own),
            connect_duration: self.backends.connect_duration.with_label_values(own),
            backends: Backends::new(name, &self.backends.connects, &self.backends.backend_up),
            ages: Set::of(&self.sessions.ages, own),
            silences: Set::of(&self.sessions.silences, own),
            expiries: Set::of(&self.sessions.expiries, own),
            in_force: self.in_force.of(name),
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
        self.handshakes_in_progress.inc();
    }

    pub(crate) fn closed(&self, reason: Reason, age: Duration) {
        self.active.dec();
        self.closed[reason].inc();
        self.duration.observe(age.as_secs_f64());
    }

    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    pub(crate) fn set_at_limit(&self, at_limit: bool) {
        self.at_limit.set(i64::from(at_limit));
    }

    pub(crate) fn accept_failed(&self, error: AcceptError) {
        self.accept_errors[error].inc();
    }

    pub(crate) fn relayed(&self, direction: Direction, bytes: u64) {
        self.bytes[direction].inc_by(bytes);
    }

    pub(crate) fn greeted(&self, version: OfferedVersion) {
        self.hellos[version].inc();
    }

    /// A handshake is over, in whatever way.
    pub(crate) fn handshake_ended(&self) {
        self.handshakes_in_progress.dec();
    }

    pub(crate) fn handshaken(&self, handshake: &Handshake) {
        let Handshake { cipher, kind, group, key, client, took, wait, crypto } = *handshake;
        self.handshakes[cipher.index()][kind].inc();
        self.handshake_duration[kind].observe(took.as_secs_f64());
        self.groups[group].inc();
        self.certificates[key].inc();
        self.clients[client].inc();
        let waited_for = took.saturating_sub(wait).saturating_sub(crypto);
        for (part, time) in [(Part::Wait, wait), (Part::Client, waited_for), (Part::Crypto, crypto)]
        {
            self.handshake_parts[part].observe(time.as_secs_f64());
        }
    }

    pub(crate) fn alerted(&self, alert: Alert) {
        self.alerts[alert].inc();
    }

    pub(crate) fn refused(&self, what: Incompatible, best_suite: SuiteKind) {
        self.incompatible[what].inc();
        if what == Incompatible::CipherSuite {
            self.refused_suites[best_suite].inc();
        }
    }

    pub(crate) fn connected(&self, took: Duration) {
        self.connect_duration.observe(took.as_secs_f64());
    }

    /// The metrics of the backend at `address`.
    pub(crate) fn backend(&self, address: &str) -> Arc<BackendMetrics> {
        self.backends.get(address)
    }

    /// Replaces what is told of backends: those are left that the configuration has.
    pub(crate) fn set_backends(&self, addresses: impl Iterator<Item = String>) {
        self.backends.replace(addresses);
    }

    /// The backends that the configuration in force has, by their addresses.
    pub(crate) fn backends(&self) -> Vec<Arc<BackendMetrics>> {
        self.backends.all()
    }

    /// Tells how the backends are.
    pub(crate) fn tell_backends(&self) {
        self.backends.tell();
    }

    /// Tells what the sessions are like.
    pub(crate) fn set_census(&self, census: &Census) {
        fn set<L: ClosedSet>(gauges: &Set<L, IntGauge>, counts: &[u32]) {
            for (&value, &count) in L::all().iter().zip(counts) {
                gauges[value].set(i64::from(count));
            }
        }
        set(&self.ages, &census.ages);
        set(&self.silences, &census.silences);
        set(&self.expiries, &census.expiries);
        self.buffered.set(i64::try_from(census.buffered_bytes).unwrap_or(i64::MAX));
    }

    /// How it is now.
    pub(crate) fn load(&self) -> Load {
        Load {
            active: self.active.get(),
            limit: self.limit.get(),
            at_limit: self.at_limit.get() == 1,
            handshakes_in_progress: self.handshakes_in_progress.get(),
            sessions: Age::ALL.iter().map(|&age| self.ages[age].get()).sum(),
        }
    }

    /// What it has counted so far.
    pub(crate) fn counted(&self) -> Counted {
        let of_cipher = |kinds: &Set<HandshakeKind, IntCounter>| {
            HandshakeKind::ALL.iter().map(|&kind| kinds[kind].get()).sum::<u64>()
        };
        Counted {
            accepted: self.accepted.get(),
            handshakes: self.handshakes.iter().map(of_cipher).sum(),
            closed: Reason::ALL.iter().map(|&reason| self.closed[reason].get()).collect(),
        }
    }

    /// Where it is told which certificates, CAs and CRLs are in force.
    pub(crate) fn in_force(&self) -> &InForce {
        &self.in_force
    }
}
