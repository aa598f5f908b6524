//! One TLS session over rustls's unbuffered API: ciphertext in, plaintext out, and back.
//!
//! A [`Session`] does no I/O and owns no buffers but a partial record; [`TlsStream`] joins it with
//! a socket and borrows its buffers from the thread ([`scratch`]). An idle connection therefore
//! owns rustls's state and nothing else, and a busy one reads, opens and writes as much as
//! [`scratch::READ_BYTES`] at a time.
//!
//! **Promises.** Bytes come out in order, whatever the chunks they came in. What a session holds of
//! a peer's bytes is bounded by [`HELD_BYTES_HANDSHAKE`] and [`HELD_BYTES_TRAFFIC`].
//!
//! **Not here.** When to read and when to write (`handshake.rs`, `relay.rs`), and why a handshake
//! failed (`handshake.rs`).

pub(crate) mod scratch;
mod stream;

use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use tokio_rustls::rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic,
};
use tokio_rustls::rustls::{
    self, AlertDescription, CommonState, InvalidMessage, PeerIncompatible, ProtocolVersion,
    ServerConfig,
};

pub(crate) use self::stream::{ReceiveError, Received, SendError, TlsStream};

/// How much unprocessed ciphertext a session may hold during its handshake: rustls takes handshake
/// messages of up to 64 KiB, and a client's chain can be that long.
const HELD_BYTES_HANDSHAKE: usize = 80 * 1024;

/// The same after the handshake: the longest record, RFC 5246 section 6.2.3, is 18,437 bytes.
pub(crate) const HELD_BYTES_TRAFFIC: usize = 20 * 1024;

/// The server side of one TLS session.
pub(crate) struct Session {
    // Boxed: it is moved from phase to phase, and each would have room for it in its future.
    rustls: Box<UnbufferedServerConnection>,
    /// Ciphertext that does not make a whole record or handshake message yet.
    held: Vec<u8>,
    peer_closed: bool,
}

/// Why plaintext could not be sealed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// TLS 1.2 has used up its key; the plaintext is lost.
    #[error("the TLS 1.2 session has used up its key")]
    KeysExhausted,
    /// The session is not ready for traffic or its buffer is too small: a fault of ours.
    #[error("plaintext could not be sealed: {0}")]
    Misuse(String),
}

