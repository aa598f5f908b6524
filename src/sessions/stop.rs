//! Stop orders: one for each session. A forced drain, the maximum age and an operator end a session through it.
//!
//! **Promises.** The first order wins: its reason is the reason of the close. To check for an order is one atomic
//! load, without a lock.
//!
//! **Not here.** The final bytes of a stopped connection (`proxy/relay.rs`), the selection of sessions (`sessions.rs`).

use std::future::poll_fn;
use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Poll, Waker};

use crate::lock::Lock;
use crate::terms::reason::Reason;

/// An order to end one session, which may not have been given yet.
#[derive(Debug, Default)]
pub(crate) struct StopOrder {
    reason: OnceLock<Reason>,
    /// The task of the connection. A mutex and a waker are 24 bytes; a `Notified` in the connection's future would
    /// be 56.
    waker: Lock<Option<Waker>>,
}

/// The session was ordered to stop, for this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session was stopped: {0}")]
pub(crate) struct Stopped(pub(crate) Reason);

impl StopOrder {
    /// Orders the session to stop. Idempotent: only the first order counts. Returns true if this is the first.
    pub(crate) fn give(&self, reason: Reason) -> bool {
        if self.reason.set(reason).is_err() {
            return false;
        }
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Returns the order if it has been given.
    pub(crate) fn given(&self) -> Option<Stopped> {
        self.reason.get().copied().map(Stopped)
    }

    /// Registers the task to wake when the order is given. Call [`Self::given`] afterwards: an order that came
    /// before wakes no task.
    pub(crate) fn register(&self, waker: &Waker) {
        // It replaces the waker only if that is another task's.
        self.waker.lock().get_or_insert_with(|| waker.clone()).clone_from(waker);
    }

    /// Runs `work` unless the order is given before it completes.
    ///
    /// # Errors
    /// The order.
    pub(crate) async fn or<T>(&self, work: impl Future<Output = T>) -> Result<T, Stopped> {
        let mut work = pin!(work);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn an_order_wakes_the_task_and_the_first_reason_wins() {
        let order = Arc::new(StopOrder::default());
        let waiting = tokio::spawn({
            let order = Arc::clone(&order);
            async move { order.or(std::future::pending::<()>()).await }
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
        assert_eq!(order.or(async {}).await, Err(Stopped(Reason::DrainDeadline)));
    }
}
