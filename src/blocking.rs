//! A bounded pool of threads for blocking work.
//!
//! tokio's blocking pool is not used: it panics, or discards the work, if the system has no thread to give.
//!
//! **Promises.** There are at most `max_threads`. Work is done in the order of its due times. While work waits
//! and every thread is busy, another thread is started; if that fails, no work is lost: a thread does it later.
//! A panic in work affects no other work.
//!
//! **Not here.** The work (`control/admin.rs`, `proxy/backend/lookup/table.rs`).

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

use crate::lock::{Lock, unpoisoned};

/// Blocking work. It returns the time at which it is to be done again, if it is.
pub(crate) type Work = Box<dyn FnMut() -> Option<Instant> + Send>;

/// Starts a thread of a pool; tests put a shortage here.
pub(crate) type Start = fn(PoolThread) -> io::Result<()>;

/// A bounded pool of threads. Its threads end when it is dropped.
pub(crate) struct BlockingPool {
    shared: Arc<PoolState>,
    /// One permit for each thread, for [`Self::run`].
    turns: Arc<Semaphore>,
}

/// A thread of a pool, before it is started.
pub(crate) struct PoolThread(Arc<PoolState>);

struct PoolState {
    name: &'static str,
    max_threads: usize,
    /// Threads that stay when there is nothing to do.
    kept_threads: usize,
    start: Start,
    queue: Lock<WorkQueue>,
    changed: Condvar,
}

#[derive(Default)]
struct WorkQueue {
    /// By due time, then in the order of submission.
    work: BTreeMap<(Instant, u64), Work>,
    submitted: u64,
    threads: usize,
    /// The threads that wait.
    idle: usize,
    /// The error of the last thread that could not be started.
    shortage: Option<Arc<io::Error>>,
    is_closed: bool,
}

impl BlockingPool {
    /// Makes a pool without threads. They are started when there is work.
    pub(crate) fn new(
        name: &'static str,
        max_threads: usize,
        kept_threads: usize,
        start: Start,
    ) -> Self {
        let (queue, changed) = (Lock::default(), Condvar::new());
        let shared = PoolState { name, max_threads, kept_threads, start, queue, changed };
        Self { shared: Arc::new(shared), turns: Arc::new(Semaphore::new(max_threads)) }
    }

    /// Makes a pool of one thread, and starts it, so that a later shortage of threads does not matter.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub(crate) fn of_one_thread(name: &'static str) -> io::Result<Self> {
        let pool = Self::new(name, 1, 1, PoolThread::spawn);
        pool.ensure_thread()?;
        Ok(pool)
    }

    /// Does `work` when a thread is free. If the caller stops waiting before that, the work is not done.
    ///
    /// # Errors
    /// If the work panics, or if there is no thread.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(io::Error::other)?;
        let (done, result) = oneshot::channel();
        // The turn ends with the work, not with the caller, who may stop waiting.
        let mut once = Some((work, done, turn));
        self.queue(
            Instant::now(),
            Box::new(move || {
                let (work, done, _turn) = once.take()?;
                let _caller_gone = done.send(work());
                None
            }),
        );
        self.ensure_thread()?;
        result.await.map_err(|_| io::Error::other("the work panicked"))
    }

    /// Adds work that is due at this time. [`Self::ensure_thread`] starts a thread for it.
    pub(crate) fn queue(&self, due: Instant, work: Work) {
        self.shared.queue.lock().add(due, work);
    }

    /// Wakes an idle thread, or starts one if there is none and the limit allows it.
    ///
    /// # Errors
    /// If the system has no thread to give. The work that waits is done later.
    pub(crate) fn ensure_thread(&self) -> io::Result<()> {
        self.shared.ensure_thread(&mut self.shared.queue.lock())
    }

    /// Returns the error of the last thread that could not be started, while no thread has taken work since.
    pub(crate) fn shortage(&self) -> Option<Arc<io::Error>> {
        self.shared.queue.lock().shortage.clone()
    }
}

impl Drop for BlockingPool {
    fn drop(&mut self) {
        self.shared.queue.lock().is_closed = true;
        self.shared.changed.notify_all();
    }
}

impl PoolThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub(crate) fn spawn(self) -> io::Result<()> {
        let thread = thread::Builder::new().name(self.0.name.to_owned());
        thread.spawn(move || self.0.work()).map(|_detached| ())
    }
}

