//! Exit codes.
//!
//! **Promises.** Codes are public: added to, never changed.
//!
//! **Not here.** The meaning of a code for each command (`pages.rs`).

use std::process::{ExitCode, Termination};

/// An exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command succeeded.
    Success = 0,
    /// The start failed, a drain forced connections, or a command failed.
    Failed = 1,
    /// A flag or an environment variable has an invalid value. clap uses the same code.
    BadFlags = 2,
    /// The only problem of a probe is a certificate that ends within `--min-days`.
    ExpiresSoon = 3,
    /// The configuration, or a file that it names, is invalid: `EX_CONFIG` of sysexits.h.
    BadConfiguration = 78,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}
