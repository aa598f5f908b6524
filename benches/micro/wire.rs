//! A socket in memory, without a waker, a lock or a system call: what is measured is ours.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both ends of it: one is the program's, the other fills it and looks at what it was given.
#[derive(Clone, Default)]
pub struct Wire(Rc<RefCell<Ends>>);

#[derive(Default)]
struct Ends {
    /// What the peer says, each to be read by itself.
    said: Vec<Vec<u8>>,
    /// How many of them have arrived.
    arrived: usize,
    /// How much of the last has been read.
    read: usize,
    /// What was written, if it is kept.
    written: Vec<u8>,
    /// Whether what is written is but counted.
    forgets: bool,
    taken: usize,
}

impl Wire {
    /// Lets the peer say `said`, once [`Self::arrive`] has been called so many times; what it has
    /// said before is forgotten.
    pub fn say(&self, said: Vec<Vec<u8>>) {
        let mut ends = self.0.borrow_mut();
        ends.said = said;
        ends.arrived = 0;
    }

    /// The next of what the peer says can be read.
    pub fn arrive(&self) {
        let mut ends = self.0.borrow_mut();
        ends.arrived += 1;
        ends.read = 0;
    }

    /// What has been written since the last time.
    pub fn hear(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.borrow_mut().written)
    }

    /// From now on what is written is but counted.
    pub fn forget(&self) {
        self.0.borrow_mut().forgets = true;
    }

    /// How many bytes have been written in all.
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
        let rest = &ends.said[last][ends.read..];
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
        if !ends.forgets {
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
