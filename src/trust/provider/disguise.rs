//! The changes between the ClientHello that a client sent and the one that rustls is given.
//!
//! rustls rejects a server_name that is not a DNS name (`10.0.0.1:8883`, `[::1]`, a bare number, UTF-8).
//! HAProxy, nginx and stunnel serve such devices as if they had sent no name. rustls is therefore given the
//! ClientHello with that extension's type replaced by one that it ignores. rustls also takes the first group of
//! the client's list, although the client may have sent a share of another one; so two groups change places. And it
//! compares each group of the list with each of ours: of a long list it sees the groups that matter. A long list of
//! protocols is hidden where none can be selected.
//!
//! **Promises.** Exactly the places of the changes differ, two bytes each. All lengths and positions stay.
//!
//! **Not here.** What is changed (`proxy/hello/`), the hash over the original bytes (`transcript.rs`).

use std::borrow::Cow;
use std::sync::Arc;

/// The first bytes of a ClientHello: type, length, version and random. No other message shares them.
const HEAD_BYTES: usize = 38;

/// Two bytes at a place of a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) at: usize,
    pub(crate) bytes: [u8; 2],
}

/// The difference between the ClientHello that rustls is given and the one that the client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disguise {
    head: [u8; HEAD_BYTES],
    /// The bytes as the client sent them, in the order of their places.
    sent: Arc<[Change]>,
}

impl Disguise {
    /// Makes changes in a ClientHello, at distinct places. Returns none, and changes nothing, if there are none or if
    /// the message is too short for one of them.
    pub(crate) fn put_on(message: &mut [u8], changes: &[Change]) -> Option<Self> {
        if changes.is_empty() {
            return None;
        }
        let head = *message.first_chunk()?;
        let sent = |change: &Change| {
            let bytes = *message.get(change.at..)?.first_chunk()?;
            Some(Change { at: change.at, bytes })
        };
        let mut sent = changes.iter().map(sent).collect::<Option<Vec<_>>>()?;
        sent.sort_unstable_by_key(|change| change.at);
        for Change { at, bytes } in changes {
            message[*at..at + 2].copy_from_slice(bytes);
        }
        Some(Self { head, sent: sent.into() })
    }

    /// Splits `data` into the original bytes before, at and after each change. Returns none if `data` does
    /// not start with this ClientHello.
    pub(super) fn original<'a>(&'a self, data: &'a [u8]) -> Option<impl Iterator<Item = &'a [u8]>> {
        let changes = self.sent.iter();
        let end = changes.clone().last().map_or(0, |change| change.at + 2);
        let behind = data.get(end..).filter(|_| data.starts_with(&self.head))?;
        let mut start = 0;
        let parts = changes.flat_map(move |Change { at, bytes }| {
            let before = &data[start..*at];
            start = at + 2;
            [before, &bytes[..]]
        });
        Some(parts.chain([behind]))
    }

    /// Returns `data` as the client sent it.
    pub(super) fn taken_off<'a>(&self, data: &'a [u8]) -> Cow<'a, [u8]> {
        match self.original(data) {
            Some(parts) => Cow::Owned(parts.collect::<Vec<_>>().concat()),
            None => Cow::Borrowed(data),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_in_any_order_are_taken_off_again() {
        let message: Vec<u8> = (0..100).collect();
        let change = |at| Change { at, bytes: [0xee; 2] };
        let mut shown = message.clone();
        let disguise = Disguise::put_on(&mut shown, &[70, 98, 40].map(change)).unwrap();
        let differ: Vec<_> = (0..100).filter(|&i| shown[i] != message[i]).collect();
        assert_eq!(differ, [40, 41, 70, 71, 98, 99]);
        assert_eq!(disguise.taken_off(&shown), message);
        assert_eq!(disguise.taken_off(&shown[..99]), &shown[..99], "cut within a change");
        assert_eq!(disguise.taken_off(&shown[1..]), &shown[1..], "another message");
    }

    #[test]
    fn a_message_that_is_too_short_is_not_changed() {
        let message: Vec<u8> = (0..50).collect();
        let mut shown = message.clone();
        let changes = [40, 49].map(|at| Change { at, bytes: [0xee; 2] });
        assert_eq!(Disguise::put_on(&mut shown, &changes), None);
        assert_eq!(Disguise::put_on(&mut shown, &[]), None);
        assert_eq!(shown, message);
    }
}
