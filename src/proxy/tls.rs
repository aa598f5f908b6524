//! TLS between a client's socket and the relay: ciphertext in, plaintext out, and back.
//!
//! rustls performs the handshake ([`Negotiation`]). Its keys then go to a [`record_layer::RecordLayer`], which
//! splits bytes into records and lets rustls's ciphers open and seal them. An idle connection owns the secrets of its
//! keys, but no buffer, no state of the handshake, which rustls would keep for the life of the connection, and after ten
//! seconds no cipher. [`TlsStream`] joins a record layer with a socket and borrows its buffers from
//! the thread ([`scratch`]), so that a busy connection reads, opens and writes up to
//! [`scratch::MAX_READ_BYTES`] at a time.
//!
//! **Promises.** Bytes come out in order, however they were split on arrival. The bytes of a peer that are
//! held are bounded by `HELD_BYTES_HANDSHAKE` and [`HELD_BYTES_TRAFFIC`].
//!
//! **Not here.** The order of reads and writes (`handshake.rs`, `relay.rs`), the reason for a failed handshake
//! (`handshake.rs`).

mod alert;
mod keys;
mod negotiation;
mod record_layer;
pub(crate) mod scratch;
mod stream;

pub(crate) use self::alert::plaintext_alert;
pub(crate) use self::negotiation::{
    Negotiation, Opening, Progress, RustlsHandshake, early_data_bytes,
};
pub(crate) use self::record_layer::{SealError, SentSizes};
pub(crate) use self::scratch::HELD_BYTES_TRAFFIC;
pub(crate) use self::stream::{ReceiveError, Received, SendError, TlsStream};
