//! A socket in memory, without wakers, locks or system calls, so that only the proxy's work is measured.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both ends of the socket: the program reads and writes one, the bench fills and inspects the other.
#[derive(Clone, Default)]
pub struct Wire(Rc<RefCell<Ends>>);

#[derive(Default)]
struct Ends {
    /// Bytes from the peer, one entry per read.
    script: Vec<Vec<u8>>,
    /// Number of entries that have arrived.
    arrived: usize,
    /// Number of read bytes of the current entry.
    read: usize,
    /// Written bytes, if they are kept.
    written: Vec<u8>,
    /// Written bytes are only counted.
    discards_writes: bool,
    taken: usize,
}

impl Wire {
    /// Replaces the bytes from the peer by `script`. Each call of [`Self::arrive`] makes one entry readable.
    pub fn script(&self, script: Vec<Vec<u8>>) {
        let mut ends = self.0.borrow_mut();
        ends.script = script;
        ends.arrived = 0;
    }

    /// Makes the next entry readable.
    pub fn arrive(&self) {
        let mut ends = self.0.borrow_mut();
        ends.arrived += 1;
        ends.read = 0;
    }

    /// Returns the bytes written since the last call.
    pub fn take_written(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.borrow_mut().written)
    }

    /// Only counts written bytes from now on.
    pub fn discard_writes(&self) {
        self.0.borrow_mut().discards_writes = true;
    }

    /// Returns the total number of written bytes.
    pub fn taken(&self) -> usize {
        self.0.borrow().taken
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut ends = self.0.borrow_mut();
        let Some(last) = ends.arrived.checked_sub(1) else { return Poll::Pending };
        let rest = &ends.script[last][ends.read..];
        let read = rest.len().min(buffer.remaining());
        if read == 0 {
            return Poll::Pending;
        }
        buffer.put_slice(&rest[..read]);
        ends.read += read;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut ends = self.0.borrow_mut();
        ends.taken += bytes.len();
        if !ends.discards_writes {
            ends.written.extend_from_slice(bytes);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
