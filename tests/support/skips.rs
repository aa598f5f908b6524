//! Notes of the tests that were skipped in one run of `cargo test`, for its last lines.
//!
//! libtest knows no test that finds out while it runs that it cannot: it counts it as passed. So the
//! test leaves a note (`support/command.rs`), and `tests/skipped.rs`, which cargo starts last, reads the notes of its run.
//!
//! **Promises.** Notes belong to the process that started both programs, by its id and start time.
//! Notes of runs that ended without their summary are deleted by the next one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the notes of all runs are.
pub(crate) const DIRECTORY: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/skipped");

/// Takes the notes of this run, and returns what is to be printed; nothing if no test was skipped.
pub(crate) fn summary(directory: &Path, run: &str) -> String {
    let notes = fs::read_to_string(directory.join(run)).unwrap_or_default();
    let _none = fs::remove_file(directory.join(run));
    for old in left_over(directory) {
        let _gone = fs::remove_file(old);
    }
    let skipped: BTreeSet<_> = notes.lines().filter_map(|line| line.split_once('\t')).collect();
    if skipped.is_empty() {
        return String::new();
    }
    let mut text = format!("\nskipped, though counted as passed above: {}\n", skipped.len());
    for (test, why) in skipped {
        let _infallible = writeln!(text, "    {test}: {why}");
    }
    text
}

/// The run of which this program is a part: the process that started it.
pub(crate) fn this_run() -> String {
    let parent = std::os::unix::process::parent_id();
    format!("{parent}-{}", start_time(&parent.to_string()).unwrap_or_default())
}

/// Notes of processes that are no more.
fn left_over(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let of_the_living = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.split_once('-').is_some_and(|(pid, start)| start_time(pid).as_deref() == Some(start))
    };
    entries.map(|entry| entry.path()).filter(|path| !of_the_living(path)).collect()
}

/// When a process was started, in the kernel's ticks: proc_pid_stat(5).
fn start_time(pid: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the 22nd field is the 20th behind it.
    text.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}
