//! Re-checks live sessions when the trust in their clients changes, and when their certificates expire.
//!
//! **Promises.** Exactly the sessions that a new handshake would refuse are stopped, evenly over
//! `recheck_spread`, so that their devices do not all return in the same second. A handshake that was verified with
//! an older snapshot is checked with the newer one before its relay starts, so that none is missed between the two.
//!
//! **Not here.** The check (`trust/recheck.rs`), the last bytes of a stopped connection (`proxy/relay.rs`).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{Session, Sessions};
use crate::blocking::BlockingPool;
use crate::metrics::ListenerMetrics;
use crate::terms::reason::Reason;
use crate::trust::policy::Policy;
use crate::trust::recheck;
use crate::trust::snapshot::Snapshot;

/// A listener whose sessions are checked.
pub(crate) struct CheckedListener {
    pub(crate) metrics: Arc<ListenerMetrics>,
    /// The current snapshot, now and after each reload.
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
}

/// The re-check of all sessions of a process.
pub(crate) struct Recheck {
    sessions: Arc<Sessions>,
    listeners: Vec<CheckedListener>,
    pool: BlockingPool,
}

impl Recheck {
    /// Prepares the re-check. `pool` runs it: with a hundred thousand sessions it takes a while.
    pub(crate) const fn new(
        sessions: Arc<Sessions>,
        listeners: Vec<CheckedListener>,
        pool: BlockingPool,
    ) -> Self {
        Self { sessions, listeners, pool }
    }

    /// Starts the tasks that check until the runtime ends.
    pub(crate) fn start(self) {
        let checks = Arc::new(self);
        for place in 0..checks.listeners.len() {
            tokio::spawn(Arc::clone(&checks).on_new_trust(place));
        }
        tokio::spawn(checks.on_expiry());
    }

    async fn on_new_trust(self: Arc<Self>, place: usize) {
        let mut snapshots = self.listeners[place].snapshots.clone();
        let mut checked = snapshots.borrow_and_update().client_trust();
        while snapshots.changed().await.is_ok() {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            let new = snapshot.client_trust();
            // A renewal of our own certificate refuses no client.
            if new != checked {
                checked = new;
                self.check(place, snapshot, Cause::NewTrust).await;
            }
        }
    }

    async fn on_expiry(self: Arc<Self>) {
        loop {
            self.sessions.next_expiry.passed().await;
            for (place, listener) in self.listeners.iter().enumerate() {
                let snapshot = Arc::clone(&listener.snapshots.borrow());
                self.check(place, snapshot, Cause::Expiry).await;
            }
        }
    }

    /// Checks the sessions of a listener, and starts a task for each policy that stops those that are refused.
    async fn check(&self, place: usize, snapshot: Arc<Snapshot>, cause: Cause) {
        if snapshot.policies.iter().all(|policy| !policy.recheck) {
            return;
        }
        let metrics = Arc::clone(&self.listeners[place].metrics);
        let listener = snapshot.listener.name.clone();
        let sessions = Arc::clone(&self.sessions);
        let checked = self.pool.run(move || check_all(&sessions, &metrics, &snapshot)).await;
        let checked = match checked {
            Ok(checked) => checked,
            Err(error) => {
                tracing::error!(listener, %error, "cannot re-check the live sessions");
                return;
            }
        };
        for checked in checked {
            report(&listener, &checked, cause);
            tokio::spawn(stop_evenly(checked.refused, checked.spread));
        }
    }
}

/// The cause of a re-check.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    NewTrust,
    Expiry,
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
    let all = sessions.matching(|session| Arc::ptr_eq(&session.metrics, metrics));
    let mut by_policy: Vec<_> = snapshot.policies.iter().map(|_| Vec::new()).collect();
    // A session whose handshake is not complete is checked when it is.
    for session in all.into_iter().filter(|session| session.handshake.get().is_some()) {
        let place = snapshot.listener.policy_of(session.route(snapshot));
        by_policy[place].push(session);
    }
    let policies = snapshot.by_route().zip(by_policy).filter(|((_, policy), _)| policy.recheck);
    policies
        .map(|((route, policy), group)| {
            let start = Instant::now();
            let (count, refused) = (group.len(), refused(sessions, &group, policy));
            Checked { route, refused, count, spread: policy.recheck_spread, took: start.elapsed() }
        })
        .collect()
}

/// Returns the sessions that a policy refuses, and notes when the next of the others expires.
fn refused(
    sessions: &Sessions,
    group: &[Arc<Session>],
    policy: &Policy,
) -> Vec<(Arc<Session>, Reason)> {
    let clients: Vec<_> = group.iter().map(|one| one.identity.get().map(AsRef::as_ref)).collect();
    let refused = recheck::refused(policy, &clients, SystemTime::now());
    let ending: HashSet<_> = refused.iter().map(|(place, _)| *place).collect();
    let staying = clients.iter().enumerate().filter(|(place, _)| !ending.contains(place));
    // The time of the next expiry was taken when it passed.
    if let Some(next) = staying.filter_map(|(_, client)| Some(client.as_ref()?.expires())).min() {
        sessions.next_expiry.add(next);
    }
    refused.into_iter().map(|(place, reason)| (Arc::clone(&group[place]), reason)).collect()
}

fn report(listener: &str, checked: &Checked, cause: Cause) {
    let Checked { route, refused, count, spread, took } = checked;
    let is_worth_a_line = match cause {
        Cause::Expiry => !refused.is_empty(),
        Cause::NewTrust => route.is_none() || *count > 0,
    };
    if !is_worth_a_line {
        return;
    }
    let with = |reason| refused.iter().filter(|(_, refused)| *refused == reason).count();
    tracing::info!(
        listener,
        route,
        sessions = count,
        revoked = with(Reason::Revoked),
        expired = with(Reason::Expired),
        not_allowed = with(Reason::ClientNotAllowed),
        ?spread,
        ?took,
        "live sessions re-checked"
    );
}

/// Stops sessions evenly over `spread`, the first at once.
async fn stop_evenly(sessions: Vec<(Arc<Session>, Reason)>, spread: Duration) {
    let start = Instant::now();
    let count = sessions.len();
    for (place, (session, reason)) in sessions.into_iter().enumerate() {
        sleep_until(start + share(spread, place, count)).await;
        session.stop(reason);
    }
}

/// Returns `spread * place / count`.
fn share(spread: Duration, place: usize, count: usize) -> Duration {
    let nanos = spread.as_nanos() * place as u128 / count.max(1) as u128;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn sessions_are_stopped_evenly_and_the_first_at_once() {
        let metrics = Metrics::new().listener("test");
        let peer = ([192, 0, 2, 1], 1).into();
        let session = |id| Arc::new(Session::new(Arc::clone(&metrics), id, peer));
        let sessions: Vec<_> = (0..500).map(session).collect();
        let refused = sessions.iter().map(|one| (Arc::clone(one), Reason::Revoked)).collect();
        let stopping = tokio::spawn(stop_evenly(refused, Duration::from_secs(10)));
        let stopped = || sessions.iter().filter(|one| one.stop_order().given().is_some()).count();
        let start = Instant::now();
        for (seconds, expected) in [(0, 1), (1, 51), (5, 251), (9, 451), (10, 500)] {
            sleep_until(start + Duration::from_secs(seconds) + Duration::from_millis(1)).await;
            assert!(stopped().abs_diff(expected) <= 1, "{} after {seconds} s", stopped());
        }
        stopping.await.unwrap();
    }
}
