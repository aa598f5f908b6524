//! The queue of devices that wait for a handshake slot.
//!
//! **Promises.** An operation takes time logarithmic in the devices that wait, and linear in the number of listeners.
//! The queue has one entry for each waiting device and none for devices that have left.
//!
//! **Not here.** The slots themselves, and who wakes whom (`handshake_slots.rs`).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::flights::{Flight, FlightEnd, Flights};
use super::pace::Pace;
use crate::config;

/// The wait after which the newest device is served before the oldest one. Devices give up after some seconds; nobody
/// gives up so soon.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// One of this number of slots goes to the lowest precedence first.
const OTHER_WAY_ROUND: u32 = 16;

/// Precedence of a device that waits, from the highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precedence {
    /// It offers a ticket: a resumption costs a fifth to a twenty-fifth of a full handshake.
    Resuming,
    /// A full handshake.
    Full,
    /// The handshakes of its source keep failing.
    Failing,
}

impl Precedence {
    const ALL: [Self; 3] = [Self::Resuming, Self::Full, Self::Failing];
}

/// The queue of a process. A device that gets a slot is sent a `G`.
#[derive(Debug)]
pub(super) struct SlotQueue<G> {
    free: usize,
    flights: Flights,
    /// By listener number.
    lanes: Vec<Lane<G>>,
    /// The number of the next device, which increases with time.
    next: u64,
    /// Slots given since one went the other way round.
    given: u32,
    has_timer: bool,
}

/// The part of one listener.
#[derive(Debug)]
struct Lane<G> {
    /// None: as many as there are slots.
    max_in_progress: Option<usize>,
    in_progress: usize,
    pace: Pace,
    /// By precedence, then by number.
    waiting: [BTreeMap<u64, Waiting<G>>; Precedence::ALL.len()],
}

/// A device that waits.
#[derive(Debug)]
struct Waiting<G> {
    since: Instant,
    grant: oneshot::Sender<G>,
}

/// The next step.
#[derive(Debug)]
pub(super) enum Next<G> {
    /// This device gets a slot.
    Device { lane: usize, precedence: Precedence, waiting: oneshot::Sender<G> },
    /// No handshake may begin before this instant: a timer has to be started.
    NotBefore(Instant),
    /// No slot is free, or nobody can use one.
    Nobody,
}

impl<G> SlotQueue<G> {
    /// `unanswered` is the number of answers that may always wait for their devices.
    pub(super) const fn new(slots: usize, unanswered: usize) -> Self {
        let flights = Flights::new(unanswered);
        Self { free: slots, flights, lanes: Vec::new(), next: 0, given: 0, has_timer: false }
    }

    /// Adds a listener and returns its number.
    pub(super) fn add_lane(&mut self) -> usize {
        self.lanes.push(Lane::new());
        self.lanes.len() - 1
    }

    pub(super) fn set_limits(&mut self, lane: usize, limits: config::Limits) {
        let lane = &mut self.lanes[lane];
        lane.max_in_progress = limits.max_handshakes_in_progress;
        lane.pace.set(limits.max_handshakes_per_second);
    }

    /// Returns how many devices of a listener wait.
    pub(super) fn waiting(&self, lane: usize) -> usize {
        self.lanes[lane].waiting()
    }

    /// Returns whether a device has waited for [`PATIENCE`].
    pub(super) fn is_overloaded(&self, now: Instant) -> bool {
        let waiting = self.lanes.iter().flat_map(|lane| &lane.waiting);
        let mut longest = waiting.filter_map(BTreeMap::first_key_value);
        longest.any(|(_, longest)| now.duration_since(longest.since) >= PATIENCE)
    }

    /// Takes a slot if one is free and no device of the listener waits.
    pub(super) fn try_take(&mut self, lane: usize, precedence: Precedence, now: Instant) -> bool {
        let listener = &self.lanes[lane];
        let takes = self.free > 0
            && self.waiting(lane) == 0
            && listener.has_room()
            && listener.may_begin(precedence, now).is_ok()
            && self.flights.may_begin(now).is_ok();
        if takes {
            self.take(lane, precedence, now);
        }
        takes
    }

    /// Adds a device that waits. Returns its number.
    pub(super) fn push(
        &mut self,
        lane: usize,
        precedence: Precedence,
        now: Instant,
        grant: oneshot::Sender<G>,
    ) -> u64 {
        let id = self.next;
        self.next += 1;
        self.lanes[lane].waiting[precedence as usize].insert(id, Waiting { since: now, grant });
        id
    }

    /// Removes a device that no longer waits.
    pub(super) fn remove(&mut self, lane: usize, precedence: Precedence, id: u64) {
        self.lanes[lane].waiting[precedence as usize].remove(&id);
    }

