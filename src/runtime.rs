//! The tokio runtime and its threads.
//!
//! **Promises.** `TOKIO_WORKER_THREADS` is read only here: empty counts as unset, and an invalid value is an error.
//! A proxy that cannot start all of its threads fails at the start. A command uses one thread.
//!
//! **Not here.** Blocking threads: `reload.rs`, `proxy/backend/lookup.rs`, `blocking.rs`.

use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Condvar};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::lock::{Lock, unpoisoned};

/// The variable for the number of worker threads. tokio reads the same variable, and panics on an invalid value.
const WORKERS: &str = "TOKIO_WORKER_THREADS";
const MAX_WORKERS: usize = 1024;

/// Threads other than the workers: log, reload, inotify, admin port, name lookups.
const OTHER_THREADS: usize = 6;

/// Tasks that a worker polls before it polls the kernel for ready sockets; tokio's default is 61. A lower number
/// favours busy connections over waiting ones: the p99 latency of messages on 1,000 connections is a third higher
/// (docs/performance-rationale.md).
const EVENT_INTERVAL: u32 = 256;

/// The time limit for the start of all workers.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// A failed start of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The variable is invalid.
    #[error("{WORKERS}={value:?}: expected a whole number from 1 to {MAX_WORKERS}")]
    Workers {
        /// Its value.
        value: String,
    },
    /// The system does not allow as many threads.
    #[error(
        "cannot start {wanted} threads: {cause}; raise the limit of processes and threads (pids.max, \
         TasksMax=, ulimit -u)"
    )]
    Threads {
        /// The number of threads that are needed.
        wanted: usize,
        /// The error of the system.
        cause: io::Error,
    },
    /// Another error of the system.
    #[error("cannot start the runtime: {0}")]
    System(#[from] io::Error),
}

/// Starts a runtime for a proxy, and waits until all of its workers run.
///
/// # Errors
/// The variable is invalid, or the system does not allow as many threads.
pub fn of_a_proxy() -> Result<Runtime, RuntimeError> {
    let workers = workers(std::env::var_os(WORKERS))?;
    let wanted = workers + OTHER_THREADS;
    let short = |cause| RuntimeError::Threads { wanted, cause };
    // tokio panics, or continues with fewer threads, if the system does not allow as many.
    can_start(wanted).map_err(short)?;
    let begun = Arc::new((Lock::new(0), Condvar::new()));
    let beginning = Arc::clone(&begun);
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().thread_name("worker").worker_threads(workers).on_thread_start(move || {
        *beginning.0.lock() += 1;
        beginning.1.notify_one();
    });
    let runtime = builder.event_interval(EVENT_INTERVAL).build()?;
    let count = begun.0.lock();
    let waiting = begun.1.wait_timeout_while(count, START_TIMEOUT, |count| *count < workers);
    if unpoisoned(waiting).1.timed_out() {
        // The missing workers will not start later.
        runtime.shutdown_background();
        return Err(short(io::ErrorKind::WouldBlock.into()));
    }
    Ok(runtime)
}

/// Returns a runtime for a command, on the current thread.
///
/// # Errors
/// The system does not allow the sockets of the runtime.
pub fn of_a_command() -> Result<Runtime, RuntimeError> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Returns the number of workers in the variable or, without it, the number of cores of the machine or the CPU quota.
fn workers(variable: Option<OsString>) -> Result<usize, RuntimeError> {
    let value = variable.unwrap_or_default().to_string_lossy().into_owned();
    if value.trim().is_empty() {
        return Ok(thread::available_parallelism().map_or(1, Into::into).min(MAX_WORKERS));
    }
    let workers = value.trim().parse().ok().filter(|workers| (1..=MAX_WORKERS).contains(workers));
    workers.ok_or(RuntimeError::Workers { value })
}

/// Starts this number of threads at the same time, and ends them.
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

    fn parsed(value: &str) -> Result<usize, String> {
        workers(Some(value.into())).map_err(|error| error.to_string())
    }

    #[test]
    fn the_variable_is_a_number_of_threads_or_nothing() {
        let default = workers(None).unwrap();
        assert!(default >= 1);
        assert_eq!([parsed(""), parsed(" ")], [Ok(default), Ok(default)]);
        assert_eq!([parsed("1"), parsed("7"), parsed("1024")], [Ok(1), Ok(7), Ok(1024)]);
        for wrong in ["0", "auto", "2000m", "-1", "1.5", "1025", "99999999999999999999"] {
            let error = parsed(wrong).unwrap_err();
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
