//! How many instructions each part of the hot path takes:
//! `cargo bench --features bench --bench instructions`.
//!
//! It runs each case of `benches/micro/` under `valgrind --tool=callgrind`, prints a table in
//! Markdown, and fails when a count is more than 5 % over `baseline.json` beside this file. With
//! `--write` it makes its counts the baseline.
//!
//! Instructions repeat where time does not, also on a machine that is busy with something else: to a
//! thousandth, from run to run. What they depend on:
//! - the processor, as far as AWS-LC chooses its code by it. valgrind 3.19 shows any that has AVX2
//!   as a Haswell (AES-NI, AVX2, no AVX-512, no SHA extensions), so those agree with each other; but
//!   a newer one runs faster code without valgrind. Another architecture counts something else.
//! - the compilers of Rust and C, the dependencies, the C library: what changes them may have to
//!   change the baseline.
//!
//! They say nothing of the kernel, of caches, and of instructions that wait. A long copy (`rep movsb`)
//! counts an instruction a byte, which is far more than its part of the time.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench tells its figures, and what is wrong with them"
)]
#![allow(unreachable_pub, reason = "nothing outside a program can reach into it")]

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

/// How the baseline is renewed, for those who have to.
const RENEW: &str = "cargo bench --features bench --bench instructions -- --write";

/// Counts the instructions of the hot path's parts and holds them against the committed baseline.
#[derive(Debug, Parser)]
struct Args {
    /// Make the counts of this run the baseline.
    #[arg(long)]
    write: bool,
    /// Take the turns of one case (used by this program itself).
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

/// What runs under callgrind.
fn take_turns(name: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a thread is all that it needs");
    let _entered = runtime.enter();
    let case = CASES.iter().find(|case| case.name == name).expect("this program knows its cases");
    let mut work = (case.setup)(&World::new(), case.bytes);
    counter::run(|turns| {
        work.prepare(turns);
        Box::new(move || work.turn())
    });
}

/// Counts all cases, tells them, and either keeps them or says what is wrong with them.
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
