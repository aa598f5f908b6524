//! Dials the legacy server.
//!
//! **Promises.** Every address of a name is tried before the one deadline, which does not include the
//! look-up. A stalled address cannot eat the time of those behind it. Where none answers, the name is
//! looked up again, and what it leads to by now is tried. What is connected is somebody else's socket.
//! What we lack ourselves is not the backend's fault.
//!
//! **Not here.** Which backend (`route.rs`), the look-up of its name (`proxy/backend/lookup.rs`). Nothing here is
//! remembered: a backend that comes back is found by the next connection.

pub(crate) mod lookup;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use self::lookup::{Found, LookupError};
use super::socket::{self, Interest, Shortage};
use crate::config::{BackendAddress, Tcp};
use crate::terms::reason::Reason;
use crate::text::Shown;

/// How long to wait for room in the backlog of a Unix socket, which unlike TCP's does not wait.
const BACKLOG_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// A connection to a legacy server.
#[derive(Debug)]
pub(crate) enum BackendStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Why there is no connection to the backend.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("no answer from the backend within {0:?}")]
    Timeout(Duration),
    #[error("cannot connect to the backend at {address}: {cause}")]
    Connect { address: String, cause: io::Error },
    #[error("cannot dial the backend at {address}: {cause}")]
    Shortage { address: String, shortage: Shortage, cause: io::Error },
}

impl ConnectError {
    /// What a socket's error says of an attempt to connect.
    fn of(address: String, cause: io::Error) -> Self {
        match socket::shortage(&cause) {
            Some(shortage) => Self::Shortage { address, shortage, cause },
            None => Self::Connect { address, cause },
        }
    }

    /// Whether another address may do better.
    const fn is_of_the_backend(&self) -> bool {
        match self {
            Self::Timeout(_) | Self::Connect { .. } => true,
            Self::Lookup(_) | Self::Shortage { .. } => false,
        }
    }

    /// The stable reason for this error.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Lookup(LookupError::NoThread(_)) => Reason::ProxyThreadLimit,
            Self::Lookup(LookupError::Failed(cause)) => {
                socket::shortage(cause).map_or(Reason::BackendUnreachable, Shortage::reason)
            }
            Self::Lookup(LookupError::NoAddress | LookupError::Slow(_)) => {
                Reason::BackendUnreachable
            }
            Self::Timeout(_) => Reason::BackendTimeout,
            Self::Connect { cause, .. } => match cause.kind() {
                io::ErrorKind::ConnectionRefused => Reason::BackendRefused,
                // It was taken and dropped before we had noticed that it was taken.
                io::ErrorKind::ConnectionReset => Reason::BackendReset,
                io::ErrorKind::TimedOut => Reason::BackendTimeout,
                io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                // The path of a Unix socket that is not there.
                | io::ErrorKind::NotFound => Reason::BackendUnreachable,
                _ => Reason::BackendError,
            },
            Self::Shortage { shortage, .. } => shortage.reason(),
        }
    }
}

/// Connects to a backend within `timeout`. A name that has not been resolved yet is waited for before.
///
/// # Errors
/// The last address's failure, if none answered.
pub(crate) async fn connect(
    backend: &BackendAddress,
    timeout: Duration,
    options: Tcp,
) -> Result<BackendStream, ConnectError> {
    let (host, port) = match backend {
        BackendAddress::Unix(path) => {
            let connecting = tokio::time::timeout(timeout, connect_unix(path)).await;
            let connected = connecting.unwrap_or(Err(ConnectError::Timeout(timeout)));
            return connected.map(BackendStream::Unix);
        }
        BackendAddress::Tcp { host, port } => (host, *port),
    };
    let found = lookup::addresses(host, timeout).await?;
    let connect = async |found: &Found| {
        let addresses = found.addresses.iter().map(|&address| SocketAddr::new(address, port));
        let addresses: Vec<_> = addresses.collect();
        connect_any(&addresses, Instant::now() + timeout, timeout, options).await
    };
    let connected = match connect(&found).await {
        // The name may lead elsewhere by now.
        Err(error) if error.is_of_the_backend() => match found.others().await {
            Some(others) => connect(&others).await,
            None => Err(error),
        },
        connected => connected,
    };
    connected.map(BackendStream::Tcp)
}

/// Tries one address after the other, each for its share of the time that is left.
async fn connect_any(
    addresses: &[SocketAddr],
    deadline: Instant,
    whole: Duration,
    options: Tcp,
) -> Result<TcpStream, ConnectError> {
    let mut last = ConnectError::from(LookupError::NoAddress);
    for (tried, &address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        last = match timeout(share, dial(address, options)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(cause)) => ConnectError::of(address.to_string(), cause),
            Err(_) => ConnectError::Timeout(whole),
        };
    }
    Err(last)
}

async fn dial(address: SocketAddr, options: Tcp) -> io::Result<TcpStream> {
    let tcp = not_ours(TcpStream::connect(address).await?, address)?;
    // Best effort: a backend that has gone already is noticed by the relay.
    let _refused = socket::set_dialled_options(&tcp, address, options);
    Ok(tcp)
}

