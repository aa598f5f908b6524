//! Live sessions, as an operator sees them: peer, identity, age, bytes, silence; and their stop orders.
//!
//! **Promises.** A session is listed from accept until its record is closed, however it ends. It is *established*
//! from the start of its relay; only established sessions are shown to operators and counted in metrics. Only the
//! connection's own task updates its counters, without a lock. The table is locked in parts, and only while a
//! session is added, removed or copied.
//!
//! **Not here.** Queries (`control/admin/query.rs`), rankings (`sessions/top.rs`).

mod activity;
pub(crate) mod budget;
pub(crate) mod close_rate;
pub(crate) mod drain;
mod expiry;
pub(crate) mod facts;
pub(crate) mod filter;
#[cfg(feature = "bench")]
mod imagined;
pub(crate) mod offer_facts;
pub(crate) mod offers;
pub(crate) mod pace;
pub(crate) mod recheck;
pub(crate) mod stop;
pub(crate) mod top;
pub(crate) mod trace;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use self::activity::Activity;
use self::budget::Budget;
use self::close_rate::CloseRate;
use self::expiry::NextExpiry;
use self::filter::Seen;
use self::offers::Offers;
use self::stop::StopOrder;
use self::top::Top;
use self::trace::step::Step;
use self::trace::{Counted, Facts, Traces};
use crate::lock::Lock;
use crate::metrics::{BackendUse, ListenerMetrics, SessionStats};
use crate::terms::labels::{Age, Direction, Expiry, Silence};
use crate::terms::negotiated::Negotiated;
use crate::terms::reason::Reason;
use crate::time::unix_seconds;
use crate::trust::identity::Identity;
use crate::trust::recheck::CheckedSession;
use crate::trust::snapshot::Snapshot;

/// Parts of the table, each with its own lock.
const PARTS: usize = 64;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// One connection, from accept to its end. Facts that become known later are set once.
pub(crate) struct Session {
    pub(crate) metrics: Arc<ListenerMetrics>,
    /// A number that is unique within this process.
    pub(crate) id: u64,
    /// The other end of the socket: the device or a proxy before it.
    pub(crate) socket_peer: SocketAddr,
    /// The addresses that a proxy has stated. Boxed, because most sessions have none.
    forwarded: OnceLock<Box<ForwardedAddresses>>,
    pub(crate) opened: Instant,
    /// The server name (SNI) of the ClientHello.
    pub(crate) server_name: OnceLock<Box<str>>,
    pub(crate) handshake: OnceLock<CompletedHandshake>,
    pub(crate) identity: OnceLock<Box<Identity>>,
    pub(crate) backend: OnceLock<BackendUse>,
    /// Time until the backend was connected. Set when the relay begins.
    pub(crate) connect: OnceLock<Duration>,
    stop: StopOrder,
    counted: Counters,
}

/// The two ends of a connection that a proxy forwards, as it states them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ForwardedAddresses {
    /// The device.
    pub(crate) source: SocketAddr,
    /// The address that the device has connected to.
    pub(crate) destination: SocketAddr,
}

/// Result of a completed handshake.
pub(crate) struct CompletedHandshake {
    pub(crate) negotiated: Negotiated,
    /// Time from accept to the end of the handshake.
    pub(crate) took: Duration,
}

/// Counters of a session, written only by its own task.
#[derive(Default)]
struct Counters {
    to_backend: AtomicU64,
    to_client: AtomicU64,
    activity: Activity,
    buffered: AtomicU32,
}

/// The live sessions of a process.
pub(crate) struct Sessions {
    parts: Box<[Lock<SessionMap>]>,
    /// Rankings over live and ended sessions.
    pub(crate) top: Top,
    /// The offers of the last 24 hours.
    pub(crate) offers: Offers,
    /// The next expiry of a client's certificate.
    pub(crate) next_expiry: NextExpiry,
    /// The memory that all connections hold for peers.
    pub(crate) budget: Arc<Budget>,
    /// The limit of closes per second.
    pub(crate) closes: CloseRate,
    /// The traces of operators.
    pub(crate) traces: Arc<Traces>,
}

