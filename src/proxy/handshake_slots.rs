//! Slots for the costly part of handshakes, and the order in which waiting devices get them.
//!
//! After a power cut a whole fleet connects at once, and more handshakes arrive than can be completed before devices
//! give up. If all were in progress together, none would be complete in time.
//!
//! **Promises.** At most as many handshakes do their first cryptography at a time as there are slots: one for each
//! worker. A slot is held for the answer to a ClientHello, never while bytes of a device are awaited. The answers that
//! wait for their devices are bounded as well (`flights.rs`). Devices with a
//! ticket come first, sources whose handshakes keep failing come last, and of every 16 slots one goes the other way
//! round, so that nobody waits for ever. Devices that have waited for less than `PATIENCE` are served in the order of
//! their arrival; beyond that the newest one is served first, because it is the likeliest to be still there. Waiting
//! is bounded by the deadline of the handshake. A slot is released however its handshake ends, also by a panic.
//!
//! **Not here.** The number of connections (`admission.rs`), what a handshake does with its slot (`handshake.rs`).

mod failing;
mod flights;
mod pace;
mod queue;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use self::failing::FailingSources;
use self::flights::{Flight, FlightEnd};
use self::queue::{Next, Precedence, SlotQueue};
use super::source::ClientSource;
use crate::config;
use crate::lock::Lock;

/// Answers that may always wait for their devices, for each slot. Twice as many took twice as long to bring back as many
/// devices, and the connected ones waited three times as long; with devices that are far away the bound soon grows.
const UNANSWERED_PER_SLOT: usize = 64;

/// Resumed handshakes between two looks at the sockets. Together they cost about as much as a full handshake with RSA. With a
/// look after each one, quiet devices with TLS 1.2 resumed 6 % less often per second of CPU time.
const RESUMED_IN_SERIES: u32 = 8;

/// The slots of a process.
#[derive(Debug)]
pub(crate) struct HandshakeSlots {
    queue: Lock<SlotQueue<Slot>>,
    failing: FailingSources,
    /// Resumed handshakes, wrapping.
    resumed: AtomicU32,
}

/// The slots, as one listener uses them.
#[derive(Clone, Debug)]
pub(crate) struct ListenerSlots {
    slots: Arc<HandshakeSlots>,
    /// The number of the listener.
    lane: usize,
}

/// Access of one handshake to the slots.
#[derive(Debug)]
pub(crate) struct SlotAccess {
    listener: ListenerSlots,
    source: ClientSource,
}

/// A slot. Released on drop.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<HandshakeSlots>,
    lane: usize,
    precedence: Precedence,
    was_full: bool,
}

/// The answer to a ClientHello, until the device answers it. Dropped if the device leaves.
#[derive(Debug)]
pub(crate) struct Unanswered {
    slots: Arc<HandshakeSlots>,
    flight: Flight,
    since: Instant,
    has_answer: bool,
}

impl HandshakeSlots {
    /// Creates `count` slots.
    pub(crate) fn new(count: usize) -> Self {
        let queue = SlotQueue::new(count, count * UNANSWERED_PER_SLOT);
        let failing = FailingSources::default();
        Self { queue: Lock::new(queue), failing, resumed: AtomicU32::new(0) }
    }

    /// Adds a listener.
    pub(crate) fn add_listener(self: &Arc<Self>) -> ListenerSlots {
        let lane = self.queue.lock().add_lane();
        ListenerSlots { slots: Arc::clone(self), lane }
    }

    /// Gives free slots to devices that wait, as far as the limits allow.
    fn serve(self: &Arc<Self>) {
        loop {
            // The lock is released before the slot is sent: a slot that nobody receives locks it again.
            let next = self.queue.lock().next(Instant::now());
            match next {
                Next::Device { lane, precedence, waiting } => {
                    let slots = Arc::clone(self);
                    let slot = Slot { slots, lane, precedence, was_full: false };
                    // If its handshake has just ended, the slot is released by the drop.
                    let _unused = waiting.send(slot);
                }
                Next::NotBefore(instant) => {
                    let slots = Arc::clone(self);
                    tokio::spawn(async move {
                        sleep_until(instant).await;
                        slots.queue.lock().timer_ended();
                        slots.serve();
                    });
                    return;
                }
                Next::Nobody => return,
            }
        }
    }
}

