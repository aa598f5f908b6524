//! Checks of the addresses of backends by a connect, in the background.
//!
//! **Promises.** A check ends with the last configuration that has it. A reload that does not change it lets it go on, so
//! that frequent reloads do not delay it. Checks take no place from the connects of devices.
//!
//! **Not here.** The meaning of a result (`health.rs`).

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::address::{Backend, ConnectBounds};
use super::health::jittered;

/// Longest time before the first check.
const FIRST: Duration = Duration::from_secs(1);

/// The checks of one address. They end when it is dropped.
pub(crate) struct Check {
    backend: Arc<Backend>,
    interval: Duration,
    bounds: ConnectBounds,
    task: AbortHandle,
}

impl Check {
    /// Returns the checks of these backends at this interval: those of `before` as far as nothing has changed.
    pub(crate) fn all(
        backends: &[Arc<Backend>],
        interval: Option<Duration>,
        bounds: ConnectBounds,
        before: Option<&[Arc<Self>]>,
    ) -> Vec<Arc<Self>> {
        let Some(interval) = interval else { return Vec::new() };
        let check = |backend: &Arc<Backend>| {
            let is_same = |check: &&Arc<Self>| {
                Arc::ptr_eq(&check.backend, backend)
                    && (check.interval, check.bounds) == (interval, bounds)
            };
            let kept = before.and_then(|before| before.iter().find(is_same));
            kept.map_or_else(|| Self::begin(backend, interval, bounds).into(), Arc::clone)
        };
        backends.iter().map(check).collect()
    }

    fn begin(backend: &Arc<Backend>, interval: Duration, bounds: ConnectBounds) -> Self {
        let checked = Arc::clone(backend);
        let checking = tokio::spawn(async move {
            sleep(jittered(interval.min(FIRST))).await;
            loop {
                checked.check(bounds).await;
                sleep(jittered(interval)).await;
            }
        });
        Self { backend: Arc::clone(backend), interval, bounds, task: checking.abort_handle() }
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackendAddress;
    use crate::metrics::Metrics;
    use crate::proxy::backend::address::DialOptions;

    #[tokio::test]
    async fn checks_go_on_over_a_reload_that_does_not_change_them_and_end_with_the_last_configuration()
     {
        let metrics = Metrics::new().listener("test");
        let address = "127.0.0.1:1".parse::<BackendAddress>().unwrap();
        let backends = [Backend::of(&address, &metrics, [].iter())];
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
        let bounds =
            ConnectBounds { timeout: hour, first_lookup: hour, options: DialOptions::default() };
        let all = |interval, before| Check::all(&backends, Some(interval), bounds, before);
        let first = all(hour, None);
        let second = all(hour, Some(first.as_slice()));
        let changed = all(day, Some(second.as_slice()));
        assert!(Arc::ptr_eq(&first[0], &second[0]) && !Arc::ptr_eq(&second[0], &changed[0]));
        let task = first[0].task.clone();
        drop(first);
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        drop(second);
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}
