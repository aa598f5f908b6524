//! The recent events of this process, for the readers of `GET /events`.
//!
//! **Promises.** At most [`MAX_EVENTS`] events are kept, for all readers together. A reader that is too slow loses the
//! oldest ones and learns how many. Numbers increase by one, and no number of an earlier process returns. Sessions are
//! recorded only while somebody reads, and for [`LINGER`] afterwards, so that a reader whose connection breaks misses
//! nothing; otherwise one relaxed load is all that the end of a session costs. Rare events are always recorded.
//!
//! **Not here.** The form in which readers get events (`control/admin/events.rs`), the facts of a session
//! (`proxy/record/event.rs`).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use tokio::sync::watch;

use crate::lock::Lock;
use crate::terms::closed_set::closed_set;
use crate::terms::reason::Reason;
use crate::time::since_epoch;

/// Events that are kept.
const MAX_EVENTS: usize = 1024;

/// Readers at a time.
const MAX_READERS: usize = 8;

/// Time for which sessions are recorded after the last reader has left.
const LINGER: Duration = Duration::from_secs(300);

/// Numbers that a process has for each millisecond since its start.
const NUMBERS_PER_MILLISECOND: u64 = 1000;

closed_set! {
    /// The kind of an event.
    pub(crate) enum EventKind {
        /// The relay of a session has begun.
        Opened => "opened",
        /// A session has ended.
        Closed => "closed",
        /// A connection has ended before its relay.
        Refused => "refused",
        /// The files were read again.
        Reload => "reload",
        /// A server certificate has become active.
        Certificate => "certificate",
        /// The trust in clients has changed: CAs, CRLs or allow rules.
        Trust => "trust",
        /// The configuration of a listener or of the process has changed.
        Config => "config",
        /// The live sessions were checked with the new trust.
        Recheck => "recheck",
        /// The drain has reached its next phase.
        Drain => "drain",
        /// A backend has answered for the first time, has failed, or answers again.
        Backend => "backend",
        /// Events are missing here.
        Lost => "lost",
    }
}

/// An event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) number: u64,
    pub(crate) at: SystemTime,
    pub(crate) what: Happened,
}

/// The content of an event. The fields are the keys of the event's JSON, which are public: docs/admin-api.md lists them.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Happened {
    Opened(SessionFacts),
    Closed {
        #[serde(flatten)]
        session: SessionFacts,
        #[serde(flatten)]
        end: SessionEnd,
    },
    Refused {
        #[serde(flatten)]
        session: SessionFacts,
        #[serde(flatten)]
        end: SessionEnd,
        #[serde(flatten)]
        claim: Claim,
        /// The likely cause for which the client has rejected the server certificate.
        likely_cause: Option<&'static str>,
        error: Option<Box<str>>,
    },
    Reload {
        outcome: &'static str,
        failures: Vec<String>,
        waiting: Vec<String>,
    },
    Certificate {
        listener: Box<str>,
        route: Option<usize>,
        cert: String,
        serial: String,
        sha256: String,
        not_after: i64,
    },
    Trust {
        listener: Box<str>,
        /// `client_ca`, `crl` or `allow`.
        object: &'static str,
        file: Option<String>,
        added: usize,
        removed: usize,
    },
    Config {
        /// None for what belongs to no listener.
        listener: Option<Box<str>>,
        changed: String,
    },
    Recheck {
        listener: Box<str>,
        route: Option<usize>,
        sessions: usize,
        revoked: usize,
        expired: usize,
        not_allowed: usize,
    },
    Drain {
        phase: &'static str,
        connections: usize,
    },
    Backend {
        listener: Box<str>,
        backend: Box<str>,
        up: bool,
    },
    Lost {
        /// None if it is not known.
        count: Option<u64>,
    },
}

