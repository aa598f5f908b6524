//! A socket that remembers the first bytes of either direction.
//!
//! **Promises.** It holds at most [`FIRST_BYTES`] of each.
//!
//! **Not here.** What they mean (`attempt.rs`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As much as tells TLS from anything else, and what else it is.
const FIRST_BYTES: usize = 128;

/// A socket, tapped.
#[derive(Debug)]
pub(super) struct RecordingIo<Io> {
    io: Io,
    /// The first bytes from the server.
    pub(super) heard: Vec<u8>,
    /// The first bytes to the server.
    pub(super) said: Vec<u8>,
}

impl<Io> RecordingIo<Io> {
    pub(super) fn new(io: Io) -> Self {
        Self { io, heard: Vec::new(), said: Vec::new() }
    }
}

fn keep(first: &mut Vec<u8>, more: &[u8]) {
    let room = FIRST_BYTES.saturating_sub(first.len());
    first.extend_from_slice(&more[..more.len().min(room)]);
}

impl<Io: AsyncRead + Unpin> AsyncRead for RecordingIo<Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let done = Pin::new(&mut this.io).poll_read(context, buffer);
        keep(&mut this.heard, &buffer.filled()[before..]);
        done
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for RecordingIo<Io> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.io).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = done {
            keep(&mut this.said, &bytes[..written]);
        }
        done
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}
