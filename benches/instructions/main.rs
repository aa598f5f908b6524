//! Instruction counts of each part of the hot path:
//! `cargo bench --features bench --bench instructions`.
//!
//! Each case of `benches/micro/` runs under `valgrind --tool=callgrind`. The program prints a table in Markdown
//! and fails if a count is more than 5 % above `baseline.json` in this directory. With `--write` its counts
//! become the baseline.
//!
//! Unlike times, counts repeat to a thousandth from run to run, even on a busy machine. They depend on:
//! - the processor, as far as AWS-LC selects its code by it. valgrind 3.19 presents any processor with AVX2
//!   as a Haswell (AES-NI, AVX2, no AVX-512, no SHA extensions), so these agree with each other, although
//!   a newer one runs faster code without valgrind. Counts of another architecture differ.
//! - the compilers of Rust and C, the dependencies, the C library: a change of these may require a new
//!   baseline.
//!
//! Counts do not cover the kernel, caches and stalled instructions. A long copy (`rep movsb`) counts one
//! instruction per byte, far more than its share of the time.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints its figures and their faults"
)]
#![allow(unreachable_pub, reason = "a program has no public interface")]

mod baseline;
#[path = "../micro/cases.rs"]
mod cases;
mod counter;
#[path = "../micro/device.rs"]
mod device;
#[path = "../micro/wire.rs"]
mod wire;

use std::fs;
use std::process::ExitCode;

use clap::Parser;

use self::baseline::Baseline;
use self::cases::{CASES, World};

/// The committed counts.
const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/baseline.json");

/// The command that renews the baseline.
const RENEW: &str = "cargo bench --features bench --bench instructions -- --write";

/// Counts the instructions of the parts of the hot path and compares them with the committed baseline.
#[derive(Debug, Parser)]
struct Args {
    /// Write the counts of this run as the new baseline.
    #[arg(long)]
    write: bool,
    /// Run the turns of one case (used by this program itself).
    #[arg(long, hide = true)]
    case: Option<String>,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(case) = args.case {
        take_turns(&case);
        return ExitCode::SUCCESS;
    }
    match count(args.write) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one case, under callgrind.
fn take_turns(name: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime of one thread can be built");
    let _entered = runtime.enter();
    let case = CASES.iter().find(|case| case.name == name).expect("this program knows its cases");
    let mut work = (case.setup)(&World::new(), case.bytes);
    counter::run(|turns| {
        work.prepare(turns);
        Box::new(move || work.turn())
    });
}

/// Counts all cases, prints the counts, and writes them or reports the faults.
fn count(write: bool) -> Result<(), String> {
    let tools = counter::tools()?;
    let committed =
        read().or_else(|problem| if write { Ok(Baseline::default()) } else { Err(problem) })?;
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut counts = Vec::new();
    for case in CASES {
        counts.push((case.name, counter::count(case.name, dir.path())?));
    }
    let judged = committed.judge(counts.iter().copied());
    println!("{}", judged.table);
    if write {
        let counts = counts.iter().map(|(case, count)| ((*case).to_owned(), *count)).collect();
        return save(&Baseline { made_with: tools, counts });
    }
    if !judged.hints.is_empty() {
        println!("Less than the baseline, which should be renewed ({RENEW}):");
        println!("{}\n", judged.hints.join("\n"));
    }
    if judged.faults.is_empty() {
        return Ok(());
    }
    Err(format!(
        "Not as the baseline has it:\n{}\n\
         If that is meant, commit the new baseline with what changes it: {RENEW}\n\
         The baseline was made with {}; this is {tools}.",
        judged.faults.join("\n"),
        committed.made_with,
    ))
}

fn read() -> Result<Baseline, String> {
    let text = fs::read_to_string(BASELINE)
        .map_err(|error| format!("{BASELINE}: {error}\nWrite it: {RENEW}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{BASELINE}: {error}"))
}

fn save(baseline: &Baseline) -> Result<(), String> {
    let text = serde_json::to_string_pretty(baseline).map_err(|error| error.to_string())?;
    fs::write(BASELINE, text + "\n").map_err(|error| format!("{BASELINE}: {error}"))
}