/// Sessions by id.
type SessionMap = HashMap<u64, Arc<Session>>;

impl Session {
    /// Creates the session of a connection that was just accepted.
    pub(crate) fn new(metrics: Arc<ListenerMetrics>, id: u64, socket_peer: SocketAddr) -> Self {
        Self {
            metrics,
            id,
            socket_peer,
            forwarded: OnceLock::new(),
            opened: Instant::now(),
            server_name: OnceLock::new(),
            handshake: OnceLock::new(),
            identity: OnceLock::new(),
            backend: OnceLock::new(),
            connect: OnceLock::new(),
            stop: StopOrder::default(),
            counted: Counters::default(),
        }
    }

    /// Returns the address of the device.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.forwarded().map_or(self.socket_peer, |forwarded| forwarded.source)
    }

    /// Returns the addresses that a proxy before tlsidecar has stated, if one has.
    pub(crate) fn forwarded(&self) -> Option<&ForwardedAddresses> {
        self.forwarded.get().map(AsRef::as_ref)
    }

    /// Sets the addresses that a proxy has stated, once and before the ClientHello.
    pub(crate) fn set_forwarded(&self, addresses: ForwardedAddresses) {
        let ForwardedAddresses { source, destination } = addresses;
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        let _set_before = self.forwarded.set(ForwardedAddresses { source, destination }.into());
    }

    /// Returns the parts that filters look at.
    pub(crate) fn seen(&self) -> Seen<'_> {
        let names = self.identity.get().map(|identity| &*identity.names);
        Seen {
            listener: self.metrics.name(),
            names: names.unwrap_or_default(),
            peer: self.peer(),
            server_name: self.server_name.get().map(AsRef::as_ref),
        }
    }

    /// Returns true if its relay has begun.
    pub(crate) fn is_established(&self) -> bool {
        self.connect.get().is_some()
    }

    /// Returns the facts by which traces know it.
    pub(crate) fn facts(&self) -> Facts {
        Facts {
            connection: self.id,
            listener: self.metrics.name().into(),
            peer: self.peer(),
            opened: self.opened,
        }
    }

    /// Returns the first step of a session that a trace finds connected.
    pub(crate) fn connected_step(&self) -> Step {
        Step::Connected {
            identity: self.identity().map(Box::from),
            sni: self.server_name.get().cloned(),
            backend: self.backend.get().map(BackendUse::address).map(Box::from),
            age_seconds: self.age().as_secs(),
        }
    }

    /// Orders the session to stop now. Idempotent: the first reason wins. Returns true if this is the first such order.
    pub(crate) fn stop(&self, reason: Reason) -> bool {
        self.stop.give(reason)
    }

    /// The order that ends the session.
    pub(crate) const fn stop_order(&self) -> &StopOrder {
        &self.stop
    }

    /// Time since accept.
    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Time since the last relayed byte, or since accept if there was none.
    pub(crate) fn silence(&self) -> Duration {
        self.age().saturating_sub(Duration::from_millis(self.counted.activity.latest()))
    }

    /// Time from accept to the last relayed byte in a direction, in milliseconds.
    pub(crate) fn last_byte(&self, direction: Direction) -> Option<u64> {
        self.counted.activity.last(direction)
    }

    /// Returns the time for which the backend has not answered, if the client sent last.
    pub(crate) fn backend_silence(&self) -> Option<Duration> {
        self.counted.activity.backend_silence(self.age())
    }

    /// Returns true if the client sent last, and the backend has not answered for 30 seconds.
    pub(crate) fn waits_for_backend(&self) -> bool {
        self.counted.activity.is_backend_silent(self.age())
    }

    /// Plaintext bytes relayed.
    pub(crate) fn bytes(&self, direction: Direction) -> u64 {
        self.counter(direction).load(Ordering::Relaxed)
    }

    /// Adds plaintext bytes to the counters of the session and its listener.
    pub(crate) fn relayed(&self, direction: Direction, bytes: u64) {
        self.metrics.relayed(direction, bytes);
        let counter = self.counter(direction);
        // A load and a store suffice: no other task writes it.
        counter.store(counter.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }

    /// The backend is connected, and the relay begins.
    pub(crate) fn on_relay(&self) {
        self.counted.activity.begin(self.since_accept(Instant::now()));
    }

    /// Records that a byte was relayed at `now`.
    pub(crate) fn on_activity(&self, direction: Direction, now: Instant) {
        let first = self.counted.activity.record(direction, self.since_accept(now));
        if let Some(awaited) = first {
            self.metrics.first_byte(awaited);
        }
    }

    /// Returns the milliseconds from accept to `now`.
    fn since_accept(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.opened).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// Sets how many bytes the connection buffers now, as a part of all that are buffered.
    pub(crate) fn set_buffered(&self, bytes: usize, all: &Budget) {
        let before = self.counted.buffered.load(Ordering::Relaxed);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if bytes != before {
            // No other task writes it.
            self.counted.buffered.store(bytes, Ordering::Relaxed);
            all.change(before as usize, bytes as usize);
        }
    }

    /// The first name of the client's verified certificate, if it sent one.
    pub(crate) fn identity(&self) -> Option<&str> {
        self.identity.get()?.names.first().map(AsRef::as_ref)
    }

    /// The place of the route that its device would get with this snapshot, by its server name and its protocol.
    pub(crate) fn route(&self, snapshot: &Snapshot) -> Option<usize> {
        let name = self.server_name.get().map(AsRef::as_ref);
        let alpn = self.handshake.get().and_then(|handshake| handshake.negotiated.alpn.as_deref());
        snapshot.route(name, alpn.map(str::as_bytes))
    }

    /// Returns the facts that decide whether it stays.
    pub(crate) fn checked(&self) -> CheckedSession<'_> {
        let handshake = self.handshake.get();
        CheckedSession {
            server_name: self.server_name.get().map(AsRef::as_ref),
            alpn: handshake.and_then(|handshake| handshake.negotiated.alpn.as_deref()),
            client: self.identity.get().map(AsRef::as_ref),
        }
    }

    const fn counter(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::ToBackend => &self.counted.to_backend,
            Direction::ToClient => &self.counted.to_client,
        }
    }

    fn count_into(&self, stats: &mut SessionStats, now: i64) {
        stats.ages[age(self.age()) as usize] += 1;
        stats.silences[silence(self.silence()) as usize] += 1;
        let not_after = self.identity.get().map(|identity| identity.not_after);
        stats.expiries[expiry(not_after, now) as usize] += 1;
        stats.buffered_bytes += u64::from(self.counted.buffered.load(Ordering::Relaxed));
        stats.waiting_for_backend += u32::from(self.waits_for_backend());
    }
}

