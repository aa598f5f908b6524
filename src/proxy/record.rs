//! The record of a connection: opened at accept, before anything can fail, and closed once.
//!
//! **Promises.** Only the record writes the access-log line and updates the connection metrics, except for relayed
//! bytes, which the relay counts through the record's [`Session`]. If it is dropped without [`Record::close`] (by a
//! panic), it closes itself with the reason `internal`, so accepted = active + closed always holds. A peer cannot make
//! the line long: an error text, which may quote a client's certificate, is cut after [`MAX_ERROR_CHARS`].
//!
//! **Not here.** The meaning of reasons (`terms/reason.rs`), the names of metrics (`metrics.rs`).

mod event;
mod failure;
mod trace;

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::Level;

pub(crate) use self::failure::{FailedOffer, FailureDetail, HandshakeFailure, UnfinishedHandshake};
use super::admission::{AdmissionRefused, IdentityRefused, PendingConnection, Permit};
use super::source::ClientSource;
use crate::config::Limits;
use crate::metrics::{BackendUse, ListenerMetrics};
use crate::sessions::offers::OfferExample;
use crate::sessions::trace::Tracer;
use crate::sessions::{CompletedHandshake, ForwardedAddresses, Session, Sessions};
use crate::terms::addresses::ISSUES;
use crate::terms::labels::{
    Direction, HandshakeKind, NoRouteCause, OfferedVersion, ResumptionOutcome, SuiteKind,
};
use crate::terms::negotiated::Negotiated;
use crate::terms::reason::{Origin, Reason};
use crate::terms::rollout::{RolloutGroup, ShownOutcome};
use crate::text::is_printable_ascii;
use crate::trust::identity::Identity;

/// WalkPhase that a connection has reached.
#[derive(Clone, Copy, Debug)]
enum WalkPhase {
    /// TLS handshake in progress.
    Handshake,
    /// Connecting to the backend before the handshake.
    EarlyConnect,
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
            Self::EarlyConnect | Self::Connect => "connect",
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
    offers_resumption: bool,
    closed: bool,
    detail: Option<FailureDetail>,
    /// The failure of the handshake, if it failed.
    failure: Option<Box<HandshakeFailure>>,
    /// The steps of the connection, if a trace may select it.
    tracer: Option<Arc<Tracer>>,
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
    /// A ticket or PSK is offered.
    pub(crate) resumption: bool,
}

/// Parts of the time of a completed handshake.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HandshakeTimes {
    /// The time between the client's ClientHellos and our answers, without the CPU time.
    pub(crate) waited: Duration,
    /// The CPU time of its TLS: mostly signatures and key exchange.
    pub(crate) crypto: Duration,
}

