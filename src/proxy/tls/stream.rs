//! A record layer joined with its socket.
//!
//! **Promises.** `poll_receive` and `poll_flush` wake their task like `AsyncRead` and `AsyncWrite`. Messages of
//! TLS itself (tickets, key updates, alerts) are queued before application data and leave with the next
//! flush. A stream that was reset ends with an error, even if a write noticed the reset first.
//!
//! **Not here.** Records and keys (`record_layer.rs`), the order of reads and writes (`relay.rs`).

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls;

use super::record_layer::{RecordLayer, SealError};
use super::scratch::Scratch;
use crate::proxy::close;
use crate::proxy::mirror::Mirrored;
use crate::proxy::socket;
use crate::proxy::write_buffer::WriteBuffer;
use crate::sessions::trace::Tracer;

/// The client's side of a connection.
pub(crate) struct TlsStream<Io> {
    io: Io,
    // Boxed: the stream moves from phase to phase, and the future of each phase has room for it.
    record_layer: Box<RecordLayer>,
    /// Ciphertext of an incomplete record.
    partial: Box<[u8]>,
    /// Ciphertext that the socket has not taken yet.
    unsent: WriteBuffer,
    rare: Option<Box<Rare>>,
    /// Our direction of TCP has ended.
    is_ended: bool,
}

/// State that few streams have.
#[derive(Default)]
struct Rare {
    /// Deferred error for the next read: a record error found after valid data, or a connection reset first
    /// seen by a write.
    late: Option<ReceiveError>,
    /// The steps of the connection, if a trace may select it.
    tracer: Option<Arc<Tracer>>,
}

/// Result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Ciphertext, opened into [`Scratch::plain`], which may be empty.
    Some,
    /// The end of the client's stream, by a close_notify.
    Closed,
    /// The end of TCP between two records, without a close_notify.
    Truncated,
}

/// Reason for a failed read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error(transparent)]
    Io(io::Error),
    #[error(transparent)]
    Tls(rustls::Error),
    #[error("TCP ended in the middle of a TLS record")]
    MidRecord,
}

/// Reason for a failed write.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Io(io::Error),
    #[error(transparent)]
    Seal(SealError),
}

impl<Io: AsyncRead + AsyncWrite + Unpin> TlsStream<Io> {
    /// Joins a record layer with its socket. `unsent` is still to be sent; `cut` is a reset that a write has
    /// noticed.
    pub(super) fn new(
        io: Io,
        record_layer: RecordLayer,
        unsent: WriteBuffer,
        cut: Option<io::ErrorKind>,
    ) -> Self {
        let late = cut.map(|cut| ReceiveError::Io(cut.into()));
        let rare = late.map(|late| Box::new(Rare { late: Some(late), tracer: None }));
        let (record_layer, partial) = (Box::new(record_layer), Box::default());
        Self { io, record_layer, partial, unsent, rare, is_ended: false }
    }

    pub(crate) const fn io(&self) -> &Io {
        &self.io
    }

    /// Replaces the tracer, which gets the alerts and the bytes of both sides.
    pub(crate) fn trace(&mut self, tracer: Option<Arc<Tracer>>) {
        if tracer.is_some() || self.rare.is_some() {
            self.rare.get_or_insert_default().tracer = tracer;
        }
        self.rare.take_if(|rare| rare.late.is_none() && rare.tracer.is_none());
    }

    /// Returns the deferred error.
    fn late(&self) -> Option<&ReceiveError> {
        self.rare.as_ref()?.late.as_ref()
    }

    /// Defers an error to the next read.
    fn defer(&mut self, error: ReceiveError) {
        self.rare.get_or_insert_default().late = Some(error);
    }

    /// Drops the ciphers of the session until its next records.
    pub(crate) fn drop_ciphers(&mut self) {
        self.record_layer.drop_ciphers();
    }

    /// Returns true unless both ciphers of the session are dropped.
    pub(crate) const fn has_cipher(&self) -> bool {
        self.record_layer.has_cipher()
    }

    /// Returns the number of bytes of an incomplete record.
    pub(crate) fn partial(&self) -> usize {
        self.partial.len()
    }

    /// Returns the number of queued bytes.
    pub(crate) fn queued(&self) -> usize {
        self.unsent.rest().len()
    }

    /// Opens bytes that were read together with the end of the handshake, and returns their plaintext. An
    /// error is deferred to the next read.
    pub(super) fn feed(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        let mut plain = 0..0;
        if let Err(error) = self.open(&mut bytes, &mut plain) {
            self.defer(ReceiveError::Tls(error));
        }
        bytes[plain].to_vec()
    }

    #[cfg(test)]
    pub(super) const fn record_layer_mut(&mut self) -> &mut RecordLayer {
        &mut self.record_layer
    }

