//! Who may come in now.
//!
//! **Promises.** Past a limit, those that have not completed their handshake make room
//! (`admission/pending.rs`). Where there is none such, devices wait: one of each listener accepted, the
//! others in the kernel's backlog, where they cost us nothing; they are neither refused nor forgotten.
//! A session that is established is never ended for another. A connection takes a place of its
//! listener and one of the process together, or none: a listener that waits keeps no place from the
//! others. Both are given back whatever way a connection ends, a panic included.
//!
//! **Not here.** Accepting (`listener.rs`).

mod pending;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};

use tokio::sync::Notify;
use tokio::time::sleep_until;

pub(crate) use self::pending::Source;
use self::pending::{Pending, Room, Scope, Stage};
use super::handshake_memory::{HandshakeMemory, Share};
use crate::config;
use crate::lock::Lock;

/// What the connections of one listener take their places from.
#[derive(Clone, Debug)]
pub(crate) struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    own: Places,
    number: usize,
    process: Arc<Process>,
}

/// What the connections of all listeners take their places from.
#[derive(Debug)]
pub(crate) struct Process {
    places: Places,
    limit: usize,
    pending: Lock<Pending>,
    /// There is one more that could make room.
    listed: Notify,
    memory: Arc<HandshakeMemory>,
}

/// A connection's places. They are given back on drop.
#[derive(Debug)]
pub(crate) struct Admitted(Arc<Shared>);

impl Process {
    /// A process that has so many places.
    pub(crate) fn new(limit: usize) -> Self {
        let memory = Arc::new(HandshakeMemory::new(usize::MAX));
        let (pending, listed) = (Lock::default(), Notify::new());
        Self { places: Places::default(), limit, pending, listed, memory }
    }

    /// What the handshakes of its connections may hold together.
    pub(crate) fn memory(&self) -> &HandshakeMemory {
        &self.memory
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Nothing is done under the lock that could panic half-way.
        self.pending.lock()
    }
}

impl Admission {
    /// Admission to one listener of a process.
    pub(crate) fn new(process: Arc<Process>) -> Self {
        let number = process.pending().add_listener();
        Self(Arc::new(Shared { own: Places::default(), number, process }))
    }

    /// How many connections the listener may have.
    pub(crate) fn limit(&self, limits: config::Limits) -> usize {
        limits.max_connections.unwrap_or(usize::MAX).min(self.0.process.limit)
    }

    /// What to say of limits that the process cannot carry, if they are such.
    pub(crate) fn excess(&self, limits: config::Limits) -> Option<String> {
        excess(limits, self.0.process.limit)
    }

    /// Whether the listener, which may have `limit`, has no place left of its own.
    pub(crate) fn is_full(&self, limit: usize) -> bool {
        self.0.own.taken.load(Ordering::Acquire) >= limit
    }

    /// Waits until it has one, while nobody waits for it.
    pub(crate) async fn room(&self, limit: usize) {
        loop {
            let mut freed = pin!(self.0.own.freed.notified());
            // Before the look, as in `admit`.
            freed.as_mut().enable();
            if !self.is_full(limit) {
                return;
            }
            freed.await;
        }
    }

    /// Takes a place of the listener, which may have `limit`, and one of the process, if there are both.
    pub(crate) fn try_admit(&self, limit: usize) -> Option<Admitted> {
        self.take(limit).ok()
    }

