//! The addresses of a backend, of which a connection gets one that works.
//!
//! **Promises.** An address that failed is tried again after the others, and once after each pause before them. If all of
//! them are paused, each is still tried, so that the first device after the return of a server is served. All attempts
//! of a connection together take no longer than its timeout, and a failure of one address leaves time for the next.
//!
//! **Not here.** The pauses (`health.rs`), the connect to an address (`address.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::address::{Backend, ConnectBounds, ConnectError};
use super::health::Attempt;
use super::stream::BackendStream;
use crate::config::{Balance, BalancePolicy};
use crate::lock::Lock;
use crate::metrics::BackendUse;
use crate::terms::reason::Reason;

/// The number of choices of this process.
static CHOICES: AtomicU64 = AtomicU64::new(1);

/// The addresses of the backend of a route.
pub(crate) struct Pool {
    /// At least one.
    backends: Vec<Arc<Backend>>,
    policy: BalancePolicy,
    /// A connection of a device tries an address after its pause. If false, a check does.
    has_trials: bool,
    /// Held while an address is chosen, so that two connections do not choose by the same state.
    choosing: Lock<()>,
}

/// An address that a connection has chosen.
struct Choice<'a> {
    backend: &'a Backend,
    used: BackendUse,
    attempt: Attempt<'a>,
}

impl Pool {
    /// Returns the pool of these backends: at least one.
    pub(crate) fn new(backends: Vec<Arc<Backend>>, balance: Balance) -> Self {
        let has_trials = balance.check_interval.is_none();
        Self { backends, policy: balance.policy, has_trials, choosing: Lock::default() }
    }

    /// Connects to an address that answers. Returns also the last address that was tried. `has_left` returns a reason if
    /// the client has left.
    ///
    /// # Errors
    /// The failure of that address.
    pub(crate) async fn connect(
        &self,
        bounds: ConnectBounds,
        has_left: impl Fn() -> Option<Reason>,
    ) -> (BackendUse, Result<BackendStream, ConnectError>) {
        let is_alone = self.backends.len() == 1;
        let deadline = Instant::now() + bounds.timeout;
        let mut left: Vec<&Backend> = self.backends.iter().map(AsRef::as_ref).collect();
        loop {
            let now = Instant::now();
            let Choice { backend, used, attempt } = self.choose(&mut left, now);
            let all = u32::try_from(left.len() + 1).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(now) / all;
            // A name that is not resolved yet must not take the time of the others.
            let first_lookup = if is_alone { bounds.first_lookup } else { share };
            let timeout = backend.bounded(share);
            let bounds = ConnectBounds { timeout, first_lookup, ..bounds };
            let (connected, change) = backend.take_turn(attempt, bounds, &has_left).await;
            if let Some(change) = change.filter(|_| !is_alone) {
                backend.report(change);
            }
            let has_next = !left.is_empty() && Instant::now() < deadline;
            match connected {
                Err(error) if error.is_of_one_backend() && has_next => {}
                connected => return (used, connected),
            }
        }
    }

    /// Chooses the next address for a connection, and removes it from those that are `left` for it: at least one.
    fn choose<'a>(&self, left: &mut Vec<&'a Backend>, now: Instant) -> Choice<'a> {
        let _one_at_a_time = self.choosing.lock();
        let order = |place: &usize| {
            let backend = left[*place];
            // None, for an address that is not paused, is less than any time.
            let paused_until = backend.health.paused_until(now, self.has_trials);
            let chosen = backend.chosen.load(Ordering::Relaxed);
            let by_policy = match self.policy {
                BalancePolicy::First => (0, 0),
                BalancePolicy::RoundRobin => (0, chosen),
                BalancePolicy::LeastSessions => (backend.metrics.uses(), chosen),
            };
            (paused_until, by_policy)
        };
        let backend = left.remove((0..left.len()).min_by_key(order).unwrap_or(0));
        backend.chosen.store(CHOICES.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let used = BackendUse::of(Arc::clone(&backend.metrics));
        Choice { backend, used, attempt: backend.health.begin(now) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use socket2::{Domain, Socket, Type};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::BackendAddress;
    use crate::metrics::Metrics;
    use crate::proxy::backend::address::DialOptions;

    #[tokio::test]
    async fn only_one_connection_waits_for_an_address_that_is_tried_after_its_pause() {
        let stalled = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        stalled.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        stalled.listen(0).unwrap();
        let down = stalled.local_addr().unwrap().as_socket().unwrap();
        // The kernel drops further SYNs.
        let _fills_the_backlog = TcpStream::connect(down).await.unwrap();
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metrics = Metrics::new().listener("test");
        let backends = [down, good.local_addr().unwrap()].map(|address| {
            let address = address.to_string().parse::<BackendAddress>().unwrap();
            Backend::of(&address, &metrics, [].iter())
        });
        let long_ago = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        backends[0].health.begin(long_ago).failed(long_ago, Reason::BackendTimeout);
        let pool: &'static Pool =
            Box::leak(Box::new(Pool::new(backends.to_vec(), Balance::default())));
        let timeout = Duration::from_secs(4);
        let bounds =
            ConnectBounds { timeout, first_lookup: timeout, options: DialOptions::default() };
        let trial = tokio::spawn(pool.connect(bounds, || None));
        while backends[0].health.paused_until(Instant::now(), true).is_none() {
            tokio::task::yield_now().await;
        }
        let (used, connected) = pool.connect(bounds, || None).await;
        connected.unwrap();
        assert_eq!(used.address(), good.local_addr().unwrap().to_string());
        assert!(!trial.is_finished(), "the trial waits for its half of the time");
        trial.abort();
    }
}
