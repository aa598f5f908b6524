//! The record of a connection: opened at accept, before anything can fail, and closed once.
//!
//! **Promises.** Only the record writes the access-log line and updates the connection metrics, except for relayed
//! bytes, which the relay counts through the record's [`Session`]. If it is dropped without [`Record::close`] (by a
//! panic), it closes itself with the reason `internal`, so accepted = active + closed always holds. A peer cannot make
//! the line long: an error text, which may quote a client's certificate, is cut after [`MAX_ERROR_CHARS`].
//!
//! **Not here.** The meaning of reasons (`terms/reason.rs`), the names of metrics (`metrics.rs`).

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::Level;

use super::admission::{AdmissionRefused, IdentityRefused, PendingConnection, Permit};
use super::source::ClientSource;
use crate::config::Limits;
use crate::metrics::{BackendMetrics, ListenerMetrics};
use crate::sessions::budget::Budget;
use crate::sessions::top::By;
use crate::sessions::{CompletedHandshake, ForwardedAddresses, Session, Sessions};
use crate::terms::labels::{
    Alert, ConnectResult, Direction, HandshakeKind, Incompatible, OfferedVersion,
    ResumptionOutcome, SuiteKind,
};
use crate::terms::negotiated::Negotiated;
use crate::terms::reason::{Origin, Reason};
use crate::terms::rollout::{RolloutGroup, ShownOutcome};
use crate::trust::identity::Identity;
use crate::trust::refused::RefusedCertificate;

/// WalkPhase that a connection has reached.
#[derive(Clone, Copy, Debug)]
enum WalkPhase {
    /// TLS handshake in progress.
    Handshake,
    /// Selection of the backend.
    Route,
    /// Connecting to the backend.
    Connect,
    /// Relaying.
    Relay,
}

impl WalkPhase {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Route => "route",
            Self::Connect => "connect",
            Self::Relay => "relay",
        }
    }
}

/// Longest error text in the log, in characters. Only a text that a peer controls is longer.
const MAX_ERROR_CHARS: usize = 256;

/// The next connection id. Ids are unique within a process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The record of a connection.
pub(crate) struct Record {
    /// Facts and counters of the connection. Listed from accept to the end of the record.
    session: Arc<Session>,
    sessions: Arc<Sessions>,
    phase: WalkPhase,
    /// Time from accept until the connection's task first ran.
    wait: Duration,
    best_suite: SuiteKind,
    offers_resumption: bool,
    closed: bool,
    /// The client's certificate, if it was refused.
    certificate: Option<Box<RefusedCertificate>>,
    /// The client's group in a rollout of the server certificate.
    rollout: Option<RolloutGroup>,
    /// Last, because fields are dropped in order: the permit is released after the end is counted.
    permit: Permit,
}

/// The content of a ClientHello that is logged or counted.
pub(crate) struct Offer<'a> {
    /// The server name (SNI).
    pub(crate) server_name: Option<&'a str>,
    pub(crate) version: OfferedVersion,
    pub(crate) best_suite: SuiteKind,
    /// A ticket or PSK is offered.
    pub(crate) resumption: bool,
}

/// Parts of the time of a completed handshake.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HandshakeTimes {
    /// The time that it waited for a slot.
    pub(crate) waited: Duration,
    /// The CPU time of its TLS: mostly signatures and key exchange.
    pub(crate) crypto: Duration,
}

/// The data about a failed handshake that its reason does not include.
pub(crate) struct HandshakeFailure {
    pub(crate) detail: Option<FailureDetail>,
    /// The identity of a client that was verified when its session began.
    pub(crate) identity: Option<Box<Identity>>,
    /// The client's certificate, if it was refused.
    pub(crate) certificate: Option<Box<RefusedCertificate>>,
}

/// A handshake in a rollout of the server certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShownCertificate {
    pub(crate) group: RolloutGroup,
    pub(crate) outcome: ShownOutcome,
}

/// Detail of a failed handshake that its reason does not include.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureDetail {
    /// The alert that the client sent.
    Alert(Alert),
    /// The parameter without a common value.
    Incompatible(Incompatible),
}

