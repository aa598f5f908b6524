//! The ticket keys of a policy: those of a file, or keys of this process that rotate.
//!
//! **Promises.** A key of this process seals for [`ROTATION`], opens for as long again, and is then dropped.
//! Keys of a file change only with the file: the last but one seals, and all open, as in HAProxy. So a file to
//! which a key is appended opens the tickets of replicas that have it already, and seals tickets that replicas
//! without it can open.
//!
//! **Not here.** The cryptography (`keys.rs`), reading the file (`key_file.rs`).

use std::sync::Arc;

use aws_lc_rs::error::Unspecified;

use super::keys::{MasterKey, TicketKey, key_name};
use crate::lock::Lock;
use crate::terms::labels::ResumptionOutcome;
use crate::trust::digest::Digest;

/// Seconds for which a key of this process seals.
const ROTATION: u64 = 6 * 3600;

/// The ticket keys of a policy.
pub(super) enum KeyRing {
    Shared { sealing: Arc<TicketKey>, all: Vec<Arc<TicketKey>> },
    Own { policy: Digest, keys: Lock<OwnKeys> },
}

/// The keys of this process.
pub(super) struct OwnKeys {
    current: Arc<TicketKey>,
    previous: Option<Arc<TicketKey>>,
    /// The time at which `current` stops sealing, in Unix time.
    next_switch: u64,
}

/// A sealed ticket.
pub(super) struct SealedTicket {
    pub(super) bytes: Vec<u8>,
    /// The time at which its key is dropped, in Unix time; none if it is a key of a file.
    pub(super) key_ends: Option<u64>,
}

/// An opened ticket.
pub(super) struct OpenedTicket {
    pub(super) content: Vec<u8>,
    /// The time at which its key is dropped, in Unix time, if a newer key seals by now.
    pub(super) replaced_key_ends: Option<u64>,
}

impl KeyRing {
    /// Returns the keys that a policy derives from the keys of a file, in the order of the file.
    pub(super) fn shared(masters: &[MasterKey], policy: &Digest) -> Option<Self> {
        let all: Vec<_> = masters.iter().map(|key| Arc::new(key.of_policy(policy))).collect();
        let sealing = Arc::clone(all.iter().nth_back(1).or_else(|| all.first())?);
        Some(Self::Shared { sealing, all })
    }

    /// Makes keys of this process.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub(super) fn own(policy: Digest, now: u64) -> Result<Self, Unspecified> {
        let current = Arc::new(MasterKey::random()?.of_policy(&policy));
        let keys = OwnKeys { current, previous: None, next_switch: now + ROTATION };
        Ok(Self::Own { policy, keys: Lock::new(keys) })
    }

    /// Seals the content of a ticket. Returns none if the system has no randomness.
    pub(super) fn seal(&self, content: &[u8], now: u64) -> Option<SealedTicket> {
        let (key, key_ends) = match self {
            Self::Shared { sealing, .. } => (Arc::clone(sealing), None),
            Self::Own { policy, keys } => {
                let mut keys = keys.lock();
                keys.rotate(policy, now)?;
                (Arc::clone(&keys.current), Some(keys.next_switch + ROTATION))
            }
        };
        Some(SealedTicket { bytes: key.seal(content)?, key_ends })
    }

    /// Opens a ticket.
    ///
    /// # Errors
    /// `UnknownKey` if it names none of these keys, `Damaged` if the key that it names did not seal it.
    pub(super) fn open(&self, ticket: &[u8], now: u64) -> Result<OpenedTicket, ResumptionOutcome> {
        let key = key_name(ticket).and_then(|name| self.named(name, now));
        let (key, replaced_key_ends) = key.ok_or(ResumptionOutcome::UnknownKey)?;
        let content = key.open(ticket).ok_or(ResumptionOutcome::Damaged)?;
        Ok(OpenedTicket { content, replaced_key_ends })
    }

    /// Returns the key with a name, and the time at which it is dropped if a newer key seals by now. A key of a file
    /// that was replaced may be dropped at any time.
    fn named(&self, name: &[u8], now: u64) -> Option<(Arc<TicketKey>, Option<u64>)> {
        match self {
            Self::Shared { sealing, all } => {
                let place = all.iter().position(|key| key.is_named(name))?;
                let is_replaced = all[place + 1..].iter().any(|newer| Arc::ptr_eq(newer, sealing));
                Some((Arc::clone(&all[place]), is_replaced.then_some(now)))
            }
            Self::Own { policy, keys } => {
                let mut keys = keys.lock();
                keys.rotate(policy, now)?;
                let current = (&keys.current, None);
                let previous = keys.previous.as_ref().map(|key| (key, Some(keys.next_switch)));
                let mut all = [current].into_iter().chain(previous);
                let (key, ends) = all.find(|(key, _)| key.is_named(name))?;
                Some((Arc::clone(key), ends))
            }
        }
    }
}