    /// The same as soon as there are both: one that has not completed its handshake makes room for one
    /// of `source`.
    pub(crate) async fn admit(&self, limit: usize, source: Source) -> Admitted {
        let Shared { own, process, .. } = &*self.0;
        loop {
            let full = match self.take(limit) {
                Ok(admitted) => return admitted,
                Err(full) => full,
            };
            let places = if full == Scope::Process { &process.places } else { own };
            // Before the second look, so that a place freed right after it is not missed. Enabled: of
            // two places that are freed before two waiters wait, Notify would remember one. Of what
            // is not full, no notification is kept from another that waits for it.
            let mut freed = pin!(places.freed.notified());
            let mut listed = pin!(process.listed.notified());
            freed.as_mut().enable();
            listed.as_mut().enable();
            match self.take(limit) {
                Ok(admitted) => return admitted,
                Err(now) if now != full => continue,
                Err(_) => {}
            }
            let room = process.pending().make_room(full, source);
            match room {
                // Another may be faster, and then one more has to go.
                Room::Made => freed.await,
                Room::From(instant) => tokio::select! {
                    () = freed => {}
                    () = listed => {}
                    () = sleep_until(instant) => {}
                },
                Room::None => tokio::select! {
                    () = freed => {}
                    () = listed => {}
                },
            }
        }
    }

    fn take(&self, limit: usize) -> Result<Admitted, Scope> {
        let Shared { own, process, number } = &*self.0;
        if !own.try_take(limit) {
            return Err(Scope::Listener(*number));
        }
        if !process.places.try_take(process.limit) {
            own.give_back();
            return Err(Scope::Process);
        }
        Ok(Admitted(Arc::clone(&self.0)))
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.own.give_back();
        self.0.process.places.give_back();
    }
}

impl Admitted {
    /// The connection, which comes from `source`, as it is until its handshake is complete.
    pub(crate) fn newcomer(&self, source: Source) -> Newcomer {
        let (shared, id) = (Arc::clone(&self.0), Lock::new(None));
        Newcomer { shared, source, heard: AtomicBool::new(false), id }
    }
}

/// A connection that has not completed its handshake, and may have to make room for another.
#[derive(Debug)]
pub(crate) struct Newcomer {
    shared: Arc<Shared>,
    source: Source,
    heard: AtomicBool,
    /// Its number, from when it is listed.
    id: Lock<Option<u64>>,
}

/// The connection has had to make room for another before its handshake was complete.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it made room for another connection before its handshake was complete")]
pub(crate) struct Evicted;

impl Newcomer {
    /// What its handshake holds, of what all may hold.
    pub(crate) fn memory(&self) -> Share {
        self.shared.process.memory.share()
    }

    /// Its ClientHello has been read.
    pub(crate) fn heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
        if let Some(id) = *self.id() {
            self.shared.process.pending().heard(id);
        }
    }

    /// Completes `handshake`, or not if it has to make room before.
    ///
    /// # Errors
    /// If it has to.
    pub(crate) async fn or_evicted<T>(
        &self,
        handshake: impl Future<Output = T>,
    ) -> Result<T, Evicted> {
        tokio::select! {
            // First, so that what has come already is read before it is listed.
            biased;
            done = handshake => self.unlist().map(|()| done),
            evicted = self.evicted() => Err(evicted),
        }
    }

    /// Waits until it has to make room, which it may have to from the first poll on.
    async fn evicted(&self) -> Evicted {
        let stage = if self.heard.load(Ordering::Relaxed) { Stage::Heard } else { Stage::Silent };
        let Shared { number, process, .. } = &*self.shared;
        let (id, evicted) = process.pending().list(*number, self.source, stage);
        *self.id() = Some(id);
        process.listed.notify_waiters();
        match evicted.await {
            Ok(()) => Evicted,
            // It is listed no more because its handshake is complete.
            Err(_) => std::future::pending().await,
        }
    }

    /// From now on it stays.
    fn unlist(&self) -> Result<(), Evicted> {
        match self.id().take() {
            Some(id) if !self.shared.process.pending().remove(id) => Err(Evicted),
            _ => Ok(()),
        }
    }

    fn id(&self) -> MutexGuard<'_, Option<u64>> {
        self.id.lock()
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        // One that has had to make room is listed no more, and ends anyway.
        let _ending = self.unlist();
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
struct Places {
    taken: AtomicUsize,
    freed: Notify,
}

