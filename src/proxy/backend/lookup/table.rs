//! The names of backends, what they lead to, and the threads that look them up.
//!
//! **Promises.** A name is looked up by one thread at a time, at the [`PACE`] there is; what it led to is kept until a later look-up succeeds. There
//! are as many threads as there are names that hang, up to [`MAX_THREADS`], and one more that waits; one
//! that cannot be started is missed, and nothing is lost by it. Names come from configurations, never
//! from a peer; one that no configuration has is forgotten.
//!
//! **Not here.** Who waits for a name, and for how long (`proxy/backend/lookup.rs`).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::lock::{Lock, unpoisoned};
use crate::metrics::NameStatus;

/// When a name is looked up again.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// How long what it leads to is taken for true.
    refresh: Duration,
    /// The pause after a look-up that failed.
    retry: Duration,
    /// How long a name stays that no configuration has: connections that began before a reload ask for it.
    forget: Duration,
}

/// HAProxy's `hold valid` has the same 10 s.
const PACE: Pace = Pace {
    refresh: Duration::from_secs(10),
    retry: Duration::from_secs(1),
    forget: Duration::from_secs(60),
};

/// Threads that stay when there is nothing to do, as far as they have been needed. What is needed now and
/// then is there when the system has no more to give.
const KEPT_THREADS: usize = 4;

/// Threads at the most: names beyond these wait while as many hang.
const MAX_THREADS: usize = 64;

/// Looks up a name.
type Resolve = fn(&str) -> io::Result<Vec<IpAddr>>;

/// Starts a thread that looks up what is due.
type Start = fn(&'static Table) -> io::Result<()>;

/// The names of this process. Its resolver is one for the process as well (resolv.conf(5)).
pub(super) static TABLE: Table = Table::new(PACE, resolve, start);

/// The names that are looked up.
pub(super) struct Table {
    inner: Lock<Inner>,
    work: Condvar,
    pace: Pace,
    resolve: Resolve,
    start: Start,
}

struct Inner {
    names: BTreeMap<Box<str>, Name>,
    threads: usize,
    /// Of the threads those that wait.
    idle: usize,
    /// Why there is no other thread, if one was needed.
    shortage: Option<Arc<io::Error>>,
}

struct Name {
    state: watch::Sender<Known>,
    due: Instant,
    in_progress: bool,
    asked: Instant,
    /// How many configurations have it.
    kept: usize,
}

/// What is known of a name.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Of the last look-up that succeeded. Not empty.
    pub(super) addresses: Option<Arc<[IpAddr]>>,
    /// When that ended.
    confirmed: Option<Instant>,
    /// Why the last look-up failed, if it did, and when.
    failure: Option<(LookupError, Instant)>,
    /// How many look-ups have ended.
    pub(super) lookups: u64,
}

/// A name that somebody has asked for.
pub(super) struct Asked {
    pub(super) table: &'static Table,
    host: Box<str>,
    pub(super) state: watch::Receiver<Known>,
    /// How many look-ups had ended when it was asked for.
    pub(super) lookups: u64,
}

/// Why a name leads nowhere.
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

/// The names of a configuration. They are let go of on drop.
#[derive(Default)]
pub(crate) struct Kept {
    table: Option<&'static Table>,
    names: Vec<Box<str>>,
}

impl Known {
    /// What it leads to.
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

impl Asked {
    /// Why nobody looks it up, if it has no addresses and there is no thread for it.
    pub(super) fn shortage(&self) -> Option<LookupError> {
        if self.state.borrow().addresses.is_some() {
            return None;
        }
        self.table.inner().shortage.clone().map(LookupError::NoThread)
    }

    /// Asks again: for a look-up that ends after now, or one that has just ended.
    pub(super) fn again(self) -> Self {
        self.table.ask_for(&self.host, true)
    }
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Asked").field(&self.host).finish()
    }
}

impl Table {
    const fn new(pace: Pace, resolve: Resolve, start: Start) -> Self {
        let inner = Inner { names: BTreeMap::new(), threads: 0, idle: 0, shortage: None };
        Self { inner: Lock::new(inner), work: Condvar::new(), pace, resolve, start }
    }

    /// Asks for a name, which is looked up now if it never was with success.
    pub(super) fn ask(&'static self, host: &str) -> Asked {
        self.ask_for(host, false)
    }

    fn ask_for(&'static self, host: &str, again: bool) -> Asked {
        let now = Instant::now();
        let mut inner = self.inner();
        let name = inner.names.entry(host.into()).or_insert_with(|| Name::new(now));
        name.asked = now;
        let (due, state) = (name.due, name.state.subscribe());
        let (lookups, fresh, unknown) = {
            let known = state.borrow();
            let ended = known.failure.as_ref().map(|(_, at)| *at).max(known.confirmed);
            let fresh = ended.is_some_and(|at| now - at < self.pace.retry);
            (known.lookups, fresh, known.addresses.is_none())
        };
        if (again || unknown) && !name.in_progress && !fresh && due > now {
            name.due = now;
        }
        // It may have become due while there was no thread for it.
        if !name.in_progress && name.due <= now {
            let _missed = self.need_thread(&mut inner);
        }
        drop(inner);
        let lookups = if again && fresh { lookups - 1 } else { lookups };
        Asked { table: self, host: host.into(), state, lookups }
    }

