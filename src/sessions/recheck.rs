//! Re-checks live sessions after each reload, and when a client's certificate expires.
//!
//! **Promises.** Exactly the sessions that a new handshake would refuse are stopped, evenly over `recheck_spread`, so
//! that their devices do not all return in the same second. Each check replaces the result of the one before: a session
//! that an earlier check refused and this one does not is not stopped, and one that is refused again keeps its time. A
//! check that fails is repeated.
//!
//! **Not here.** The check (`trust/recheck.rs`), the pace (`sessions/pace.rs`), a handshake that is in progress during
//! the reload (`proxy/route.rs`), the last bytes of a stopped connection (`proxy/relay.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::pace::{Pace, Plan, PlannedStop, evenly};
use super::{Session, Sessions};
use crate::blocking::BlockingPool;
use crate::events::Happened;
use crate::metrics::ListenerMetrics;
use crate::terms::reason::Reason;
use crate::trust::recheck::{self, PolicyVerdicts};
use crate::trust::snapshot::Snapshot;

/// Time after which a check is repeated that has failed.
const RETRY: Duration = Duration::from_secs(1);

/// A listener whose sessions are checked.
pub(crate) struct CheckedListener {
    metrics: Arc<ListenerMetrics>,
    /// The current snapshot, now and after each reload.
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// A certificate of some session has expired.
    expiry: Notify,
    /// The stops of refused sessions.
    pace: Pace,
}

/// The re-check of all sessions of a process.
pub(crate) struct Recheck {
    sessions: Arc<Sessions>,
    listeners: Vec<CheckedListener>,
    pool: Arc<BlockingPool>,
}

impl CheckedListener {
    /// Prepares the check of a listener's sessions with these snapshots.
    pub(crate) fn new(
        metrics: Arc<ListenerMetrics>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> Self {
        Self { metrics, snapshots, expiry: Notify::new(), pace: Pace::default() }
    }

    /// Replaces the plan after a check.
    fn reschedule(&self, checked: Vec<Checked>) {
        self.pace.replace(|before| rescheduled(before, checked, Instant::now()));
    }
}

impl Recheck {
    /// Prepares the re-check. `pool` runs it: with a hundred thousand sessions it takes a while.
    pub(crate) const fn new(
        sessions: Arc<Sessions>,
        listeners: Vec<CheckedListener>,
        pool: Arc<BlockingPool>,
    ) -> Self {
        Self { sessions, listeners, pool }
    }

    /// Starts the tasks that check until the runtime ends.
    pub(crate) fn start(self) {
        let checks = Arc::new(self);
        for place in 0..checks.listeners.len() {
            tokio::spawn(Arc::clone(&checks).check_repeatedly(place));
            let checks = Arc::clone(&checks);
            tokio::spawn(async move { checks.run_pace(place).await });
        }
        tokio::spawn(async move {
            loop {
                checks.sessions.next_expiry.passed().await;
                checks.listeners.iter().for_each(|listener| listener.expiry.notify_one());
            }
        });
    }

    async fn run_pace(&self, place: usize) {
        self.listeners[place].pace.run(&self.sessions.closes).await;
    }

    async fn check_repeatedly(self: Arc<Self>, place: usize) {
        let listener = &self.listeners[place];
        let mut snapshots = listener.snapshots.clone();
        let mut trust = snapshots.borrow_and_update().client_trust();
        let mut has_failed = false;
        loop {
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                () = listener.expiry.notified() => {}
                () = sleep(RETRY), if has_failed => {}
            }
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            let new_trust = snapshot.client_trust();
            let (checks, checked) = (Arc::clone(&self), Arc::clone(&snapshot));
            let has_new_trust = trust != new_trust;
            let done = self.pool.run(move || checks.check(place, &checked, has_new_trust)).await;
            has_failed = done.is_err();
            match done {
                Ok(()) => trust = new_trust,
                Err(error) => {
                    let listener = &snapshot.listener.name;
                    tracing::error!(listener, %error, "cannot re-check the live sessions; retrying");
                }
            }
        }
    }

    /// Checks the sessions of a listener, and plans the stops of those that are refused.
    fn check(&self, place: usize, snapshot: &Snapshot, has_new_trust: bool) {
        let listener = &self.listeners[place];
        let checked = check_all(&self.sessions, &listener.metrics, snapshot);
        checked.iter().for_each(|one| report(&listener.metrics, one, has_new_trust));
        listener.reschedule(checked);
    }
}

