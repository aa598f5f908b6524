//! Closes a connection so that the final bytes are delivered.
//!
//! If a socket with unread bytes is closed, the kernel sends a reset, and the peer's kernel then discards bytes that
//! its application has not read: the final alert, the end of an answer. So our direction is ended first, and the peer
//! is read until it ends its own (RFC 1122 section 4.2.2.13; nginx's `lingering_close`).
//!
//! **Promises.** The close takes at most a second, whatever the peer does.
//!
//! **Not here.** The final alert (`tls.rs`), the close by a reset (`socket.rs`).

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::tls::scratch;

/// Time for a peer to end its direction. One round trip suffices for a peer that reads.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes `unsent`, ends our direction, and reads until the peer ends its own, for at most a second.
pub(crate) async fn linger<Io: AsyncRead + AsyncWrite + Unpin>(io: &mut Io, unsent: &[u8]) {
    let closing = async {
        io.write_all(unsent).await?;
        io.shutdown().await?;
        read_to_end(io).await
    };
    // Best effort: the peer may have closed, or be too slow.
    let _closed_or_slow = timeout(LINGER_TIMEOUT, closing).await;
}

/// Reads until the peer ends its direction, for at most a second. Ours has ended.
pub(crate) async fn await_end<Io: AsyncRead + Unpin>(io: &mut Io) {
    let _closed_or_slow = timeout(LINGER_TIMEOUT, read_to_end(io)).await;
}

async fn read_to_end<Io: AsyncRead + Unpin>(io: &mut Io) -> std::io::Result<()> {
    while read_and_discard(io).await? > 0 {}
    Ok(())
}

async fn read_and_discard<Io: AsyncRead + Unpin>(io: &mut Io) -> std::io::Result<usize> {
    poll_fn(|cx| {
        scratch::with(|scratch| {
            let mut buffer = ReadBuf::new(&mut scratch.incoming);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut buffer))?;
            Poll::Ready(Ok(buffer.filled().len()))
        })
    })
    .await
}
