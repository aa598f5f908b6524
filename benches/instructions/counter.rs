//! Counting of instructions: runs this program again under callgrind.
//!
//! callgrind counts only within [`turns_that_count`]. Set-up and the preparation of a turn are not counted:
//! they depend on chance (keys, hash seeds, signatures).

use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs, io};

/// Turns before the counted ones: they allocate buffers and fill tables, once per process or session.
const TURNS_BEFORE: usize = 10;

/// Counted turns of a case.
const TURNS: u32 = 50;

/// Runs the counted turns. callgrind finds this function by its name.
const WHERE: &str = "--toggle-collect=*turns_that_count*";

/// Prepares a case and runs its turns, under callgrind.
pub fn run(prepare: impl FnOnce(usize) -> Box<dyn FnMut()>) {
    let mut turn = prepare(TURNS_BEFORE + TURNS as usize);
    (0..TURNS_BEFORE).for_each(|_| turn());
    turns_that_count(turn.as_mut());
}

#[inline(never)]
fn turns_that_count(turn: &mut dyn FnMut()) {
    (0..TURNS).for_each(|_| turn());
}

/// Returns the architecture and the tools, on which counts depend.
pub fn tools() -> Result<String, String> {
    let (rustc, valgrind) = (version("rustc")?, version("valgrind")?);
    Ok(format!("{}, {rustc}, {valgrind}", env::consts::ARCH))
}

fn version(tool: &str) -> Result<String, String> {
    let output =
        Command::new(tool).arg("--version").output().map_err(|error| missing(tool, &error))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn missing(tool: &str, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        format!("{tool} is missing: install it and try again")
    } else {
        format!("{tool} does not start: {error}")
    }
}

/// Returns the average number of instructions per turn of a case.
///
/// `dir` is the directory for the files of callgrind.
pub fn count(case: &str, dir: &Path) -> Result<u32, String> {
    let (out, log) = (dir.join("callgrind.out"), dir.join("valgrind.log"));
    let program = env::current_exe().map_err(|error| error.to_string())?;
    // A case takes one or two seconds.
    let mut valgrind = Command::new("timeout");
    valgrind.args(["60", "valgrind", "--tool=callgrind", WHERE]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(format!("--log-file={}", log.display()));
    valgrind.arg(program).args(["--case", case]).stdin(Stdio::null());
    let status = valgrind.status().map_err(|error| missing("timeout", &error))?;
    if !status.success() {
        let log = fs::read_to_string(&log).unwrap_or_default();
        return Err(format!("{case}: valgrind or the case has failed ({status})\n{log}"));
    }
    let out = fs::read_to_string(&out).map_err(|error| format!("{case}: {error}"))?;
    let total = out.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    match total {
        Some(total @ 1..) => Ok(total / TURNS),
        _ => Err(format!("{case}: callgrind has counted nothing: is the program stripped?")),
    }
}
