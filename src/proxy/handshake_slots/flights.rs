//! The bound of answers to ClientHellos that no device has answered yet.
//!
//! A proxy that answers faster than the way to the devices or the devices themselves can follow makes all of them late:
//! each gives up just before it would have been done, and comes again. The remedy is that of TCP: the bound grows while
//! devices answer, and is halved when many give up.
//!
//! **Promises.** The bound never falls below the floor, with which it begins. An answer that a device ignores is counted
//! for [`FORGOTTEN`] at most, so devices that stay silent cannot stop the others. A device that leaves at once has not
//! given up and does not lower the bound. An operation takes constant time.
//!
//! **Not here.** The devices that wait (`handshake_slots/queue.rs`).

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The time after which an answer is no longer counted. The bound would otherwise belong to silent devices.
pub(super) const FORGOTTEN: Duration = Duration::from_millis(2500);

/// The time that a device has been connected at least when it gives up.
const PATIENT: Duration = Duration::from_millis(500);

/// Answers are counted by the slice of time in which they were sent.
const SLICE: Duration = Duration::from_millis(100);

/// The bound is halved if more than one of this number of devices gave up.
const MANY_GAVE_UP: usize = 4;

/// Ended answers after which the bound may be halved.
const ENOUGH: usize = 64;

/// The answers of a process.
#[derive(Debug)]
pub(super) struct Flights {
    floor: usize,
    bound: usize,
    /// Not ended and not forgotten.
    unanswered: usize,
    /// Those of `unanswered` by their slice, from the oldest.
    slices: VecDeque<Slice>,
    /// The answer before which the bound was halved: the ends of earlier ones say nothing about the new bound.
    halved_before: u64,
    /// The number of the next answer.
    next: u64,
    ended: usize,
    gave_up: usize,
}

#[derive(Debug)]
struct Slice {
    since: Instant,
    /// The number of its first answer.
    first: u64,
    unanswered: usize,
}

/// One answer to a ClientHello: its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight(u64);

/// The end of the wait for a device's flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlightEnd {
    /// The device sent something.
    Answered,
    /// The device left, or did not answer until the deadline.
    Left {
        /// The time since the device's connection was accepted.
        age: Duration,
    },
}

impl Flights {
    /// `floor` is the number of answers that may always be unanswered.
    pub(super) const fn new(floor: usize) -> Self {
        Self {
            floor,
            bound: floor,
            unanswered: 0,
            slices: VecDeque::new(),
            halved_before: 0,
            next: 0,
            ended: 0,
            gave_up: 0,
        }
    }

    /// Returns whether one more ClientHello may be answered, or when the next answer is forgotten.
    pub(super) fn may_begin(&mut self, now: Instant) -> Result<(), Instant> {
        while let Some(oldest) = self.slices.front()
            && (now.duration_since(oldest.since) >= FORGOTTEN || oldest.unanswered == 0)
        {
            self.unanswered -= oldest.unanswered;
            self.slices.pop_front();
        }
        match self.slices.front() {
            Some(oldest) if self.unanswered >= self.bound => Err(oldest.since + FORGOTTEN),
            Some(_) | None => Ok(()),
        }
    }

    /// An answer is sent.
    pub(super) fn sent(&mut self, now: Instant) -> Flight {
        let flight = Flight(self.next);
        self.next += 1;
        self.unanswered += 1;
        match self.slices.back_mut() {
            Some(newest) if now.duration_since(newest.since) < SLICE => newest.unanswered += 1,
            Some(_) | None => {
                self.slices.push_back(Slice { since: now, first: flight.0, unanswered: 1 });
            }
        }
        flight
    }