impl Record {
    /// Opens the record of a connection that was just accepted.
    pub(crate) fn open(
        metrics: Arc<ListenerMetrics>,
        sessions: Arc<Sessions>,
        peer: SocketAddr,
        permit: Permit,
    ) -> Self {
        metrics.accepted();
        // A dual-stack listener reports IPv4 as ::ffff:192.0.2.1.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(Session::new(metrics, id, peer));
        sessions.add(Arc::clone(&session));
        Self {
            session,
            sessions,
            phase: WalkPhase::Handshake,
            wait: Duration::ZERO,
            best_suite: SuiteKind::Other,
            offers_resumption: false,
            closed: false,
            certificate: None,
            rollout: None,
            permit,
        }
    }

    /// Returns the connection as one that can be evicted until its handshake is complete. Its source is the device once
    /// its address is known.
    pub(crate) fn pending(&self) -> PendingConnection {
        self.permit.pending(self.source())
    }

    /// Returns the source of the connection.
    pub(crate) fn source(&self) -> ClientSource {
        ClientSource::of(self.session.peer().ip())
    }

    /// The connection's task runs for the first time.
    pub(crate) fn started(&mut self) {
        self.wait = self.session.age();
    }

    /// Admits the connection, and counts it for its source. `forwarded` has the addresses that a proxy before us has
    /// stated.
    ///
    /// # Errors
    /// The memory for peers is exhausted, or the source has as many connections as the listener allows.
    pub(crate) fn admit(
        &self,
        forwarded: Option<ForwardedAddresses>,
        limits: Limits,
    ) -> Result<(), AdmissionRefused> {
        if let Some(addresses) = forwarded {
            self.session.set_forwarded(addresses);
        }
        self.sessions.top.connected(By::Peer, &self.session.peer().ip().to_string());
        self.sessions.budget.admit()?;
        let limit = limits.max_connections_per_source;
        Ok(self.permit.sources().admit(&self.session, limit, &self.sessions)?)
    }

    /// The ClientHello was read.
    pub(crate) fn on_client_hello(&mut self, offer: &Offer<'_>) {
        self.session.metrics.on_client_hello(offer.version);
        self.best_suite = offer.best_suite;
        self.offers_resumption = offer.resumption;
        set(&self.session.server_name, offer.server_name.map(Box::from));
    }

    /// A handshake has ended in which a rollout selected the server certificate.
    pub(crate) fn on_certificate(&mut self, shown: Option<ShownCertificate>) {
        if let Some(ShownCertificate { group, outcome }) = shown {
            self.rollout = Some(group);
            self.session.metrics.rollouts().shown(group, outcome);
        }
    }

    /// The handshake has failed, if there is a failure.
    pub(crate) fn refused(&mut self, failure: Option<HandshakeFailure>) {
        let Some(failure) = failure else { return };
        set(&self.session.identity, failure.identity);
        if let Some(certificate) = &failure.certificate {
            self.sessions.top.refused(&certificate.to_string());
        }
        self.certificate = failure.certificate;
        match failure.detail {
            Some(FailureDetail::Alert(alert)) => self.session.metrics.alerted(alert),
            Some(FailureDetail::Incompatible(what)) => {
                self.session.metrics.refused(what, self.best_suite);
            }
            None => {}
        }
    }

    /// Records the end of the handshake, and where its time went.
    pub(crate) fn on_handshake(
        &mut self,
        negotiated: Option<Negotiated>,
        identity: Option<Box<Identity>>,
        times: HandshakeTimes,
    ) {
        self.phase = WalkPhase::Route;
        self.session.metrics.handshake_ended();
        let Some(negotiated) = negotiated else { return };
        let took = self.session.age();
        let wait = self.wait + times.waited;
        self.session.metrics.on_handshake(&negotiated, took, wait, times.crypto);
        if self.offers_resumption && negotiated.kind != HandshakeKind::Resumed {
            tracing::debug!(
                connection = self.session.id,
                listener = self.session.metrics.name(),
                resumption = negotiated.resumption.map(ResumptionOutcome::as_str),
                "ticket of the device not accepted, full handshake"
            );
        }
        if let Some(name) = identity.as_ref().and_then(|identity| identity.names.first()) {
            self.sessions.top.connected(By::Identity, name);
        }
        // In this order: a session with a handshake and no identity is one without a certificate.
        set(&self.session.identity, identity);
        set(&self.session.handshake, Some(CompletedHandshake { negotiated, took }));
    }