impl Counted for Session {
    fn counts(&self) -> [u64; 2] {
        [self.bytes(Direction::ToBackend), self.bytes(Direction::ToClient)]
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            parts: (0..PARTS).map(|_| Lock::default()).collect(),
            top: Top::default(),
            offers: Offers::default(),
            next_expiry: NextExpiry::default(),
            budget: Arc::default(),
            closes: CloseRate::default(),
            traces: Arc::default(),
        }
    }
}

impl Sessions {
    /// Adds a session to the list.
    pub(crate) fn add(&self, session: Arc<Session>) {
        self.part(session.id).insert(session.id, session);
    }

    /// Removes a session from the list.
    pub(crate) fn remove(&self, id: u64) {
        let mut part = self.part(id);
        part.remove(&id);
        // The table shrinks after a peak.
        if part.len() < part.capacity() / 4 {
            part.shrink_to_fit();
        }
    }

    /// Returns the sessions for which `wanted` holds, in no order. With a hundred thousand sessions it takes some ten
    /// milliseconds: a worker calls [`Self::for_matching`].
    pub(crate) fn matching(&self, wanted: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        self.parts.iter().flat_map(|part| matching(part, &wanted)).collect()
    }

    /// Calls `each` for the same sessions, and gives way to other tasks after each part of the table.
    pub(crate) async fn for_matching(
        &self,
        wanted: impl Fn(&Session) -> bool,
        mut each: impl FnMut(Arc<Session>),
    ) {
        for part in &self.parts {
            matching(part, &wanted).into_iter().for_each(&mut each);
            tokio::task::yield_now().await;
        }
    }

