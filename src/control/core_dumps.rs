//! Protection of the process memory, which holds private keys, ticket keys and the plaintext of devices.
//!
//! **Promises.** After [`forbid`], the kernel writes no core file and passes none to a handler, and only a
//! process with `CAP_SYS_PTRACE` can read the memory: the files below `/proc/PID` belong to root
//! (`PR_SET_DUMPABLE` in prctl(2), ptrace(2)).
//!
//! **Not here.** The key that turns this off for a debugger: `process.dumpable` (`config.rs`).

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// Disables core dumps, and keeps other processes of the same user from reading this one's memory.
///
/// # Errors
/// If a system call fails.
pub fn forbid() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}