impl Session {
    /// A session that has seen nothing yet.
    ///
    /// # Errors
    /// If the configuration cannot be used: a fault of ours.
    pub(crate) fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let rustls = Box::new(UnbufferedServerConnection::new(config)?);
        Ok(Self { rustls, held: Vec::new(), peer_closed: false })
    }

    /// What has been negotiated.
    pub(crate) fn state(&self) -> &CommonState {
        &self.rustls
    }

    /// The client's verified chain, leaf first; empty if it has shown none.
    pub(crate) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.rustls.peer_certificates().unwrap_or_default()
    }

    /// Whether the peer has ended its stream by a close_notify.
    pub(crate) const fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Ciphertext that came before and goes before the next.
    pub(crate) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Opens `incoming`, which starts with what [`Self::held`] returned. Appends plaintext to
    /// `plain` and what TLS itself has to say to `reply`.
    ///
    /// # Errors
    /// rustls's, when the session is over; [`Self::last_words`] has the alert to send.
    pub(crate) fn open(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        reply: &mut Vec<u8>,
    ) -> Result<(), rustls::Error> {
        let mut rest = incoming;
        loop {
            let UnbufferedStatus { discard, state, .. } = self.rustls.process_tls_records(rest);
            let mut done = false;
            let mut failed = None;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        plain.extend_from_slice(record?.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(reply, |out| data.encode(out))?;
                }
                // Nothing is lost by saying so early: replies leave in the order of `reply`.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_closed = true,
                Ok(_) => done = true,
                Err(error) => failed = Some(error),
            }
            rest = &mut rest[discard..];
            if done || failed.is_some() {
                // "Any data received after a closure alert has been received MUST be ignored",
                // RFC 8446 section 6.1.
                self.held = if self.peer_closed { Vec::new() } else { rest.to_vec() };
                return failed.map_or_else(|| self.check_held(), Err);
            }
        }
    }

    /// A peer can send a message in as many records as it has bytes: it is not collected for ever.
    fn check_held(&self) -> Result<(), rustls::Error> {
        let bound =
            if self.rustls.is_handshaking() { HELD_BYTES_HANDSHAKE } else { HELD_BYTES_TRAFFIC };
        if self.held.len() <= bound {
            return Ok(());
        }
        Err(InvalidMessage::HandshakePayloadTooLarge.into())
    }

    /// Seals `plain` into the front of `out` and returns how much of `out` that took.
    ///
    /// # Errors
    /// If the key is used up: nothing of `plain` is sealed then.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        self.write(out, |traffic, out| traffic.encrypt(plain, out))
    }

    /// Appends a close_notify to `reply`, unless the session cannot or has done so already.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method itself holds for one lifetime only"
    )]
    pub(crate) fn close_notify(&mut self, reply: &mut Vec<u8>) {
        // A few queued messages at most: a key update, an alert.
        let mut out = [0; 1024];
        let written = self.write(&mut out, |traffic, out| traffic.queue_close_notify(out));
        reply.extend_from_slice(&out[..written.unwrap_or(0)]);
    }

    /// Gets rustls to the state in which it writes, and lets it write.
    fn write(
        &mut self,
        out: &mut [u8],
        write: impl Fn(
            &mut WriteTraffic<'_, ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> Result<usize, SealError> {
        let mut written = 0;
        loop {
            // What is held is an incomplete record: it yields nothing, but rustls counts on
            // finding it where it left it.
            let status = self.rustls.process_tls_records(&mut self.held);
            match status.state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return match write(&mut traffic, &mut out[written..]) {
                        Ok(more) => Ok(written + more),
                        Err(EncryptError::EncryptExhausted) => Err(SealError::KeysExhausted),
                        Err(error) => Err(SealError::Misuse(error.to_string())),
                    };
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    let more = data.encode(&mut out[written..]);
                    written += more.map_err(|error| SealError::Misuse(error.to_string()))?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_closed = true,
                // Both sides have said their close_notify: there is nothing left to write.
                Ok(ConnectionState::Closed) => return Ok(written),
                Ok(state) => return Err(SealError::Misuse(format!("{state:?}"))),
                Err(error) => return Err(SealError::Misuse(error.to_string())),
            }
        }
    }

    /// Appends to `reply` what is to be sent before a session that has failed is closed: the alert
    /// that rustls has queued, or what the RFC has instead.
    pub(crate) fn last_words(&mut self, error: &rustls::Error, reply: &mut Vec<u8>) {
        let before = reply.len();
        while self.rustls.wants_write() {
            let status = self.rustls.process_tls_records(&mut self.held);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else { break };
            if append(reply, |out| data.encode(out)).is_err() {
                break;
            }
        }
        if let Some(description) = self.unqueued_alert(error, reply.len() > before) {
            reply.truncate(before);
            reply.extend_from_slice(&plaintext_alert(description));
        }
    }

    /// The alert for an error that rustls has none for, or not the one that the RFC names; only
    /// where nothing is encrypted yet, so that it can be sent without a key.
    fn unqueued_alert(&self, error: &rustls::Error, queued: bool) -> Option<AlertDescription> {
        use rustls::Error;
        match (self.rustls.protocol_version(), error) {
            // RFC 8446 section 5.1.
            (None, Error::InvalidMessage(InvalidMessage::MessageTooLarge)) => {
                Some(AlertDescription::RecordOverflow)
            }
            // RFC 8446 section 4.2.1, appendix D.3.
            (None, Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)) => {
                Some(AlertDescription::ProtocolVersion)
            }
            (None, Error::InvalidMessage(_)) if !queued => Some(AlertDescription::DecodeError),
            (None, _) if !queued => Some(AlertDescription::UnexpectedMessage),
            // RFC 5246 section 7.4.6; certificate_required came with TLS 1.3.
            (Some(ProtocolVersion::TLSv1_2), Error::NoCertificatesPresented) => {
                Some(AlertDescription::HandshakeFailure)
            }
            _ => None,
        }
    }
}

/// A fatal alert before anything is encrypted, RFC 8446 sections 5.1 and 6.
pub(crate) fn plaintext_alert(description: AlertDescription) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, u8::from(description)]
}

/// Lets `encode` write at the end of `reply`, however much room it needs.
fn append(
    reply: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), rustls::Error> {
    let start = reply.len();
    // Most flights fit at once; the error of one that does not says how much it needs.
    let mut room = 4096;
    loop {
        reply.resize(start + room, 0);
        match encode(&mut reply[start..]) {
            Ok(written) => {
                reply.truncate(start + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(error)) if error.required_size > room => {
                room = error.required_size;
            }
            Err(error) => return Err(rustls::Error::General(error.to_string())),
        }
    }
}