    /// Returns the number of sessions.
    pub(crate) fn count(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }

    /// Returns a session by its id.
    pub(crate) fn get(&self, id: u64) -> Option<Arc<Session>> {
        self.part(id).get(&id).cloned()
    }

    /// Orders every session for which `wanted` holds to stop. Returns how many had no order before.
    pub(crate) fn stop(&self, wanted: impl Fn(&Session) -> bool, reason: Reason) -> usize {
        self.matching(wanted).into_iter().filter(|session| session.stop(reason)).count()
    }

    /// Updates the session metrics of `listeners`.
    pub(crate) fn publish_stats(&self, listeners: &[Arc<ListenerMetrics>]) {
        let now = unix_seconds(SystemTime::now());
        let mut all_stats = vec![SessionStats::default(); listeners.len()];
        for part in &self.parts {
            for session in part.lock().values().filter(|session| session.is_established()) {
                let place = listeners.iter().position(|l| Arc::ptr_eq(l, &session.metrics));
                if let Some(place) = place {
                    session.count_into(&mut all_stats[place], now);
                }
            }
        }
        for (listener, stats) in listeners.iter().zip(&all_stats) {
            listener.set_session_stats(stats);
        }
    }

    fn part(&self, id: u64) -> MutexGuard<'_, SessionMap> {
        #[expect(clippy::cast_possible_truncation, reason = "the last bits select the part")]
        let place = id as usize % self.parts.len();
        self.parts[place].lock()
    }
}

/// Returns the sessions of a part of the table for which `wanted` holds.
fn matching(part: &Lock<SessionMap>, wanted: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
    // The lock is held only for the copy, however long `wanted` takes.
    let mut all: Vec<_> = part.lock().values().cloned().collect();
    all.retain(|session| wanted(session));
    all
}

const fn age(age: Duration) -> Age {
    match age.as_secs() {
        s if s < MINUTE => Age::UnderMinute,
        s if s < HOUR => Age::UnderHour,
        s if s < DAY => Age::UnderDay,
        s if s < 7 * DAY => Age::UnderWeek,
        _ => Age::OverWeek,
    }
}

const fn silence(silence: Duration) -> Silence {
    match silence.as_secs() {
        s if s < MINUTE => Silence::UnderMinute,
        s if s < 10 * MINUTE => Silence::UnderTenMinutes,
        s if s < HOUR => Silence::UnderHour,
        s if s < DAY => Silence::UnderDay,
        _ => Silence::OverDay,
    }
}

