//! The signals of the process: those that it obeys, and those that it logs and ignores.
//!
//! A signal that is sent by mistake must not take a fleet down: scripts and units that were written for
//! another proxy send SIGUSR1 (nginx: reopen the log), SIGUSR2 or SIGQUIT, whose default action ends the
//! process at once, as that of most signals does (signal(7)).
//!
//! **Promises.** Once installed, no signal ends the process but SIGKILL, SIGSTOP stops it, and the
//! kernel's own reports of a fault (SIGSEGV, SIGABRT and the like) do.
//!
//! **Not here.** What a drain and a reload do (`lifecycle.rs`, `reload.rs`).

use std::io;

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals whose default action is to end the process, and which report no fault of it.
const FOREIGN: &[(&str, Number)] = &[
    ("SIGQUIT", Number::QUIT),
    ("SIGUSR1", Number::USR1),
    ("SIGUSR2", Number::USR2),
    ("SIGALRM", Number::ALARM),
    ("SIGVTALRM", Number::VTALARM),
    ("SIGPROF", Number::PROF),
    ("SIGIO", Number::IO),
    ("SIGXCPU", Number::XCPU),
    // A log that has reached its limit (RLIMIT_FSIZE): the write fails as well, and is counted.
    ("SIGXFSZ", Number::XFSZ),
    #[cfg(target_os = "linux")]
    ("SIGPWR", Number::POWER),
    #[cfg(target_os = "linux")]
    ("SIGSTKFLT", Number::STKFLT),
];

/// The real-time signals of Linux (signal(7)): systemd's and LXC's commands to an init process are some.
#[cfg(target_os = "linux")]
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    Stop,
}

/// The signals that the process obeys.
#[derive(Debug)]
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Installs the handlers. Call it within the runtime.
    ///
    /// # Errors
    /// If the system refuses a handler for a signal that is obeyed.
    pub fn install() -> io::Result<Self> {
        for (name, number) in FOREIGN {
            ignore((*name).to_owned(), number.as_raw());
        }
        #[cfg(target_os = "linux")]
        for number in REAL_TIME {
            ignore(format!("SIGRTMIN+{}", number - REAL_TIME.start()), number);
        }
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.hangup.recv() => Request::Reload,
            _ = self.terminate.recv() => Request::Stop,
            _ = self.interrupt.recv() => Request::Stop,
        }
    }
}

/// Logs a signal from now on, instead of ending the process.
fn ignore(name: String, number: i32) {
    // The C library keeps some of the real-time ones for itself: nobody else can send those either.
    let Ok(mut foreign) = signal(SignalKind::from_raw(number)) else { return };
    tokio::spawn(async move {
        while foreign.recv().await.is_some() {
            tracing::warn!(
                signal = name,
                "signal ignored: SIGHUP reloads, SIGTERM drains and stops"
            );
        }
    });
}
