//! Remembered sessions, for devices without tickets.
//!
//! **Promises.** The number of sessions and their bytes are bounded: the oldest are removed first. A session that may no
//! longer be resumed is removed by the next reload, which polls. What is removed is wiped: it has the master secret.
//!
//! **Not here.** The content and the size of a session (`saved_session.rs`).

use std::collections::{HashMap, VecDeque};
use std::sync::MutexGuard;

use zeroize::Zeroizing;

use crate::lock::Lock;

/// Sessions at most.
const MAX_SESSIONS: usize = 1024;

/// Bytes of all sessions at most. The session of a device with a certificate takes some 700.
const MAX_BYTES: usize = 1 << 20;

/// Sessions by their IDs.
#[derive(Default)]
pub(super) struct RememberedSessions(Lock<SessionTable>);

#[derive(Default)]
struct SessionTable {
    by_id: HashMap<Vec<u8>, RememberedSession>,
    /// The number and ID of each session, the oldest first, including sessions that were taken.
    order: VecDeque<(u64, Vec<u8>)>,
    next: u64,
    bytes: usize,
}

struct RememberedSession {
    number: u64,
    /// The second from which on it may not be resumed, in Unix time.
    end: u64,
    state: Zeroizing<Vec<u8>>,
}

impl SessionTable {
    fn remove(&mut self, id: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let session = self.by_id.remove(id)?;
        self.bytes -= id.len() + session.state.len();
        Some(session.state)
    }

    fn insert(&mut self, id: Vec<u8>, state: Zeroizing<Vec<u8>>, end: u64) {
        self.remove(&id);
        self.bytes += id.len() + state.len();
        self.next += 1;
        self.order.push_back((self.next, id.clone()));
        self.by_id.insert(id, RememberedSession { number: self.next, end, state });
        while self.order.len() > MAX_SESSIONS || self.bytes > MAX_BYTES {
            let Some((number, oldest)) = self.order.pop_front() else { break };
            if self.by_id.get(&oldest).is_some_and(|session| session.number == number) {
                self.remove(&oldest);
            }
        }
    }

    fn remove_ended(&mut self, now: u64) {
        let bytes = &mut self.bytes;
        self.by_id.retain(|id, session| {
            let stays = now < session.end;
            if !stays {
                *bytes -= id.len() + session.state.len();
            }
            stays
        });
    }
}

impl RememberedSessions {
    /// Returns the bytes of all sessions.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, SessionTable> {
        self.0.lock()
    }

    /// Remembers a session that may be resumed before `end`, in Unix time.
    pub(super) fn put(&self, id: Vec<u8>, state: &[u8], end: u64) {
        // A copy without spare capacity: the bytes are bounded, and no part of a larger buffer stays unwiped.
        self.lock().insert(id, Zeroizing::new(state.to_vec()), end);
    }

    /// Removes the sessions that may no longer be resumed.
    pub(super) fn remove_ended(&self, now: u64) {
        self.lock().remove_ended(now);
    }

    /// Returns a session.
    pub(super) fn get(&self, id: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.lock().by_id.get(id).map(|session| session.state.clone())
    }

    /// Returns a session, and forgets it.
    pub(super) fn take(&self, id: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.lock().remove(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> Vec<u8> {
        number.to_be_bytes().to_vec()
    }

    fn held(sessions: &RememberedSessions) -> (usize, usize, usize) {
        let held = sessions.lock();
        let bytes = held.by_id.iter().map(|(id, session)| id.len() + session.state.len()).sum();
        assert_eq!(held.bytes, bytes);
        (held.by_id.len(), held.order.len(), bytes)
    }

    #[test]
    fn the_oldest_are_removed_by_count_and_by_bytes() {
        for size in [10, 700, 3000, 16_000] {
            let sessions = RememberedSessions::default();
            for number in 0..3000 {
                sessions.put(id(number), &vec![7; size], u64::MAX);
                assert!(sessions.get(&id(number)).is_some());
            }
            let (count, order, bytes) = held(&sessions);
            assert!(count <= MAX_SESSIONS && order <= MAX_SESSIONS && bytes <= MAX_BYTES);
            assert!(count == MAX_SESSIONS || bytes > MAX_BYTES - size - 8, "{count} of {size}");
            assert!(sessions.get(&id(0)).is_none());
        }
    }

    #[test]
    fn a_session_that_is_taken_or_replaced_is_no_longer_counted() {
        let sessions = RememberedSessions::default();
        for _ in 0..3000 {
            sessions.put(id(1), &[7; 100], u64::MAX);
        }
        assert_eq!(sessions.take(&id(1)).as_deref(), Some(&vec![7; 100]));
        assert_eq!((sessions.take(&id(1)), sessions.get(&id(1))), (None, None));
        let (count, order, bytes) = held(&sessions);
        assert!(count == 0 && order <= MAX_SESSIONS && bytes == 0);
    }

    #[test]
    fn a_session_that_has_ended_is_removed_and_no_longer_counted() {
        let sessions = RememberedSessions::default();
        sessions.put(id(1), &[7; 100], 50);
        sessions.put(id(2), &[7; 100], 51);
        sessions.remove_ended(50);
        assert_eq!((sessions.get(&id(1)).is_some(), sessions.get(&id(2)).is_some()), (false, true));
        let (count, _, bytes) = held(&sessions);
        assert_eq!((count, bytes), (1, 108));
    }
}
