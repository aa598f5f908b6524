//! Keeps the memory of the process to itself: private keys, ticket keys and what devices send are in it.
//!
//! **Promises.** After [`forbid`] the kernel writes no core file and passes none to a handler, and no
//! other process can read the memory but with `CAP_SYS_PTRACE`: the files below `/proc/PID` belong to root
//! (`PR_SET_DUMPABLE` of prctl(2), ptrace(2)).
//!
//! **Not here.** The switch that leaves it as it is, for a debugger: `process.dumpable` (`config.rs`).

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// Forbids core dumps, and other processes of the same user to read this one's memory.
///
/// # Errors
/// If the system refuses.
pub fn forbid() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}