    /// The wait for the device's answer has ended.
    pub(super) fn ended(&mut self, Flight(number): Flight, end: FlightEnd) {
        let was_full = self.unanswered * 2 >= self.bound;
        // The slice that begins last of those that begin before the answer. None: it is forgotten.
        let place = self.slices.partition_point(|slice| slice.first <= number);
        if let Some(slice) = place.checked_sub(1).and_then(|place| self.slices.get_mut(place)) {
            slice.unanswered -= 1;
            self.unanswered -= 1;
        }
        if number < self.halved_before {
            return;
        }
        match end {
            FlightEnd::Answered => {
                self.ended += 1;
                if was_full {
                    self.bound += 1;
                }
            }
            FlightEnd::Left { age } if age >= PATIENT => {
                self.ended += 1;
                self.gave_up += 1;
            }
            FlightEnd::Left { .. } => {}
        }
        if self.ended >= ENOUGH.max(self.bound / 4) {
            self.judge();
        }
    }

    fn judge(&mut self) {
        if self.gave_up * MANY_GAVE_UP > self.ended {
            self.bound = (self.bound / 2).max(self.floor);
            self.halved_before = self.next;
        }
        (self.ended, self.gave_up) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: usize = 64;
    const GAVE_UP: FlightEnd = FlightEnd::Left { age: PATIENT };

    /// Sends as many answers as the bound allows.
    fn fill(flights: &mut Flights) -> Vec<Flight> {
        let now = Instant::now();
        std::iter::from_fn(|| flights.may_begin(now).ok().map(|()| flights.sent(now))).collect()
    }

    fn end_all(flights: &mut Flights, sent: Vec<Flight>, end: FlightEnd) {
        sent.into_iter().for_each(|flight| flights.ended(flight, end));
    }

    #[tokio::test(start_paused = true)]
    async fn each_device_that_answers_makes_room_for_two_while_the_bound_is_reached() {
        let mut flights = Flights::new(FLOOR);
        for flight in fill(&mut flights) {
            flights.ended(flight, FlightEnd::Answered);
            assert_eq!(fill(&mut flights).len(), 2);
        }
        assert_eq!(flights.unanswered, 2 * FLOOR);
    }

    #[tokio::test(start_paused = true)]
    async fn devices_that_answer_do_not_raise_a_bound_that_is_not_reached() {
        let mut flights = Flights::new(FLOOR);
        for _ in 0..10 * FLOOR {
            let flight = flights.sent(Instant::now());
            flights.ended(flight, FlightEnd::Answered);
        }
        assert_eq!(fill(&mut flights).len(), FLOOR);
    }

    #[tokio::test(start_paused = true)]
    async fn devices_that_give_up_halve_the_bound_once_per_round_down_to_the_floor() {
        let mut flights = Flights { bound: 4 * FLOOR, ..Flights::new(FLOOR) };
        for bound in [4, 2, 1, 1] {
            let sent = fill(&mut flights);
            assert_eq!(sent.len(), bound * FLOOR);
            end_all(&mut flights, sent, GAVE_UP);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_devices_that_give_up_and_many_that_leave_at_once_do_not_lower_the_bound() {
        let mut flights = Flights { bound: 4 * FLOOR, ..Flights::new(FLOOR) };
        for five in fill(&mut flights).chunks(5) {
            let (gave_up, answered) = five.split_first().unwrap();
            flights.ended(*gave_up, GAVE_UP);
            end_all(&mut flights, answered.to_vec(), FlightEnd::Answered);
            let left = fill(&mut flights);
            end_all(&mut flights, left, FlightEnd::Left { age: Duration::ZERO });
        }
        assert!(fill(&mut flights).len() >= 4 * FLOOR);
    }

    #[tokio::test(start_paused = true)]
    async fn silent_devices_are_forgotten_and_nothing_is_released_twice() {
        let mut flights = Flights::new(FLOOR);
        let silent = fill(&mut flights);
        let forgotten = flights.may_begin(Instant::now()).unwrap_err();
        assert_eq!(forgotten, Instant::now() + FORGOTTEN);
        tokio::time::advance(FORGOTTEN).await;
        let sent = fill(&mut flights);
        assert_eq!(sent.len(), FLOOR);
        end_all(&mut flights, silent, FlightEnd::Left { age: Duration::ZERO });
        assert!(fill(&mut flights).is_empty());
        end_all(&mut flights, sent, FlightEnd::Left { age: Duration::ZERO });
        assert_eq!(fill(&mut flights).len(), FLOOR);
    }
}
