//! Reads the header of an accepted socket.
//!
//! **Promises.** Bytes behind the header stay in the socket for TLS. A peer that sends nothing costs no buffer.
//!
//! **Not here.** The formats (`parse.rs`).

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::header::{Header, HeaderFault, MAX_HEADER_BYTES};
use super::parse::parse;
use crate::config;
use crate::proxy::socket;
use crate::proxy::tls::scratch;
use crate::sessions::ForwardedAddresses;
use crate::terms::reason::Reason;

/// Reason for a missing or refused header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveHeaderError {
    #[error("no PROXY protocol header within {within:?}, after {received} bytes")]
    Slow { received: usize, within: Duration },
    #[error("closed without a byte")]
    Probe,
    #[error("closed after {received} bytes of a PROXY protocol header")]
    Eof { received: usize },
    #[error(transparent)]
    Fault(#[from] HeaderFault),
    #[error(transparent)]
    Io(io::Error),
}

impl ReceiveHeaderError {
    /// Returns the reason for this error.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Slow { .. } | Self::Eof { .. } | Self::Fault(_) => Reason::ProxyHeaderInvalid,
            Self::Probe => Reason::ClientProbe,
            Self::Io(error) if socket::is_lost(error) => Reason::ClientLost,
            Self::Io(_) => Reason::ClientReset,
        }
    }
}

/// Reads the header of a connection from `peer`, if it must begin with one. Returns the addresses in it.
///
/// # Errors
/// If no valid header arrives in time.
pub(crate) async fn receive(
    tcp: &TcpStream,
    peer: SocketAddr,
    listener: &config::ListenerConfig,
) -> Result<Option<ForwardedAddresses>, ReceiveHeaderError> {
    if !listener.proxy_protocol.expects_header(peer.ip()) {
        return Ok(None);
    }
    let within = listener.timeouts.hello;
    let mut received = Vec::new();
    match timeout(within, read(tcp, &mut received)).await {
        Ok(header) => Ok(header?.addresses),
        Err(_) => Err(ReceiveHeaderError::Slow { received: received.len(), within }),
    }
}

async fn read(tcp: &TcpStream, received: &mut Vec<u8>) -> Result<Header, ReceiveHeaderError> {
    loop {
        if let Some(header) = poll_fn(|cx| poll_some(tcp, received, cx)).await? {
            return Ok(header);
        }
    }
}

/// Looks at the bytes that have arrived, and takes those of the header.
fn poll_some(
    tcp: &TcpStream,
    received: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Header>, ReceiveHeaderError>> {
    scratch::with(|scratch| {
        let before = received.len();
        let mut seen = ReadBuf::new(&mut scratch.incoming[..MAX_HEADER_BYTES - before]);
        match ready!(tcp.poll_peek(cx, &mut seen)) {
            Ok(0) if before == 0 => return Poll::Ready(Err(ReceiveHeaderError::Probe)),
            Ok(0) => return Poll::Ready(Err(ReceiveHeaderError::Eof { received: before })),
            Ok(_) => received.extend_from_slice(seen.filled()),
            // Load balancers end their health checks by a reset or by a close.
            Err(error) if before == 0 && error.kind() == io::ErrorKind::ConnectionReset => {
                return Poll::Ready(Err(ReceiveHeaderError::Probe));
            }
            Err(error) => return Poll::Ready(Err(ReceiveHeaderError::Io(error))),
        }
        let header = parse(received)?;
        let taken = header.map_or(received.len(), |header| header.length) - before;
        // The kernel has these bytes: one read returns them all.
        let read = tcp.try_read(&mut scratch.incoming[..taken]).map_err(ReceiveHeaderError::Io)?;
        debug_assert_eq!(read, taken, "the bytes were seen");
        Poll::Ready(Ok(header))
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (peer.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_behind_the_header_stay_in_the_socket_however_it_is_split() {
        let sent = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nhello";
        let whole = sent.len() - 5;
        for part in [1, 7, whole - 1, whole, sent.len()] {
            let (mut peer, mut tcp) = pair().await;
            peer.set_nodelay(true).unwrap();
            let writing = tokio::spawn(async move {
                for part in sent.chunks(part) {
                    peer.write_all(part).await.unwrap();
                    tokio::task::yield_now().await;
                }
                peer
            });
            let header = read(&tcp, &mut Vec::new()).await.unwrap();
            assert_eq!(header.length, whole);
            let mut behind = [0; 5];
            tcp.read_exact(&mut behind).await.unwrap();
            assert_eq!(&behind, b"hello");
            drop(writing.await.unwrap());
        }
    }
}
