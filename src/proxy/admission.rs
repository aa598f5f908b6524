//! Who may come in now.
//!
//! **Promises.** Past a limit, devices wait in the kernel's backlog and cost us nothing; they are
//! neither refused nor forgotten. A listener's own place is taken before a connection is accepted.
//! One of the process's is taken once a device has come: a listener that has none keeps no place from
//! the others. A place is given back whatever way a connection ends, a panic included.
//!
//! **Not here.** Accepting (`listener.rs`).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::config;

/// The places that connections of one listener take: its own, and those of the process.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    own: Arc<Places>,
    process: Arc<Places>,
    process_limit: usize,
}

/// A connection's places. They are given back on drop.
#[derive(Debug)]
pub(crate) struct Admitted {
    _own: Place,
    _process: Place,
}

impl Admission {
    /// Admission to one listener of a process that has `process_limit` places.
    pub(crate) fn new(process: Arc<Places>, process_limit: usize) -> Self {
        Self { own: Arc::default(), process, process_limit }
    }

    /// How many connections the listener may have.
    pub(crate) fn limit(&self, limits: config::Limits) -> usize {
        limits.max_connections.unwrap_or(usize::MAX).min(self.process_limit)
    }

    /// What to say of limits that the process cannot carry, if they are such.
    pub(crate) fn excess(&self, limits: config::Limits) -> Option<String> {
        excess(limits, self.process_limit)
    }

    /// Takes a place of the listener if there is one.
    pub(crate) fn try_take_own(&self, limit: usize) -> Option<Place> {
        self.own.try_take(limit)
    }

    /// Takes a place of the listener as soon as there is one.
    pub(crate) async fn take_own(&self, limit: usize) -> Place {
        self.own.take(limit).await
    }

    /// Adds one of the process if there is one; or else gives back what it was to be added to.
    pub(crate) fn try_admit(&self, own: Place) -> Result<Admitted, Place> {
        match self.process.try_take(self.process_limit) {
            Some(process) => Ok(Admitted { _own: own, _process: process }),
            None => Err(own),
        }
    }

    /// Adds one of the process as soon as there is one.
    pub(crate) async fn admit(&self, own: Place) -> Admitted {
        Admitted { _own: own, _process: self.process.take(self.process_limit).await }
    }
}

/// What to say of limits beyond what a process with `process_limit` places carries.
pub(crate) fn excess(limits: config::Limits, process_limit: usize) -> Option<String> {
    let wanted = limits.max_connections.filter(|&wanted| wanted > process_limit)?;
    Some(format!(
        "max_connections is {wanted}, and the limit on file descriptors (ulimit -Hn) carries \
         {process_limit}"
    ))
}

/// Places for connections; how many is asked for each time, so that a limit can change.
#[derive(Debug, Default)]
pub(crate) struct Places {
    taken: AtomicUsize,
    freed: Notify,
}

/// A place that is taken. It is given back on drop.
#[derive(Debug)]
pub(crate) struct Place(Arc<Places>);

impl Places {
    /// Takes a place if fewer than `limit` are taken.
    pub(crate) fn try_take(self: &Arc<Self>, limit: usize) -> Option<Place> {
        let more = |taken| (taken < limit).then_some(taken + 1);
        let took = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        took.is_ok().then(|| Place(Arc::clone(self)))
    }

    /// Takes a place as soon as fewer than `limit` are taken.
    pub(crate) async fn take(self: &Arc<Self>, limit: usize) -> Place {
        loop {
            // Before the look, so that a place freed right after it is not missed. Enabled: of two
            // places that are freed before two waiters wait, Notify would remember one.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(place) = self.try_take(limit) {
                return place;
            }
            freed.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_finds_no_place_gets_the_next_one_that_is_freed() {
        let places = Arc::new(Places::default());
        let first = places.take(1).await;
        assert!(places.try_take(1).is_none());
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take(1).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        let _second = waiting.await.unwrap();
        assert!(places.try_take(1).is_none());
    }

    #[tokio::test]
    async fn a_listener_to_which_nobody_comes_keeps_no_place_from_the_others() {
        let places = Arc::new(Places::default());
        let quiet = Admission::new(Arc::clone(&places), 1);
        let busy = Admission::new(places, 1);
        // It waits to accept.
        let _waiting = quiet.take_own(10).await;
        let _served = busy.admit(busy.take_own(10).await).await;
        assert!(busy.try_admit(busy.take_own(10).await).is_err());
    }

    #[tokio::test]
    async fn a_raised_limit_has_room_at_once_and_a_lowered_one_waits_until_it_is_met() {
        let places = Arc::new(Places::default());
        let first = places.try_take(1).unwrap();
        let second = places.try_take(2).unwrap();
        drop(first);
        assert!(places.try_take(1).is_none());
        drop(second);
        assert!(places.try_take(1).is_some());
    }
}
