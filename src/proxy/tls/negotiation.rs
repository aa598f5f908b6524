//! A handshake in progress on its socket.
//!
//! Reading bytes ([`Negotiation::read`]) and cryptography ([`Negotiation::process`]) are two steps, so that
//! a caller can wait between them. rustls's part is [`RustlsHandshake`], which knows no socket.
//!
//! **Promises.** Only `process` costs CPU time, and one call takes at most one costly record: the handshake
//! then reports [`Progress::Paused`], so that other connections of the same worker run between two
//! signatures. Replies are queued and leave with the next flush. A client that is refused gets a fatal
//! alert, encrypted if records are already encrypted.
//!
//! **Not here.** Deadlines, and the reason for a failure (`handshake.rs`).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::{Error, InvalidMessage, ServerConfig};

pub(crate) use self::early_data::early_data_bytes;
pub(crate) use self::rustls_handshake::{Opening, Progress, RustlsHandshake};
use super::record_layer::{RecordLayer, SentSizes};
use super::scratch::{self, HANDSHAKE_READ_BYTES};
use super::stream::TlsStream;
use crate::proxy::close;
use crate::proxy::mirror::Mirrored;
use crate::proxy::socket;
use crate::proxy::write_buffer::WriteBuffer;
use crate::sessions::trace::Tracer;
use crate::trust::identity::Identity;
use crate::trust::refused::RefusedCertificate;

/// Unprocessed ciphertext that may be held during a handshake: rustls accepts handshake messages of up to
/// 64 KiB, and a client's certificate chain can be that long.
const HELD_BYTES_HANDSHAKE: usize = 80 * 1024;

/// A handshake in progress, with its socket.
pub(crate) struct Negotiation<Io> {
    io: Io,
    rustls: RustlsHandshake,
    /// Ciphertext that has been read and not been used: a partial record or message, or bytes behind the
    /// client's Finished.
    held: Vec<u8>,
    /// Replies that the socket has not taken yet.
    unsent: WriteBuffer,
    /// Reset of the client's stream that a failed write has reported.
    cut: Option<io::ErrorKind>,
    /// The record sizes of the session.
    sizes: SentSizes,
    /// The steps of the connection, if a trace may select it.
    tracer: Option<Arc<Tracer>>,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Negotiation<Io> {
    /// Returns a handshake that has not seen any bytes.
    ///
    /// # Errors
    /// If the configuration cannot be used: an internal fault.
    pub(crate) fn new(
        io: Io,
        config: Arc<ServerConfig>,
        sizes: SentSizes,
        tracer: Option<Arc<Tracer>>,
    ) -> Result<Self, Error> {
        Ok(Self {
            io,
            rustls: RustlsHandshake::new(config)?,
            held: Vec::new(),
            unsent: WriteBuffer::default(),
            cut: None,
            sizes,
            tracer,
        })
    }

    pub(crate) const fn io(&self) -> &Io {
        &self.io
    }

    /// Returns the client's socket, whose bytes the trace gets.
    pub(crate) fn mirrored(&mut self) -> Mirrored<'_, Io> {
        Mirrored::new(&mut self.io, self.tracer.as_deref())
    }

    /// Returns what has been negotiated so far.
    pub(crate) const fn state(&self) -> &RustlsHandshake {
        &self.rustls
    }

    /// Takes the client's certificate, if it or its chain was refused.
    pub(crate) fn take_refused(&mut self) -> Option<Box<RefusedCertificate>> {
        self.rustls.take_refused()
    }

    /// Takes the identity of the client, if it sent a certificate in this handshake.
    pub(crate) fn take_client(&mut self) -> Option<Box<Identity>> {
        self.rustls.take_client()
    }

