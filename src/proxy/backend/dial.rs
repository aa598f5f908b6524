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

use socket2::{Domain, Socket};
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
    let socket = match source {
        None => socket::nonblocking(Domain::for_address(address)).map_err(DialError::Io)?,
        Some(source) if source.is_ipv4() != address.is_ipv4() => {
            return Err(DialError::Source(io::Error::other("not of the same address family")));
        }
        Some(source) => transparent::socket(source).map_err(DialError::Source)?,
    };
    let connected = connect(socket, address).await;
    connected.and_then(|tcp| refuse_self_connect(tcp, address)).map_err(DialError::Io)
}

/// Connects a socket, as `TcpStream::connect` of tokio does, but without a wait for the event of a backend on this machine:
/// there the kernel has exchanged the segments when connect(2) returns, although it returns EINPROGRESS
/// (`inet_stream_connect` in Linux).
async fn connect(socket: Socket, address: SocketAddr) -> io::Result<TcpStream> {
    socket.connect(&address.into()).or_else(socket::unless_in_progress)?;
    let is_connected = socket.peer_addr().is_ok();
    let tcp = TcpStream::from_std(socket.into())?;
    if !is_connected {
        tcp.writable().await?;
        tcp.take_error()?.map_or(Ok(()), Err)?;
    }
    Ok(tcp)
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
    use socket2::Type;

    use super::*;

    #[tokio::test]
    async fn a_socket_that_has_dialled_itself_is_refused_and_leaves_its_port_free() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // The kernel does this by chance where it picks the port.
        let dialling = socket::nonblocking(Domain::IPV4).unwrap();
        dialling.bind(&free.into()).unwrap();
        let tcp = connect(dialling, free).await.unwrap();
        let refused = refuse_self_connect(tcp, free).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        // Without SO_REUSEADDR, which ignores a TIME_WAIT.
        let backend = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        backend.bind(&free.into()).unwrap();
    }

    #[tokio::test]
    async fn a_backend_of_this_machine_is_connected_without_a_wait() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Of a few: on a busy machine the kernel may put the segments off.
        let connected = (0..10).any(|_| {
            let socket = socket::nonblocking(Domain::IPV4).unwrap();
            let mut connecting = std::pin::pin!(connect(socket, address));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            connecting.as_mut().poll(&mut cx).is_ready()
        });
        assert!(connected);
    }

    #[tokio::test]
    async fn a_backend_that_refuses_is_an_error() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let socket = socket::nonblocking(Domain::IPV4).unwrap();
        let refused = connect(socket, address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
