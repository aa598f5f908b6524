//! The direction from the client to the backend.
//!
//! **Promises.** No read from the client before the backend has taken the bytes of the last one. A backend that takes
//! no more bytes can still answer.
//!
//! **Not here.** The other direction (`to_client.rs`), time limits and the end of the relay (`relay.rs`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use super::error::RelayError;
use super::flow::Flow;
use super::{ROUNDS, Relay};
use crate::proxy::socket;
use crate::proxy::tls::scratch::Scratch;
use crate::proxy::tls::{ReceiveError, Received};
use crate::proxy::write_buffer::WriteBuffer;
use crate::terms::labels::Direction;

impl<C, B> Relay<'_, C, B>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    /// Moves bytes to the backend until a socket is not ready.
    pub(super) fn poll_to_backend(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), RelayError> {
        for _ in 0..ROUNDS {
            match self.to_backend {
                Flow::Done => return Ok(()),
                Flow::Open | Flow::Ending => match self.poll_flush_to_backend(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Err(error)) => self.backend_takes_no_more(error),
                    Poll::Ready(Ok(())) if self.to_backend == Flow::Ending => {
                        // It fails if the backend has closed. Then there is nothing to end.
                        if Pin::new(&mut *self.backend).poll_shutdown(cx).is_pending() {
                            return Ok(());
                        }
                        self.to_backend = Flow::Done;
                    }
                    Poll::Ready(Ok(())) => match self.poll_client(cx, scratch) {
                        Poll::Pending => return Ok(()),
                        Poll::Ready(received) => self.received(received, cx, scratch)?,
                    },
                },
                Flow::Discarding => match self.poll_client(cx, scratch) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(Received::Some)) => {}
                    Poll::Ready(_) => self.to_backend = Flow::Done,
                },
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Writes buffered plaintext to the backend, and counts the bytes written.
    fn poll_flush_to_backend(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let before = self.unsent.rest().len();
        let flushed = self.unsent.poll_flush(self.backend, cx);
        self.relayed(Direction::ToBackend, before - self.unsent.rest().len());
        flushed
    }

    /// Handles the result of a read from the client.
    fn received(
        &mut self,
        received: Result<Received, ReceiveError>,
        cx: &mut Context<'_>,
        scratch: &Scratch,
    ) -> Result<(), RelayError> {
        match received {
            Ok(Received::Some) => {
                // A part of a record, an empty record and a key_update are no progress: a client could keep its
                // connection open for ever by one byte at a time.
                let has_data = !scratch.plain.is_empty();
                self.moved.to_backend |= has_data;
                self.awaits_answer |= has_data;
                let pushed = self.unsent.push(self.backend, cx, scratch.plain());
                self.reads_from_client.learn(scratch.plain.len(), self.unsent.is_empty());
                let taken = scratch.plain.len() - self.unsent.rest().len();
                self.relayed(Direction::ToBackend, taken);
                if let Err(error) = pushed {
                    self.backend_takes_no_more(error);
                }
            }
            Ok(Received::Closed) => self.to_backend = Flow::Ending,
            Ok(Received::Truncated) => {
                self.failure.get_or_insert_with(|| RelayError::Truncated.into());
                self.to_backend = Flow::Ending;
            }
            // The whole answer and its end have been sent. A client that closes without reading our close_notify
            // sends a reset, and loses nothing.
            Err(ReceiveError::Io(_)) if self.to_client == Flow::Done => {
                self.failure.get_or_insert_with(|| RelayError::Truncated.into());
                self.to_backend = Flow::Ending;
            }
            Err(ReceiveError::Io(error)) => return Err(RelayError::Client(error)),
            Err(ReceiveError::MidRecord) => {
                // If the client has refused bytes before, that is the cause.
                return Err(self.failure.take().map_or(RelayError::MidRecord, |error| *error));
            }
            Err(ReceiveError::Tls(error)) => return Err(RelayError::Tls(error)),
        }
        Ok(())
    }

    /// The backend takes no more bytes. Its answer may still be unread: a server that rejects a request answers,
    /// closes, and resets on further bytes.
    fn backend_takes_no_more(&mut self, error: io::Error) {
        self.backend_cut = socket::cut(&error);
        self.failure.get_or_insert_with(|| RelayError::Backend(error).into());
        self.unsent = WriteBuffer::default();
        self.to_backend = Flow::Discarding;
    }

    /// Reads once from the client. The plaintext is in `scratch`.
    fn poll_client(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Poll<Result<Received, ReceiveError>> {
        let bytes = self.sessions.budget.read_bytes(self.reads_from_client.bytes());
        self.client.poll_receive(cx, scratch, bytes)
    }
}
