//! Hashes and signatures over the handshake as the client sent it.
//!
//! **Promises.** In a handshake with a [`Disguise`], every hash and signature over the transcript covers the
//! bytes that the client sent, not those that rustls was given. Other handshakes use the original hash.
//!
//! **Not here.** The change of the ClientHello (`disguise.rs`).

use std::borrow::Cow;

use tokio_rustls::rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};

use super::disguise::Disguise;
use super::scope::HandshakeScope;

/// Returns the transcript `message` as the client sent it. TLS 1.2 signs the messages themselves
/// (RFC 5246 section 7.4.8).
pub(crate) fn as_sent(message: &[u8]) -> Cow<'_, [u8]> {
    match current_disguise() {
        Some(disguise) => disguise.taken_off(message),
        None => Cow::Borrowed(message),
    }
}

fn current_disguise() -> Option<Disguise> {
    HandshakeScope::with_entered(|scope| scope.disguise).flatten()
}

/// A hash function for transcripts.
pub(super) struct TranscriptHash(pub(super) &'static dyn Hash);

impl Hash for TranscriptHash {
    fn start(&self) -> Box<dyn Context> {
        let context = self.0.start();
        match current_disguise() {
            Some(_) => Box::new(OriginalBytes(context)),
            None => context,
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

/// A hash over the bytes that the client sent.
struct OriginalBytes(Box<dyn Context>);

impl Context for OriginalBytes {
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
        let disguise = current_disguise();
        match disguise.as_ref().and_then(|disguise| disguise.original(data)) {
            Some(parts) => parts.into_iter().for_each(|part| self.0.update(part)),
            None => self.0.update(data),
        }
    }
}
