//! The connects to one address that are in progress at a time.
//!
//! **Promises.** A place is given to the connection that waits longest. A connection that stops waiting leaves its
//! place in the queue. A smaller limit applies as connects end.
//!
//! **Not here.** The limit (`config/backend.rs`), the time for which a connection waits (`pool.rs`).

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::lock::Lock;

/// The places for connects in progress.
#[derive(Debug)]
pub(super) struct ConnectPlaces {
    semaphore: Semaphore,
    limit: Lock<Limit>,
}

#[derive(Debug)]
struct Limit {
    places: usize,
    /// Places in use that are removed when they are released.
    excess: usize,
}

/// A connect in progress. Its place is released on drop.
#[derive(Debug)]
pub(super) struct ConnectPlace<'a> {
    places: &'a ConnectPlaces,
    permit: Option<SemaphorePermit<'a>>,
}

impl Default for ConnectPlaces {
    fn default() -> Self {
        let places = Semaphore::MAX_PERMITS;
        let limit = Lock::new(Limit { places, excess: 0 });
        Self { semaphore: Semaphore::new(places), limit }
    }
}

impl ConnectPlaces {
    /// Changes the number of places. None: no limit.
    pub(super) fn set_limit(&self, places: Option<usize>) {
        let places = places.unwrap_or(Semaphore::MAX_PERMITS);
        let mut limit = self.limit.lock();
        let more = places.saturating_sub(limit.places);
        let stay = more.min(limit.excess);
        limit.excess -= stay;
        self.semaphore.add_permits(more - stay);
        let fewer = limit.places.saturating_sub(places);
        limit.excess += fewer - self.semaphore.forget_permits(fewer);
        limit.places = places;
    }

    /// Takes a place, if one is free and nobody waits.
    pub(super) fn try_take(&self) -> Option<ConnectPlace<'_>> {
        let permit = self.semaphore.try_acquire().ok()?;
        Some(ConnectPlace { places: self, permit: Some(permit) })
    }

    /// Waits for a place.
    pub(super) async fn take(&self) -> ConnectPlace<'_> {
        // It fails only if the semaphore is closed, which never happens.
        let permit = self.semaphore.acquire().await.ok();
        ConnectPlace { places: self, permit }
    }
}

impl Drop for ConnectPlace<'_> {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut limit = self.places.limit.lock();
        if limit.excess > 0 {
            limit.excess -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_place_goes_to_the_connection_that_waits_longest() {
        let places: &'static ConnectPlaces = Box::leak(Box::default());
        places.set_limit(Some(1));
        let first = places.try_take().unwrap();
        let order = Arc::new(Lock::new(Vec::new()));
        let mut waiting = Vec::new();
        for number in 0..3 {
            let order = Arc::clone(&order);
            waiting.push(tokio::spawn(async move {
                let _place = places.take().await;
                order.lock().push(number);
            }));
            tokio::task::yield_now().await;
        }
        assert!(places.try_take().is_none());
        waiting[0].abort();
        drop(first);
        for ended in waiting {
            let _ended = ended.await;
        }
        assert_eq!(*order.lock(), [1, 2], "the one that left is not waited for");
    }

    #[test]
    fn another_limit_applies_to_places_in_use_as_they_are_released() {
        let places = ConnectPlaces::default();
        places.set_limit(Some(3));
        let mut taken: Vec<_> = (0..3).map(|_| places.try_take().unwrap()).collect();
        places.set_limit(Some(1));
        taken.truncate(1);
        assert!(places.try_take().is_none(), "one is in use, and one is allowed");
        taken.clear();
        taken.push(places.try_take().unwrap());
        assert!(places.try_take().is_none());
        places.set_limit(Some(2));
        taken.push(places.try_take().unwrap());
        assert!(places.try_take().is_none());
        places.set_limit(None);
        assert!(places.try_take().is_some());
    }
}