/// The result of a re-check of the sessions of one policy.
struct Checked {
    /// The place of the policy's route; none for the listener's own policy.
    route: Option<usize>,
    refused: Vec<(Arc<Session>, Reason)>,
    count: usize,
    spread: Duration,
    took: Duration,
}

/// Checks the sessions of a listener, each with the policy of the route that its device would get now.
fn check_all(
    sessions: &Sessions,
    metrics: &Arc<ListenerMetrics>,
    snapshot: &Snapshot,
) -> Vec<Checked> {
    if snapshot.policies.iter().all(|policy| !policy.recheck) {
        return Vec::new();
    }
    // A session whose handshake is not complete is checked when it is.
    let all = sessions.matching(|session| {
        Arc::ptr_eq(&session.metrics, metrics) && session.handshake.get().is_some()
    });
    let checked: Vec<_> = all.iter().map(|session| session.checked()).collect();
    let by_policy =
        recheck::check_all(snapshot, &checked, SystemTime::now(), |policy| policy.recheck);
    by_policy
        .into_iter()
        .map(|found| {
            let refused = found.refused();
            let refused: Vec<_> =
                refused.map(|(place, reason)| (Arc::clone(&all[place]), reason)).collect();
            // The time of the next expiry was taken when it passed.
            if let Some(valid_until) = found.verdicts.valid_until {
                sessions.next_expiry.add(valid_until);
            }
            let PolicyVerdicts { route, policy, took, .. } = found;
            let count = found.sessions.len();
            // At the limit of closes per second, they are stopped no sooner than they can be.
            let spread = policy.recheck_spread.max(sessions.closes.time_for(refused.len()));
            Checked { route, refused, count, spread, took }
        })
        .collect()
}

/// Returns the ids of the sessions that a re-check with a snapshot stops, and the reasons.
#[cfg(test)]
pub(crate) fn refused_now(
    sessions: &Sessions,
    metrics: &Arc<ListenerMetrics>,
    snapshot: &Snapshot,
) -> std::collections::BTreeSet<(u64, Reason)> {
    let checked = check_all(sessions, metrics, snapshot);
    checked.iter().flat_map(|one| &one.refused).map(|(one, reason)| (one.id, *reason)).collect()
}

fn report(metrics: &ListenerMetrics, checked: &Checked, has_new_trust: bool) {
    let Checked { route, refused, count, spread, took } = checked;
    let is_of_interest = has_new_trust && (route.is_none() || *count > 0);
    if refused.is_empty() && !is_of_interest {
        return;
    }
    let with = |reason| refused.iter().filter(|(_, refused)| *refused == reason).count();
    let (revoked, expired) = (with(Reason::Revoked), with(Reason::Expired));
    let not_allowed = with(Reason::ClientNotAllowed);
    let (listener, route, sessions) = (metrics.name(), *route, *count);
    metrics.events().note(Happened::Recheck {
        listener: listener.into(),
        route,
        sessions,
        revoked,
        expired,
        not_allowed,
    });
    tracing::info!(
        listener,
        route,
        sessions,
        revoked,
        expired,
        not_allowed,
        ?spread,
        ?took,
        "live sessions re-checked"
    );
}

/// Returns the plan after a check: sessions that are refused again keep their time, the others are stopped evenly
/// over the spread of their policy from `now` on, the first at once.
fn rescheduled(before: &Plan, checked: Vec<Checked>, now: Instant) -> Plan {
    let times: HashMap<u64, Instant> = before.keys().map(|(due, id)| (*id, *due)).collect();
    let mut plan = Plan::new();
    for Checked { refused, spread, .. } in checked {
        let (again, new): (Vec<_>, Vec<_>) =
            refused.into_iter().partition(|(session, _)| times.contains_key(&session.id));
        let again = again.into_iter().map(|refused| (times[&refused.0.id], refused));
        let new = evenly(now, spread, new.len()).zip(new);
        let planned = again.chain(new).map(|(due, (session, reason))| {
            ((due, session.id), (session, PlannedStop::Now(reason)))
        });
        plan.extend(planned);
    }
    plan
}

#[cfg(test)]
mod tests;