impl ListenerSlots {
    /// Sets the limits of the listener. A reload can change them.
    pub(crate) fn set_limits(&self, limits: config::Limits) {
        self.slots.queue.lock().set_limits(self.lane, limits);
        self.slots.serve();
    }

    /// Returns how many devices of the listener wait for a slot.
    pub(crate) fn waiting(&self) -> usize {
        self.slots.queue.lock().waiting(self.lane)
    }

    fn slot(&self, precedence: Precedence) -> Slot {
        Slot { slots: Arc::clone(&self.slots), lane: self.lane, precedence, was_full: false }
    }

    /// Returns the access of a handshake of a device of `source`.
    pub(crate) fn access(&self, source: ClientSource) -> SlotAccess {
        SlotAccess { listener: self.clone(), source }
    }
}

impl SlotAccess {
    /// Takes a slot if one is free and nobody of the listener waits for one.
    pub(crate) fn try_take(&self, offers_resumption: bool) -> Option<Slot> {
        let ListenerSlots { slots, lane } = &self.listener;
        let precedence = self.precedence(offers_resumption);
        let taken = slots.queue.lock().try_take(*lane, precedence, Instant::now());
        taken.then(|| self.listener.slot(precedence))
    }

    /// Waits for a slot.
    pub(crate) async fn take(&self, offers_resumption: bool) -> Slot {
        let ListenerSlots { slots, lane } = &self.listener;
        let precedence = self.precedence(offers_resumption);
        let (grant, granted) = oneshot::channel();
        let id = slots.queue.lock().push(*lane, precedence, Instant::now(), grant);
        let _queued = Queued { listener: &self.listener, precedence, id };
        // A slot can have become free before the device was added.
        slots.serve();
        match granted.await {
            Ok(slot) => slot,
            // The sender is kept until it is used or the device leaves the queue.
            Err(_) => std::future::pending().await,
        }
    }

    /// Returns whether devices have waited for so long that the newest come first.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.listener.slots.queue.lock().is_overloaded(Instant::now())
    }

    fn precedence(&self, offers_resumption: bool) -> Precedence {
        match offers_resumption {
            _ if self.listener.slots.failing.contains(self.source) => Precedence::Failing,
            true => Precedence::Resuming,
            false => Precedence::Full,
        }
    }

    /// The handshake has ended: none if it was completed, otherwise whether the next attempt of the device will fail as
    /// well.
    pub(crate) fn ended(&self, will_recur: Option<bool>) {
        let failing = &self.listener.slots.failing;
        match will_recur {
            None => failing.succeeded(self.source),
            Some(true) => failing.failed(self.source),
            Some(false) => {}
        }
    }
}

/// The place of a device in the queue. Left on drop.
struct Queued<'a> {
    listener: &'a ListenerSlots,
    precedence: Precedence,
    id: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let ListenerSlots { slots, lane } = self.listener;
        slots.queue.lock().remove(*lane, self.precedence, self.id);
    }
}

impl Slot {
    /// The handshake is a full one.
    pub(crate) const fn on_full_handshake(&mut self) {
        self.was_full = true;
    }

    /// Counts a resumed handshake. Returns whether it is the last of a series.
    pub(crate) fn ends_series(&self) -> bool {
        let resumed = self.slots.resumed.fetch_add(1, Ordering::Relaxed);
        resumed % RESUMED_IN_SERIES == RESUMED_IN_SERIES - 1
    }

    /// The answer is sent to a device that connected at `since`. Releases the slot.
    pub(crate) fn answered(self, since: Instant) -> Unanswered {
        let flight = self.slots.queue.lock().sent(Instant::now());
        Unanswered { slots: Arc::clone(&self.slots), flight, since, has_answer: false }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Self { slots, lane, precedence, was_full } = self;
        slots.queue.lock().release(*lane, *precedence, *was_full, Instant::now());
        slots.serve();
    }
}

impl Unanswered {
    /// The device has answered.
    pub(crate) fn on_answer(mut self) {
        self.has_answer = true;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let Self { slots, flight, since, has_answer } = self;
        let end = match has_answer {
            true => FlightEnd::Answered,
            false => FlightEnd::Left { age: since.elapsed() },
        };
        slots.queue.lock().ended(*flight, end);
        slots.serve();
    }
}
