//! Targets for the figures, and bounds that CI enforces.
//!
//! Both are judged on medians of one run. Figures that were not measured, or have no peer for comparison, are
//! left out. [`TARGETS`] are printed with their ratio. [`FLOORS`] are enforced by CI and leave a margin, since
//! its machine is never quiet.

use std::fmt::Write as _;

use super::limit::LIMIT;
use super::load::unauthenticated::{CPU, MEMORY};
use super::load::{HANDSHAKES, MB, MESSAGES, UNAUTHENTICATED};
use super::report::{OURS, Report};

/// Table of the bounds that could be judged.
pub struct Table {
    pub text: String,
    pub all_met: bool,
}

/// Bounds that CI enforces.
const FLOORS: &[Target] = &[
    target("full 1.3, ECDSA", HANDSHAKES, Bound::Times(1.9, "HAProxy")),
    target("full 1.2, ECDSA", HANDSHAKES, Bound::Times(1.6, "HAProxy")),
    target("few idle", "bytes per connection, 3,000 held", Bound::Most(2816.0)),
    target("few idle", "bytes per connection, 1 s after the last byte", Bound::Most(4608.0)),
    target("few idle, client certificate", "bytes per connection, 3,000 held", Bound::Most(3072.0)),
    target("idle", "bytes per connection, 12 s after 1 MiB each way", Bound::Most(3584.0)),
    target("idle", "bytes per connection, 9,000 held", Bound::Most(2816.0)),
    target("idle", "memory 10 s after 9,000 left, MiB", Bound::Most(16.0)),
];

