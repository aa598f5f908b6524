//! One record per connection: opened at accept, before anything can fail, and closed once.
//!
//! **Promises.** The record alone writes the access-log line and moves the connection metrics.
//! Dropped without [`Record::close`], by a panic, it closes itself with the reason `internal`; so
//! accepted = active + closed always holds. A peer cannot make the line long: what is said of an
//! error, which may quote a client's certificate, is cut after [`MAX_ERROR_CHARS`].
//!
//! **Not here.** What the reasons mean (`reason.rs`), what the metrics are called (`metrics.rs`).

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::Level;

use super::reason::{Reason, Side};
use crate::config::BackendAddress;
use crate::ops::metrics::{Cipher, Direction, HandshakeKind, ListenerMetrics};

/// How far a connection came.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Its TLS handshake was not over.
    Handshake,
    /// Its backend was being chosen.
    Route,
    /// Its backend was being dialled.
    Connect,
    /// Bytes were being relayed.
    Relay,
}

impl Phase {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Route => "route",
            Self::Connect => "connect",
            Self::Relay => "relay",
        }
    }
}

/// What of an error is told in the log, in characters. Only what a peer has made up is longer.
const MAX_ERROR_CHARS: usize = 256;

/// Names connections in the log of one process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What is known of a connection.
pub(crate) struct Record {
    metrics: Arc<ListenerMetrics>,
    id: u64,
    peer: SocketAddr,
    opened: Instant,
    phase: Phase,
    /// The name that the client asked for.
    server_name: Option<Box<str>>,
    /// What the handshake agreed on, and how long it took from accept.
    tls: Option<(Negotiated, Duration)>,
    backend: Option<Box<str>>,
    connect: Option<Duration>,
    traffic: Traffic,
    closed: bool,
}

/// What the handshake agreed on.
pub(crate) struct Negotiated {
    pub(crate) cipher: Cipher,
    pub(crate) kind: HandshakeKind,
    /// One of the listener's own protocols.
    pub(crate) alpn: Option<Box<str>>,
}

/// Counts a connection's plaintext bytes, for its record and for the metrics.
pub(crate) struct Traffic {
    metrics: Arc<ListenerMetrics>,
    to_backend: u64,
    to_client: u64,
}

impl Traffic {
    pub(crate) const fn new(metrics: Arc<ListenerMetrics>) -> Self {
        Self { metrics, to_backend: 0, to_client: 0 }
    }

    pub(crate) fn add(&mut self, direction: Direction, bytes: usize) {
        let bytes = bytes as u64;
        self.metrics.relayed(direction, bytes);
        match direction {
            Direction::ToBackend => self.to_backend += bytes,
            Direction::ToClient => self.to_client += bytes,
        }
    }
}

impl Record {
    /// Opens the record of a connection that was accepted just now.
    pub(crate) fn open(metrics: Arc<ListenerMetrics>, peer: SocketAddr) -> Self {
        metrics.accepted();
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            // On a listener for both, IPv4 comes as ::ffff:192.0.2.1.
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            opened: Instant::now(),
            phase: Phase::Handshake,
            server_name: None,
            tls: None,
            backend: None,
            connect: None,
            traffic: Traffic::new(Arc::clone(&metrics)),
            closed: false,
            metrics,
        }
    }

    /// The client has said its ClientHello, perhaps with the name that it asks for.
    pub(crate) fn greeted(&mut self, server_name: Option<&str>) {
        self.server_name = server_name.map(Box::from);
    }

    /// The handshake is over.
    pub(crate) fn handshaken(&mut self, negotiated: Option<Negotiated>) {
        let took = self.age();
        if let Some(negotiated) = &negotiated {
            self.metrics.handshaken(negotiated.cipher, negotiated.kind, took);
        }
        self.tls = negotiated.map(|negotiated| (negotiated, took));
        self.phase = Phase::Route;
    }

    /// How old the connection is.
    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// The backend is known.
    pub(crate) fn routed(&mut self, backend: &BackendAddress) {
        self.backend = Some(backend.to_string().into());
        self.phase = Phase::Connect;
    }

    /// The backend has been reached, in so much time.
    pub(crate) fn connected(&mut self, took: Duration) {
        self.metrics.connected(took);
        self.connect = Some(took);
        self.phase = Phase::Relay;
    }

    /// Where the relay counts.
    pub(crate) const fn traffic(&mut self) -> &mut Traffic {
        &mut self.traffic
    }

    /// Closes the record: counts the reason and writes the access-log line.
    pub(crate) fn close(mut self, reason: Reason, error: Option<&dyn std::error::Error>) {
        self.end(reason, error);
    }

    fn end(&mut self, reason: Reason, error: Option<&dyn std::error::Error>) {
        self.closed = true;
        self.metrics.closed(reason);
        // tracing ties a level to a call site, so there is one for each.
        match reason.side() {
            Side::Internal => access!(Level::ERROR, self, reason, error),
            Side::Backend => access!(Level::WARN, self, reason, error),
            // Health checks come every few seconds, for ever.
            _ if reason == Reason::ClientProbe => access!(Level::DEBUG, self, reason, error),
            Side::Client | Side::Proxy => access!(Level::INFO, self, reason, error),
        }
    }
}