    /// Takes a slot for the device that comes next.
    pub(super) fn next(&mut self, now: Instant) -> Next<G> {
        if self.free == 0 || self.lanes.iter().all(|lane| lane.waiting() == 0) {
            return Next::Nobody;
        }
        if let Err(instant) = self.flights.may_begin(now) {
            return self.not_before(instant);
        }
        let mut order = Precedence::ALL;
        if self.given >= OTHER_WAY_ROUND {
            order.reverse();
        }
        let mut soonest: Option<Instant> = None;
        for precedence in order {
            match self.select(precedence, now) {
                Ok(Some((lane, id))) => {
                    let waiting = self.lanes[lane].waiting[precedence as usize].remove(&id);
                    let Some(Waiting { grant, .. }) = waiting else { continue };
                    self.given = (self.given + 1) % (OTHER_WAY_ROUND + 1);
                    self.take(lane, precedence, now);
                    return Next::Device { lane, precedence, waiting: grant };
                }
                Ok(None) => {}
                Err(instant) => {
                    soonest = Some(soonest.map_or(instant, |soonest| soonest.min(instant)));
                }
            }
        }
        soonest.map_or(Next::Nobody, |instant| self.not_before(instant))
    }

    const fn not_before(&mut self, instant: Instant) -> Next<G> {
        if std::mem::replace(&mut self.has_timer, true) {
            Next::Nobody
        } else {
            Next::NotBefore(instant)
        }
    }

    /// The timer has ended.
    pub(super) const fn timer_ended(&mut self) {
        self.has_timer = false;
    }

    /// Selects a device of this precedence: its listener and number. If all listeners with such devices are ahead of
    /// their pace, returns when the first of them may go on.
    fn select(
        &self,
        precedence: Precedence,
        now: Instant,
    ) -> Result<Option<(usize, u64)>, Instant> {
        let mut oldest: Option<(u64, usize, Instant)> = None;
        let mut newest: Option<(u64, usize)> = None;
        let mut soonest: Option<Instant> = None;
        for (number, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| lane.has_room()) {
            let waiting = &lane.waiting[precedence as usize];
            let (Some((&first, longest)), Some((&last, _))) =
                (waiting.first_key_value(), waiting.last_key_value())
            else {
                continue;
            };
            if let Err(instant) = lane.may_begin(precedence, now) {
                soonest = Some(soonest.map_or(instant, |soonest| soonest.min(instant)));
                continue;
            }
            if oldest.is_none_or(|(id, ..)| first < id) {
                oldest = Some((first, number, longest.since));
            }
            if newest.is_none_or(|(id, _)| last > id) {
                newest = Some((last, number));
            }
        }
        let (Some((first, of_first, since)), Some((last, of_last))) = (oldest, newest) else {
            return soonest.map_or(Ok(None), Err);
        };
        let is_patient = now.duration_since(since) < PATIENCE;
        Ok(Some(if is_patient { (of_first, first) } else { (of_last, last) }))
    }

    fn take(&mut self, lane: usize, precedence: Precedence, now: Instant) {
        self.free -= 1;
        let lane = &mut self.lanes[lane];
        lane.in_progress += 1;
        if precedence != Precedence::Resuming {
            lane.pace.charge(now);
        }
    }

    /// Returns a slot. `was_full`: the handshake turned out to be a full one.
    pub(super) fn release(
        &mut self,
        lane: usize,
        precedence: Precedence,
        was_full: bool,
        now: Instant,
    ) {
        self.free += 1;
        let lane = &mut self.lanes[lane];
        lane.in_progress -= 1;
        if was_full && precedence == Precedence::Resuming {
            lane.pace.charge(now);
        }
    }

    /// A ClientHello has been answered.
    pub(super) fn sent(&mut self, now: Instant) -> Flight {
        self.flights.sent(now)
    }

    /// The wait for the device's answer has ended.
    pub(super) fn ended(&mut self, flight: Flight, end: FlightEnd) {
        self.flights.ended(flight, end);
    }
}

impl<G> Lane<G> {
    fn new() -> Self {
        let waiting = Precedence::ALL.map(|_| BTreeMap::new());
        Self { max_in_progress: None, in_progress: 0, pace: Pace::default(), waiting }
    }

    fn waiting(&self) -> usize {
        self.waiting.iter().map(BTreeMap::len).sum()
    }

    fn has_room(&self) -> bool {
        self.max_in_progress.is_none_or(|max| self.in_progress < max)
    }

    /// Returns whether a handshake may begin, or when.
    fn may_begin(&self, precedence: Precedence, now: Instant) -> Result<(), Instant> {
        match precedence {
            Precedence::Resuming => Ok(()),
            Precedence::Full | Precedence::Failing => self.pace.not_before(now).map_or(Ok(()), Err),
        }
    }
}