impl WorkQueue {
    fn add(&mut self, due: Instant, work: Work) {
        self.work.insert((due, self.submitted), work);
        self.submitted += 1;
    }

    fn take_due(&mut self, now: Instant) -> Option<Work> {
        let first = self.work.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

impl PoolState {
    fn ensure_thread(self: &Arc<Self>, queue: &mut WorkQueue) -> io::Result<()> {
        if queue.idle > 0 {
            self.changed.notify_one();
            return Ok(());
        }
        if queue.threads >= self.max_threads {
            return Ok(());
        }
        match (self.start)(PoolThread(Arc::clone(self))) {
            Ok(()) => {
                queue.threads += 1;
                queue.shortage = None;
                Ok(())
            }
            Err(error) => {
                queue.shortage = Some(Arc::new(io::Error::from(error.kind())));
                Err(error)
            }
        }
    }

    /// Does the work of one thread.
    fn work(self: &Arc<Self>) {
        let mut queue = self.queue.lock();
        while !queue.is_closed {
            if let Some(work) = queue.take_due(Instant::now()) {
                queue = self.run(queue, work);
            } else if queue.threads > self.kept_threads && queue.idle > 0 {
                // Another thread waits for the next work.
                break;
            } else {
                queue = self.wait(queue);
            }
        }
        queue.threads -= 1;
    }

    fn run<'a>(
        self: &'a Arc<Self>,
        mut queue: MutexGuard<'a, WorkQueue>,
        mut work: Work,
    ) -> MutexGuard<'a, WorkQueue> {
        queue.shortage = None;
        // This work may hang: another thread has to wait for the rest.
        if queue.idle == 0 && !queue.work.is_empty() {
            let _retried_later = self.ensure_thread(&mut queue);
        }
        drop(queue);
        // The panic is logged. Its caller gets an error.
        let next = catch_unwind(AssertUnwindSafe(&mut work)).unwrap_or(None);
        let mut queue = self.queue.lock();
        if let Some(due) = next {
            queue.add(due, work);
        }
        queue
    }

    fn wait<'a>(&self, mut queue: MutexGuard<'a, WorkQueue>) -> MutexGuard<'a, WorkQueue> {
        let next = queue.work.first_key_value().map(|((due, _), _)| *due);
        let wait = next.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()));
        queue.idle += 1;
        let (mut queue, _) = unpoisoned(self.changed.wait_timeout(queue, wait));
        queue.idle -= 1;
        queue
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::channel;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn work_of_callers_that_have_left_is_not_done_and_started_work_completes() {
        let pool = BlockingPool::of_one_thread("test").unwrap();
        let (begun, done) = (Arc::new(AtomicU32::new(0)), channel::<()>());
        let (finish, wait) = done;
        let first = Arc::clone(&begun);
        // It begins, and its caller leaves.
        let work = pool.run(move || {
            first.fetch_add(1, Ordering::SeqCst);
            wait.recv()
        });
        assert!(timeout(Duration::from_millis(50), work).await.is_err());
        for _ in 0..100 {
            let another = Arc::clone(&begun);
            let work = pool.run(move || another.fetch_add(1, Ordering::SeqCst));
            assert!(timeout(Duration::ZERO, work).await.is_err());
        }
        finish.send(()).unwrap();
        let last = Arc::clone(&begun);
        assert_eq!(pool.run(move || last.load(Ordering::SeqCst)).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_panic_affects_no_other_work() {
        let pool = BlockingPool::of_one_thread("test").unwrap();
        assert!(pool.run(|| panic!("at work")).await.is_err());
        assert_eq!(pool.run(|| 7).await.unwrap(), 7);
    }

    #[test]
    fn work_that_hangs_delays_no_other_work_and_repeated_work_is_done_at_its_time() {
        let pool = BlockingPool::new("test", 3, 1, PoolThread::spawn);
        let (release, hang) = channel::<()>();
        let (send, done) = channel();
        pool.queue(Instant::now(), Box::new(move || hang.recv().ok().and(None)));
        let mut runs = 0;
        pool.queue(
            Instant::now(),
            Box::new(move || {
                runs += 1;
                send.send(Instant::now()).unwrap();
                (runs < 3).then(|| Instant::now() + Duration::from_millis(20))
            }),
        );
        pool.ensure_thread().unwrap();
        let times: Vec<_> = done.iter().collect();
        assert_eq!(times.len(), 3);
        assert!(times[2] - times[0] >= Duration::from_millis(40));
        drop(release);
    }
}
