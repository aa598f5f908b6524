//! Hashes and signatures over the handshake as it is on the wire.
//!
//! **Promises.** In a handshake with a [`Disguise`], every hash and signature over the transcript covers the
//! bytes that the client sent, not those that rustls was given; with a [`FragmentAck`], it covers the ServerHello
//! that the client gets. Other handshakes use the original hash.
//!
//! **Not here.** The changes of the ClientHello (`disguise.rs`) and of the ServerHello (`fragment_ack.rs`).

use std::borrow::Cow;

use tokio_rustls::rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};

use super::disguise::Disguise;
use super::fragment_ack::FragmentAck;
use super::scope::HandshakeScope;

/// Returns the transcript `message` as it was on the wire. TLS 1.2 signs the messages themselves
/// (RFC 5246 section 7.4.8).
pub(crate) fn as_sent(message: &[u8]) -> Cow<'_, [u8]> {
    let (disguise, ack) = current_changes();
    let message = match disguise {
        Some(disguise) => disguise.taken_off(message),
        None => Cow::Borrowed(message),
    };
    match ack.and_then(|ack| ack.added_behind_client_hello(&message)) {
        Some(changed) => Cow::Owned(changed),
        None => message,
    }
}

fn current_changes() -> (Option<Disguise>, Option<FragmentAck>) {
    HandshakeScope::with_entered(|scope| (scope.disguise.clone(), scope.fragment_ack))
        .unwrap_or_default()
}

/// A hash function for transcripts.
pub(super) struct TranscriptHash(pub(super) &'static dyn Hash);

impl Hash for TranscriptHash {
    fn start(&self) -> Box<dyn Context> {
        let context = self.0.start();
        match current_changes() {
            (None, None) => context,
            _ => Box::new(WireBytes(context)),
        }
    }

    fn hash(&self, data: &[u8]) -> Output {
        self.0.hash(data)
    }

    fn output_len(&self) -> usize {
        self.0.output_len()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.0.algorithm()
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

/// A hash over the bytes on the wire.
struct WireBytes(Box<dyn Context>);

impl Context for WireBytes {
    fn fork_finish(&self) -> Output {
        self.0.fork_finish()
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(Self(self.0.fork()))
    }

    fn finish(self: Box<Self>) -> Output {
        self.0.finish()
    }

    fn update(&mut self, data: &[u8]) {
        // Read for each message: a second ClientHello has a disguise different from the first one's.
        let (disguise, ack) = current_changes();
        if let Some(parts) = disguise.as_ref().and_then(|disguise| disguise.original(data)) {
            parts.for_each(|part| self.0.update(part));
        } else if let Some(changed) = ack.and_then(|ack| ack.added_to(data)) {
            self.0.update(&changed);
        } else {
            self.0.update(data);
        }
    }
}
