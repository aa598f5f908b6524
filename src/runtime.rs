//! The tokio runtime and its threads.
//!
//! **Promises.** `TOKIO_WORKER_THREADS` is read here and nowhere else: empty counts as unset, anything but
//! a number of threads is an error that names it. A process that cannot have all the threads that it
//! needs does not start, and says so. A command needs no thread but its own.
//!
//! **Not here.** Threads that block: `reload.rs`, `proxy/backend/lookup.rs`, `blocking.rs`.

use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Condvar};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::lock::{Lock, unpoisoned};

/// How many threads work for connections. tokio has a variable of this name too, and panics at what it
/// does not understand.
const WORKERS: &str = "TOKIO_WORKER_THREADS";
const MAX_WORKERS: usize = 1024;

/// Threads beside the workers: log, reload, inotify, admin port, look-ups.
const OTHER_THREADS: usize = 6;

/// Connections that a thread works for before it asks the kernel who is ready next; tokio has 61. With
/// fewer, those who ask often have another turn before those who wait have had theirs: it makes the
/// p99 of messages on 1,000 connections a third longer (docs/performance-rationale.md).
const TURNS_BETWEEN_POLLS: u32 = 256;

/// How long workers may take to begin.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The variable is no number of threads.
    #[error("{WORKERS}={value:?}: expected a whole number from 1 to {MAX_WORKERS}")]
    Workers {
        /// What it is.
        value: String,
    },
    /// The system has not as many threads to give.
    #[error(
        "cannot start {wanted} threads: {cause}; raise the limit on processes and threads (pids.max, \
         TasksMax=, ulimit -u)"
    )]
    Threads {
        /// How many are needed.
        wanted: usize,
        /// What the system says.
        cause: io::Error,
    },
    /// The system refuses something else that we need.
    #[error("cannot start the runtime: {0}")]
    System(#[from] io::Error),
}

/// A runtime for a proxy, all of whose workers are running.
///
/// # Errors
/// Why there is none.
pub fn of_a_proxy() -> Result<Runtime, RuntimeError> {
    let workers = workers(std::env::var_os(WORKERS))?;
    let wanted = workers + OTHER_THREADS;
    let short = |cause| RuntimeError::Threads { wanted, cause };
    // tokio panics, or goes on without, where the system has not as many to give.
    can_start(wanted).map_err(short)?;
    let begun = Arc::new((Lock::new(0), Condvar::new()));
    let beginning = Arc::clone(&begun);
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().thread_name("worker").worker_threads(workers).on_thread_start(move || {
        *beginning.0.lock() += 1;
        beginning.1.notify_one();
    });
    let runtime = builder.event_interval(TURNS_BETWEEN_POLLS).build()?;
    let count = begun.0.lock();
    let waiting = begun.1.wait_timeout_while(count, START_TIMEOUT, |count| *count < workers);
    if unpoisoned(waiting).1.timed_out() {
        // Those that have not begun never will.
        runtime.shutdown_background();
        return Err(short(io::ErrorKind::WouldBlock.into()));
    }
    Ok(runtime)
}

/// A runtime for a command that asks a running proxy, on the thread that it is called from.
///
/// # Errors
/// If the system refuses what it needs.
pub fn of_a_command() -> Result<Runtime, RuntimeError> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// How many workers the variable says; without it as many as the machine, or the CPU quota, has cores.
fn workers(variable: Option<OsString>) -> Result<usize, RuntimeError> {
    let value = variable.unwrap_or_default().to_string_lossy().into_owned();
    if value.trim().is_empty() {
        return Ok(thread::available_parallelism().map_or(1, Into::into).min(MAX_WORKERS));
    }
    let workers = value.trim().parse().ok().filter(|workers| (1..=MAX_WORKERS).contains(workers));
    workers.ok_or(RuntimeError::Workers { value })
}

/// Has so many threads at a time, and ends them.
fn can_start(threads: usize) -> io::Result<()> {
    let gate = Lock::new(());
    let gate = &gate;
    thread::scope(|scope| {
        let closed = gate.lock();
        let started: io::Result<Vec<_>> = (0..threads)
            .map(|_| {
                let wait = move || drop(gate.lock());
                thread::Builder::new().spawn_scoped(scope, wait)
            })
            .collect();
        drop(closed);
        started.map(drop)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(value: &str) -> Result<usize, String> {
        workers(Some(value.into())).map_err(|error| error.to_string())
    }

    #[test]
    fn the_variable_is_a_number_of_threads_or_nothing() {
        let default = workers(None).unwrap();
        assert!(default >= 1);
        assert_eq!([said(""), said(" ")], [Ok(default), Ok(default)]);
        assert_eq!([said("1"), said("7"), said("1024")], [Ok(1), Ok(7), Ok(1024)]);
        for wrong in ["0", "auto", "2000m", "-1", "1.5", "1025", "99999999999999999999"] {
            let error = said(wrong).unwrap_err();
            assert!(error.contains(WORKERS) && error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_runtime_has_all_its_workers_once_it_is_there() {
        let runtime = of_a_proxy().unwrap();
        assert_eq!(runtime.metrics().num_workers(), workers(None).unwrap());
        runtime.block_on(async { tokio::spawn(async {}).await }).unwrap();
    }
}