    /// Has these names looked up for as long as what is returned is kept.
    pub(super) fn keep<'a>(
        &'static self,
        names: impl Iterator<Item = &'a str>,
    ) -> (Kept, io::Result<()>) {
        let now = Instant::now();
        let mut inner = self.inner();
        let names: Vec<Box<str>> = names.map(Box::from).collect();
        for host in &names {
            let name = inner.names.entry(host.clone()).or_insert_with(|| Name::new(now));
            name.kept += 1;
        }
        let started = if names.is_empty() { Ok(()) } else { self.need_thread(&mut inner) };
        drop(inner);
        (Kept { table: Some(self), names }, started)
    }

    /// How the names are that are kept.
    pub(super) fn statuses(&self) -> Vec<NameStatus> {
        let inner = self.inner();
        let kept = inner.names.iter().filter(|(_, name)| name.kept > 0);
        kept.map(|(host, name)| status(host, &name.state.borrow())).collect()
    }

    /// Wakes a thread that waits, or starts another.
    fn need_thread(&'static self, inner: &mut Inner) -> io::Result<()> {
        if inner.idle > 0 {
            self.work.notify_one();
            return Ok(());
        }
        if inner.threads >= MAX_THREADS {
            return Ok(());
        }
        match (self.start)(self) {
            Ok(()) => {
                inner.threads += 1;
                inner.shortage = None;
                Ok(())
            }
            Err(error) => {
                // Those that there are take it up in their time.
                inner.shortage = Some(Arc::new(io::Error::from(error.kind())));
                Err(error)
            }
        }
    }

    /// Looks up what is due, again and again.
    fn run(&'static self) {
        let mut inner = self.inner();
        loop {
            let now = Instant::now();
            inner.forget(now, self.pace.forget);
            let next = inner.next();
            match next {
                Some((due, host)) if due <= now => inner = self.look_up(inner, &host),
                // Beside those that wait already, which have the next one.
                _ if inner.threads > KEPT_THREADS => break,
                _ => {
                    let wait = next.map_or(Duration::MAX, |(due, _)| due - now);
                    inner = self.wait(inner, wait);
                }
            }
        }
        inner.threads -= 1;
    }

    fn look_up<'a>(
        &'static self,
        mut inner: MutexGuard<'a, Inner>,
        host: &str,
    ) -> MutexGuard<'a, Inner> {
        let Some(name) = inner.names.get_mut(host) else { return inner };
        name.in_progress = true;
        inner.shortage = None;
        // This one may hang: another looks after the other names.
        if inner.idle == 0 && inner.next().is_some() {
            let _missed = self.need_thread(&mut inner);
        }
        drop(inner);
        let found = (self.resolve)(host);
        let mut inner = self.inner();
        if let Some(name) = inner.names.get_mut(host) {
            name.in_progress = false;
            let good = found.as_ref().is_ok_and(|found| !found.is_empty());
            let pause = if good { self.pace.refresh } else { self.pace.retry };
            name.due = Instant::now() + pause;
            name.state.send_modify(|known| {
                log(host, known, &found);
                known.learn(found);
            });
        }
        inner
    }

    fn wait<'a>(&self, mut inner: MutexGuard<'a, Inner>, wait: Duration) -> MutexGuard<'a, Inner> {
        inner.idle += 1;
        let waited = self.work.wait_timeout(inner, wait);
        let (mut inner, _) = unpoisoned(waited);
        inner.idle -= 1;
        inner
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

impl Inner {
    /// The name that is due next, and when.
    fn next(&self) -> Option<(Instant, Box<str>)> {
        let waiting = self.names.iter().filter(|(_, name)| !name.in_progress);
        let (host, name) = waiting.min_by_key(|(_, name)| name.due)?;
        Some((name.due, host.clone()))
    }

    fn forget(&mut self, now: Instant, after: Duration) {
        self.names.retain(|_, name| name.kept > 0 || name.in_progress || now - name.asked < after);
    }
}

impl Name {
    fn new(now: Instant) -> Self {
        let state = watch::Sender::default();
        Self { state, due: now, in_progress: false, asked: now, kept: 0 }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let Some(table) = self.table else { return };
        let mut inner = table.inner();
        for host in &self.names {
            if let Some(name) = inner.names.get_mut(host) {
                name.kept -= 1;
            }
        }
    }
}

fn status(host: &str, known: &Known) -> NameStatus {
    NameStatus {
        name: host.to_owned(),
        addresses: known.addresses.as_deref().unwrap_or_default().to_vec(),
        age: known.confirmed.map(|at| at.elapsed()),
        error: known.failure.as_ref().map(|(failure, _)| failure.to_string()),
    }
}

/// Logs that look-ups begin to fail, and that they succeed again.
fn log(host: &str, known: &Known, found: &io::Result<Vec<IpAddr>>) {
    match (&known.failure, found) {
        (None, Err(error)) if known.addresses.is_some() => {
            tracing::warn!(name = host, %error, "cannot resolve; using the last addresses");
        }
        (None, Err(error)) => tracing::warn!(name = host, %error, "cannot resolve"),
        (Some(_), Ok(found)) if !found.is_empty() => tracing::info!(name = host, "resolved again"),
        _ => {}
    }
}

fn start(table: &'static Table) -> io::Result<()> {
    let thread = thread::Builder::new().name("lookup".to_owned());
    thread.spawn(move || table.run()).map(|_runs_on| ())
}

fn resolve(host: &str) -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for address in (host, 0).to_socket_addrs()? {
        // Once for each protocol, in some libraries.
        if !found.contains(&address.ip()) {
            found.push(address.ip());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
