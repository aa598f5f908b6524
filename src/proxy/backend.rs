//! The legacy server behind a listener, and how a connection to it is made.
//!
//! **Promises.** A [`Backend`] is kept over reloads for as long as the configuration names its address, and its
//! state with it. `connect` tries every address of a name before one deadline, which does not include the look-up.
//! If no address answers, the name is looked up again and new addresses are tried. A lack of descriptors, memory or
//! threads in this process is never reported as the backend's fault.
//!
//! **Not here.** The selection of the backend (`route.rs`), name look-ups (`backend/lookup.rs`).

pub(crate) mod dial;
pub(crate) mod lookup;
mod stream;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

use self::dial::DialError;
use self::lookup::{LookupError, Resolved};
pub(crate) use self::stream::{BackendStream, either_is_ready};
use super::socket::{self, Shortage};
use crate::config::{BackendAddress, Tcp};
use crate::metrics::{BackendMetrics, ListenerMetrics};
use crate::terms::reason::Reason;
use crate::text::Shown;

/// A backend of one listener.
pub(crate) struct Backend {
    addresses: Addresses,
    /// Counts of connects, and whether the last one succeeded.
    metrics: Arc<BackendMetrics>,
}

/// The addresses that a backend is dialled at.
enum Addresses {
    Fixed(SocketAddr),
    /// A name, whose addresses are looked up.
    Named {
        host: Box<str>,
        port: u16,
    },
    Unix(PathBuf),
}

/// An error of a connect to the backend.
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

impl Backend {
    /// Returns the backend at `address`: the one of `before` if it has the same address and metrics.
    pub(crate) fn of<'a>(
        address: &BackendAddress,
        metrics: &ListenerMetrics,
        mut before: impl Iterator<Item = &'a Arc<Self>>,
    ) -> Arc<Self> {
        let metrics = metrics.backend(&address.to_string());
        // A reload announces its backends to the metrics before its snapshot is used. They keep the object of an
        // address while each configuration has it.
        let kept = before.find(|backend| Arc::ptr_eq(&backend.metrics, &metrics));
        kept.map_or_else(|| Arc::new(Self::new(address, metrics)), Arc::clone)
    }

    fn new(address: &BackendAddress, metrics: Arc<BackendMetrics>) -> Self {
        let addresses = match address {
            BackendAddress::Unix(path) => Addresses::Unix(path.clone()),
            BackendAddress::Tcp { host, port } => match host.parse::<IpAddr>() {
                Ok(ip) => Addresses::Fixed(SocketAddr::new(ip, *port)),
                Err(_) => Addresses::Named { host: host.as_str().into(), port: *port },
            },
        };
        Self { addresses, metrics }
    }

    /// Counters and state of the backend.
    pub(crate) const fn metrics(&self) -> &Arc<BackendMetrics> {
        &self.metrics
    }

    /// Connects within `timeout`. Waits before that for a name that has never been resolved.
    ///
    /// # Errors
    /// The failure of the last address, if none answered.
    pub(crate) async fn connect(
        &self,
        timeout: Duration,
        options: Tcp,
    ) -> Result<BackendStream, ConnectError> {
        match &self.addresses {
            Addresses::Unix(path) => connect_unix(path, timeout).await.map(BackendStream::Unix),
            Addresses::Fixed(address) => {
                connect_any(&[*address], timeout, options).await.map(BackendStream::Tcp)
            }
            Addresses::Named { host, port } => {
                connect_name(host, *port, timeout, options).await.map(BackendStream::Tcp)
            }
        }
    }
}

impl ConnectError {
    /// The error of an attempt to connect a socket.
    fn of(address: String, cause: io::Error) -> Self {
        match socket::shortage(&cause) {
            Some(shortage) => Self::Shortage { address, shortage, cause },
            None => Self::Connect { address, cause },
        }
    }

    /// Returns true if another address may succeed.
    const fn is_of_the_backend(&self) -> bool {
        match self {
            Self::Timeout(_) | Self::Connect { .. } => true,
            Self::Lookup(_) | Self::Shortage { .. } => false,
        }
    }

    /// Returns the stable reason for this error.
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
            Self::Connect { cause, .. } => connect_reason(cause.kind()),
            Self::Shortage { shortage, .. } => shortage.reason(),
        }
    }
}

/// Returns the reason for an error of connect(2).
#[expect(clippy::wildcard_enum_match_arm, reason = "the standard library's enum is non-exhaustive")]
const fn connect_reason(cause: io::ErrorKind) -> Reason {
    match cause {
        io::ErrorKind::ConnectionRefused => Reason::BackendRefused,
        // The backend accepted and reset before our connect(2) returned.
        io::ErrorKind::ConnectionReset => Reason::BackendReset,
        io::ErrorKind::TimedOut => Reason::BackendTimeout,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        // The path of a Unix socket does not exist.
        | io::ErrorKind::NotFound => Reason::BackendUnreachable,
        _ => Reason::BackendError,
    }
}

async fn connect_name(
    host: &str,
    port: u16,
    timeout: Duration,
    options: Tcp,
) -> Result<TcpStream, ConnectError> {
    let found = lookup::addresses(host, timeout).await?;
    let connect = async |found: &Resolved| {
        let addresses = found.addresses.iter().map(|&address| SocketAddr::new(address, port));
        connect_any(&addresses.collect::<Vec<_>>(), timeout, options).await
    };
    match connect(&found).await {
        // The name may have other addresses by now.
        Err(error) if error.is_of_the_backend() => match found.others().await {
            Some(others) => connect(&others).await,
            None => Err(error),
        },
        connected => connected,
    }
}

