//! A connection to a backend, by TCP or by a Unix socket.
//!
//! **Not here.** The connect (`backend.rs`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::proxy::socket::{self, Interest};

/// A connection to a backend.
#[derive(Debug)]
pub(crate) enum BackendStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Asks the kernel whether the client's or the backend's socket is ready.
pub(crate) fn either_is_ready(
    (client, of_client): (&TcpStream, Interest),
    (backend, of_backend): (&BackendStream, Interest),
) -> bool {
    socket::is_ready(client, of_client) || backend.is_ready(of_backend)
}

impl BackendStream {
    /// Asks the kernel whether the socket is ready.
    fn is_ready(&self, interest: Interest) -> bool {
        match self {
            Self::Tcp(tcp) => socket::is_ready(tcp, interest),
            Self::Unix(unix) => socket::is_ready(unix, interest),
        }
    }

    /// Makes the next close send a reset, so that the backend does not take a truncated stream for a complete
    /// one. Unix sockets have no reset.
    pub(crate) fn reset_on_close(&self) {
        if let Self::Tcp(tcp) = self {
            socket::reset_on_close(tcp);
        }
    }
}

impl AsyncRead for BackendStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for BackendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have no buffer of ours to flush.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}