    /// The client's certificates are valid up to `last_second`, in Unix time, if the session ends then. Called after
    /// [`Self::on_handshake`], so that the re-check at that time finds the session.
    pub(crate) fn expires(&self, last_second: Option<i64>) {
        if let Some(last_second) = last_second {
            self.sessions.next_expiry.add(last_second);
        }
    }

    /// Counts the connection for the client's identity.
    ///
    /// # Errors
    /// The identity has as many connections as the listener allows, and the new one is refused.
    pub(crate) fn admit_identity(&self, limits: Limits) -> Result<(), IdentityRefused> {
        self.permit.identities().admit(&self.session, limits.per_identity, &self.sessions)
    }

    /// Stops another connection of the client's identity, if this one is over the limit and replaces it.
    pub(crate) fn replace_sibling(&self, limits: Limits) {
        self.permit.identities().replace(&self.session, limits.per_identity);
    }

    /// The backend was selected.
    pub(crate) fn on_route(&mut self, backend: Arc<BackendMetrics>) {
        set(&self.session.backend, Some(backend));
        self.phase = WalkPhase::Connect;
    }

    /// The backend was connected within `took`. The relay begins.
    pub(crate) fn connected(&mut self, took: Duration) {
        self.session.metrics.connected(took);
        self.dialled(ConnectResult::Ok);
        set(&self.session.connect, Some(took));
        self.phase = WalkPhase::Relay;
    }

    fn dialled(&self, result: ConnectResult) {
        if let Some(backend) = self.session.backend.get() {
            backend.dialled(result);
        }
    }

    /// The session as the holder of a part of the memory for peers.
    pub(crate) fn holder(&self) -> (&Session, &Budget) {
        (&self.session, &self.sessions.budget)
    }

    /// The session, which the relay counts through.
    pub(crate) const fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Closes the record: counts the reason and writes the access-log line.
    pub(crate) fn close(mut self, reason: Reason, error: Option<&dyn std::error::Error>) {
        self.end(reason, error);
    }

    fn end(&mut self, reason: Reason, error: Option<&dyn std::error::Error>) {
        self.closed = true;
        match self.phase {
            WalkPhase::Handshake => self.session.metrics.handshake_ended(),
            WalkPhase::Route | WalkPhase::Relay => {}
            WalkPhase::Connect => {
                if let Some(result) = connect_result(reason) {
                    self.dialled(result);
                }
            }
        }
        let session = &self.session;
        session.set_buffered(0, &self.sessions.budget);
        self.sessions.remove(session.id);
        self.permit.identities().remove(session);
        self.permit.sources().remove(session);
        session.metrics.closed(reason, session.age());
        let bytes = session.bytes(Direction::ToBackend) + session.bytes(Direction::ToClient);
        self.sessions.top.ended(session.peer().ip(), session.identity(), bytes, reason);
        // tracing ties a level to a call site, so there is one for each.
        match reason.origin() {
            Origin::Internal => access!(Level::ERROR, self, reason, error),
            Origin::Backend | Origin::Machine => access!(Level::WARN, self, reason, error),
            // Health checks connect every few seconds.
            _ if reason == Reason::ClientProbe => access!(Level::DEBUG, self, reason, error),
            Origin::Client | Origin::Proxy => access!(Level::INFO, self, reason, error),
        }
    }
}

/// Sets a fact of a session, if it is known.
fn set<T>(fact: &OnceLock<T>, value: Option<T>) {
    if let Some(value) = value {
        // Each phase sets its own facts, once.
        let _set_before = fact.set(value);
    }
}