    /// Returns how much memory the client's unused bytes and our queued replies take.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.capacity() + self.unsent.rest().len()
    }

    /// Returns true if a whole record has been read and not been used: behind the client's Finished, it has data.
    pub(crate) fn holds_record(&self) -> bool {
        match *self.held {
            [_, _, _, high, low, ref payload @ ..] => {
                payload.len() >= usize::from(u16::from_be_bytes([high, low]))
            }
            _ => false,
        }
    }

    /// Takes the bytes that have been read and not been used.
    pub(crate) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Accepts a whole ClientHello, which the next [`Self::process`] answers.
    pub(crate) fn open(&mut self, opening: Opening) {
        self.held = self.rustls.open(opening);
    }

    /// Processes the bytes that have been read, up to the first record that is costly. Replies are queued.
    ///
    /// # Errors
    /// rustls's, if it refuses the client. [`Self::queue_alert`] has the alert to send.
    pub(crate) fn process(&mut self) -> Result<Progress, Error> {
        let progress = self.rustls.feed(&mut self.held, self.unsent.tail())?;
        // A client can send a message in as many records as it has bytes: collecting them has a limit.
        let is_collecting = !matches!(progress, Progress::Paused | Progress::Finished);
        if is_collecting && self.held.len() > HELD_BYTES_HANDSHAKE {
            return Err(InvalidMessage::HandshakePayloadTooLarge.into());
        }
        Ok(progress)
    }

    /// Reads once. Returns `false` at the end of the client's stream.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) async fn read(&mut self) -> io::Result<bool> {
        poll_fn(|cx| {
            scratch::with(|scratch| {
                let mut buffer = ReadBuf::new(&mut scratch.incoming[..HANDSHAKE_READ_BYTES]);
                ready!(Pin::new(&mut self.mirrored()).poll_read(cx, &mut buffer))?;
                // Exact: the memory for handshakes is limited, and most flights come in one read.
                self.held.reserve_exact(buffer.filled().len());
                self.held.extend_from_slice(buffer.filled());
                Poll::Ready(Ok(!buffer.filled().is_empty()))
            })
        })
        .await
    }

    /// Writes everything that is queued.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        let Self { io, tracer, unsent, .. } = self;
        let mut io = Mirrored::new(io, tracer.as_deref());
        let flushed = poll_fn(|cx| unsent.poll_flush(&mut io, cx)).await;
        self.cut = flushed.as_ref().err().and_then(socket::cut);
        flushed
    }

    /// Writes everything that is queued, by `send` as far as it takes it: for the kernel to send with the next bytes.
    /// No client waits for a ticket, and a separate packet for it costs the device as much as a message.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) async fn flush_with_next(
        &mut self,
        send: impl FnOnce(&Io, &[u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        // The trace sees what is written through it.
        if self.tracer.is_none() && !self.unsent.is_empty() {
            match send(&self.io, self.unsent.rest()) {
                Ok(sent) => self.unsent.advance(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.cut = socket::cut(&error);
                    return Err(error);
                }
            }
        }
        self.flush().await
    }

    /// Queues the alert for a handshake that failed with `error`.
    pub(crate) fn queue_alert(&mut self, error: &Error) {
        self.rustls.append_alert(error, &mut self.held, self.unsent.tail());
    }

    /// Closes the connection after everything that is queued has been delivered.
    pub(crate) async fn close(&mut self) {
        let mut io = Mirrored::new(&mut self.io, self.tracer.as_deref());
        close::linger(&mut io, self.unsent.rest()).await;
    }

    /// Returns the established session, and the application data that came with the client's Finished.
    ///
    /// # Errors
    /// If the handshake is not complete: an internal fault.
    pub(crate) fn into_stream(self) -> Result<(TlsStream<Io>, Vec<u8>), Error> {
        let record_layer = RecordLayer::new(self.rustls.into_keys()?, self.sizes);
        let mut stream = TlsStream::new(self.io, record_layer, self.unsent, self.cut);
        stream.trace(self.tracer);
        let early = stream.feed(self.held);
        Ok((stream, early))
    }
}

mod early_data;
mod framing;
mod record;
mod rustls_handshake;

#[cfg(test)]
mod tests;
