//! Look-ups by a resolver of the test.
//!
//! **Not here.** Real names (tests/backends.rs).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::*;
use crate::proxy::backend::lookup::resolved;

const SOON: Duration = Duration::from_secs(20);

const QUICK: Pace = Pace {
    refresh: Duration::from_millis(20),
    retry: Duration::from_millis(5),
    forget: Duration::from_millis(50),
};

const RARE: Pace = Pace {
    refresh: Duration::from_secs(3600),
    retry: Duration::from_secs(3600),
    forget: Duration::from_secs(3600),
};

const FIRST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const LATER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

fn table(pace: Pace, resolve: Resolve) -> &'static NameTable {
    Box::leak(Box::new(NameTable::new(pace, resolve, PoolThread::spawn)))
}

fn unreachable_server() -> io::Error {
    io::Error::other("no name server answers")
}

async fn resolved_by(table: &'static NameTable, host: &str) -> Result<Vec<IpAddr>, LookupError> {
    resolved(table.ask(host), Duration::ZERO, SOON).await.map(|found| found.addresses.to_vec())
}

#[tokio::test]
async fn all_connections_share_one_look_up() {
    static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
    static OPEN: AtomicBool = AtomicBool::new(false);
    let table = table(RARE, |_| {
        LOOKUPS.fetch_add(1, Ordering::SeqCst);
        while !OPEN.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        Ok(vec![FIRST])
    });
    let waiting: Vec<_> =
        (0..100).map(|_| tokio::spawn(resolved_by(table, "plant.example"))).collect();
    tokio::task::yield_now().await;
    OPEN.store(true, Ordering::SeqCst);
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().unwrap(), [FIRST]);
    }
    assert_eq!(resolved_by(table, "plant.example").await.unwrap(), [FIRST]);
    assert_eq!(LOOKUPS.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_last_addresses_are_used_while_look_ups_fail_and_new_ones_after_that() {
    static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
    static BACK: AtomicBool = AtomicBool::new(false);
    let table = table(QUICK, |_| match LOOKUPS.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(vec![FIRST]),
        _ if BACK.load(Ordering::SeqCst) => Ok(vec![LATER]),
        _ => Err(unreachable_server()),
    });
    let (_kept, started) = table.keep(["plant.example"].into_iter());
    started.unwrap();
    assert_eq!(resolved_by(table, "plant.example").await.unwrap(), [FIRST]);
    // In the background, without a connection.
    let mut state = table.ask("plant.example").state;
    state.wait_for(|known| known.lookups > 5).await.unwrap();
    assert_eq!(resolved_by(table, "plant.example").await.unwrap(), [FIRST]);
    let status = table.statuses().remove(0);
    assert_eq!((status.addresses, status.age.is_some()), (vec![FIRST], true));
    assert!(status.error.unwrap().contains("no name server answers"));
    BACK.store(true, Ordering::SeqCst);
    state.wait_for(|known| known.failure.is_none()).await.unwrap();
    assert_eq!(resolved_by(table, "plant.example").await.unwrap(), [LATER]);
    assert_eq!(table.statuses()[0].error, None);
}

#[tokio::test]
async fn a_look_up_that_hangs_delays_no_other_name() {
    let table = table(RARE, |host| {
        if host.starts_with("hangs") {
            thread::park();
        }
        Ok(vec![FIRST])
    });
    let hanging = (0..KEPT_THREADS * 2).map(|n| format!("hangs{n}.example"));
    let waiting: Vec<_> =
        hanging.map(|host| tokio::spawn(async move { resolved_by(table, &host).await })).collect();
    tokio::task::yield_now().await;
    assert_eq!(resolved_by(table, "plant.example").await.unwrap(), [FIRST]);
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
}

#[tokio::test]
async fn a_failure_is_known_to_all_until_the_next_look_up() {
    static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
    let table = table(RARE, |_| {
        LOOKUPS.fetch_add(1, Ordering::SeqCst);
        Err(unreachable_server())
    });
    for _ in 0..3 {
        let failed = resolved_by(table, "plant.example").await.unwrap_err();
        assert!(matches!(failed, LookupError::Failed(_)), "{failed:?}");
    }
    assert_eq!(LOOKUPS.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_name_that_has_never_been_resolved_is_waited_for() {
    static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
    let table = table(QUICK, |_| match LOOKUPS.fetch_add(1, Ordering::SeqCst) {
        0..3 => Err(unreachable_server()),
        _ => Ok(vec![FIRST]),
    });
    let found = resolved(table.ask("plant.example"), SOON, SOON).await.unwrap();
    assert_eq!(*found.addresses, [FIRST]);
}

#[tokio::test]
async fn a_name_without_an_address_is_tried_again() {
    static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
    let table = table(QUICK, |_| match LOOKUPS.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(Vec::new()),
        _ => Ok(vec![FIRST]),
    });
    let failed = resolved_by(table, "plant.example").await.unwrap_err();
    assert!(matches!(failed, LookupError::NoAddress), "{failed:?}");
    table.ask("plant.example").state.wait_for(|known| known.lookups > 1).await.unwrap();
    assert_eq!(resolved_by(table, "plant.example").await.unwrap(), [FIRST]);
}

#[tokio::test]
async fn addresses_that_do_not_answer_are_looked_up_again() {
    static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
    let pace = Pace { retry: Duration::ZERO, ..RARE };
    let table = table(pace, |_| match LOOKUPS.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(vec![FIRST]),
        _ => Ok(vec![LATER]),
    });
    let found = resolved(table.ask("plant.example"), SOON, SOON).await.unwrap();
    let found = found.others().await.unwrap();
    assert_eq!(*found.addresses, [LATER]);
    assert!(found.others().await.is_none(), "they are the same");
    assert_eq!(LOOKUPS.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_shortage_of_threads_is_reported_and_ends() {
    static SHORT: AtomicBool = AtomicBool::new(true);
    let start: Start = |thread| match SHORT.load(Ordering::SeqCst) {
        true => Err(io::ErrorKind::WouldBlock.into()),
        false => thread.spawn(),
    };
    let table: &'static NameTable =
        Box::leak(Box::new(NameTable::new(QUICK, |_| Ok(vec![FIRST]), start)));
    let (_kept, started) = table.keep(["plant.example"].into_iter());
    assert_eq!(started.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    for _ in 0..8 {
        let failed = resolved_by(table, "plant.example").await.unwrap_err();
        assert!(matches!(failed, LookupError::NoThread(_)), "{failed:?}");
    }
    SHORT.store(false, Ordering::SeqCst);
    let found = resolved(table.ask("plant.example"), SOON, SOON).await.unwrap();
    assert_eq!(*found.addresses, [FIRST]);
    // The existing thread continues while no other can be started.
    SHORT.store(true, Ordering::SeqCst);
    let mut state = table.ask("plant.example").state;
    let lookups = state.borrow().lookups;
    state.wait_for(|known| known.lookups > lookups + 2).await.unwrap();
}

#[tokio::test]
async fn a_name_that_no_configuration_has_is_forgotten() {
    let table = table(QUICK, |_| Ok(vec![FIRST]));
    let (kept, _) = table.keep(["gone.example", "gone.example"].into_iter());
    let (_kept, _) = table.keep(["plant.example"].into_iter());
    resolved_by(table, "gone.example").await.unwrap();
    assert_eq!(table.statuses().len(), 2);
    drop(kept);
    assert_eq!(table.statuses().len(), 1);
    let deadline = Instant::now() + SOON;
    while table.names().len() > 1 {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}
