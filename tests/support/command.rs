//! Other programs, run to completion or until the end of the test.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::skips;

/// Deadline for a program. A browser that starts on a busy machine needs half of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a program with empty standard input, without blocking the runtime. Returns whether it succeeded, and its
/// output on both streams.
pub(crate) async fn run(mut command: Command) -> (bool, String) {
    let ran = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output());
    let output =
        tokio::time::timeout(PATIENCE, ran).await.expect("a program ends").unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

/// Runs a program to its end. Returns its exit code, its standard output and its standard error.
pub(crate) fn output(command: &mut Command) -> (i32, String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), stdout, stderr)
}

/// Returns whether a program is installed, and reports the test as skipped if not.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    found.status.success() || skipped(&format!("{program} is not installed on this machine"))
}

/// Reports a test as skipped, notes it for the last lines of `cargo test`, and returns false. Fails if all tests have
/// to run.
pub(crate) fn skipped(why: &str) -> bool {
    // Not eprintln!: libtest hides that for tests that pass, as this one will.
    let line = format!("SKIPPED: {why}; CI has it\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    assert!(std::env::var_os("TLSIDECAR_TEST_EVERYTHING").is_none(), "{why}");
    let thread = std::thread::current();
    // With one test at a time, libtest runs them in its main thread, which does not have the test's name.
    let test = thread.name().filter(|name| *name != "main").unwrap_or("a test");
    note(skips::DIRECTORY.as_ref(), &skips::this_run(), test, why);
    false
}

/// Writes a note about a skipped test.
fn note(directory: &Path, run: &str, test: &str, why: &str) {
    fs::create_dir_all(directory).unwrap();
    let file = fs::OpenOptions::new().append(true).create(true).open(directory.join(run));
    // One write, because tests run in parallel.
    let line = format!("{test}\t{why}\n");
    file.unwrap().write_all(line.as_bytes()).unwrap();
}

/// A program that is killed on drop.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Sends a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.0.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It fails if the program has ended already.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

#[test]
fn skipped_tests_are_counted_and_named_once_and_only_in_their_run() {
    let directory = tempfile::tempdir().unwrap();
    let run = skips::this_run();
    for (run, test) in [(&*run, "a::first"), (&run, "b::second"), (&run, "a::first"), ("1-1", "c")]
    {
        note(directory.path(), run, test, "it is not installed");
    }
    let text = skips::summary(directory.path(), &run);
    let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].ends_with(": 2"), "{text}");
    assert!(lines[1].contains("a::first") && lines[2].contains("b::second"), "{text}");
    assert_eq!(skips::summary(directory.path(), &run), "");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
