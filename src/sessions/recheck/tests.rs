//! Tests of the plan by which refused sessions are stopped.
//!
//! **Not here.** The same over sockets: tests/recheck.rs.

use tokio::time::sleep_until;

use super::*;
use crate::metrics::Metrics;
use crate::sessions::close_rate::CloseRate;
use crate::trust::testing;

const SPREAD: Duration = Duration::from_secs(10);

fn sessions(ids: std::ops::Range<u64>) -> Vec<Arc<Session>> {
    let metrics = Metrics::new().listener("test");
    let peer = ([192, 0, 2, 1], 1).into();
    ids.map(|id| Arc::new(Session::new(Arc::clone(&metrics), id, peer))).collect()
}

fn refused(sessions: &[Arc<Session>]) -> Vec<Checked> {
    let refused = sessions.iter().map(|session| (Arc::clone(session), Reason::Revoked)).collect();
    vec![Checked { route: None, refused, count: 0, spread: SPREAD, took: Duration::ZERO }]
}

fn stopped(sessions: &[Arc<Session>]) -> usize {
    sessions.iter().filter(|session| session.stop_order().given().is_some()).count()
}

fn listener() -> Arc<CheckedListener> {
    let dir = tempfile::tempdir().unwrap();
    let (snapshot, _) = Snapshot::load(&testing::listener(dir.path()), SystemTime::now()).unwrap();
    let (_sender, snapshots) = watch::channel(Arc::new(snapshot));
    let listener = Arc::new(CheckedListener::new(Metrics::new().listener("test"), snapshots));
    let stopping = Arc::clone(&listener);
    tokio::spawn(async move { stopping.pace.run(&CloseRate::default()).await });
    listener
}

#[tokio::test(start_paused = true)]
async fn sessions_are_stopped_evenly_and_the_first_at_once() {
    let (listener, sessions) = (listener(), sessions(0..500));
    let start = Instant::now();
    listener.reschedule(refused(&sessions));
    for (seconds, expected) in [(0, 1), (1, 51), (5, 251), (9, 451), (10, 500)] {
        sleep_until(start + Duration::from_secs(seconds) + Duration::from_millis(3)).await;
        let stopped = stopped(&sessions);
        assert!(stopped.abs_diff(expected) <= 1, "{stopped} after {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn later_checks_neither_hasten_nor_delay_a_stop() {
    let (listener, sessions) = (listener(), sessions(0..100));
    let start = Instant::now();
    listener.reschedule(refused(&sessions));
    for second in 1..=10_u64 {
        sleep_until(start + Duration::from_secs(second) + Duration::from_millis(3)).await;
        let stopped = stopped(&sessions);
        let expected = usize::try_from(10 * second + 1).unwrap().min(100);
        assert!(stopped.abs_diff(expected) <= 1, "{stopped} after {second} s");
        let rest = sessions.iter().filter(|session| session.stop_order().given().is_none());
        listener.reschedule(refused(&rest.cloned().collect::<Vec<_>>()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_accepted_again_is_not_stopped() {
    let (listener, sessions) = (listener(), sessions(0..100));
    let start = Instant::now();
    listener.reschedule(refused(&sessions));
    sleep_until(start + Duration::from_secs(3) + Duration::from_millis(3)).await;
    listener.reschedule(Vec::new());
    sleep_until(start + 2 * SPREAD).await;
    assert!(stopped(&sessions).abs_diff(31) <= 1, "{}", stopped(&sessions));
}
