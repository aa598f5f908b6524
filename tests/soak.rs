//! The soak: everything at once against the real binary, and nothing is left behind.
//!
//! Devices connect and leave in every way, stay idle, ask, and transfer bytes that are compared one by one; strangers send
//! garbage; certificates and CRLs are replaced; devices are revoked; the backend is restarted. Meanwhile memory,
//! descriptors and latencies are noted each second, in `soak/series.csv` below the directory for tests, and drawn in
//! `soak/soak.svg` beside it.
//!
//! **Promises.** A transfer that ends with a close_notify is complete, and one that is cut is a prefix: no byte is lost,
//! repeated or changed. A device fails only while the backend is restarted.
//!
//! **Not here.** Faults one at a time: `faults.rs`, `surroundings.rs`.

mod chart;
mod devices;
mod series;
mod site;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tlsidecar::terms::reason::Reason;
use tokio::task::JoinSet;

use self::devices::{ask, ask_without_the_proxy, churn, disturb, idle, transfer};
use self::series::{Sample, Series};
use self::site::Site;
use crate::support::eventually;
use crate::support::proxy::{balances, closed_series, metric};

/// Devices that connect and leave all the time.
const CHURNING: u64 = 4;

/// Sessions with a request and an answer all the time.
const ASKING: u64 = 4;

/// Devices that transfer bytes all the time.
const TRANSFERRING: u64 = 2;

/// The ends that this load causes.
const EXPECTED: &[Reason] = &[
    Reason::Ok,
    // Devices that leave without a close_notify, or by a reset.
    Reason::ClientTruncated,
    Reason::ClientReset,
    Reason::ClientRecordTruncated,
    // Strangers: no byte, bytes that are not TLS, half a ClientHello.
    Reason::ClientProbe,
    Reason::ClientTlsNotTls,
    Reason::ClientTlsEof,
    // Revoked devices, connected and not.
    Reason::Revoked,
    Reason::ClientCertRevoked,
    // A device that has given up while the proxy was busy.
    Reason::ClientAbandoned,
    // A backend that is restarted.
    Reason::BackendReset,
    Reason::BackendRefused,
];

/// A length of the soak.
struct Form {
    seconds: u64,
    /// Idle sessions, of which each sends a byte now and then.
    idle: u64,
    /// Time between two restarts of the backend, after each of which all devices come back at once.
    restart_every: Duration,
    /// Growth of the resident memory that is no leak, as a share of the earlier figure.
    growth: f64,
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_at_once_leaves_nothing_behind_and_loses_no_byte() {
    // CI runs it for a minute.
    let everything = std::env::var_os("TLSIDECAR_TEST_EVERYTHING").is_some();
    let seconds = if everything { 60 } else { 10 };
    // The allocator's pools still grow in the first seconds.
    let restart_every = Duration::from_secs(5);
    soak(&Form { seconds, idle: 40, restart_every, growth: 0.3 }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half an hour, or TLSIDECAR_SOAK_SECONDS"]
async fn everything_at_once_for_half_an_hour_leaves_memory_and_descriptors_flat() {
    let seconds = std::env::var("TLSIDECAR_SOAK_SECONDS").ok();
    let seconds = seconds.map_or(1800, |seconds| seconds.parse().unwrap());
    let restart_every = Duration::from_secs(20);
    soak(&Form { seconds, idle: 100, restart_every, growth: 0.05 }).await;
}

async fn soak(form: &Form) {
    let site = Arc::new(Site::new().await);
    let fds_before = site.open_files();
    let mut load = JoinSet::new();
    load.spawn(site::restart_the_backend(Arc::clone(&site), form.restart_every));
    load.spawn(site::renew_the_certificate(Arc::clone(&site)));
    load.spawn(site::revoke_devices(Arc::clone(&site)));
    load.spawn(disturb(Arc::clone(&site)));
    load.spawn(ask_without_the_proxy(Arc::clone(&site)));
    (0..form.idle).for_each(|number| drop(load.spawn(idle(Arc::clone(&site), number))));
    (0..CHURNING).for_each(|number| drop(load.spawn(churn(Arc::clone(&site), number))));
    (0..ASKING).for_each(|_| drop(load.spawn(ask(Arc::clone(&site)))));
    (0..TRANSFERRING).for_each(|number| drop(load.spawn(transfer(Arc::clone(&site), number))));
    let mut series = Series::default();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.tick().await;
    for _ in 0..form.seconds {
        second.tick().await;
        series.push(Sample::of(&site));
        // A load that has failed ends early.
        if load.try_join_next().is_some_and(|ended| ended.is_err()) {
            let (_, text) = site.sidecar.ask("GET", "/metrics").unwrap();
            let state = text.lines().filter(|line| line.contains("listener=\"test\""));
            panic!("a load has failed:\n{}", state.collect::<Vec<_>>().join("\n"));
        }
    }
    site.stop();
    while let Some(ended) = load.join_next().await {
        ended.unwrap();
    }
    series.write(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak"));
    is_balanced(&site).await;
    eventually("descriptors are closed", || site.open_files() <= fds_before).await;
    let (early, late) = series.memory();
    assert!(late <= early * (1.0 + form.growth), "memory grows: {early} bytes, later {late}");
}

/// Asserts that every connection and every byte is accounted for.
async fn is_balanced(site: &Site) {
    let none = || site.sidecar.count("tlsidecar_connections_active{listener=\"test\"}") == 0;
    eventually("all connections have ended", none).await;
    let (_, text) = site.sidecar.ask("GET", "/metrics").unwrap();
    assert!(balances(&text), "accepted is not active + closed:\n{text}");
    let count = |series: &str| metric::<u64>(&text, series).unwrap();
    let ends = Reason::ALL.iter().map(|&reason| (reason, count(&closed_series(reason))));
    let ends: Vec<_> = ends.filter(|(_, count)| *count > 0).collect();
    let strange: Vec<_> = ends.iter().filter(|(reason, _)| !EXPECTED.contains(reason)).collect();
    assert!(strange.is_empty(), "unexpected ends: {strange:?}\n{}", site.sidecar.log());
    assert!(count(&closed_series(Reason::Revoked)) > 0, "no session was revoked");
    assert!(count(&closed_series(Reason::BackendReset)) > 0, "no restart was noticed");
    let reloads = count("tlsidecar_reloads_total{outcome=\"swapped\"}");
    assert!(reloads > 0, "nothing was reloaded");
    let bytes = |direction| {
        count(&format!("tlsidecar_bytes_total{{direction=\"{direction}\",listener=\"test\"}}"))
    };
    let books = &site.books;
    // What one side has sent, the proxy has delivered, the other side has received.
    let to_backend = [books.backend_received(), bytes("to_backend"), books.devices_sent()];
    assert!(to_backend.is_sorted(), "{to_backend:?}");
    // Of sessions that ended in order. The end of a session that was cut is not counted.
    let to_client = [books.devices_received(), bytes("to_client"), books.backend_sent()];
    assert!(to_client.is_sorted(), "{to_client:?}");
}
