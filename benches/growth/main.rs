//! The cost of operations over all sessions: `cargo bench --features bench --bench growth`.
//!
//! A proxy with one worker runs in this process, with one real device that sends messages all the time, and 1,000, 10,000
//! and 100,000 sessions of devices that do not exist. For each operation the program prints how long it took, and the
//! longest echo of the real device meanwhile: how long the operation holds up a relay. Medians of all turns.
//!
//! **Not here.** Memory of connections (`benches/peers`, load `idle`): an imagined device has no socket and no task.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![allow(unreachable_pub, reason = "a program has no public interface")]

mod device;
#[expect(dead_code, reason = "benches/peers needs more of it")]
#[path = "../peers/material.rs"]
mod material;
mod scene;

use std::thread;
use std::time::{Duration, Instant};

use self::scene::{EVERYBODY, REAL, Scene};

/// Numbers of sessions.
const COUNTS: [u64; 3] = [1_000, 10_000, 100_000];

/// Turns of each operation. The median of so many is not the scheduler's.
const TURNS: usize = 9;

/// One operation.
struct Operation {
    name: &'static str,
    /// Prepares a turn, which is not measured.
    prepare: fn(&Scene, usize),
    run: fn(&Scene),
}

/// The time of an operation, and the longest echo meanwhile.
#[derive(Clone, Copy)]
struct Figure {
    took: Duration,
    echo: Duration,
}

const fn get(name: &'static str, run: fn(&Scene)) -> Operation {
    Operation { name, prepare: |_, _| (), run }
}

const OPERATIONS: [Operation; 11] = [
    get("none, for 20 ms", |_| pause(20)),
    get("a handshake", Scene::connect),
    get("GET /metrics", |scene| scene.ask("GET /metrics")),
    get("GET /status", |scene| scene.ask("GET /status")),
    get("GET /sessions", |scene| scene.ask("GET /sessions")),
    get("GET /sessions?sort=idle", |scene| scene.ask("GET /sessions?sort=idle")),
    get("GET /sessions/facts", |scene| scene.ask("GET /sessions/facts")),
    get("GET /top?by=peer&what=bytes", |scene| scene.ask("GET /top?by=peer&what=bytes")),
    get("POST /trace, over at once", Scene::trace),
    // The re-check follows the reload.
    Operation {
        name: "a reload that keeps all, and 100 ms",
        prepare: |scene, turn| scene.allow(&[&EVERYBODY[..], &[&format!("turn-{turn}")]].concat()),
        run: Scene::reload,
    },
    Operation {
        name: "a reload that refuses all, and 100 ms",
        prepare: |scene, turn| scene.allow(&[REAL, &format!("turn-{turn}")]),
        run: Scene::reload,
    },
];

fn main() {
    let mut rows: Vec<(&str, Vec<Figure>)> =
        OPERATIONS.iter().map(|operation| (operation.name, Vec::new())).collect();
    rows.push(("POST /drain, and 100 ms", Vec::new()));
    for count in COUNTS {
        let scene = Scene::new(count);
        for (operation, (_, figures)) in OPERATIONS.iter().zip(&mut rows) {
            figures.push(median((0..TURNS).map(|turn| {
                (operation.prepare)(&scene, turn);
                measure(&scene, operation.run)
            })));
        }
        // A process drains once.
        let drain = measure(&scene, |scene| {
            scene.ask("POST /drain");
            pause(100);
        });
        rows.last_mut().expect("there is a row").1.push(drain);
    }
    print(&rows);
}

fn measure(scene: &Scene, run: impl Fn(&Scene)) -> Figure {
    scene.longest_echo();
    let start = Instant::now();
    run(scene);
    Figure { took: start.elapsed(), echo: scene.longest_echo() }
}

/// Returns the medians of both parts.
fn median(figures: impl Iterator<Item = Figure>) -> Figure {
    let figures: Vec<_> = figures.collect();
    let middle = |part: fn(&Figure) -> Duration| {
        let mut values: Vec<_> = figures.iter().map(part).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    Figure { took: middle(|figure| figure.took), echo: middle(|figure| figure.echo) }
}

fn print(rows: &[(&str, Vec<Figure>)]) {
    let milliseconds = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1000.0);
    println!(
        "| ms; longest echo meanwhile | {} |",
        COUNTS.map(|count| count.to_string()).join(" | ")
    );
    println!("|---|{}", "---|".repeat(COUNTS.len()));
    for (name, figures) in rows {
        let cells = figures
            .iter()
            .map(|figure| format!("{}; {}", milliseconds(figure.took), milliseconds(figure.echo)));
        println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
}

#[expect(clippy::disallowed_methods, reason = "the measurement waits, not the proxy")]
fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}