    /// Reads at most `read_bytes` once, and opens them: [`Scratch::plain`] has the plaintext.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        read_bytes: usize,
    ) -> Poll<Result<Received, ReceiveError>> {
        scratch.plain = 0..0;
        if self.record_layer.peer_closed() {
            return Poll::Ready(Ok(Received::Closed));
        }
        if let Some(rare) = &mut self.rare
            && let Some(late) = rare.late.take_if(|late| matches!(late, ReceiveError::Tls(_)))
        {
            return Poll::Ready(Err(late));
        }
        let before = self.partial.len();
        scratch.incoming[..before].copy_from_slice(&self.partial);
        let mut buffer = ReadBuf::new(&mut scratch.incoming[before..before + read_bytes]);
        let mut io = Mirrored::new(&mut self.io, tracer(&self.rare));
        ready!(Pin::new(&mut io).poll_read(cx, &mut buffer)).map_err(ReceiveError::Io)?;
        let read = buffer.filled().len();
        if read == 0 {
            return Poll::Ready(match self.rare.as_mut().and_then(|rare| rare.late.take()) {
                Some(late) => Err(late),
                None if !self.partial.is_empty() => Err(ReceiveError::MidRecord),
                None => Ok(Received::Truncated),
            });
        }
        let opened = self.open(&mut scratch.incoming[..before + read], &mut scratch.plain);
        if let Err(error) = opened.map_err(ReceiveError::Tls) {
            if scratch.plain.is_empty() {
                return Poll::Ready(Err(error));
            }
            // Data before the fault is as valid as if it had come alone.
            self.defer(error);
        }
        let ended = self.record_layer.peer_closed() && scratch.plain.is_empty();
        Poll::Ready(Ok(if ended { Received::Closed } else { Received::Some }))
    }

    /// Opens `incoming`, which starts with the incomplete record of the read before.
    fn open(&mut self, incoming: &mut [u8], plain: &mut Range<usize>) -> Result<(), rustls::Error> {
        self.partial = Box::default();
        let tracer = tracer(&self.rare);
        let left = self.record_layer.open(incoming, plain, self.unsent.tail(), tracer)?;
        self.partial = incoming[incoming.len() - left..].into();
        Ok(())
    }

    /// Seals `plain`, writes as much as the socket takes, and keeps the rest. Nothing may be queued before.
    pub(crate) fn send(
        &mut self,
        cx: &mut Context<'_>,
        plain: &[u8],
        sealed: &mut Vec<Vec<u8>>,
    ) -> Result<(), SendError> {
        if matches!(self.late(), Some(ReceiveError::Tls(_))) {
            // The session has failed. The next read returns the error.
            return Err(SendError::Io(io::ErrorKind::BrokenPipe.into()));
        }
        // A cipher that failed, or a panic, may have left another connection's records.
        sealed.clear();
        self.record_layer.seal(plain, sealed).map_err(SendError::Seal)?;
        let mut io = Mirrored::new(&mut self.io, tracer(&self.rare));
        let pushed = self.unsent.push_all(&mut io, cx, sealed);
        pushed.map_err(|error| SendError::Io(self.failed(error)))
    }

    /// Writes everything that is queued.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut io = Mirrored::new(&mut self.io, tracer(&self.rare));
        self.unsent.poll_flush(&mut io, cx).map_err(|error| self.failed(error))
    }

    /// Defers a reset that a failed write has noticed to the next read, unless the session has failed before:
    /// then nothing more is opened.
    ///
    /// A failed write consumes SO_ERROR, so that later reads return the remaining data and then EOF instead
    /// of ECONNRESET.
    fn failed(&mut self, write: io::Error) -> io::Error {
        if let (None, Some(cut)) = (self.late(), socket::cut(&write)) {
            self.defer(ReceiveError::Io(cut.into()));
        }
        write
    }

    /// Queues a close_notify.
    pub(crate) fn queue_close_notify(&mut self) {
        self.record_layer.append_close_notify(self.unsent.tail(), tracer(&self.rare));
    }

    /// Queues the alert for `error`.
    pub(crate) fn queue_alert(&mut self, error: &rustls::Error) {
        self.record_layer.append_final_alert(error, self.unsent.tail(), tracer(&self.rare));
    }

    /// Drops everything that is queued, if the client no longer reads.
    pub(crate) fn discard_queued(&mut self) {
        self.unsent = WriteBuffer::default();
    }

    /// Flushes, then ends our direction of TCP.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        self.is_ended = true;
        Poll::Ready(Ok(()))
    }

    /// Closes the connection after everything that is queued has been delivered.
    pub(crate) async fn close(mut self) {
        let unsent = std::mem::take(&mut self.unsent);
        let mut io = Mirrored::new(&mut self.io, tracer(&self.rare));
        if self.is_ended {
            close::await_end(&mut io).await;
        } else {
            close::linger(&mut io, unsent.rest()).await;
        }
    }
}

/// Returns the tracer, without a borrow of the whole stream.
fn tracer(rare: &Option<Box<Rare>>) -> Option<&Tracer> {
    rare.as_ref()?.tracer.as_deref()
}