/// A session or connection, as far as its facts are known.
#[derive(Debug, Serialize)]
pub(crate) struct SessionFacts {
    pub(crate) connection: u64,
    pub(crate) listener: Box<str>,
    pub(crate) peer: SocketAddr,
    pub(crate) identity: Option<Box<str>>,
    /// All names of the certificate, which was verified if there is an identity.
    #[serde(skip)]
    pub(crate) names: Box<[Box<str>]>,
    pub(crate) sni: Option<Box<str>>,
    pub(crate) tls: Option<&'static str>,
    pub(crate) cipher: Option<&'static str>,
    pub(crate) handshake: Option<&'static str>,
    pub(crate) backend: Option<Box<str>>,
}

/// The end of a session or connection.
#[derive(Debug, Serialize)]
pub(crate) struct SessionEnd {
    #[serde(serialize_with = "as_label")]
    pub(crate) reason: Reason,
    pub(crate) bytes_to_backend: u64,
    pub(crate) bytes_to_client: u64,
    pub(crate) duration_seconds: f64,
}

/// The names in a certificate that was refused. Nothing verifies them.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Claim {
    pub(crate) cert_subject: Option<Box<str>>,
    pub(crate) cert_issuer: Option<Box<str>>,
    pub(crate) cert_serial: Option<Box<str>>,
    pub(crate) cert_sha256: Option<Box<str>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn as_label<S: serde::Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.as_str())
}

impl Happened {
    /// Returns the kind.
    pub(crate) const fn kind(&self) -> EventKind {
        match self {
            Self::Opened(_) => EventKind::Opened,
            Self::Closed { .. } => EventKind::Closed,
            Self::Refused { .. } => EventKind::Refused,
            Self::Reload { .. } => EventKind::Reload,
            Self::Certificate { .. } => EventKind::Certificate,
            Self::Trust { .. } => EventKind::Trust,
            Self::Config { .. } => EventKind::Config,
            Self::Recheck { .. } => EventKind::Recheck,
            Self::Drain { .. } => EventKind::Drain,
            Self::Backend { .. } => EventKind::Backend,
            Self::Lost { .. } => EventKind::Lost,
        }
    }

    /// Returns the listener of an event without a session, if it has one.
    pub(crate) fn listener(&self) -> Option<&str> {
        match self {
            Self::Certificate { listener, .. }
            | Self::Trust { listener, .. }
            | Self::Recheck { listener, .. }
            | Self::Backend { listener, .. } => Some(listener),
            Self::Config { listener, .. } => listener.as_deref(),
            Self::Opened(_)
            | Self::Closed { .. }
            | Self::Refused { .. }
            | Self::Reload { .. }
            | Self::Drain { .. }
            | Self::Lost { .. } => None,
        }
    }

    /// Returns the session or connection of the event, if it has one.
    pub(crate) const fn session(&self) -> Option<&SessionFacts> {
        match self {
            Self::Opened(session)
            | Self::Closed { session, .. }
            | Self::Refused { session, .. } => Some(session),
            Self::Reload { .. }
            | Self::Certificate { .. }
            | Self::Trust { .. }
            | Self::Config { .. }
            | Self::Recheck { .. }
            | Self::Drain { .. }
            | Self::Backend { .. }
            | Self::Lost { .. } => None,
        }
    }
}

/// The recent events of a process.
#[derive(Debug)]
pub(crate) struct Events {
    /// Sessions are recorded.
    has_sessions: AtomicBool,
    ring: Lock<Ring>,
    /// The number of the next event.
    next: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    /// The first number of this process.
    first: u64,
    next: u64,
    readers: usize,
    /// The time at which the last reader left.
    left: Instant,
}

/// A reader of events. It has no copy of them, only its place among them.
#[derive(Debug)]
pub(crate) struct Reader {
    events: Arc<Events>,
    next: u64,
    newest: watch::Receiver<u64>,
}