/// A handshake in a rollout of the server certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShownCertificate {
    pub(crate) group: RolloutGroup,
    pub(crate) outcome: ShownOutcome,
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
        let tracer = trace::tracer(&session, &sessions);
        Self {
            session,
            sessions,
            phase: WalkPhase::Handshake,
            wait: Duration::ZERO,
            offers_resumption: false,
            closed: false,
            detail: None,
            failure: None,
            tracer,
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
        self.trace_peer();
        self.sessions.top.connected(self.session.peer().ip());
        self.sessions.budget.admit()?;
        let limit = limits.max_connections_per_source;
        Ok(self.permit.sources().admit(&self.session, limit, &self.sessions)?)
    }

    /// The ClientHello was read. Returns the tracer of the connection, if a trace may select it.
    pub(crate) fn on_client_hello(&mut self, offer: &Offer<'_>) -> Option<Arc<Tracer>> {
        self.session.metrics.on_client_hello(offer.version);
        self.offers_resumption = offer.resumption;
        set(&self.session.server_name, offer.server_name.map(Box::from));
        self.trace_hello();
        self.tracer.clone()
    }

    /// A handshake has ended in which a rollout selected the server certificate.
    pub(crate) fn on_certificate(&mut self, shown: Option<ShownCertificate>) {
        if let Some(ShownCertificate { group, outcome }) = shown {
            self.rollout = Some(group);
            self.session.metrics.rollouts().shown(group, outcome);
        }
    }

    /// The handshake has failed.
    pub(crate) fn on_failure(&mut self, mut failure: HandshakeFailure) {
        let metrics = &self.session.metrics;
        set(&self.session.identity, failure.identity.take());
        if let Some(certificate) = &failure.certificate {
            self.sessions.top.refused(&certificate.to_string());
        }
        self.detail = failure.detail;
        match failure.detail {
            Some(FailureDetail::Alert(alert)) => metrics.alerted(alert),
            Some(FailureDetail::Incompatible(what)) => {
                let best = failure.offer.map_or(SuiteKind::Other, |offer| offer.best_suite);
                metrics.refused(what, best);
            }
            Some(FailureDetail::NotTls(looks_like)) => metrics.not_tls(looks_like),
            // The handshake did not fail: [`Self::on_no_route`].
            Some(FailureDetail::NoRoute(_)) | None => {}
        }
        if let Some(UnfinishedHandshake { how, stage, tcp: _ }) = failure.unfinished {
            metrics.unfinished(how, stage);
        }
        if let Some(cause) = failure.rejection {
            metrics.rejected(cause);
        }
        if let Some(offer) = &failure.offer {
            metrics.waited(self.wait + offer.waited);
        }
        self.failure = Some(Box::new(failure));
    }

    /// No route matches the client, and the listener has no backend.
    pub(crate) fn on_no_route(&mut self, cause: NoRouteCause) {
        self.session.metrics.no_route(cause);
        self.detail = Some(FailureDetail::NoRoute(cause));
    }

    /// Records the end of the handshake, the route that it selected, and where its time went.
    pub(crate) fn on_handshake(
        &mut self,
        negotiated: Option<Negotiated>,
        identity: Option<Box<Identity>>,
        route: Option<usize>,
        times: HandshakeTimes,
    ) {
        self.phase = WalkPhase::Route;
        self.session.metrics.handshake_ended();
        let Some(negotiated) = negotiated else { return };
        self.trace_handshake(&negotiated, identity.as_deref(), times);
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
            self.sessions.top.identified(name);
        }
        let offer = (route, negotiated.offer);
        self.sessions.offers.note(&self.session.metrics, offer, || OfferExample {
            identity: identity.as_ref().and_then(|identity| identity.names.first().cloned()),
            peer: self.session.peer(),
            server_name: self.session.server_name.get().cloned(),
            alpn: negotiated.alpn.clone(),
        });
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

    /// The route was selected, and its backend is connected next.
    pub(crate) fn on_route(&mut self) {
        self.phase = match self.phase {
            WalkPhase::Handshake | WalkPhase::EarlyConnect => WalkPhase::EarlyConnect,
            WalkPhase::Route | WalkPhase::Connect | WalkPhase::Relay => WalkPhase::Connect,
        };
    }

    /// This address was tried last, and is connected or not.
    pub(crate) fn on_backend(&mut self, used: BackendUse, is_connected: bool) {
        self.trace_backend(&used, is_connected);
        set(&self.session.backend, Some(used));
        if is_connected && matches!(self.phase, WalkPhase::EarlyConnect) {
            self.phase = WalkPhase::Handshake;
        }
    }

    /// The backend was connected within `took`. The relay begins.
    pub(crate) fn connected(&mut self, took: Duration) {
        self.session.metrics.connected(took);
        set(&self.session.connect, Some(took));
        self.session.on_relay();
        self.phase = WalkPhase::Relay;
        self.trace_relay(took);
        self.session.metrics.events().session(|| event::opened(&self.session));
    }

    /// The session, and all sessions, with which it shares the memory for peers and the limit of closes.
    pub(crate) fn holder(&self) -> (&Session, &Sessions) {
        (&self.session, &self.sessions)
    }

    /// The tracer of the connection, if a trace may select it.
    pub(crate) fn tracer(&self) -> Option<Arc<Tracer>> {
        self.tracer.clone()
    }

    /// The session, which the relay counts through.
    pub(crate) const fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Closes the record: counts the reason and writes the access-log line.
    pub(crate) fn close(mut self, reason: Reason, error: Option<&dyn std::error::Error>) {
        self.end(reason, error);
    }

    /// Returns the likely cause for which the client has rejected the server certificate.
    fn likely_cause(&self) -> Option<&'static str> {
        self.failure.as_ref().and_then(|failure| failure.likely_cause())
    }

    fn end(&mut self, reason: Reason, error: Option<&dyn std::error::Error>) {
        self.closed = true;
        match self.phase {
            WalkPhase::Handshake | WalkPhase::EarlyConnect => {
                self.session.metrics.handshake_ended();
            }
            WalkPhase::Route | WalkPhase::Connect | WalkPhase::Relay => {}
        }
        let session = &self.session;
        session.set_buffered(0, &self.sessions.budget);
        self.sessions.remove(session.id);
        self.permit.identities().remove(session);
        self.permit.sources().remove(session);
        session.metrics.closed(reason, session.age());
        let bytes = session.bytes(Direction::ToBackend) + session.bytes(Direction::ToClient);
        // A device that gives up because its backend is silent has not failed.
        let gave_up = reason.origin() == Origin::Client && session.waits_for_backend();
        let has_failed = reason.is_failure() && !gave_up;
        self.sessions.top.ended(session.peer().ip(), session.identity(), bytes, has_failed);
        self.trace_end(reason, error);
        event::record(session, self.failure.as_deref(), reason, error);
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

/// Writes the access-log line. Its keys are public: docs/log.md lists them.
macro_rules! access {
    ($level:expr, $record:expr, $reason:expr, $error:expr) => {{
        let session = &$record.session;
        let handshake = session.handshake.get();
        let tls = handshake.map(|handshake| &handshake.negotiated);
        let failure = $record.failure.as_deref();
        let certificate = failure.and_then(|failure| failure.certificate.as_deref());
        let unfinished = failure.and_then(|failure| failure.unfinished);
        let tcp = unfinished.and_then(|unfinished| unfinished.tcp);
        tracing::event!(
            target: "access",
            $level,
            connection = session.id,
            listener = session.metrics.name(),
            peer = %session.peer(),
            via = session.forwarded().map(|_| tracing::field::display(session.socket_peer)),
            reason = $reason.as_str(),
            phase = $record.phase.as_str(),
            alert = $record.detail.and_then(FailureDetail::alert),
            what = $record.detail.and_then(FailureDetail::what),
            looks_like = $record.detail.and_then(FailureDetail::looks_like),
            stage = unfinished.map(|unfinished| unfinished.stage.as_str()),
            unacked = tcp.map(|tcp| tcp.unacked),
            retransmits = tcp.map(|tcp| tcp.retransmits),
            rtt_ms = tcp.map(|tcp| milliseconds(tcp.rtt)),
            mss = tcp.map(|tcp| tcp.mss),
            offers = failure.and_then(HandshakeFailure::offers),
            likely_cause = $record.likely_cause(),
            client_time = failure.and_then(HandshakeFailure::client_time),
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
            last_to_backend_ms = session.last_byte(Direction::ToBackend),
            last_to_client_ms = session.last_byte(Direction::ToClient),
            backend_silent_ms = session.backend_silence().filter(is_notable).map(milliseconds),
            duration_ms = milliseconds(session.age()),
            error = $error.map(Brief).map(tracing::field::display),
            report = ($reason == Reason::Internal).then_some(ISSUES),
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

/// Returns whether an answer of a backend is late enough for the log: devices often end with a message that has none.
fn is_notable(silence: &Duration) -> bool {
    *silence >= Duration::from_secs(1)
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
        if text.len() <= self.left && is_printable_ascii(text.as_bytes()) {
            self.left -= text.len();
            return self.to.write_str(text);
        }
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
