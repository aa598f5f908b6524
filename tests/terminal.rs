//! The log on a real terminal: a pseudo-terminal of script(1).

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use crate::support::command::{Running, has};
use crate::support::process::by_shell;
use crate::support::wait::within;
use crate::support::{Authority, Backend, file};

/// Ctrl-C, which the terminal makes a SIGINT.
const INTERRUPT: u8 = 3;

/// Starts a sidecar on a terminal, ends it by Ctrl-C once it is up, and returns what the terminal has shown; none if script(1)
/// is not installed.
async fn shown(set: impl FnOnce(&mut Command)) -> Option<String> {
    if !has("script") {
        return None;
    }
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let text = file::text(backend.address, &authority.server(), "");
    let config = file::write(authority.dir(), &text);
    // The shell of script(1) starts the program, for a minute at most: a test that fails leaves no process.
    let typed = "exec timeout --foreground 60 \"$PROGRAM\" --config \"$CONFIG\"";
    let mut command = by_shell(&format!("PROGRAM=$1 exec script -qec '{typed}' /dev/null"));
    command.args(["sh", env!("CARGO_BIN_EXE_tlsidecar")]).env("CONFIG", config);
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR").stdin(Stdio::piped());
    set(&mut command);
    let reading = tokio::task::spawn_blocking(move || read(command));
    Some(within("the end of the terminal", reading).await.unwrap())
}

/// Reads a terminal until its end, with a Ctrl-C after the last line of the start.
fn read(mut command: Command) -> String {
    let mut child = Running(command.spawn().unwrap());
    let (mut input, mut output) = (child.0.stdin.take(), child.0.stdout.take().unwrap());
    let (mut shown, mut chunk) = (Vec::new(), [0; 4096]);
    // Linux ends a pseudo-terminal without a process by EIO.
    while let Ok(read @ 1..) = output.read(&mut chunk) {
        shown.extend(&chunk[..read]);
        let is_up = String::from_utf8_lossy(&shown).contains("admin port");
        if is_up && let Some(mut input) = input.take() {
            input.write_all(&[INTERRUPT]).unwrap();
        }
    }
    String::from_utf8(shown).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_on_a_terminal_has_coloured_levels_and_no_modules() {
    let Some(shown) = shown(|_| ()).await else { return };
    let line = shown.lines().find(|line| line.contains("listening"));
    let line = line.unwrap_or_else(|| panic!("{shown:?}"));
    assert!(
        line.starts_with("\u{1b}[2m20") && line.contains("Z\u{1b}[0m \u{1b}[32m INFO\u{1b}[0m "),
        "{line:?}"
    );
    assert!(!shown.contains("tlsidecar::"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_on_a_terminal_without_colours_has_no_escapes_and_no_modules() {
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let Some(shown) = shown(|command| _ = command.env(name, value)).await else { return };
        assert!(shown.contains("Z  INFO ") && shown.contains("listening"), "{name}: {shown:?}");
        assert!(!shown.contains('\u{1b}') && !shown.contains("tlsidecar::"), "{name}: {shown:?}");
    }
}
