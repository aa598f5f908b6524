//! A TLS session joined with its socket.
//!
//! **Promises.** `poll_receive` and `poll_flush` wake their task as `AsyncRead` and `AsyncWrite`
//! do. What TLS has to say by itself (tickets, key updates, alerts) is queued before anything else
//! and leaves with the next flush. A stream that was cut ends by an error, also where it was a write
//! that noticed.
//!
//! **Not here.** TLS itself (`tls.rs`), when to read and when to write (`relay.rs`).

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls;

use super::scratch::Scratch;
use super::session::{SealError, Session};
use crate::proxy::close;
use crate::proxy::socket;
use crate::proxy::write_buffer::Unsent;

/// The client's side of a connection.
pub(crate) struct TlsStream<Io> {
    io: Io,
    // Boxed: it is moved from phase to phase, and each would have room for it in its future.
    session: Box<Session>,
    /// Ciphertext that does not make a whole record yet.
    partial: Box<[u8]>,
    /// Ciphertext that the socket would not take yet.
    unsent: Unsent,
    /// What the next read is to say: an error behind what the last one has opened; or, once it finds
    /// no more, the cut that a write has noticed.
    late: Option<Box<ReceiveError>>,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Ciphertext, opened into the scratch's `plain`, which may still be empty.
    Some,
    /// The end of the client's stream, said by a close_notify.
    Closed,
    /// The end of TCP between two records, without a close_notify.
    Truncated,
}

/// Why nothing could be received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error(transparent)]
    Io(io::Error),
    #[error(transparent)]
    Tls(rustls::Error),
    #[error("TCP has ended in the middle of a TLS record")]
    MidRecord,
}

/// Why nothing could be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Io(io::Error),
    #[error(transparent)]
    Seal(SealError),
}

impl<Io: AsyncRead + AsyncWrite + Unpin> TlsStream<Io> {
    /// Joins a session with its socket, which may owe the client `unsent` and have been `cut`.
    pub(super) fn new(
        io: Io,
        session: Session,
        unsent: Unsent,
        cut: Option<io::ErrorKind>,
    ) -> Self {
        let late = cut.map(|cut| Box::new(ReceiveError::Io(cut.into())));
        Self { io, session: Box::new(session), partial: Box::default(), unsent, late }
    }

    pub(crate) const fn io(&self) -> &Io {
        &self.io
    }

    /// How many bytes are held that make no whole record yet.
    pub(crate) fn partial(&self) -> usize {
        self.partial.len()
    }

    /// How many bytes are queued.
    pub(crate) fn queued(&self) -> usize {
        self.unsent.rest().len()
    }

    /// Opens what was read together with the end of the handshake. What is wrong with it, is the
    /// next receive's to say.
    pub(super) fn feed(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        let mut plain = 0..0;
        if let Err(error) = self.open(&mut bytes, &mut plain) {
            self.late = Some(Box::new(ReceiveError::Tls(error)));
        }
        bytes[plain].to_vec()
    }

    #[cfg(test)]
    pub(super) const fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Reads once, at most `read_bytes`, and opens what came: [`Scratch::plain`] has it.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        read_bytes: usize,
    ) -> Poll<Result<Received, ReceiveError>> {
        scratch.plain = 0..0;
        if self.session.peer_closed() {
            return Poll::Ready(Ok(Received::Closed));
        }
        if let Some(late) = self.late.take_if(|late| matches!(**late, ReceiveError::Tls(_))) {
            return Poll::Ready(Err(*late));
        }
        let before = self.partial.len();
        scratch.incoming[..before].copy_from_slice(&self.partial);
        let mut buffer = ReadBuf::new(&mut scratch.incoming[before..before + read_bytes]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)).map_err(ReceiveError::Io)?;
        let read = buffer.filled().len();
        if read == 0 {
            return Poll::Ready(match self.late.take() {
                Some(late) => Err(*late),
                None if !self.partial.is_empty() => Err(ReceiveError::MidRecord),
                None => Ok(Received::Truncated),
            });
        }
        let opened = self.open(&mut scratch.incoming[..before + read], &mut scratch.plain);
        if let Err(error) = opened.map_err(ReceiveError::Tls) {
            if scratch.plain.is_empty() {
                return Poll::Ready(Err(error));
            }
            // What was said before the fault is as good as if it had come alone.
            self.late = Some(Box::new(error));
        }
        let ended = self.session.peer_closed() && scratch.plain.is_empty();
        Poll::Ready(Ok(if ended { Received::Closed } else { Received::Some }))
    }

    /// Opens what starts with the partial record that came before.
    fn open(&mut self, incoming: &mut [u8], plain: &mut Range<usize>) -> Result<(), rustls::Error> {
        self.partial = Box::default();
        let left = self.session.open(incoming, plain, self.unsent.tail())?;
        self.partial = incoming[incoming.len() - left..].into();
        Ok(())
    }

    /// Seals `plain`, writes as much as the socket takes, and keeps the rest. Only after a flush.
    pub(crate) fn send(
        &mut self,
        cx: &mut Context<'_>,
        plain: &[u8],
        sealed: &mut Vec<Vec<u8>>,
    ) -> Result<(), SendError> {
        if matches!(self.late.as_deref(), Some(ReceiveError::Tls(_))) {
            // The session is over. Why, is the next receive's to say.
            return Err(SendError::Io(io::ErrorKind::BrokenPipe.into()));
        }
        // A cipher that failed, or a panic, may have left another connection's records.
        sealed.clear();
        self.session.seal(plain, sealed).map_err(SendError::Seal)?;
        let pushed = self.unsent.push_all(&mut self.io, cx, sealed);
        pushed.map_err(|error| SendError::Io(self.failed(error)))
    }

    /// Writes all that is queued.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unsent.poll_flush(&mut self.io, cx).map_err(|error| self.failed(error))
    }

    /// Keeps what a failed write says of the client's own stream, unless that has failed before: a
    /// session that is over opens nothing more.
    fn failed(&mut self, write: io::Error) -> io::Error {
        if let (None, Some(cut)) = (&self.late, socket::cut(&write)) {
            self.late = Some(Box::new(ReceiveError::Io(cut.into())));
        }
        write
    }

    /// Queues a close_notify.
    pub(crate) fn queue_close_notify(&mut self) {
        self.session.close_notify(self.unsent.tail());
    }

    /// Queues what is to be said after `error`: the alert.
    pub(crate) fn queue_last_words(&mut self, error: &rustls::Error) {
        self.session.last_words(error, self.unsent.tail());
    }

    /// Drops what is queued: there is nobody to take it.
    pub(crate) fn forget_queued(&mut self) {
        self.unsent = Unsent::default();
    }

    /// Ends our direction of TCP, after a flush.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Ends the connection so that all that is queued arrives.
    pub(crate) async fn close(mut self) {
        let unsent = std::mem::take(&mut self.unsent);
        close::linger(&mut self.io, unsent.rest()).await;
    }
}
