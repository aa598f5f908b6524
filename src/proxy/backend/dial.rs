//! Dials the addresses of a host in turn. Serves connections to the backend and `tlsidecar probe`.
//!
//! **Promises.** All addresses together take no longer than the deadline. Each gets an equal share of the time that
//! is left, so that one that does not answer leaves time for those behind it. A returned socket is connected to
//! another socket, never to itself.
//!
//! **Not here.** Name look-ups (`lookup.rs`), socket options (`proxy/socket.rs`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use crate::proxy::socket;
use crate::transparent;

/// Pause before a Unix socket with a full backlog is dialled again. connect(2) to one fails with EAGAIN, where TCP
/// waits.
const BACKLOG_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// A connected socket.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) tcp: TcpStream,
    pub(crate) address: SocketAddr,
    /// Time that this address took.
    pub(crate) took: Duration,
}

/// An address that did not connect.
#[derive(Debug)]
pub(crate) enum DialError {
    /// No answer within this address's share of the time.
    Timeout(Duration),
    /// The system call failed.
    Io(io::Error),
    /// The address of the client cannot be used as source.
    Source(io::Error),
}

/// Returns a socket connected to the first of `addresses` that answers before `deadline`, or none. Calls `failed`
/// for each address that did not connect. With a `source`, connects from that address, and only to those of its family.
pub(crate) async fn first_of(
    addresses: &[SocketAddr],
    source: Option<IpAddr>,
    deadline: Instant,
    mut failed: impl FnMut(SocketAddr, DialError),
) -> Option<Dialled> {
    for (tried, &address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let start = Instant::now();
        let share = deadline.saturating_duration_since(start) / left;
        match timeout(share, dial(address, source)).await {
            Ok(Ok(tcp)) => return Some(Dialled { tcp, address, took: start.elapsed() }),
            Ok(Err(error)) => failed(address, error),
            Err(_) => failed(address, DialError::Timeout(share)),
        }
    }
    None
}

async fn dial(address: SocketAddr, source: Option<IpAddr>) -> Result<TcpStream, DialError> {
    let connected = match source {
        None => TcpStream::connect(address).await,
        Some(source) if source.is_ipv4() != address.is_ipv4() => {
            return Err(DialError::Source(io::Error::other("not of the same address family")));
        }
        Some(source) => {
            let socket = transparent::socket(source).map_err(DialError::Source)?;
            socket.connect(address).await
        }
    };
    connected.and_then(|tcp| refuse_self_connect(tcp, address)).map_err(DialError::Io)
}

/// Refuses a socket that is connected to itself. When the kernel picks as source port a local port on which no
/// process listens, and that port is also the destination, it treats the two as a simultaneous open (RFC 9293
/// section 3.5): the device would receive its own bytes, and the backend could not bind its port.
fn refuse_self_connect(tcp: TcpStream, dialled: SocketAddr) -> io::Result<TcpStream> {
    let local = tcp.local_addr()?;
    if local.port() != dialled.port() || local != tcp.peer_addr()? {
        return Ok(tcp);
    }
    // A reset leaves no TIME_WAIT, which would keep the port.
    socket::reset_on_close(&tcp);
    Err(io::ErrorKind::ConnectionRefused.into())
}

/// Connects to a Unix socket. Waits while its backlog is full.
///
/// # Errors
/// The error of connect(2).
pub(super) async fn unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => {
                sleep(BACKLOG_RETRY_INTERVAL).await;
            }
            connected => return connected,
        }
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};
    use tokio::net::TcpSocket;

    use super::*;

    #[tokio::test]
    async fn a_socket_that_has_dialled_itself_is_refused_and_leaves_its_port_free() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // The kernel does this by chance where it picks the port.
        let dialling = TcpSocket::new_v4().unwrap();
        dialling.bind(free).unwrap();
        let tcp = dialling.connect(free).await.unwrap();
        let refused = refuse_self_connect(tcp, free).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        // Without SO_REUSEADDR, which ignores a TIME_WAIT.
        let backend = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        backend.bind(&free.into()).unwrap();
    }
}
