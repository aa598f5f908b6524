//! Wall-clock time of the parts of the hot path: `cargo bench --features bench --bench micro`.
//!
//! criterion's figures; the throughput counts the plaintext that a case moves. They are valid for one machine
//! on one day. CI checks instruction counts instead (`benches/instructions/`).

#![allow(unreachable_pub, reason = "a program has no public interface")]

mod cases;
mod device;
mod wire;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};

use self::cases::{CASES, Case, World};

/// Plaintext that is prepared at a time: little enough to stay in the caches, as in production.
const PREPARED_BYTES: usize = 1 << 20;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime of one thread can be built");
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

/// Returns the time of `turns` turns, in a new session, so that no key is used up.
fn measure(case: &Case, world: &World, turns: u64) -> Duration {
    let mut work = (case.setup)(world, case.bytes);
    let most = (PREPARED_BYTES / case.bytes.max(4096)) as u64;
    let (mut left, mut took) = (turns, Duration::ZERO);
    while left > 0 {
        let now = left.min(most);
        work.prepare(usize::try_from(now).expect("at most 256"));
        let started = Instant::now();
        (0..now).for_each(|_| work.turn());
        took += started.elapsed();
        left -= now;
    }
    took
}
