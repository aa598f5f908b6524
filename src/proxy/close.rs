//! Ends a connection so that the last words arrive.
//!
//! Closing a socket that still has unread bytes makes the kernel send a reset, and a reset makes
//! the peer's kernel forget what it had not read yet: the alert that says why, the answer's end.
//! So our direction is ended first, and the peer is listened to until it ends its own (RFC 1122
//! section 4.2.2.13; nginx's `lingering_close`).
//!
//! **Promises.** It takes a second at the most, whatever the peer does.
//!
//! **Not here.** What the last words are (`tls.rs`), and the close by a reset (`socket.rs`).

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::tls::scratch;

/// How long a peer may take to end its side. One round trip is enough for one that listens.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends `last_words`, ends our direction and waits for the peer to end its own; not for long.
pub(crate) async fn linger<Io: AsyncRead + AsyncWrite + Unpin>(io: &mut Io, last_words: &[u8]) {
    let closing = async {
        io.write_all(last_words).await?;
        io.shutdown().await?;
        while read_and_forget(io).await? > 0 {}
        std::io::Result::Ok(())
    };
    // A peer that is gone has no use for last words, and one that is late has had its time.
    let _gone_or_late = timeout(LINGER_TIMEOUT, closing).await;
}

async fn read_and_forget<Io: AsyncRead + Unpin>(io: &mut Io) -> std::io::Result<usize> {
    poll_fn(|cx| {
        scratch::with(|scratch| {
            let mut buffer = ReadBuf::new(&mut scratch.incoming);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut buffer))?;
            Poll::Ready(Ok(buffer.filled().len()))
        })
    })
    .await
}
