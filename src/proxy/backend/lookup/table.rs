//! The names of backends, their addresses, and the look-ups.
//!
//! **Promises.** A name is looked up by one thread at a time, at the intervals of [`PACE`], and its addresses
//! are kept until a later look-up succeeds. A look-up that hangs delays no other name, up to [`MAX_THREADS`] of
//! them. A thread that cannot be started loses nothing. Names come from configurations, never from a peer; a
//! name that no configuration has is forgotten.
//!
//! **Not here.** Waiting for a name (`proxy/backend/lookup.rs`), the threads (`blocking.rs`).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::blocking::{BlockingPool, PoolThread, Start};
use crate::lock::Lock;
use crate::metrics::NameStatus;

/// The intervals between look-ups of a name.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Time after which the addresses are looked up again.
    refresh: Duration,
    /// The pause after a failed look-up.
    retry: Duration,
    /// Time for which a name is kept that no configuration has: connections that began before a reload ask for it.
    forget: Duration,
}

/// HAProxy's `hold valid` is 10 s as well.
const PACE: Pace = Pace {
    refresh: Duration::from_secs(10),
    retry: Duration::from_secs(1),
    forget: Duration::from_secs(60),
};

/// Threads that stay when there is nothing to do, once they have been needed: the system may have no more to
/// give the next time.
const KEPT_THREADS: usize = 4;

/// Maximum number of threads. If as many look-ups hang, further names wait.
const MAX_THREADS: usize = 64;

/// Looks up a name.
type Resolve = fn(&str) -> io::Result<Vec<IpAddr>>;

/// The names of this process. Its resolver is one for the process as well (resolv.conf(5)).
pub(super) static TABLE: LazyLock<NameTable> =
    LazyLock::new(|| NameTable::new(PACE, resolve, PoolThread::spawn));

/// The names that are looked up.
pub(super) struct NameTable {
    names: Lock<NameMap>,
    pool: BlockingPool,
    pace: Pace,
    resolve: Resolve,
}

type NameMap = BTreeMap<Box<str>, NameEntry>;

struct NameEntry {
    state: watch::Sender<NameState>,
    due: Instant,
    in_progress: bool,
    asked: Instant,
    /// The number of configurations that have it.
    kept: usize,
}

/// The state of a name.
#[derive(Clone, Debug, Default)]
pub(super) struct NameState {
    /// The addresses of the last look-up that succeeded. Not empty.
    pub(super) addresses: Option<Arc<[IpAddr]>>,
    /// The end of that look-up.
    confirmed: Option<Instant>,
    /// The error of the last look-up, if it failed, and when it ended.
    failure: Option<(LookupError, Instant)>,
    /// The number of look-ups that have ended.
    pub(super) lookups: u64,
}

/// A name that a connection has asked for.
pub(super) struct NameHandle {
    pub(super) table: &'static NameTable,
    host: Box<str>,
    pub(super) state: watch::Receiver<NameState>,
    /// The number of look-ups that had ended when it was asked for.
    pub(super) lookups: u64,
}

/// The error of a name without addresses.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("cannot resolve the backend's name: {0}")]
    Failed(Arc<io::Error>),
    #[error("the backend's name has no address")]
    NoAddress,
    #[error("the backend's name was not resolved within {0:?}")]
    Slow(Duration),
    #[error("cannot resolve the backend's name: no thread to do it: {0}")]
    NoThread(Arc<io::Error>),
}

/// The names of a configuration. They are released on drop.
#[derive(Default)]
pub(crate) struct KeptNames {
    table: Option<&'static NameTable>,
    names: Vec<Box<str>>,
}

impl NameState {
    /// Returns the addresses, or the error of the last look-up.
    pub(super) fn outcome(&self) -> Result<Arc<[IpAddr]>, LookupError> {
        match (&self.addresses, &self.failure) {
            (Some(addresses), _) => Ok(Arc::clone(addresses)),
            (None, Some((failure, _))) => Err(failure.clone()),
            (None, None) => Err(LookupError::NoAddress),
        }
    }

    fn learn(&mut self, found: io::Result<Vec<IpAddr>>) {
        let now = Instant::now();
        self.lookups += 1;
        self.failure = match found {
            Ok(found) if found.is_empty() => Some((LookupError::NoAddress, now)),
            Ok(found) => {
                self.addresses = Some(found.into());
                self.confirmed = Some(now);
                None
            }
            Err(error) => Some((LookupError::Failed(Arc::new(error)), now)),
        };
    }
}

impl NameHandle {
    /// Returns an error if the name has no addresses and there is no thread to look it up.
    pub(super) fn shortage(&self) -> Option<LookupError> {
        if self.state.borrow().addresses.is_some() {
            return None;
        }
        self.table.pool.shortage().map(LookupError::NoThread)
    }

    /// Asks again, for a look-up that ends after now or has just ended.
    pub(super) fn again(self) -> Self {
        self.table.ask_for(&self.host, true)
    }
}

impl std::fmt::Debug for NameHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("NameHandle").field(&self.host).finish()
    }
}

impl NameTable {
    fn new(pace: Pace, resolve: Resolve, start: Start) -> Self {
        let pool = BlockingPool::new("lookup", MAX_THREADS, KEPT_THREADS, start);
        Self { names: Lock::default(), pool, pace, resolve }
    }