impl Default for Events {
    fn default() -> Self {
        let started = since_epoch(SystemTime::now()).as_millis();
        let first = u64::try_from(started).unwrap_or(0) * NUMBERS_PER_MILLISECOND + 1;
        let ring =
            Ring { events: VecDeque::new(), first, next: first, readers: 0, left: Instant::now() };
        let next = watch::Sender::new(first);
        Self { has_sessions: AtomicBool::new(false), ring: Lock::new(ring), next }
    }
}

impl Events {
    /// Records an event of a session, if sessions are recorded. Otherwise `what` is not called.
    pub(crate) fn session(&self, what: impl FnOnce() -> Happened) {
        if !self.has_sessions.load(Ordering::Relaxed) {
            return;
        }
        let what = what();
        let mut ring = self.ring.lock();
        if ring.readers == 0 && ring.left.elapsed() > LINGER {
            self.has_sessions.store(false, Ordering::Relaxed);
            return;
        }
        self.add(&mut ring, what);
    }

    /// Records an event of another kind.
    pub(crate) fn note(&self, what: Happened) {
        self.add(&mut self.ring.lock(), what);
    }

    fn add(&self, ring: &mut Ring, what: Happened) {
        if ring.events.len() == MAX_EVENTS {
            ring.events.pop_front();
        }
        let event = Event { number: ring.next, at: SystemTime::now(), what };
        ring.events.push_back(Arc::new(event));
        ring.next += 1;
        self.next.send_replace(ring.next);
    }

    /// Adds a reader of all events after the one with the number `since`, which is 0 for all that are kept; without a
    /// number, of new events. Returns none if there are [`MAX_READERS`].
    pub(crate) fn read(self: &Arc<Self>, since: Option<u64>) -> Option<Reader> {
        let mut ring = self.ring.lock();
        if ring.readers == MAX_READERS {
            return None;
        }
        ring.readers += 1;
        if !self.has_sessions.swap(true, Ordering::Relaxed) {
            // The sessions until now.
            self.add(&mut ring, Happened::Lost { count: None });
        }
        let next = match since {
            None => ring.next,
            Some(0) => ring.oldest(),
            // A number that this process has not reached is of another process, or a mistake.
            Some(since) if since >= ring.next => 0,
            Some(since) => since + 1,
        };
        Some(Reader { events: Arc::clone(self), next, newest: self.next.subscribe() })
    }
}

impl Ring {
    /// Returns the number of the oldest event, or of the next one if there is none.
    fn oldest(&self) -> u64 {
        self.next - self.events.len() as u64
    }

    /// Returns whether an event reports that others are missing, and not how many: so it covers those of another process.
    fn has_unknown_loss(&self) -> bool {
        self.events.iter().any(|event| matches!(event.what, Happened::Lost { count: None }))
    }
}

impl Reader {
    /// Returns at most `max` of the next events. The first one can be about events that were lost before.
    pub(crate) fn take(&mut self, max: usize) -> Vec<Arc<Event>> {
        let ring = self.events.ring.lock();
        let oldest = ring.oldest();
        let mut taken = Vec::new();
        if self.next < oldest {
            // Before the first number are those of another process.
            let count = (self.next >= ring.first).then(|| oldest - self.next);
            if count.is_some() || !ring.has_unknown_loss() {
                let (at, what) = (SystemTime::now(), Happened::Lost { count });
                taken.push(Arc::new(Event { number: oldest - 1, at, what }));
            }
            self.next = oldest;
        }
        let seen = usize::try_from(self.next - oldest).unwrap_or(usize::MAX);
        taken.extend(ring.events.iter().skip(seen).take(max).cloned());
        let last = taken.last().map(|event| event.number + 1);
        self.next = last.unwrap_or(self.next);
        taken
    }

    /// Returns the number of the last event before those that were not taken. Returns none if it is not known.
    pub(crate) const fn last(&self) -> Option<u64> {
        self.next.checked_sub(1)
    }