async fn connect_any(
    addresses: &[SocketAddr],
    timeout: Duration,
    options: Tcp,
) -> Result<TcpStream, ConnectError> {
    let mut last = ConnectError::from(LookupError::NoAddress);
    let failed = |address: SocketAddr, error| {
        last = match error {
            DialError::Io(cause) => ConnectError::of(address.to_string(), cause),
            DialError::Timeout(_) => ConnectError::Timeout(timeout),
        };
    };
    let Some(dialled) = dial::first_of(addresses, Instant::now() + timeout, failed).await else {
        return Err(last);
    };
    // Best effort: it fails for a backend that has closed already, which the relay notices.
    let _closed = socket::set_dialled_options(&dialled.tcp, dialled.address, options);
    Ok(dialled.tcp)
}

async fn connect_unix(path: &Path, within: Duration) -> Result<UnixStream, ConnectError> {
    match timeout(within, dial::unix(path)).await {
        Ok(connected) => {
            connected.map_err(|cause| ConnectError::of(Shown(path).to_string(), cause))
        }
        Err(_) => Err(ConnectError::Timeout(within)),
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, SockRef, Socket, Type};
    use tokio::net::TcpListener;

    use super::*;
    use crate::metrics::Metrics;

    const WHOLE: Duration = Duration::from_secs(2);

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    async fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address whose backlog is full: the kernel drops each SYN.
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
    async fn every_address_is_tried_and_a_stalled_one_leaves_time_for_the_next() {
        let (_full, _waiting, stalled) = stalled().await;
        let (_listener, good) = listening().await;
        let addresses = [refusing().await, stalled, good];
        let start = Instant::now();
        let tcp = connect_any(&addresses, WHOLE, Tcp::default()).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), good);
        // The stalled address had half of the time that was left.
        assert!(start.elapsed() >= WHOLE / 3 && start.elapsed() < WHOLE, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn if_no_address_answers_the_failure_of_the_last_one_is_returned() {
        let (_full, _waiting, stalled) = stalled().await;
        let refusing = refusing().await;
        let whole = Duration::from_millis(200);
        for (addresses, reason) in [
            (&[stalled, refusing][..], Reason::BackendRefused),
            (&[refusing, stalled], Reason::BackendTimeout),
            (&[], Reason::BackendUnreachable),
        ] {
            let failed = connect_any(addresses, whole, Tcp::default()).await.unwrap_err();
            assert_eq!(failed.reason(), reason, "{addresses:?}");
        }
    }

    #[tokio::test]
    async fn a_dialled_socket_has_the_options_of_the_configuration() {
        let (_listener, address) = listening().await;
        let backend = address.to_string().parse::<BackendAddress>().unwrap();
        let options = Tcp {
            keepalive: Some(Duration::from_secs(40)),
            user_timeout: Some(Duration::from_secs(90)),
        };
        let metrics = Metrics::new().listener("test");
        let backend = Backend::of(&backend, &metrics, [].iter());
        let BackendStream::Tcp(tcp) = backend.connect(WHOLE, options).await.unwrap() else {
            panic!("the address is TCP");
        };
        let dialled = SockRef::from(&tcp);
        // Sockets to this machine need no keepalive.
        assert!(dialled.tcp_nodelay().unwrap() && !dialled.keepalive().unwrap());
        assert_eq!(dialled.tcp_user_timeout().unwrap(), Some(Duration::from_secs(90)));

        socket::set_dialled_options(&tcp, ([192, 0, 2, 1], 1).into(), options).unwrap();
        assert!(dialled.keepalive().unwrap());
        assert_eq!(dialled.tcp_keepalive_time().unwrap(), Duration::from_secs(40));
        assert_eq!(dialled.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(dialled.tcp_keepalive_retries().unwrap(), 4);
    }

    #[test]
    fn a_backend_is_kept_over_reloads_while_the_configuration_names_it() {
        let metrics = Metrics::new().listener("test");
        let address = |text: &str| text.parse::<BackendAddress>().unwrap();
        let set =
            |addresses: &[&str]| metrics.set_backends(addresses.iter().map(|&a| a.to_owned()));
        set(&["a.example:1", "b.example:1"]);
        let of = |text: &str, before: &[Arc<Backend>]| {
            Backend::of(&address(text), &metrics, before.iter())
        };
        let a = of("a.example:1", &[]);
        set(&["a.example:1"]);
        assert!(Arc::ptr_eq(&of("a.example:1", &[Arc::clone(&a)]), &a));
        assert!(!Arc::ptr_eq(&of("b.example:1", &[Arc::clone(&a)]), &a));
        // It left the configuration and came back: its counts start at 0, as its series do.
        set(&[]);
        set(&["a.example:1"]);
        assert!(!Arc::ptr_eq(&of("a.example:1", &[Arc::clone(&a)]), &a));
    }

    #[test]
    fn an_address_is_not_looked_up() {
        let metrics = Metrics::new().listener("test");
        for text in ["127.0.0.1:1", "[::1]:1"] {
            let backend =
                Backend::of(&text.parse::<BackendAddress>().unwrap(), &metrics, [].iter());
            assert!(matches!(backend.addresses, Addresses::Fixed(_)), "{text}");
        }
    }
}