    /// Asks for a name. It is looked up now unless a look-up has succeeded.
    pub(super) fn ask(&'static self, host: &str) -> NameHandle {
        self.ask_for(host, false)
    }

    fn ask_for(&'static self, host: &str, again: bool) -> NameHandle {
        let now = Instant::now();
        let mut names = self.names();
        let name = self.name(&mut names, host, now);
        name.asked = now;
        let state = name.state.subscribe();
        let (lookups, fresh, unknown) = {
            let known = state.borrow();
            let ended = known.failure.as_ref().map(|(_, at)| *at).max(known.confirmed);
            let fresh = ended.is_some_and(|at| now - at < self.pace.retry);
            (known.lookups, fresh, known.addresses.is_none())
        };
        if (again || unknown) && !name.in_progress && !fresh && name.due > now {
            name.due = now;
            self.schedule(host, now);
        }
        // It may have become due while there was no thread for it.
        if !name.in_progress && name.due <= now {
            let _retried_later = self.pool.ensure_thread();
        }
        drop(names);
        let lookups = if again && fresh { lookups - 1 } else { lookups };
        NameHandle { table: self, host: host.into(), state, lookups }
    }

    /// Looks up these names until the returned value is dropped.
    pub(super) fn keep<'a>(
        &'static self,
        hosts: impl Iterator<Item = &'a str>,
    ) -> (KeptNames, io::Result<()>) {
        let now = Instant::now();
        let mut names = self.names();
        let hosts: Vec<Box<str>> = hosts.map(Box::from).collect();
        for host in &hosts {
            self.name(&mut names, host, now).kept += 1;
        }
        drop(names);
        let started = if hosts.is_empty() { Ok(()) } else { self.pool.ensure_thread() };
        (KeptNames { table: Some(self), names: hosts }, started)
    }

    /// Returns the state of the names of all configurations.
    pub(super) fn statuses(&self) -> Vec<NameStatus> {
        let names = self.names();
        let kept = names.iter().filter(|(_, name)| name.kept > 0);
        kept.map(|(host, name)| status(host, &name.state.borrow())).collect()
    }

    /// Returns a name. A new one is due now.
    fn name<'a>(
        &'static self,
        names: &'a mut NameMap,
        host: &str,
        now: Instant,
    ) -> &'a mut NameEntry {
        names.entry(host.into()).or_insert_with(|| {
            self.schedule(host, now);
            NameEntry::new(now)
        })
    }

    /// Queues look-ups of a name, from `due` on. An earlier queue of the same name ends at its next turn.
    fn schedule(&'static self, host: &str, due: Instant) {
        let host: Box<str> = host.into();
        self.pool.queue(due, Box::new(move || self.look_up(&host)));
    }

    /// Looks up a name if it is due, and returns when it is due again.
    fn look_up(&'static self, host: &str) -> Option<Instant> {
        let now = Instant::now();
        let mut names = self.names();
        let name = names.get_mut(host)?;
        if name.in_progress || name.due > now {
            return None;
        }
        if name.kept == 0 && now - name.asked >= self.pace.forget {
            names.remove(host);
            return None;
        }
        name.in_progress = true;
        drop(names);
        let found = (self.resolve)(host);
        let mut names = self.names();
        let name = names.get_mut(host)?;
        name.in_progress = false;
        let good = found.as_ref().is_ok_and(|found| !found.is_empty());
        name.due = Instant::now() + if good { self.pace.refresh } else { self.pace.retry };
        name.state.send_modify(|known| {
            log(host, known, &found);
            known.learn(found);
        });
        Some(name.due)
    }

    fn names(&self) -> MutexGuard<'_, NameMap> {
        self.names.lock()
    }
}

impl NameEntry {
    fn new(now: Instant) -> Self {
        let state = watch::Sender::default();
        Self { state, due: now, in_progress: false, asked: now, kept: 0 }
    }
}

impl Drop for KeptNames {
    fn drop(&mut self) {
        let Some(table) = self.table else { return };
        let mut names = table.names();
        for host in &self.names {
            if let Some(name) = names.get_mut(host) {
                name.kept -= 1;
            }
        }
    }
}

fn status(host: &str, known: &NameState) -> NameStatus {
    NameStatus {
        name: host.to_owned(),
        addresses: known.addresses.as_deref().unwrap_or_default().to_vec(),
        age: known.confirmed.map(|at| at.elapsed()),
        error: known.failure.as_ref().map(|(failure, _)| failure.to_string()),
    }
}

/// Logs the first failure of a series, and its end.
fn log(host: &str, known: &NameState, found: &io::Result<Vec<IpAddr>>) {
    match (&known.failure, found) {
        (None, Err(error)) if known.addresses.is_some() => {
            tracing::warn!(name = host, %error, "cannot resolve the backend's name, using its last addresses");
        }
        (None, Err(error)) => {
            tracing::warn!(name = host, %error, "cannot resolve the backend's name");
        }
        (Some(_), Ok(found)) if !found.is_empty() => {
            tracing::info!(name = host, "backend's name resolved again");
        }
        _ => {}
    }
}

fn resolve(host: &str) -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for address in (host, 0).to_socket_addrs()? {
        // Some libraries return an address once for each protocol.
        if !found.contains(&address.ip()) {
            found.push(address.ip());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
