//! A mutex that ignores poisoning.
//!
//! A panic ends one connection or one request, never the process. The standard library then marks each mutex that
//! the panicking thread held as poisoned. Our critical sections are short and leave the data valid at every step,
//! so the next owner continues.
//!
//! **Promises.** Locking never fails and never panics.
//!
//! **Not here.** tokio's mutex, for critical sections that wait.

use std::sync::{LockResult, Mutex, MutexGuard, PoisonError};

/// A mutex that ignores poisoning.
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// Wraps `value`.
    pub(crate) const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Waits for the lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        unpoisoned(self.0.lock())
    }
}

/// Returns the guard, also of a poisoned lock. For [`std::sync::Condvar`], which takes and returns guards.
pub(crate) fn unpoisoned<T>(result: LockResult<T>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_under_the_lock_does_not_stop_the_next_owner() {
        let lock = Lock::new(1);
        let panics = std::panic::AssertUnwindSafe(|| {
            let _guard = lock.lock();
            panic!("under the lock");
        });
        assert!(std::panic::catch_unwind(panics).is_err());
        *lock.lock() += 1;
        assert_eq!(*lock.lock(), 2);
    }
}
