//! The change that hides one extension of a ClientHello from rustls.
//!
//! rustls rejects a server_name that is not a DNS name (`10.0.0.1:8883`, `[::1]`, a bare number, UTF-8).
//! HAProxy, nginx and stunnel serve such devices as if they had sent no name. rustls is therefore given the
//! ClientHello with that extension's type replaced by one that it ignores.
//!
//! **Promises.** Exactly two bytes differ, the type of one extension. All lengths and positions stay.
//!
//! **Not here.** Which names are hidden (`proxy/hello/`), the hash over the original bytes (`transcript.rs`).

use std::borrow::Cow;

/// The first bytes of a ClientHello: type, length, version and random. No other message shares them.
const HEAD_BYTES: usize = 38;

/// The difference between the ClientHello that rustls is given and the one that the client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disguise {
    head: [u8; HEAD_BYTES],
    /// Position of the two bytes that differ.
    at: usize,
    /// The two bytes as the client sent them.
    sent: [u8; 2],
}

impl Disguise {
    /// Replaces the two bytes of a ClientHello at `at` with `shown`. Returns none, and changes nothing, if
    /// the message is too short.
    pub(crate) fn put_on(message: &mut [u8], at: usize, shown: [u8; 2]) -> Option<Self> {
        let head = *message.first_chunk()?;
        let place: &mut [u8; 2] = message.get_mut(at..at + 2)?.try_into().ok()?;
        let sent = std::mem::replace(place, shown);
        Some(Self { head, at, sent })
    }

    /// Splits `data` into the original bytes before, at and after the change. Returns none if `data` does
    /// not start with this ClientHello.
    pub(super) fn original<'a>(&'a self, data: &'a [u8]) -> Option<[&'a [u8]; 3]> {
        let is_this = data.starts_with(&self.head) && data.len() >= self.at + 2;
        is_this.then(|| [&data[..self.at], &self.sent, &data[self.at + 2..]])
    }

    /// Returns `data` as the client sent it.
    pub(super) fn taken_off<'a>(&self, data: &'a [u8]) -> Cow<'a, [u8]> {
        match self.original(data) {
            Some(parts) => Cow::Owned(parts.concat()),
            None => Cow::Borrowed(data),
        }
    }
}
