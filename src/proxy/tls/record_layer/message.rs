//! A handshake message after the handshake, split over records in any way.
//!
//! **Promises.** A message of any length takes twelve bytes of memory.
//!
//! **Not here.** The messages that are allowed, and their effect (`record_layer.rs`).

use tokio_rustls::rustls::HandshakeType;

/// The received part of a handshake message after the handshake, reduced to the bytes that matter.
#[derive(Default)]
pub(super) struct PartialMessage {
    /// Type and length of the message: RFC 8446 section 4.
    head: [u8; 4],
    /// Number of received bytes of `head`.
    have: u8,
    /// Number of missing bytes behind `head`.
    left: u32,
    /// Last received byte behind `head`: the request of a key_update.
    pub(super) last: u8,
}

impl PartialMessage {
    /// Returns true if a message has begun.
    pub(super) const fn has_begun(&self) -> bool {
        self.have > 0
    }

    /// Takes bytes of one message, and returns whether it is complete.
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> bool {
        while let Some((&byte, rest)) = bytes.split_first() {
            if let Some(next) = self.head.get_mut(usize::from(self.have)) {
                *next = byte;
                self.have += 1;
                self.left = self.length();
                *bytes = rest;
            } else {
                let taken = (self.left as usize).min(bytes.len());
                self.last = bytes[taken - 1];
                self.left -= u32::try_from(taken).expect("at most `left`");
                *bytes = &bytes[taken..];
            }
            if self.has_header() && self.left == 0 {
                return true;
            }
        }
        false
    }

    fn has_header(&self) -> bool {
        usize::from(self.have) == self.head.len()
    }

    fn length(&self) -> u32 {
        let [_, high, middle, low] = self.head;
        u32::from_be_bytes([0, high, middle, low])
    }

    /// Returns the type and length, once the header is complete.
    pub(super) fn kind_and_length(&self) -> Option<(HandshakeType, u32)> {
        self.has_header().then(|| (HandshakeType::from(self.head[0]), self.length()))
    }
}
