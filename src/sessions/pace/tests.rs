//! Tests of plans with paused time.
//!
//! **Not here.** The same over sockets: tests/drain.rs, tests/recheck.rs.

use super::*;
use crate::metrics::Metrics;
use crate::sessions::stop::Order;

const SPREAD: Duration = Duration::from_secs(30);

fn sessions(count: u64) -> Vec<Arc<Session>> {
    let metrics = Metrics::new().listener("test");
    let peer = ([192, 0, 2, 1], 1).into();
    (0..count).map(|id| Arc::new(Session::new(Arc::clone(&metrics), id, peer))).collect()
}

/// Starts a plan that stops these sessions over [`SPREAD`].
fn start(sessions: &[Arc<Session>]) {
    let times = evenly(Instant::now(), SPREAD, sessions.len());
    let planned =
        |session: &Arc<Session>| (Arc::clone(session), PlannedStop::AtPause(Reason::Drain));
    let plan: Plan =
        times.zip(sessions).map(|(due, session)| ((due, session.id), planned(session))).collect();
    tokio::spawn(async move {
        let pace = Pace::default();
        pace.replace(|_| plan);
        pace.run(&CloseRate::default()).await;
    });
}

fn ordered(sessions: &[Arc<Session>]) -> usize {
    let ordered = |session: &&Arc<Session>| session.stop_order().order().is_some();
    sessions.iter().filter(ordered).count()
}

#[tokio::test(start_paused = true)]
async fn five_thousand_sessions_over_thirty_seconds_get_the_same_number_of_orders_each_second() {
    let sessions = sessions(5000);
    start(&sessions);
    let begin = Instant::now();
    let mut before = 0;
    for second in 1..=30_u64 {
        sleep_until(begin + Duration::from_secs(second)).await;
        let now = ordered(&sessions);
        assert!((160..=173).contains(&(now - before)), "{} in second {second}", now - before);
        before = now;
    }
    assert_eq!(before, 5000);
    assert_eq!(sessions[7].stop_order().order(), Some(Order::AtPause(Reason::Drain)));
}

/// Stops these sessions at once, as far as `limit` per second allows, and returns how many were stopped in each tenth of
/// a second up to the last.
async fn stopped_by_tenth(sessions: &[Arc<Session>], limit: u32) -> Vec<usize> {
    let closes = CloseRate::default();
    closes.set_limit(std::num::NonZeroU32::new(limit));
    let begin = Instant::now();
    let stop = PlannedStop::Now(Reason::Revoked);
    let planned = |session: &Arc<Session>| ((begin, session.id), (Arc::clone(session), stop));
    let plan: Plan = sessions.iter().map(planned).collect();
    tokio::spawn(async move {
        let pace = Pace::default();
        pace.replace(|_| plan);
        pace.run(&closes).await;
    });
    let (mut by_tenth, mut before) = (Vec::new(), 0);
    while before < sessions.len() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = ordered(sessions);
        by_tenth.push(now - before);
        before = now;
    }
    by_tenth
}

#[tokio::test(start_paused = true)]
async fn sessions_to_stop_at_once_are_stopped_evenly_at_the_limit_of_closes() {
    for (count, limit) in [(400, 100), (9000, 3000)] {
        let by_tenth = stopped_by_tenth(&sessions(count), limit).await;
        let in_a_second = by_tenth.windows(10).map(|tenths| tenths.iter().sum::<usize>());
        let (most, least) = (in_a_second.clone().max(), in_a_second.min());
        let limit = limit as usize;
        assert!(most <= Some(limit), "{most:?} in a second: {by_tenth:?}");
        assert!(least >= Some(limit * 9 / 10), "{least:?} in a second: {by_tenth:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_suspension_the_rest_is_stopped_evenly_over_the_time_that_is_left() {
    let sessions = sessions(3000);
    start(&sessions);
    let begin = Instant::now();
    sleep_until(begin + Duration::from_secs(10)).await;
    assert!(ordered(&sessions).abs_diff(1000) <= 2, "{}", ordered(&sessions));
    // The clock moves on without a poll of any task, as while the process is stopped.
    tokio::time::advance(Duration::from_secs(10)).await;
    let mut before = ordered(&sessions);
    assert!(before <= 1010, "a burst: {before}");
    for second in 21..=30_u64 {
        sleep_until(begin + Duration::from_secs(second) + Duration::from_millis(1)).await;
        let now = ordered(&sessions);
        assert!((190..=210).contains(&(now - before)), "{} in second {second}", now - before);
        before = now;
    }
    assert_eq!(before, 3000);
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_has_ended_during_a_suspension_takes_a_second_more() {
    let sessions = sessions(1000);
    start(&sessions);
    let begin = Instant::now();
    sleep_until(begin + Duration::from_millis(1)).await;
    tokio::time::advance(2 * SPREAD).await;
    assert!(ordered(&sessions) <= 10, "a burst: {}", ordered(&sessions));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(ordered(&sessions).abs_diff(500) <= 10, "{}", ordered(&sessions));
    tokio::time::sleep(Duration::from_millis(510)).await;
    assert_eq!(ordered(&sessions), 1000);
}

#[test]
fn jitter_is_spread_evenly_over_consecutive_seeds() {
    let width = Duration::from_secs(10);
    let mut tenths = [0; 10];
    for seed in 5000..6000 {
        let jitter = jitter(width, seed);
        assert!(jitter < width);
        tenths[usize::try_from(jitter.as_secs()).unwrap()] += 1;
    }
    assert!(tenths.iter().all(|count| (98..=102).contains(count)), "{tenths:?}");
}