/// The expiry class of a client certificate. Its last second is valid (RFC 5280 section 4.1.2.5).
const fn expiry(not_after: Option<i64>, now: i64) -> Expiry {
    const DAY: i64 = 24 * 60 * 60;
    let Some(not_after) = not_after else { return Expiry::None };
    match not_after.saturating_sub(now) {
        ..0 => Expiry::Expired,
        left if left < DAY => Expiry::WithinDay,
        left if left < 7 * DAY => Expiry::WithinWeek,
        left if left < 30 * DAY => Expiry::WithinMonth,
        left if left < 90 * DAY => Expiry::WithinQuarter,
        _ => Expiry::Later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_valid_until_its_last_second() {
        let now = 1_000_000;
        let of = |left: i64| expiry(Some(now + left), now);
        assert_eq!(expiry(None, now), Expiry::None);
        assert_eq!(
            [-1, 0, 86_399, 86_400].map(of),
            [Expiry::Expired, Expiry::WithinDay, Expiry::WithinDay, Expiry::WithinWeek]
        );
        assert_eq!(of(30 * 86_400), Expiry::WithinQuarter);
        assert_eq!(of(i64::MAX - now), Expiry::Later);
    }

    #[test]
    fn a_session_is_silent_since_its_last_byte() {
        let metrics = super::super::metrics::Metrics::new().listener("a");
        let mut session = Session::new(metrics, 1, SocketAddr::from(([192, 0, 2, 1], 1)));
        let hour = Duration::from_secs(HOUR);
        session.opened = Instant::now().checked_sub(2 * hour).unwrap();
        let stats = |session: &Session| {
            let mut stats = SessionStats::default();
            session.count_into(&mut stats, 0);
            (stats.ages[Age::UnderDay as usize], stats.silences)
        };
        assert_eq!(silence(session.silence()), Silence::UnderDay);
        assert_eq!(stats(&session), (1, [0, 0, 0, 1, 0]), "accepted, and no byte relayed");
        let half_an_hour_ago = Instant::now().checked_sub(hour / 2).unwrap();
        session.on_activity(Direction::ToBackend, half_an_hour_ago);
        assert_eq!(stats(&session), (1, [0, 0, 1, 0, 0]));
        session.on_activity(Direction::ToClient, Instant::now());
        assert_eq!(stats(&session), (1, [1, 0, 0, 0, 0]));
    }

    /// Most bytes of a session with its two reference counts: an allocation of jemalloc's size class.
    const LARGEST_SESSION: usize = 320 - 16;

    #[test]
    fn a_session_has_not_grown_unnoticed() {
        let size = size_of::<Session>();
        assert!(size <= LARGEST_SESSION, "{size} bytes");
    }

    #[test]
    fn sessions_that_wait_for_an_answer_are_counted() {
        let metrics = super::super::metrics::Metrics::new().listener("a");
        let mut session = Session::new(metrics, 1, SocketAddr::from(([192, 0, 2, 1], 1)));
        session.opened = Instant::now().checked_sub(Duration::from_secs(HOUR)).unwrap();
        let waiting = |session: &Session| {
            let mut stats = SessionStats::default();
            session.count_into(&mut stats, 0);
            stats.waiting_for_backend
        };
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        assert_eq!(waiting(&session), 0);
        session.on_activity(Direction::ToBackend, ago(40));
        assert_eq!(waiting(&session), 1);
        session.on_activity(Direction::ToClient, ago(35));
        assert_eq!(waiting(&session), 0);
        session.on_activity(Direction::ToBackend, ago(20));
        assert_eq!(waiting(&session), 0, "not for 30 seconds yet");
    }

    #[test]
    fn ages_and_silences_fall_between_their_bounds() {
        let of = |seconds| age(Duration::from_secs(seconds));
        assert_eq!(
            [0, 59, 60, 86_399, 86_400].map(of),
            [Age::UnderMinute, Age::UnderMinute, Age::UnderHour, Age::UnderDay, Age::UnderWeek]
        );
        assert_eq!(of(7 * DAY), Age::OverWeek);
        let of = |seconds| silence(Duration::from_secs(seconds));
        assert_eq!(
            [59, 60, 600, 3600, 86_400].map(of),
            [
                Silence::UnderMinute,
                Silence::UnderTenMinutes,
                Silence::UnderHour,
                Silence::UnderDay,
                Silence::OverDay
            ]
        );
    }
}
