//! The signals of the process: those that it handles, and those that it logs and ignores.
//!
//! A signal that is sent by mistake must not disconnect a fleet. Scripts and units for other proxies send
//! SIGUSR1 (nginx: reopen the log), SIGUSR2 or SIGQUIT, whose default action ends the process at once, like
//! that of most signals (signal(7)).
//!
//! **Promises.** Once installed, only SIGKILL and the kernel's reports of a fault (for example SIGSEGV and
//! SIGABRT) end the process, and only SIGSTOP stops it.
//!
//! **Not here.** The drain and the reload (`lifecycle.rs`, `reload.rs`).

use std::io;

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals whose default action ends the process, and which report no fault in it.
const FOREIGN: &[(&str, Number)] = &[
    ("SIGQUIT", Number::QUIT),
    ("SIGUSR1", Number::USR1),
    ("SIGUSR2", Number::USR2),
    ("SIGALRM", Number::ALARM),
    ("SIGVTALRM", Number::VTALARM),
    ("SIGPROF", Number::PROF),
    ("SIGIO", Number::IO),
    ("SIGXCPU", Number::XCPU),
    // The log has reached its size limit (RLIMIT_FSIZE). The write fails too, and is counted.
    ("SIGXFSZ", Number::XFSZ),
    #[cfg(target_os = "linux")]
    ("SIGPWR", Number::POWER),
    #[cfg(target_os = "linux")]
    ("SIGSTKFLT", Number::STKFLT),
];

/// The real-time signals of Linux (signal(7)). systemd and LXC send some of them to an init process.
#[cfg(target_os = "linux")]
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// A request by signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    Stop,
}

/// The signals that the process handles.
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
    /// If a handler of a request cannot be installed.
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

/// Logs a signal from now on, instead of letting it end the process.
fn ignore(name: String, number: i32) {
    // The C library reserves some real-time signals; no other process sends those.
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