/// Writes the access-log line. Its keys are public: docs/operations.md lists them.
macro_rules! access {
    ($level:expr, $record:expr, $reason:expr, $error:expr) => {{
        let tls = $record.tls.as_ref().map(|(tls, _)| tls);
        tracing::event!(
            target: "access",
            $level,
            connection = $record.id,
            listener = $record.metrics.name(),
            peer = %$record.peer,
            reason = $reason.as_str(),
            phase = $record.phase.as_str(),
            sni = $record.server_name.as_deref(),
            alpn = tls.and_then(|tls| tls.alpn.as_deref()),
            tls = tls.map(|tls| tls.cipher.version()),
            cipher = tls.map(|tls| tls.cipher.as_str()),
            handshake = tls.map(|tls| tls.kind.as_str()),
            handshake_ms = $record.tls.as_ref().map(|(_, took)| milliseconds(*took)),
            backend = $record.backend.as_deref(),
            connect_ms = $record.connect.map(milliseconds),
            bytes_to_backend = $record.traffic.to_backend,
            bytes_to_client = $record.traffic.to_client,
            duration_ms = milliseconds($record.age()),
            error = $error.map(Brief).map(tracing::field::display),
        )
    }};
}
use access;

fn milliseconds(duration: Duration) -> f64 {
    // To the microsecond: enough for a log line.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.closed {
            self.end(Reason::Internal, None);
        }
    }
}

/// An error in at most [`MAX_ERROR_CHARS`], on one line.
struct Brief<'a>(&'a dyn std::error::Error);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bounded = Bounded { to: f, left: MAX_ERROR_CHARS };
        let written = write!(bounded, "{}", self.0);
        // With nothing left it has failed so as to stop the error from going on.
        if written.is_err() && bounded.left == 0 { f.write_str("…") } else { written }
    }
}

/// Passes characters on until there have been enough, and fails then.
struct Bounded<'a, 'b> {
    to: &'a mut fmt::Formatter<'b>,
    left: usize,
}

impl Write for Bounded<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| self.write_char(c))
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        // What a certificate says is not to draw on the operator's terminal.
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

    #[derive(Debug, thiserror::Error)]
    #[error("{0}{1}")]
    struct Said(String, Endless);

    /// Goes on for as long as it is listened to.
    #[derive(Debug)]
    struct Endless(bool);

    impl fmt::Display for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut words = std::iter::repeat_n("and so on ", if self.0 { usize::MAX } else { 0 });
            words.try_for_each(|words| f.write_str(words))
        }
    }

    fn brief(text: &str, endless: bool) -> String {
        Brief(&Said(text.to_owned(), Endless(endless))).to_string()
    }

    #[test]
    fn an_error_without_an_end_is_told_in_256_characters() {
        let told = brief("it says: ", true);
        assert!(told.starts_with("it says: and so on ") && told.ends_with('…'), "{told}");
        assert_eq!(told.chars().count(), MAX_ERROR_CHARS + 1);
    }

    #[test]
    fn a_short_error_is_told_whole_and_on_one_line() {
        assert_eq!(brief("closed after 5 bytes", false), "closed after 5 bytes");
        let longest = "x".repeat(MAX_ERROR_CHARS);
        assert_eq!(brief(&longest, false), longest);
        assert_eq!(brief("a\nb\u{1b}[2J", false), "a\\nb\\u{1b}[2J");
    }
}
