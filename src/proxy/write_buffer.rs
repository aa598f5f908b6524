//! Bytes that a socket would not take yet.
//!
//! **Promises.** It owns memory only while it holds bytes, and for little more than those that the
//! socket has not taken yet: peers that are stuck for hours keep no whole reads. Whoever pushes waits
//! until it is empty before it reads more, so what it holds is bounded by one read.
//!
//! **Not here.** Which socket, and what its errors mean (`relay.rs`, `tls/stream.rs`).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Bytes on their way to one socket.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
}

impl Unsent {
    pub(crate) const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, sent: 0 }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// What is left to send.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Where more bytes can be appended.
    pub(crate) const fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Writes everything, then frees the memory. A socket that takes no more keeps just the rest.
    pub(crate) fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            match poll_write_some(to, cx, &[IoSlice::new(self.rest())]) {
                Poll::Ready(written) => self.sent += written?,
                Poll::Pending => {
                    self.give_back();
                    return Poll::Pending;
                }
            }
        }
        *self = Self::default();
        Poll::Ready(Ok(()))
    }

    /// Frees what has been sent, once it is a quarter of what is owned: a slow socket's rest is copied
    /// three times over at the most.
    fn give_back(&mut self) {
        if self.sent > 0 && self.sent >= self.bytes.capacity() / 4 {
            *self = Self::new(self.rest().to_vec());
        }
    }

    /// Writes as much of `data` as the socket takes now and keeps the rest, also if it takes no more
    /// for ever. Only while empty.
    pub(crate) fn push<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> io::Result<()> {
        debug_assert!(self.is_empty(), "what came first goes first");
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

    /// The same for all of `chunks`, which are taken out.
    pub(crate) fn push_all<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
        chunks: &mut Vec<Vec<u8>>,
    ) -> io::Result<()> {
        debug_assert!(self.is_empty(), "what came first goes first");
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

/// Copies what stands behind the first `sent` bytes of `chunks`.
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

/// Chunks that are written by one call: what a read of 256 KiB makes, and a key_update.
const CHUNKS: usize = 17;

/// Writes what stands behind the first `sent` bytes of `chunks`.
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

/// Writes as much of `slices`, which are not all empty, as the socket takes.
fn poll_write_some<W: AsyncWrite + Unpin>(
    to: &mut W,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let written = match slices {
        // A mere write tells tokio, by being short, that the socket is full.
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
