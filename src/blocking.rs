//! Work that takes a moment, aside from the workers.
//!
//! **Promises.** However many ask, one thing is done at a time, by a thread that is there from the start:
//! a shortage of threads keeps nobody from an answer. For those who have gone before it was their turn
//! nothing is done.
//!
//! **Not here.** What is done (`admin.rs`).

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use tokio::sync::{Semaphore, oneshot};

/// A place to work in, for one at a time.
pub(crate) struct Aside {
    turn: Arc<Semaphore>,
    work: Sender<Box<dyn FnOnce() + Send>>,
}

impl Aside {
    /// Starts the thread, which ends with what is returned.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, work) = channel::<Box<dyn FnOnce() + Send>>();
        thread::Builder::new().name("admin".to_owned()).spawn(move || {
            for work in work {
                // It fails if the work panics: the panic is logged, and the caller gets an error.
                let _panicked = catch_unwind(AssertUnwindSafe(work));
            }
        })?;
        Ok(Self { turn: Arc::new(Semaphore::new(1)), work: sender })
    }

    /// Does `work` when it is its turn.
    ///
    /// # Errors
    /// If the work panics, or the process ends.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(io::Error::other)?;
        let (done, told) = oneshot::channel();
        let work = move || {
            let _gone = done.send(work());
            // Not before: whoever asked may have gone meanwhile, the work has not.
            drop(turn);
        };
        self.work.send(Box::new(work)).map_err(|_| io::Error::other("the thread has ended"))?;
        told.await.map_err(|_| io::Error::other("the work panicked"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::channel;

    use tokio::time::{Duration, timeout};

    use super::*;

    #[tokio::test]
    async fn those_who_have_gone_cost_nothing_and_work_goes_on_alone() {
        let aside = Aside::start().unwrap();
        let (begun, done) = (Arc::new(AtomicU32::new(0)), channel::<()>());
        let (finish, wait) = done;
        let first = Arc::clone(&begun);
        // It begins, and whoever asked goes.
        let work = aside.run(move || {
            first.fetch_add(1, Ordering::SeqCst);
            wait.recv()
        });
        assert!(timeout(Duration::from_millis(50), work).await.is_err());
        for _ in 0..100 {
            let another = Arc::clone(&begun);
            let work = aside.run(move || another.fetch_add(1, Ordering::SeqCst));
            assert!(timeout(Duration::ZERO, work).await.is_err());
        }
        finish.send(()).unwrap();
        let last = Arc::clone(&begun);
        assert_eq!(aside.run(move || last.load(Ordering::SeqCst)).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn work_that_panics_keeps_nobody_from_the_next() {
        let aside = Aside::start().unwrap();
        assert!(aside.run(|| panic!("at work")).await.is_err());
        assert_eq!(aside.run(|| 7).await.unwrap(), 7);
    }
}