/// A target: a figure of tlsidecar and its bound.
struct Target {
    load: &'static str,
    figure: &'static str,
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    /// At least this multiple of a peer's figure.
    Times(f64, &'static str),
    /// At least this multiple of the highest figure of all peers.
    TimesBest(f64),
    /// Below the lowest figure of all peers.
    BelowBest,
    /// At most this value.
    Most(f64),
    /// At least this value.
    Least(f64),
}

const BACK: &str = "devices back, percent";

const fn target(load: &'static str, figure: &'static str, bound: Bound) -> Target {
    Target { load, figure, bound }
}

const TARGETS: &[Target] = &[
    target("full 1.3, ECDSA", HANDSHAKES, Bound::TimesBest(1.5)),
    target("full 1.2, ECDSA", HANDSHAKES, Bound::TimesBest(1.4)),
    target("full 1.3, RSA", HANDSHAKES, Bound::TimesBest(1.2)),
    target("full 1.2, RSA", HANDSHAKES, Bound::TimesBest(1.2)),
    target("resumed 1.3", HANDSHAKES, Bound::TimesBest(1.7)),
    target("resumed 1.2", HANDSHAKES, Bound::TimesBest(1.5)),
    target("to backend, 1 connection", MB, Bound::TimesBest(1.8)),
    target("to backend, 64 connections", MB, Bound::TimesBest(1.8)),
    target("to client, 1 connection", MB, Bound::TimesBest(1.5)),
    target("to client, 64 connections", MB, Bound::TimesBest(1.5)),
    target("128 B, 32 connections", MESSAGES, Bound::TimesBest(1.4)),
    target("128 B, 1000 connections", MESSAGES, Bound::TimesBest(1.4)),
    target("full 1.3, ECDSA", HANDSHAKES, Bound::Times(0.9, LIMIT)),
    target("full 1.2, ECDSA", HANDSHAKES, Bound::Times(0.9, LIMIT)),
    target("full 1.3, RSA", HANDSHAKES, Bound::Times(0.9, LIMIT)),
    target("full 1.2, RSA", HANDSHAKES, Bound::Times(0.9, LIMIT)),
    target("full 1.3, client certificate", HANDSHAKES, Bound::Times(0.9, LIMIT)),
    target("full 1.2, client certificate", HANDSHAKES, Bound::Times(0.9, LIMIT)),
    target("resumed 1.3", HANDSHAKES, Bound::Times(0.9, LIMIT)),
    target("resumed 1.2", HANDSHAKES, Bound::Times(0.9, LIMIT)),
    target("to backend, 1 connection", MB, Bound::Times(0.85, LIMIT)),
    target("to backend, 64 connections", MB, Bound::Times(0.85, LIMIT)),
    target("to client, 1 connection", MB, Bound::Times(0.85, LIMIT)),
    target("to client, 64 connections", MB, Bound::Times(0.85, LIMIT)),
    target("both ways, 1 connection", MB, Bound::Times(0.85, LIMIT)),
    target("both ways, 64 connections", MB, Bound::Times(0.85, LIMIT)),
    target("128 B, 32 connections", MESSAGES, Bound::Times(0.9, LIMIT)),
    target("128 B, 1000 connections", MESSAGES, Bound::Times(0.9, LIMIT)),
    target("4 KiB, 32 connections", MESSAGES, Bound::Times(0.9, LIMIT)),
    target("4 KiB, 1000 connections", MESSAGES, Bound::Times(0.9, LIMIT)),
    target("128 B, 32 connections", "message p99, ms", Bound::BelowBest),
    target("128 B, 1000 connections", "message p99, ms", Bound::BelowBest),
    target("full 1.3, ECDSA", "handshake p99, ms", Bound::BelowBest),
    target("full 1.2, ECDSA", "handshake p99, ms", Bound::BelowBest),
    target("idle", "bytes per connection, 1,000 held", Bound::Most(3072.0)),
    target("idle", "bytes per connection, 3,000 held", Bound::Most(3072.0)),
    target("idle", "bytes per connection, 9,000 held", Bound::Most(3072.0)),
    target("idle", "bytes per connection, 12 s after 1 MiB each way", Bound::Most(3072.0)),
    target("few idle, client certificate", "bytes per connection, 3,000 held", Bound::Most(4096.0)),
    target("idle", "CPU with 9,000 held, percent", Bound::Most(0.5)),
    target("start", "start to listening, ms", Bound::Most(30.0)),
    target("start", "base memory, MiB", Bound::Most(8.0)),
    target("20 reloads", "handshakes lost", Bound::Most(0.0)),
    target("storm, RSA", BACK, Bound::Least(100.0)),
    target("storm, RSA", "until all were back, s", Bound::BelowBest),
    target("storm, RSA", "until all were back, times as many quiet handshakes", Bound::Most(1.2)),
    target("storm, RSA", "CPU, times as many quiet handshakes", Bound::Most(1.15)),
    target("storm, RSA", "CPU from 1 s after the storm on, percent", Bound::Most(1.0)),
    target("storm, RSA, tickets", BACK, Bound::Least(100.0)),
    target("storm, RSA, tickets", "until all were back, s", Bound::BelowBest),
    target("storm, ECDSA", BACK, Bound::Least(100.0)),
    target("storm, ECDSA", "until all were back, s", Bound::BelowBest),
    target("storm, RSA-4096", BACK, Bound::Least(100.0)),
];

/// Judges the targets.
pub fn aims(report: &Report) -> Table {
    let mut table = judge(TARGETS, report);
    let left = "memory 10 s after 9,000 left, MiB";
    let base = report.median("start", "base memory, MiB", OURS);
    if let (Some(base), Some(ours)) = (base, report.median("idle", left, OURS)) {
        let most = base * 1.3 + 4.0;
        table.row("idle", left, &format!("≤ 1.3 × base + 4 = {most:.1}"), ours, ours <= most);
    }
    table
}

/// Judges the bounds of CI.
pub fn floors(report: &Report) -> Table {
    judge(FLOORS, report)
}

/// CI's bound on the cost of an unauthenticated client, as a multiple of its cost in the better of two peers.
/// The target is 2. Lists of maximal length reach it, and one round on a busy machine can be off by 20 %.
const MOST_UNAUTHENTICATED: f64 = 2.5;

/// Judges the cost of an unauthenticated client, with a margin for the resolution of clocks and allocators.
pub fn unauthenticated(report: &Report) -> Table {
    let mut table = Table::new();
    for load in UNAUTHENTICATED {
        for (figure, slack) in [(CPU, 0.05), (MEMORY, 4.0)] {
            let theirs = ["HAProxy", "nginx"].map(|peer| report.median(load.name, figure, peer));
            let best = theirs.into_iter().flatten().min_by(f64::total_cmp);
            let ours = report.median(load.name, figure, OURS);
            let (Some(best), Some(ours)) = (best, ours) else { continue };
            let most = MOST_UNAUTHENTICATED;
            let bound = format!("≤ {most} × {best:.3} + {slack}");
            table.row(load.name, figure, &bound, ours, ours <= most * best + slack);
        }
    }
    table
}

fn judge(targets: &[Target], report: &Report) -> Table {
    let mut table = Table::new();
    for Target { load, figure, bound } in targets {
        let Some(ours) = report.median(load, figure, OURS) else { continue };
        let others = report.others(load, figure);
        let highest = others.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
        let lowest = others.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
        match *bound {
            Bound::Times(times, peer) => {
                let Some(theirs) = report.median(load, figure, peer) else { continue };
                let bound = format!("≥ {times} × {peer}");
                table.row(load, figure, &bound, ours / theirs, ours >= theirs * times);
            }
            Bound::TimesBest(times) => {
                let Some((peer, theirs)) = highest else { continue };
                let bound = format!("≥ {times} × the best, {peer}");
                table.row(load, figure, &bound, ours / theirs, ours >= theirs * times);
            }
            Bound::BelowBest => {
                let Some((peer, theirs)) = lowest else { continue };
                table.row(load, figure, &format!("< {theirs:.2}, {peer}"), ours, ours < theirs);
            }
            Bound::Most(most) => table.row(load, figure, &format!("≤ {most}"), ours, ours <= most),
            Bound::Least(least) => {
                table.row(load, figure, &format!("≥ {least}"), ours, ours >= least);
            }
        }
    }
    table
}

impl Table {
    fn new() -> Self {
        let text = "\n| what | bound | ours | |\n|---|---|---|---|\n".to_owned();
        Self { text, all_met: true }
    }

    fn row(&mut self, load: &str, figure: &str, bound: &str, ours: f64, met: bool) {
        self.all_met &= met;
        let verdict = if met { "met" } else { "NOT MET" };
        let _infallible =
            writeln!(self.text, "| {load}: {figure} | {bound} | {ours:.2} | {verdict} |");
    }
}
