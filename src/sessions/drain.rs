//! The ends of the sessions of a process that drains.
//!
//! **Promises.** Over the spread, each session gets an order to stop at its next pause: an idle one ends at once, with a
//! close_notify, and one with a request in progress after its answer. A session that is left at the deadline is stopped.
//!
//! **Not here.** The times of a drain (`lifecycle.rs`), the pauses of a session (`proxy/relay.rs`).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Sessions;
use super::pace::{Pace, Plan, PlannedStop, evenly};
use super::stop::Order;
use crate::blocking::BlockingPool;
use crate::lifecycle::EndSessions;
use crate::terms::reason::Reason;

/// Ends the live sessions of a process.
pub(crate) struct SessionDrain {
    sessions: Arc<Sessions>,
    pool: Arc<BlockingPool>,
}

impl SessionDrain {
    /// Prepares the ends of these sessions. `pool` plans them: with a hundred thousand it takes a while.
    pub(crate) const fn new(sessions: Arc<Sessions>, pool: Arc<BlockingPool>) -> Self {
        Self { sessions, pool }
    }
}

impl EndSessions for SessionDrain {
    fn end_over(&self, spread: Duration) {
        let (sessions, pool) = (Arc::clone(&self.sessions), Arc::clone(&self.pool));
        // The time of the drain has begun, whatever the thread has to do before.
        let start = Instant::now();
        tokio::spawn(async move {
            let listed = Arc::clone(&sessions);
            let planned = pool.run(move || plan(&listed, start, spread)).await;
            // Without a thread it is done here.
            let plan = planned.unwrap_or_else(|_| plan(&sessions, start, spread));
            let pace = Pace::default();
            pace.replace(|_| plan);
            pace.run(&sessions.closes).await;
        });
    }

    fn end_now(&self) {
        let _forced = self.sessions.stop(|_| true, Reason::DrainDeadline);
    }

    fn least_time(&self) -> Duration {
        self.sessions.closes.time_for(self.sessions.count())
    }

    fn waiting(&self) -> usize {
        let waits = |order| matches!(order, Some(Order::AtPause(_)));
        self.sessions.matching(|session| waits(session.stop_order().order())).len()
    }
}

/// Returns the plan by which all sessions end over this time from `start` on, or over the longer one that the limit of closes
/// requires.
fn plan(sessions: &Sessions, start: Instant, spread: Duration) -> Plan {
    let all = sessions.matching(|_| true);
    // At the limit of closes per second, sessions are asked to stop no sooner than they can.
    let spread = spread.max(sessions.closes.time_for(all.len()));
    tracing::info!(sessions = all.len(), ?spread, "closing sessions at their next pause");
    let times = evenly(start, spread, all.len());
    let stop = PlannedStop::AtPause(Reason::Drain);
    times.zip(all).map(|(due, session)| ((due, session.id), (session, stop))).collect()
}
