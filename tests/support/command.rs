//! Programs of others, run to their end, or until the test is over.

use std::io::Write;
use std::process::{Child, Command, Stdio};

/// Runs a program with nothing to read, without holding up the runtime; returns whether it was
/// content, and what it wrote to both.
pub(crate) async fn run(mut command: Command) -> (bool, String) {
    let ran = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output());
    let output = super::wait::within("a program", ran).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

/// Whether a program is installed; says loudly if not.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    found.status.success() || skipped(&format!("{program} is not installed on this machine"))
}

/// Says loudly what keeps a test from being run; false. Where everything is to be there, it fails.
pub(crate) fn skipped(why: &str) -> bool {
    // Not eprintln!: libtest holds that back for tests that pass, as this one will.
    let line = format!("SKIPPED: {why}; CI has it\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    assert!(std::env::var_os("TLSIDECAR_TEST_EVERYTHING").is_none(), "{why}");
    false
}

/// A program that is killed on drop.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It fails if it has ended already.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}
