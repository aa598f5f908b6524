//! Stop orders: one for each session. A forced drain, the maximum age and an operator end a session through it.
//!
//! **Promises.** An order to stop now replaces an order to stop at the next pause. Otherwise the first order wins. Its
//! reason is the reason of the close. To check for an order is one atomic load, without a lock.
//!
//! **Not here.** The final bytes of a stopped connection and its pauses (`proxy/relay.rs`), the selection of sessions
//! (`sessions.rs`), the times of orders (`sessions/pace.rs`).

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::{Poll, Waker};

use crate::lock::Lock;
use crate::terms::reason::Reason;

/// Bit of an order that waits for a pause of its session.
const AT_PAUSE: u16 = 1 << 15;

/// An order to end one session, which may not have been given yet.
#[derive(Debug, Default)]
pub(crate) struct StopOrder {
    /// 0 without an order; otherwise the place of the reason among all reasons plus 1, with [`AT_PAUSE`].
    order: AtomicU16,
    /// The task of the connection. A mutex and a waker are 24 bytes; a `Notified` in the connection's future would
    /// be 56.
    waker: Lock<Option<Waker>>,
}

/// An order that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Stop now.
    Now(Stopped),
    /// Stop as soon as no exchange is in progress.
    AtPause(Reason),
}

/// The session was ordered to stop, for this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session was stopped: {0}")]
pub(crate) struct Stopped(pub(crate) Reason);

impl StopOrder {
    /// Orders the session to stop. Idempotent: only the first order counts. Returns true if this is the first.
    pub(crate) fn give(&self, reason: Reason) -> bool {
        self.set(encoded(reason), |before| before == 0 || before & AT_PAUSE != 0)
    }

    /// Orders the session to stop at its next pause, unless it has an order. Returns true if it had none.
    pub(crate) fn give_at_pause(&self, reason: Reason) -> bool {
        self.set(encoded(reason) | AT_PAUSE, |before| before == 0)
    }

    /// Replaces the order if `replaces` holds for the one before, and wakes the task.
    fn set(&self, order: u16, replaces: impl Fn(u16) -> bool) -> bool {
        let replaced = |before| replaces(before).then_some(order);
        if self.order.fetch_update(Ordering::AcqRel, Ordering::Acquire, replaced).is_err() {
            return false;
        }
        // Cloned, not taken: the task registers once, and there can be a second order.
        let waker = self.waker.lock().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Returns the order, of either kind, if one has been given.
    pub(crate) fn order(&self) -> Option<Order> {
        let order = self.order.load(Ordering::Acquire);
        let place = usize::from(order & !AT_PAUSE).checked_sub(1)?;
        let reason = Reason::ALL[place];
        Some(if order & AT_PAUSE == 0 {
            Order::Now(Stopped(reason))
        } else {
            Order::AtPause(reason)
        })
    }

    /// Returns the order to stop now, if it has been given.
    pub(crate) fn given(&self) -> Option<Stopped> {
        match self.order()? {
            Order::Now(stopped) => Some(stopped),
            Order::AtPause(_) => None,
        }
    }

    /// Registers the task to wake when the order is given. Call [`Self::order`] afterwards: an order that came
    /// before wakes no task.
    pub(crate) fn register(&self, waker: &Waker) {
        // It replaces the waker only if that is another task's.
        self.waker.lock().get_or_insert_with(|| waker.clone()).clone_from(waker);
    }

    /// Runs `work` unless the order to stop now is given before it completes. It is pinned by the caller: an `async fn`
    /// would store it twice.
    ///
    /// # Errors
    /// The order.
    pub(crate) async fn or<T>(
        &self,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Stopped> {
        poll_fn(|cx| {
            self.register(cx.waker());
            match self.given() {
                Some(stopped) => Poll::Ready(Err(stopped)),
                None => work.as_mut().poll(cx).map(Ok),
            }
        })
        .await
    }
}

/// Returns the place of a reason among all reasons, plus 1.
const fn encoded(reason: Reason) -> u16 {
    // A closed set has far fewer values.
    reason as u16 + 1
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn an_order_wakes_the_task_and_the_first_reason_wins() {
        let order = Arc::new(StopOrder::default());
        let waiting = tokio::spawn({
            let order = Arc::clone(&order);
            async move { order.or(pin!(std::future::pending::<()>())).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(order.given(), None);
        assert!(order.give(Reason::MaxAge));
        assert!(!order.give(Reason::DrainDeadline));
        assert_eq!(waiting.await.unwrap(), Err(Stopped(Reason::MaxAge)));
    }

    #[tokio::test]
    async fn an_order_given_before_the_work_begins_prevents_it() {
        let order = StopOrder::default();
        order.give(Reason::DrainDeadline);
        assert_eq!(order.or(pin!(async {})).await, Err(Stopped(Reason::DrainDeadline)));
    }

    #[test]
    fn an_order_to_stop_now_replaces_one_that_waits_for_a_pause_and_no_other() {
        let order = StopOrder::default();
        assert!(order.give_at_pause(Reason::Drain));
        assert!(!order.give_at_pause(Reason::MaxAge));
        assert_eq!((order.order(), order.given()), (Some(Order::AtPause(Reason::Drain)), None));
        assert!(order.give(Reason::Killed));
        assert!(!order.give(Reason::DrainDeadline));
        assert!(!order.give_at_pause(Reason::Drain));
        assert_eq!(order.order(), Some(Order::Now(Stopped(Reason::Killed))));
    }

    #[test]
    fn every_reason_is_returned_as_it_was_given() {
        for &reason in Reason::ALL {
            let order = StopOrder::default();
            order.give(reason);
            assert_eq!(order.given(), Some(Stopped(reason)));
        }
    }

    #[tokio::test]
    async fn each_of_two_orders_wakes_the_task() {
        let order = Arc::new(StopOrder::default());
        let waiting = tokio::spawn({
            let order = Arc::clone(&order);
            async move { order.or(pin!(std::future::pending::<()>())).await }
        });
        tokio::task::yield_now().await;
        order.give_at_pause(Reason::Drain);
        tokio::task::yield_now().await;
        order.give(Reason::Killed);
        assert_eq!(waiting.await.unwrap(), Err(Stopped(Reason::Killed)));
    }
}
