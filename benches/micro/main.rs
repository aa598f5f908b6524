//! Times of the parts of the hot path: `cargo bench --features bench --bench micro`.
//!
//! Prints criterion's times, with the throughput in plaintext bytes. They are valid for one machine and one
//! moment; CI checks instruction counts (`benches/instructions/`).

#![allow(unreachable_pub, reason = "nothing outside a program can reach into it")]

mod cases;
mod device;
mod wire;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};

use self::cases::{CASES, Case, World};

/// Amount of plaintext that is prepared at a time: small enough for the caches, as in the proxy.
const PREPARED_BYTES: usize = 1 << 20;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a thread is all that it needs");
    let _entered = runtime.enter();
    let world = World::new();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    for case in CASES {
        let mut group = criterion.benchmark_group("micro");
        if case.bytes > 0 {
            group.throughput(Throughput::Bytes(case.bytes as u64));
        }
        group.bench_function(case.name, |bencher| {
            bencher.iter_custom(|turns| measure(case, &world, turns));
        });
    }
    criterion.final_summary();
}

/// Measures the time of this many turns. Each measurement has a separate session, so that no key is
/// exhausted.
fn measure(case: &Case, world: &World, turns: u64) -> Duration {
    let mut work = (case.setup)(world, case.bytes);
    let most = (PREPARED_BYTES / case.bytes.max(4096)) as u64;
    let (mut left, mut took) = (turns, Duration::ZERO);
    while left > 0 {
        let now = left.min(most);
        work.prepare(usize::try_from(now).expect("it is 256 at most"));
        let started = Instant::now();
        (0..now).for_each(|_| work.turn());
        took += started.elapsed();
        left -= now;
    }
    took
}
