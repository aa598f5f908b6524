//! A client's socket whose bytes a trace may mirror.
//!
//! **Promises.** Without a tracer, a read or a write costs one branch more. Exactly the bytes that the socket has returned or
//! taken are mirrored.
//!
//! **Not here.** The traces that select a connection, and the bounds of mirrored bytes (`sessions/trace/packets.rs`).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::sessions::trace::Tracer;
use crate::sessions::trace::step::Sender;

/// A borrowed socket with the tracer of its connection.
pub(crate) struct Mirrored<'a, Io> {
    io: &'a mut Io,
    tracer: Option<&'a Tracer>,
}

impl<'a, Io> Mirrored<'a, Io> {
    pub(crate) const fn new(io: &'a mut Io, tracer: Option<&'a Tracer>) -> Self {
        Self { io, tracer }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Mirrored<'_, Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.io).poll_read(cx, buffer))?;
        if let Some(tracer) = self.tracer {
            tracer.mirror(Sender::Device, &buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Mirrored<'_, Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.io).poll_write(cx, bytes))?;
        if let Some(tracer) = self.tracer {
            tracer.mirror(Sender::Tlsidecar, &bytes[..written]);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.io).poll_write_vectored(cx, slices))?;
        if let Some(tracer) = self.tracer {
            let mut left = written;
            for slice in slices {
                let taken = left.min(slice.len());
                tracer.mirror(Sender::Tlsidecar, &slice[..taken]);
                left -= taken;
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }
}