    /// Waits until there are events that were not taken.
    pub(crate) async fn wait(&mut self) {
        let next = self.next;
        // It fails only without a sender, which `events` owns.
        let _closed = self.newest.wait_for(|newest| *newest > next).await;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut ring = self.events.ring.lock();
        ring.readers -= 1;
        ring.left = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain() -> Happened {
        Happened::Drain { phase: "draining", connections: 0 }
    }

    fn kinds(reader: &mut Reader) -> Vec<EventKind> {
        reader.take(usize::MAX).iter().map(|event| event.what.kind()).collect()
    }

    #[test]
    fn nothing_is_made_of_sessions_while_nobody_reads() {
        let events = Arc::new(Events::default());
        events.session(|| panic!("it is not called"));
        events.note(drain());
        let mut reader = events.read(Some(0)).unwrap();
        assert_eq!(kinds(&mut reader), [EventKind::Drain, EventKind::Lost], "sessions are missing");
        events.session(drain);
        assert_eq!(kinds(&mut reader), [EventKind::Drain]);
        drop(reader);
        events.session(drain);
        events.ring.lock().left = Instant::now().checked_sub(2 * LINGER).unwrap();
        events.session(drain);
        events.session(|| panic!("it is called no longer"));
    }

    #[test]
    fn a_reader_that_returns_gets_all_events_since_its_last_number() {
        let events = Arc::new(Events::default());
        let mut reader = events.read(None).unwrap();
        events.session(drain);
        let last = reader.take(9)[0].number;
        drop(reader);
        events.session(drain);
        events.session(drain);
        let numbers = |since| {
            let taken = events.read(Some(since)).unwrap().take(9);
            taken.iter().map(|event| event.number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(last), [last + 1, last + 2]);
        assert_eq!(numbers(last + 2), [0; 0]);
        let mut after_restart = events.read(Some(7)).unwrap();
        let first = after_restart.take(1).remove(0);
        assert!(matches!(first.what, Happened::Lost { count: None }), "{first:?}");
    }

    #[test]
    fn a_reader_from_before_a_restart_learns_once_that_events_are_missing() {
        let events = Arc::new(Events::default());
        events.note(drain());
        let mut reader = events.read(Some(7)).unwrap();
        assert_eq!(kinds(&mut reader), [EventKind::Drain, EventKind::Lost]);
        for _ in 0..MAX_EVENTS {
            events.note(drain());
        }
        let mut late = events.read(Some(7)).unwrap();
        assert_eq!(late.take(1)[0].what.kind(), EventKind::Lost, "the other one is gone");
        assert!(kinds(&mut late).iter().all(|kind| *kind == EventKind::Drain));
    }

    #[test]
    fn a_slow_reader_learns_how_many_events_it_has_lost() {
        let events = Arc::new(Events::default());
        let mut reader = events.read(None).unwrap();
        for _ in 0..MAX_EVENTS + 7 {
            events.session(drain);
        }
        let taken = reader.take(usize::MAX);
        assert!(matches!(taken[0].what, Happened::Lost { count: Some(7) }), "{:?}", taken[0]);
        assert_eq!(taken.len(), MAX_EVENTS + 1);
        assert!(taken.windows(2).all(|pair| pair[1].number == pair[0].number + 1));
        assert_eq!(reader.take(9).len(), 0);
    }

    #[test]
    fn the_number_of_readers_is_bounded() {
        let events = Arc::new(Events::default());
        let readers: Vec<_> = (0..MAX_READERS).map(|_| events.read(None).unwrap()).collect();
        assert!(events.read(None).is_none());
        drop(readers);
        assert!(events.read(None).is_some());
    }

    #[tokio::test]
    async fn a_waiting_reader_wakes_for_the_next_event() {
        let events = Arc::new(Events::default());
        let mut reader = events.read(None).unwrap();
        let waiting = tokio::spawn(async move {
            reader.wait().await;
            reader.take(9).len()
        });
        tokio::task::yield_now().await;
        events.note(drain());
        assert_eq!(waiting.await.unwrap(), 1);
    }
}
