//! Notes about skipped tests of one run of `cargo test`, for its last lines.
//!
//! libtest counts a test that skips itself as passed. Such a test leaves a note (`support/command.rs`), and
//! `tests/skipped.rs`, which cargo starts last, prints the notes of its run.
//!
//! **Promises.** Notes belong to the process that started both programs, by its id and start time. Notes of a run that
//! ended without a summary are deleted by the next run.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The directory with the notes of all runs.
pub(crate) const DIRECTORY: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/skipped");

/// Removes the notes of this run and returns the text to print, which is empty if no test was skipped.
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

/// Returns the name of this run: the process that started this program.
pub(crate) fn this_run() -> String {
    let parent = std::os::unix::process::parent_id();
    format!("{parent}-{}", start_time(&parent.to_string()).unwrap_or_default())
}

/// Returns the notes of processes that have ended.
fn left_over(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let is_running = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.split_once('-').is_some_and(|(pid, start)| start_time(pid).as_deref() == Some(start))
    };
    entries.map(|entry| entry.path()).filter(|path| !is_running(path)).collect()
}

/// Returns the start time of a process in clock ticks: proc_pid_stat(5).
fn start_time(pid: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses can contain anything; field 22 is the 20th after it.
    text.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}
