//! A handshake on its socket, by rustls's unbuffered API.
//!
//! **Promises.** rustls gets one record at a time, and none behind the client's Finished: what comes
//! after it, and may have come with it, is the session's. What TLS has to say leaves with the next
//! flush.
//!
//! **Not here.** Deadlines, and what a failure means (`handshake.rs`).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::UnbufferedServerConnection;
use tokio_rustls::rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use tokio_rustls::rustls::{
    AlertDescription, CommonState, Error, InvalidMessage, PeerIncompatible, ProtocolVersion,
    ServerConfig,
};

use super::scratch::{self, HANDSHAKE_READ_BYTES};
use super::session::Session;
use super::stream::{ReceiveError, TlsStream};
use super::{HELD_BYTES_HANDSHAKE, alert};
use crate::proxy::close;
use crate::proxy::socket;
use crate::proxy::unsent::Unsent;

/// A handshake in progress.
pub(crate) struct Negotiation<Io> {
    io: Io,
    rustls: UnbufferedServerConnection,
    /// Ciphertext that does not make a whole record or message yet; or what came behind the Finished.
    held: Vec<u8>,
    /// How much of `held` is whole records that rustls has seen, and wants to find there again.
    seen: usize,
    /// What the socket would not take yet.
    unsent: Unsent,
    /// What a failed write said of the client's own stream.
    cut: Option<io::ErrorKind>,
    /// How long rustls has taken.
    crypto: Duration,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Negotiation<Io> {
    /// A handshake of which nothing has been seen yet.
    ///
    /// # Errors
    /// If the configuration cannot be used: a fault of ours.
    pub(crate) fn new(io: Io, config: Arc<ServerConfig>) -> Result<Self, Error> {
        let rustls = UnbufferedServerConnection::new(config)?;
        let (held, unsent, crypto) = (Vec::new(), Unsent::default(), Duration::ZERO);
        Ok(Self { io, rustls, held, seen: 0, unsent, cut: None, crypto })
    }

    /// What has been negotiated.
    pub(crate) fn state(&self) -> &CommonState {
        &self.rustls
    }

    /// The client's verified chain, leaf first; empty if it has shown none.
    pub(crate) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.rustls.peer_certificates().unwrap_or_default()
    }

    /// How long TLS itself has taken up to now: signatures and key exchange above all.
    pub(crate) const fn crypto(&self) -> Duration {
        self.crypto
    }

    /// Takes bytes that go on where the last ended; replies are queued.
    ///
    /// # Errors
    /// rustls's, when it refuses the client; [`Self::queue_last_words`] has the alert to send.
    pub(crate) fn feed(&mut self, incoming: &mut [u8]) -> Result<(), Error> {
        let start = Instant::now();
        let fed = self.feed_records(incoming);
        self.crypto += start.elapsed();
        fed
    }