/// Refuses a socket that is connected to itself. To a port of this machine where nobody listens, the
/// kernel may dial from that very port, and takes the two for both ends of a simultaneous open (RFC
/// 9293 section 3.5): the device would hear itself, and the backend could not bind its port.
fn not_ours(tcp: TcpStream, dialled: SocketAddr) -> io::Result<TcpStream> {
    let ours = tcp.local_addr()?;
    if ours.port() != dialled.port() || ours != tcp.peer_addr()? {
        return Ok(tcp);
    }
    // No TIME_WAIT either, for it would keep the port.
    socket::reset_on_close(&tcp);
    Err(io::ErrorKind::ConnectionRefused.into())
}

async fn connect_unix(path: &Path) -> Result<UnixStream, ConnectError> {
    loop {
        match UnixStream::connect(path).await {
            Ok(unix) => return Ok(unix),
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => {
                sleep(BACKLOG_RETRY_INTERVAL).await;
            }
            Err(cause) => return Err(ConnectError::of(Shown(path).to_string(), cause)),
        }
    }
}

/// Asks the kernel whether a client's socket or its backend's is ready.
pub(crate) fn either_is_ready(
    (client, of_client): (&TcpStream, Interest),
    (backend, of_backend): (&BackendStream, Interest),
) -> bool {
    socket::is_ready(client, of_client) || backend.is_ready(of_backend)
}

impl BackendStream {
    /// Asks the kernel whether it is ready.
    fn is_ready(&self, interest: Interest) -> bool {
        match self {
            Self::Tcp(tcp) => socket::is_ready(tcp, interest),
            Self::Unix(unix) => socket::is_ready(unix, interest),
        }
    }

    /// Makes the close that follows a reset: the backend must not take a cut stream for a whole
    /// one. A Unix socket knows no reset.
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
        // A socket has nothing to flush: what it took, it sends.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, SockRef, Socket, Type};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    const WHOLE: Duration = Duration::from_secs(2);

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    async fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address whose backlog is full: the kernel drops what would connect.
    async fn stalled() -> (Socket, TcpStream, SocketAddr) {
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&loopback().into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let waiting = TcpStream::connect(address).await.unwrap();
        (full, waiting, address)
    }

    async fn refusing() -> SocketAddr {
        listening().await.1
    }

    #[tokio::test]
    async fn every_address_is_tried_and_a_stalled_one_leaves_time_for_those_behind_it() {
        let (_full, _waiting, stalled) = stalled().await;
        let (_listener, good) = listening().await;
        let addresses = [refusing().await, stalled, good];
        let start = Instant::now();
        let tcp = connect_any(&addresses, start + WHOLE, WHOLE, Tcp::default()).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), good);
        // The stalled one had half of what was left, no more and no less.
        assert!(start.elapsed() >= WHOLE / 3 && start.elapsed() < WHOLE, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn where_no_address_answers_the_last_ones_failure_is_told() {
        let (_full, _waiting, stalled) = stalled().await;
        let refusing = refusing().await;
        let whole = Duration::from_millis(200);
        for (addresses, reason) in [
            (&[stalled, refusing][..], Reason::BackendRefused),
            (&[refusing, stalled], Reason::BackendTimeout),
            (&[], Reason::BackendUnreachable),
        ] {
            let failed = connect_any(addresses, Instant::now() + whole, whole, Tcp::default());
            let failed = failed.await.unwrap_err();
            assert_eq!(failed.reason(), reason, "{addresses:?}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_has_dialled_itself_is_refused_and_leaves_its_port_free() {
        let address = refusing().await;
        // What the kernel does by chance where it picks the port.
        let dialling = TcpSocket::new_v4().unwrap();
        dialling.bind(address).unwrap();
        let tcp = dialling.connect(address).await.unwrap();
        assert_eq!(not_ours(tcp, address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        // Without SO_REUSEADDR, which looks past a TIME_WAIT.
        let backend = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        backend.bind(&address.into()).unwrap();
    }

    #[tokio::test]
    async fn a_dialled_socket_has_the_options_of_the_configuration() {
        let (_listener, address) = listening().await;
        let backend = address.to_string().parse::<BackendAddress>().unwrap();
        let options = Tcp {
            keepalive: Some(Duration::from_secs(40)),
            user_timeout: Some(Duration::from_secs(90)),
        };
        let BackendStream::Tcp(tcp) = connect(&backend, WHOLE, options).await.unwrap() else {
            panic!("it was dialled by TCP");
        };
        let dialled = SockRef::from(&tcp);
        // This machine's own sockets need no keepalive.
        assert!(dialled.tcp_nodelay().unwrap() && !dialled.keepalive().unwrap());
        assert_eq!(dialled.tcp_user_timeout().unwrap(), Some(Duration::from_secs(90)));

        socket::set_dialled_options(&tcp, ([192, 0, 2, 1], 1).into(), options).unwrap();
        assert!(dialled.keepalive().unwrap());
        assert_eq!(dialled.tcp_keepalive_time().unwrap(), Duration::from_secs(40));
        assert_eq!(dialled.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(dialled.tcp_keepalive_retries().unwrap(), 4);
    }
}
