//! Bytes that a socket has not taken yet.
//!
//! **Promises.** A buffer owns memory only while it holds bytes, and little more than these bytes need: a
//! peer that is stuck for hours does not keep the memory of a whole read. Its users read no more input until
//! it is empty, so one read bounds its size.
//!
//! **Not here.** The sockets and the meaning of their errors (`relay.rs`, `tls/stream.rs`).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Bytes not yet written to one socket.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    bytes: Vec<u8>,
    sent: usize,
}

impl WriteBuffer {
    pub(crate) const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, sent: 0 }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Returns the bytes that are left to send.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Returns the vector to append more bytes to.
    pub(crate) const fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Leaves out the next bytes, which were sent in another way.
    pub(crate) const fn advance(&mut self, sent: usize) {
        self.sent += sent;
    }

    /// Writes everything, then frees the memory. If the socket takes no more, only the rest is kept.
    pub(crate) fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            match poll_write_some(to, cx, &[IoSlice::new(self.rest())]) {
                Poll::Ready(written) => self.sent += written?,
                Poll::Pending => {
                    self.free_sent();
                    return Poll::Pending;
                }
            }
        }
        *self = Self::default();
        Poll::Ready(Ok(()))
    }

    /// Frees the sent bytes once they are a quarter of the memory: the rest for a slow socket is copied at
    /// most three times over.
    fn free_sent(&mut self) {
        if self.sent > 0 && self.sent >= self.bytes.capacity() / 4 {
            *self = Self::new(self.rest().to_vec());
        }
    }

    /// Writes as much of `data` as the socket takes now and keeps the rest, even after an error. The buffer
    /// must be empty.
    pub(crate) fn push<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> io::Result<()> {
        debug_assert!(self.is_empty(), "bytes keep their order");
        let mut rest = data;
        let mut pushed = Ok(());
        while !rest.is_empty() && pushed.is_ok() {
            match poll_write_some(to, cx, &[IoSlice::new(rest)]) {
                Poll::Ready(Ok(written)) => rest = &rest[written..],
                Poll::Ready(Err(error)) => pushed = Err(error),
                Poll::Pending => break,
            }
        }
        if !rest.is_empty() {
            *self = Self::new(rest.to_vec());
        }
        pushed
    }

    /// Writes `chunks` like [`Self::push`], and clears them.
    pub(crate) fn push_all<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
        chunks: &mut Vec<Vec<u8>>,
    ) -> io::Result<()> {
        debug_assert!(self.is_empty(), "bytes keep their order");
        let whole = chunks.iter().map(Vec::len).sum();
        let mut sent = 0;
        let mut pushed = Ok(());
        while sent < whole && pushed.is_ok() {
            match poll_write_rest(to, cx, chunks, sent) {
                Poll::Ready(Ok(written)) => sent += written,
                Poll::Ready(Err(error)) => pushed = Err(error),
                Poll::Pending => break,
            }
        }
        if sent < whole {
            *self = Self::new(rest_of(chunks, sent));
        }
        chunks.clear();
        pushed
    }
}

/// Copies the bytes of `chunks` that follow the first `sent` bytes.
fn rest_of(chunks: &[Vec<u8>], mut sent: usize) -> Vec<u8> {
    let whole: usize = chunks.iter().map(Vec::len).sum();
    let mut rest = Vec::with_capacity(whole - sent);
    for chunk in chunks {
        let skipped = sent.min(chunk.len());
        sent -= skipped;
        rest.extend_from_slice(&chunk[skipped..]);
    }
    rest
}

/// Chunks in one call of writev: the records of a 256 KiB read, and a key_update.
const CHUNKS: usize = 17;

/// Writes the bytes of `chunks` that follow the first `sent` bytes.
fn poll_write_rest<W: AsyncWrite + Unpin>(
    to: &mut W,
    cx: &mut Context<'_>,
    chunks: &[Vec<u8>],
    mut sent: usize,
) -> Poll<io::Result<usize>> {
    let mut slices = [IoSlice::new(&[]); CHUNKS];
    let mut filled = 0;
    for chunk in chunks {
        let skipped = sent.min(chunk.len());
        sent -= skipped;
        if skipped < chunk.len() && filled < CHUNKS {
            slices[filled] = IoSlice::new(&chunk[skipped..]);
            filled += 1;
        }
    }
    poll_write_some(to, cx, &slices[..filled])
}

/// Writes as much of `slices` as the socket takes. They must not all be empty.
fn poll_write_some<W: AsyncWrite + Unpin>(
    to: &mut W,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let written = match slices {
        // A short plain write tells tokio that the socket is full, which saves a system call.
        [only] => Pin::new(to).poll_write(cx, only),
        slices => Pin::new(to).poll_write_vectored(cx, slices),
    };
    match ready!(written)? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}

#[cfg(test)]
mod tests;
