//! The direction from the backend to the client.
//!
//! **Promises.** No read from the backend before the client has taken the records of the last one, which are counted
//! then. A client that takes no more bytes can still send.
//!
//! **Not here.** The other direction (`to_backend.rs`), time limits and the end of the relay (`relay.rs`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::RelayError;
use super::flow::Flow;
use super::{ROUNDS, Relay};
use crate::proxy::tls::SendError;
use crate::proxy::tls::scratch::Scratch;
use crate::terms::labels::Direction;

impl<C, B> Relay<'_, C, B>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    /// Moves bytes to the client until a socket is not ready.
    pub(super) fn poll_to_client(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), RelayError> {
        for _ in 0..ROUNDS {
            match self.to_client {
                Flow::Done => return Ok(()),
                Flow::Open => match self.client.poll_flush(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Err(error)) => self.client_takes_no_more(error),
                    Poll::Ready(Ok(())) => {
                        self.count_sealed();
                        match self.poll_backend(cx, scratch) {
                            Poll::Pending => return Ok(()),
                            Poll::Ready(Err(error)) => return Err(RelayError::Backend(error)),
                            Poll::Ready(Ok(read)) => {
                                let plain = &scratch.incoming[..read];
                                self.answered(plain, cx, &mut scratch.sealed)?;
                            }
                        }
                    }
                },
                Flow::Ending => match self.client.poll_shutdown(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) => self.to_client = Flow::Done,
                    Poll::Ready(Err(error)) => self.client_takes_no_more(error),
                },
                Flow::Discarding => match self.poll_backend(cx, scratch) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => self.to_client = Flow::Done,
                },
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Handles a read from the backend.
    fn answered(
        &mut self,
        plain: &[u8],
        cx: &mut Context<'_>,
        sealed: &mut Vec<Vec<u8>>,
    ) -> Result<(), RelayError> {
        if plain.is_empty() {
            if let Some(cut) = self.backend_cut {
                return Err(RelayError::Backend(cut.into()));
            }
            self.client.queue_close_notify();
            self.to_client = Flow::Ending;
            return Ok(());
        }
        // These bytes cannot answer what the device has sent in the same poll.
        self.awaits_answer &= self.moved.to_backend;
        self.moved.to_client = true;
        match self.client.send(cx, plain, sealed) {
            Ok(()) => {
                self.reads_from_backend.learn(plain.len(), self.client.queued() == 0);
                self.sealed = u32::try_from(plain.len()).unwrap_or(u32::MAX);
                Ok(())
            }
            Err(SendError::Io(error)) => {
                self.client_takes_no_more(error);
                Ok(())
            }
            Err(SendError::Seal(error)) => Err(RelayError::Seal(error)),
        }
    }

    /// Counts the plaintext of a read that the client has taken completely. Called before each read from the backend.
    fn count_sealed(&mut self) {
        let sealed = std::mem::take(&mut self.sealed);
        if sealed > 0 {
            self.relayed(Direction::ToClient, sealed as usize);
        }
    }

    /// The client takes no more bytes. Its report may still be unread: a device that reports and goes to sleep resets
    /// the answer.
    fn client_takes_no_more(&mut self, error: io::Error) {
        self.failure.get_or_insert_with(|| RelayError::Client(error).into());
        self.client.discard_queued();
        self.to_client = Flow::Discarding;
    }

    /// Reads once from the backend into `scratch.incoming`. Returns 0 at the end.
    fn poll_backend(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Poll<io::Result<usize>> {
        let bytes = self.sessions.budget.read_bytes(self.reads_from_backend.bytes());
        let room = &mut scratch.incoming[..bytes];
        let mut buffer = ReadBuf::new(room);
        ready!(Pin::new(&mut *self.backend).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}