impl Places {
    /// Takes a place if fewer than `limit` are taken.
    fn try_take(&self, limit: usize) -> bool {
        let more = |taken| (taken < limit).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        self.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn source(last: u8) -> Source {
        Source::of([192, 0, 2, last].into())
    }

    fn listener(process: &Arc<Process>) -> Admission {
        Admission::new(Arc::clone(process))
    }

    /// A connection that goes when it has to make room.
    fn silent(admitted: Admitted, last: u8) -> tokio::task::JoinHandle<Evicted> {
        tokio::spawn(async move {
            let newcomer = admitted.newcomer(source(last));
            newcomer.evicted().await
        })
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_gets_the_next_one_that_is_freed() {
        let admission = listener(&Arc::new(Process::new(9)));
        let first = admission.try_admit(1).unwrap();
        assert!(admission.try_admit(1).is_none());
        let waiting = tokio::spawn({
            let admission = admission.clone();
            async move { admission.admit(1, source(1)).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "one that is established stays");
        drop(first);
        let _second = waiting.await.unwrap();
        assert!(admission.try_admit(1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_waits_keeps_no_place_from_the_others() {
        let process = Arc::new(Process::new(1));
        let (waits, served) = (listener(&process), listener(&process));
        let first = served.try_admit(10).unwrap();
        let waiting = tokio::spawn(async move { waits.admit(10, source(1)).await });
        tokio::task::yield_now().await;
        drop(first);
        drop(waiting.await.unwrap());
        assert!(served.try_admit(10).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_of_the_process_wakes_the_one_that_waits_for_it() {
        let process = Arc::new(Process::new(2));
        let (full, other) = (listener(&process), listener(&process));
        let _own = full.try_admit(1).unwrap();
        let last = other.try_admit(9).unwrap();
        // First in the queue, and it could do nothing with a place of the process.
        let _of_its_own = tokio::spawn(async move { full.admit(1, source(1)).await });
        tokio::task::yield_now().await;
        let waiting = tokio::spawn(async move { other.admit(9, source(2)).await });
        tokio::task::yield_now().await;
        drop(last);
        timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_raised_limit_has_room_at_once_and_a_lowered_one_waits_until_it_is_met() {
        let admission = listener(&Arc::new(Process::new(9)));
        let first = admission.try_admit(1).unwrap();
        let second = admission.try_admit(2).unwrap();
        drop(first);
        assert!(admission.try_admit(1).is_none());
        drop(second);
        assert!(admission.try_admit(1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_says_nothing_makes_room_and_one_that_is_established_does_not() {
        let admission = listener(&Arc::new(Process::new(9)));
        let _established = admission.try_admit(3).unwrap();
        let silent = [1, 1].map(|last| silent(admission.try_admit(3).unwrap(), last));
        tokio::task::yield_now().await;
        let _in = timeout(Duration::from_secs(1), admission.admit(3, source(2))).await.unwrap();
        tokio::task::yield_now().await;
        assert_eq!(silent.map(|task| task.is_finished()), [true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_not_had_its_first_turn_makes_room_after_it() {
        let process = Arc::new(Process::new(1));
        let (one, other) = (listener(&process), listener(&process));
        let admitted = one.try_admit(9).unwrap();
        let waiting = tokio::spawn(async move { other.admit(9, source(2)).await });
        tokio::task::yield_now().await;
        let silent = silent(admitted, 1);
        let _in = timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap();
        assert_eq!(silent.await.unwrap(), Evicted);
    }

    #[tokio::test(start_paused = true)]
    async fn one_whose_handshake_is_complete_is_never_asked_to_go() {
        let admission = listener(&Arc::new(Process::new(1)));
        let admitted = admission.try_admit(1).unwrap();
        let newcomer = admitted.newcomer(source(1));
        assert!(timeout(Duration::ZERO, newcomer.evicted()).await.is_err(), "listed");
        newcomer.unlist().unwrap();
        let waiting = admission.admit(1, source(2));
        assert!(timeout(Duration::from_secs(60), waiting).await.is_err());
    }
}
