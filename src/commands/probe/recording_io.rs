//! A socket that records the first bytes of each direction.
//!
//! **Promises.** At most [`FIRST_BYTES`] of each direction are kept.
//!
//! **Not here.** Their interpretation (`failure.rs`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The limit of recorded bytes: enough to identify TLS and other protocols.
const FIRST_BYTES: usize = 128;

/// A socket that records the first bytes of each direction.
#[derive(Debug)]
pub(super) struct RecordingIo<Io> {
    io: Io,
    /// The first bytes from the server.
    pub(super) from_server: Vec<u8>,
    /// The first bytes to the server.
    pub(super) to_server: Vec<u8>,
}

impl<Io> RecordingIo<Io> {
    pub(super) fn new(io: Io) -> Self {
        Self { io, from_server: Vec::new(), to_server: Vec::new() }
    }
}

fn record(first: &mut Vec<u8>, more: &[u8]) {
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
        record(&mut this.from_server, &buffer.filled()[before..]);
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
            record(&mut this.to_server, &bytes[..written]);
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