/// Returns the result of a connect that ended for `reason`, or none if it was not the backend's result.
const fn connect_result(reason: Reason) -> Option<ConnectResult> {
    match reason {
        Reason::BackendRefused => Some(ConnectResult::Refused),
        Reason::BackendTimeout => Some(ConnectResult::Timeout),
        Reason::BackendUnreachable => Some(ConnectResult::Unreachable),
        Reason::BackendError | Reason::BackendReset => Some(ConnectResult::Error),
        // The drain, an operator, a re-check, a shortage or a bug ended it before the backend answered.
        Reason::DrainDeadline
        | Reason::Revoked
        | Reason::Expired
        | Reason::Killed
        | Reason::OverLimit
        | Reason::OverSourceLimit
        | Reason::ProxyFdLimit
        | Reason::ProxyThreadLimit
        | Reason::ProxyMemoryLimit
        | Reason::Internal => None,
        // None of these ends a connection during the connect.
        Reason::Ok
        | Reason::ClientProbe
        | Reason::ClientEvicted
        | Reason::ClientAbandoned
        | Reason::ProxyOverloaded
        | Reason::ProxyBuffersFull
        | Reason::ProxyHeaderInvalid
        | Reason::ProxyHeaderUnexpected
        | Reason::ClientTlsMemory
        | Reason::ClientTlsTimeout
        | Reason::ClientTlsEof
        | Reason::ClientTlsNotTls
        | Reason::ClientTlsAlert
        | Reason::ClientTlsIncompatible
        | Reason::ClientNameUnknown
        | Reason::ClientTlsError
        | Reason::ClientCertMissing
        | Reason::ClientCertExpired
        | Reason::ClientCertNotYetValid
        | Reason::ClientCertUnknownCa
        | Reason::ClientCertRevoked
        | Reason::ClientCertBadSignature
        | Reason::ClientCertWrongUsage
        | Reason::ClientCertWeakKey
        | Reason::ClientCertRevocationUnknown
        | Reason::ClientCertRejected
        | Reason::ClientNotAllowed
        | Reason::ClientCertChainTooLarge
        | Reason::NoRoute
        | Reason::ClientReset
        | Reason::ClientLost
        | Reason::ClientTruncated
        | Reason::ClientRecordTruncated
        | Reason::BackendLost
        | Reason::Drain
        | Reason::IdleTimeout
        | Reason::HalfCloseTimeout
        | Reason::MaxAge
        | Reason::KeysExhausted => None,
    }
}

/// Writes the access-log line. Its keys are public: docs/log.md lists them.
macro_rules! access {
    ($level:expr, $record:expr, $reason:expr, $error:expr) => {{
        let session = &$record.session;
        let handshake = session.handshake.get();
        let tls = handshake.map(|handshake| &handshake.negotiated);
        let certificate = $record.certificate.as_deref();
        tracing::event!(
            target: "access",
            $level,
            connection = session.id,
            listener = session.metrics.name(),
            peer = %session.peer(),
            via = session.forwarded().map(|_| tracing::field::display(session.socket_peer)),
            reason = $reason.as_str(),
            phase = $record.phase.as_str(),
            identity = session.identity(),
            cert_subject = certificate.and_then(|certificate| certificate.subject.as_deref()),
            cert_issuer = certificate.and_then(|certificate| certificate.issuer.as_deref()),
            cert_serial = certificate.and_then(|certificate| certificate.serial.as_deref()),
            cert_sha256 = certificate.map(|certificate| &*certificate.sha256),
            sni = session.server_name.get().map(|name| &**name),
            alpn = tls.and_then(|tls| tls.alpn.as_deref()),
            tls = tls.map(|tls| tls.cipher.version()),
            cipher = tls.map(|tls| tls.cipher.as_str()),
            handshake = tls.map(|tls| tls.kind.as_str()),
            resumption = tls.and_then(declined_resumption),
            rollout = $record.rollout.map(RolloutGroup::as_str),
            handshake_ms = handshake.map(|handshake| milliseconds(handshake.took)),
            backend = session.backend.get().map(|backend| backend.address()),
            connect_ms = session.connect.get().copied().map(milliseconds),
            bytes_to_backend = session.bytes(Direction::ToBackend),
            bytes_to_client = session.bytes(Direction::ToClient),
            duration_ms = milliseconds(session.age()),
            error = $error.map(Brief).map(tracing::field::display),
        )
    }};
}
use access;

