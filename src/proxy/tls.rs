//! TLS between a client's socket and the relay: ciphertext in, plaintext out, and back.
//!
//! rustls has the handshake ([`Negotiation`]). What is agreed on then leaves it for a
//! [`session::Session`], which splits bytes into records and has rustls's ciphers open and seal them:
//! an idle connection owns two keys and the secret of the next ones, and neither a buffer nor what the
//! handshake needed, which rustls would keep for as long as the device stays. [`TlsStream`] joins a
//! session with a socket and borrows its buffers from the thread ([`scratch`]), so that a busy
//! connection reads, opens and writes as much as [`scratch::MAX_READ_BYTES`] at a time.
//!
//! **Promises.** Bytes come out in order, whatever the chunks they came in. What is held of a peer's
//! bytes is bounded by [`HELD_BYTES_HANDSHAKE`] and [`HELD_BYTES_TRAFFIC`].
//!
//! **Not here.** When to read and when to write (`handshake.rs`, `relay.rs`), and why a handshake
//! failed (`handshake.rs`).

mod alert;
mod keys;
mod negotiation;
pub(crate) mod scratch;
mod session;
mod stream;

pub(crate) use self::alert::plaintext_alert;
pub(crate) use self::negotiation::{Negotiation, Opening, early_data_bytes};
pub(crate) use self::session::SealError;
pub(crate) use self::stream::{ReceiveError, Received, SendError, TlsStream};

/// How much unprocessed ciphertext may be held during a handshake: rustls takes handshake messages
/// of up to 64 KiB, and a client's chain can be that long.
const HELD_BYTES_HANDSHAKE: usize = 80 * 1024;

/// The same after the handshake: the longest record, RFC 5246 section 6.2.3, is 18,437 bytes.
pub(crate) const HELD_BYTES_TRAFFIC: usize = 20 * 1024;