impl OwnKeys {
    /// Replaces the current key if its time is over, or if the clock was set back: a key that was made in the future
    /// would seal until then. Returns none if the system has no randomness.
    fn rotate(&mut self, policy: &Digest, now: u64) -> Option<()> {
        let sealing_time = self.next_switch.saturating_sub(now);
        if (1..=ROTATION).contains(&sealing_time) {
            return Some(());
        }
        let new = Arc::new(MasterKey::random().ok()?.of_policy(policy));
        let replaced = std::mem::replace(&mut self.current, new);
        self.previous = (now < self.next_switch + ROTATION).then_some(replaced);
        self.next_switch = now + ROTATION;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn policy() -> Digest {
        Digest::of([&b"policy"[..]])
    }

    fn shared(bytes: &[u8]) -> KeyRing {
        let master = |&byte: &u8| MasterKey::new(Zeroizing::new(vec![byte; 80]));
        KeyRing::shared(&bytes.iter().map(master).collect::<Vec<_>>(), &policy()).unwrap()
    }

    #[test]
    fn a_file_whose_keys_moved_by_one_opens_tickets_of_both_generations() {
        let (old, new) = (shared(&[1, 2, 3]), shared(&[2, 3, 4]));
        for (one, other) in [(&old, &new), (&new, &old)] {
            let ticket = one.seal(b"content", 0).unwrap().bytes;
            assert_eq!(other.open(&ticket, 0).unwrap().content, b"content");
        }
    }

    #[test]
    fn the_last_key_but_one_seals() {
        let sealed_by_two = shared(&[1, 2, 3]).seal(b"content", 0).unwrap().bytes;
        assert!(shared(&[2]).open(&sealed_by_two, 0).is_ok());
        let sealed_by_three = shared(&[1, 2, 3, 4]).seal(b"content", 0).unwrap().bytes;
        assert!(shared(&[3]).open(&sealed_by_three, 0).is_ok());
    }

    #[test]
    fn an_own_key_opens_for_twice_the_time_that_it_seals() {
        let keys = KeyRing::own(policy(), 1000).unwrap();
        let first = keys.seal(b"content", 1000).unwrap();
        assert_eq!(first.key_ends, Some(1000 + 2 * ROTATION));
        let second = keys.seal(b"content", 1000 + ROTATION).unwrap();
        assert_ne!(key_name(&first.bytes), key_name(&second.bytes), "it has rotated");
        assert!(keys.open(&first.bytes, 1000 + 2 * ROTATION - 1).is_ok());
        assert!(keys.open(&first.bytes, 1000 + 2 * ROTATION).is_err());
        assert!(keys.open(&second.bytes, 1000 + 2 * ROTATION).is_ok());
    }

    #[test]
    fn a_ticket_of_a_key_that_was_replaced_is_recognised() {
        let ends = |keys: &KeyRing, ticket: &[u8], now| {
            keys.open(ticket, now).ok().unwrap().replaced_key_ends
        };
        let keys = KeyRing::own(policy(), 0).unwrap();
        let ticket = keys.seal(b"content", 0).unwrap().bytes;
        assert_eq!(ends(&keys, &ticket, ROTATION - 1), None);
        assert_eq!(ends(&keys, &ticket, ROTATION), Some(2 * ROTATION));
        for (file, ends_now) in
            [([0, 1, 2, 3], None), ([1, 2, 3, 4], Some(7)), ([9, 9, 9, 2], None)]
        {
            let ticket = shared(&[1, 2, 3]).seal(b"content", 0).unwrap().bytes;
            assert_eq!(ends(&shared(&file), &ticket, 7), ends_now, "{file:?}");
        }
    }

    #[test]
    fn an_own_key_is_replaced_when_the_clock_is_set_back() {
        let keys = KeyRing::own(policy(), 100 * ROTATION).unwrap();
        let first = keys.seal(b"content", 100 * ROTATION).unwrap();
        let second = keys.seal(b"content", ROTATION).unwrap();
        assert_ne!(key_name(&first.bytes), key_name(&second.bytes));
        assert_eq!(second.key_ends, Some(3 * ROTATION));
    }

    #[test]
    fn an_own_key_that_was_not_used_for_long_opens_nothing() {
        let keys = KeyRing::own(policy(), 0).unwrap();
        let ticket = keys.seal(b"content", 0).unwrap().bytes;
        assert!(keys.open(&ticket, 2 * ROTATION).is_err());
    }
}