/// Returns why the session that the client offered was not resumed.
fn declined_resumption(tls: &Negotiated) -> Option<&'static str> {
    tls.resumption
        .filter(|outcome| *outcome != ResumptionOutcome::Resumed)
        .map(ResumptionOutcome::as_str)
}

fn milliseconds(duration: Duration) -> f64 {
    // Rounded to microseconds.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.closed {
            self.end(Reason::Internal, None);
        }
    }
}

/// Displays an error in at most [`MAX_ERROR_CHARS`], on one line.
struct Brief<'a>(&'a dyn std::error::Error);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bounded = Bounded { to: f, left: MAX_ERROR_CHARS };
        let written = write!(bounded, "{}", self.0);
        // At the limit, `Bounded` fails to stop the error's own Display.
        if written.is_err() && bounded.left == 0 { f.write_str("…") } else { written }
    }
}

/// Writes characters up to a limit, then fails.
struct Bounded<'a, 'b> {
    to: &'a mut fmt::Formatter<'b>,
    left: usize,
}

impl Write for Bounded<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| self.write_char(c))
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        // Escapes control characters: a certificate's text must not control the operator's terminal.
        if c.is_control() {
            return c.escape_default().try_for_each(|c| self.write_char(c));
        }
        self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
        self.to.write_char(c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::proxy::admission::{Gate, ProcessGate};

    #[derive(Debug, thiserror::Error)]
    #[error("{0}{1}")]
    struct Quoting(String, Endless);

    /// Writes until it fails, if true.
    #[derive(Debug)]
    struct Endless(bool);

    impl fmt::Display for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut words = std::iter::repeat_n("and so on ", if self.0 { usize::MAX } else { 0 });
            words.try_for_each(|words| f.write_str(words))
        }
    }

    fn brief(text: &str, endless: bool) -> String {
        Brief(&Quoting(text.to_owned(), Endless(endless))).to_string()
    }

    #[test]
    fn an_endless_error_is_logged_in_256_characters() {
        let text = brief("it says: ", true);
        assert!(text.starts_with("it says: and so on ") && text.ends_with('…'), "{text}");
        assert_eq!(text.chars().count(), MAX_ERROR_CHARS + 1);
    }

    #[test]
    fn a_short_error_is_logged_whole_and_on_one_line() {
        assert_eq!(brief("closed after 5 bytes", false), "closed after 5 bytes");
        let longest = "x".repeat(MAX_ERROR_CHARS);
        assert_eq!(brief(&longest, false), longest);
        assert_eq!(brief("a\nb\u{1b}[2J", false), "a\\nb\\u{1b}[2J");
    }

    #[tokio::test]
    async fn a_panic_in_the_task_of_a_connection_ends_it_alone_and_is_counted_as_internal() {
        let (metrics, sessions) = (Metrics::new().listener("test"), Arc::<Sessions>::default());
        let gate = Gate::new(Arc::new(ProcessGate::new(2, 1, Arc::default())));
        gate.set_limits(Limits::default());
        let opened = || {
            let (metrics, sessions) = (Arc::clone(&metrics), Arc::clone(&sessions));
            Record::open(metrics, sessions, ([192, 0, 2, 1], 1).into(), gate.try_enter().unwrap())
        };
        let (other, broken) = (opened(), opened());
        let task = tokio::spawn(async move {
            let _record = broken;
            panic!("a fault in one connection");
        });
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!(metrics.totals().closed[Reason::Internal as usize], 1);
        assert_eq!(sessions.matching(|_| true).len(), 1, "the other one is listed");
        assert!(gate.try_enter().is_some(), "its permit was released");
        other.close(Reason::Ok, None);
    }
}