    fn feed_records(&mut self, incoming: &mut [u8]) -> Result<(), Error> {
        let mut rest = incoming;
        let mut given = self.seen;
        let fed = loop {
            let UnbufferedStatus { discard, state, .. } =
                self.rustls.process_tls_records(&mut rest[..given]);
            let mut waiting = false;
            let mut failed = None;
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(self.unsent.tail(), |out| data.encode(out))?;
                }
                // Nothing is lost by saying so early: replies leave in the order of `unsent`.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(_) => waiting = true,
                Err(error) => failed = Some(error),
            }
            rest = &mut rest[discard..];
            given -= discard;
            self.seen -= discard;
            if let Some(error) = failed {
                break Err(error);
            }
            if waiting {
                if given == rest.len() || !self.rustls.is_handshaking() {
                    break Ok(());
                }
                match whole_record(&rest[given..])? {
                    Some(bytes) => {
                        given += bytes;
                        self.seen = given;
                    }
                    // What cannot become a record is refused before it is one.
                    None => given = rest.len(),
                }
            }
        };
        self.held = rest.to_vec();
        fed.and_then(|()| self.check_held())
    }

    /// A peer can send a message in as many records as it has bytes: it is not collected for ever.
    fn check_held(&self) -> Result<(), Error> {
        if self.held.len() <= HELD_BYTES_HANDSHAKE || !self.rustls.is_handshaking() {
            return Ok(());
        }
        Err(InvalidMessage::HandshakePayloadTooLarge.into())
    }

    /// Reads once; `false` is the end of the client's stream.
    ///
    /// # Errors
    /// The socket's, or as [`Self::feed`].
    pub(crate) async fn receive(&mut self) -> Result<bool, ReceiveError> {
        poll_fn(|cx| {
            scratch::with(|scratch| {
                let held = self.held.len();
                scratch.incoming[..held].copy_from_slice(&self.held);
                let end = held + HANDSHAKE_READ_BYTES;
                let mut buffer = ReadBuf::new(&mut scratch.incoming[held..end]);
                ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))
                    .map_err(ReceiveError::Io)?;
                let read = buffer.filled().len();
                if read == 0 {
                    return Poll::Ready(Ok(false));
                }
                let fed = self.feed(&mut scratch.incoming[..held + read]);
                Poll::Ready(fed.map(|()| true).map_err(ReceiveError::Tls))
            })
        })
        .await
    }

    /// Writes all that is queued.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        let flushed = poll_fn(|cx| self.unsent.poll_flush(&mut self.io, cx)).await;
        self.cut = flushed.as_ref().err().and_then(socket::cut);
        flushed
    }

    /// Queues what is to be sent before a handshake that has failed is closed: the alert that rustls
    /// has queued, or what the RFC has instead.
    pub(crate) fn queue_last_words(&mut self, error: &Error) {
        let reply = self.unsent.tail();
        let before = reply.len();
        while self.rustls.wants_write() {
            let status = self.rustls.process_tls_records(&mut self.held);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else { break };
            if append(reply, |out| data.encode(out)).is_err() {
                break;
            }
        }
        let version = self.rustls.protocol_version();
        if let Some(description) = unqueued_alert(version, error, reply.len() > before) {
            reply.truncate(before);
            reply.extend_from_slice(&alert::plaintext_alert(description));
        }
    }

    /// Ends the connection so that all that is queued arrives.
    pub(crate) async fn close(mut self) {
        close::linger(&mut self.io, self.unsent.rest()).await;
    }

    /// The session that the handshake was for, and what was opened of it already.
    ///
    /// # Errors
    /// If it is not over: a fault of ours.
    pub(crate) fn into_stream(self) -> Result<(TlsStream<Io>, Vec<u8>), Error> {
        let mut stream = TlsStream::new(self.io, Session::new(self.rustls)?, self.unsent, self.cut);
        let early = stream.feed(self.held);
        Ok((stream, early))
    }
}

/// How long the first record of `bytes` is, if all of it has come.
fn whole_record(bytes: &[u8]) -> Result<Option<usize>, Error> {
    match bytes.first_chunk() {
        // Never valid: what is encrypted has a tag. Where a client has offered early data, rustls
        // skips it, since its limit counts bytes, and again with each record that comes behind.
        Some([23, _, _, 0, 0]) => Err(InvalidMessage::InvalidEmptyPayload.into()),
        Some(&[_, _, _, high, low]) => {
            let length = 5 + usize::from(u16::from_be_bytes([high, low]));
            Ok((length <= bytes.len()).then_some(length))
        }
        None => Ok(None),
    }
}

/// The alert for an error that rustls has none for, or not the one that the RFC names; only where
/// nothing is encrypted yet, so that it can be sent without a key.
fn unqueued_alert(
    version: Option<ProtocolVersion>,
    error: &Error,
    queued: bool,
) -> Option<AlertDescription> {
    match (version, error) {
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

/// Lets `encode` write at the end of `reply`, however much room it needs.
fn append(
    reply: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Error> {
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
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
