//! One address of a legacy server, and how a connection to it is made.
//!
//! **Promises.** A [`Backend`] is kept over reloads for as long as the configuration names its address, and its
//! state with it. A connect tries every address of a name before one deadline, which does not include the look-up.
//! If no address answers, the name is looked up again and new addresses are tried. A lack of descriptors, memory or
//! threads in this process is never reported as the backend's fault.
//!
//! **Not here.** The choice among several (`pool.rs`), name look-ups (`lookup.rs`).

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::dial::{self, DialError};
use super::health::{Attempt, Health, HealthChange};
use super::lookup::{self, LookupError, Resolved};
use super::places::{ConnectPlace, ConnectPlaces};
use super::stream::BackendStream;
use crate::config::{BackendAddress, ListenerConfig, SourceAddress, Tcp};
use crate::metrics::{BackendMetrics, ListenerMetrics};
use crate::proxy::socket::{self, Shortage};
use crate::terms::labels::ConnectResult;
use crate::terms::reason::Reason;
use crate::text::Shown;

/// Time for an address that is known to be down. A server that has returned answers at once, or the second packet, which
/// the kernel sends after a second.
const TIMEOUT_OF_A_DOWN_ADDRESS: Duration = Duration::from_secs(2);

/// One address of the backends of a listener.
pub(crate) struct Backend {
    listener: Box<str>,
    addresses: Addresses,
    /// Counts of connects, and whether the last one succeeded.
    pub(super) metrics: Arc<BackendMetrics>,
    pub(super) health: Health,
    places: ConnectPlaces,
    /// The time at which it was last chosen, by a count of all choices.
    pub(super) chosen: AtomicU64,
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

/// The bounds of the connects of one connection, or of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectBounds {
    /// For all attempts together.
    pub(crate) timeout: Duration,
    /// Longest wait for the first look-up of a name, which is not a part of the timeout.
    pub(crate) first_lookup: Duration,
    pub(crate) options: DialOptions,
}

/// The properties of the socket to a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DialOptions {
    tcp: Tcp,
    /// The address to connect from. None: an own one.
    source: Option<IpAddr>,
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
    #[error("cannot connect to the backend at {address} from the device's address: {cause}")]
    Source { address: String, cause: io::Error },
    #[error("cannot dial the backend at {address}: {cause}")]
    Shortage { address: String, shortage: Shortage, cause: io::Error },
    #[error("the connects in progress to the backend left no place within {0:.1?}")]
    NoPlace(Duration),
    #[error("the backend is down, and all connects to it that may be in progress are: {0}")]
    Down(Reason),
    #[error("the client left after it had waited {0:.1?} for its turn to connect to the backend")]
    ClientLeft(Duration, Reason),
}

impl ConnectBounds {
    /// Returns the bounds of a listener's connects for a client with this address, or for checks.
    pub(crate) fn of(listener: &ListenerConfig, client: Option<IpAddr>) -> Self {
        let source = match listener.balance.source {
            SourceAddress::Own => None,
            SourceAddress::Client => client,
        };
        let (timeout, first_lookup) = (listener.timeouts.connect, lookup::PATIENCE);
        Self { timeout, first_lookup, options: DialOptions { tcp: listener.tcp, source } }
    }
}

impl Backend {
    /// Returns the backend at `address`: the one of `before` if it has the same address and metrics.
    pub(crate) fn of<'a>(
        address: &BackendAddress,
        listener: &ListenerMetrics,
        mut before: impl Iterator<Item = &'a Arc<Self>>,
    ) -> Arc<Self> {
        let metrics = listener.backend(&address.to_string());
        // A reload announces its backends to the metrics before its snapshot is used. They keep the object of an
        // address while each configuration has it.
        let kept = before.find(|backend| Arc::ptr_eq(&backend.metrics, &metrics));
        kept.map_or_else(|| Arc::new(Self::new(address, listener.name(), metrics)), Arc::clone)
    }

    fn new(address: &BackendAddress, listener: &str, metrics: Arc<BackendMetrics>) -> Self {
        let addresses = match address {
            BackendAddress::Unix(path) => Addresses::Unix(path.clone()),
            BackendAddress::Tcp { host, port } => match host.parse::<IpAddr>() {
                Ok(ip) => Addresses::Fixed(SocketAddr::new(ip, *port)),
                Err(_) => Addresses::Named { host: host.as_str().into(), port: *port },
            },
        };
        let (health, places) = (Health::default(), ConnectPlaces::default());
        let listener = listener.into();
        Self { listener, addresses, metrics, health, places, chosen: AtomicU64::new(0) }
    }

    /// Sets how many connects may be in progress at a time.
    pub(crate) fn set_limit(&self, connects_in_progress: Option<usize>) {
        self.places.set_limit(connects_in_progress);
    }

    /// Returns the time for an attempt that may take this time.
    pub(super) fn bounded(&self, time: Duration) -> Duration {
        match self.health.down() {
            Some(_) => time.min(TIMEOUT_OF_A_DOWN_ADDRESS),
            None => time,
        }
    }

    /// Logs a change of the health.
    pub(super) fn report(&self, change: HealthChange) {
        let (listener, backend) = (&*self.listener, self.metrics.address());
        match change {
            HealthChange::Failed(reason) => {
                let reason = reason.as_str();
                tracing::warn!(listener, backend, reason, "backend failed, paused");
            }
            HealthChange::Recovered => tracing::info!(listener, backend, "backend connected again"),
        }
    }

    /// Connects as soon as a place is free, and records the result.
    pub(super) async fn take_turn(
        &self,
        attempt: Attempt<'_>,
        bounds: ConnectBounds,
        has_left: impl Fn() -> Option<Reason>,
    ) -> (Result<BackendStream, ConnectError>, Option<HealthChange>) {
        let timeout = bounds.timeout;
        let start = Instant::now();
        let place = match self.place(start + timeout, has_left).await {
            Ok(place) => place,
            Err(error) => return (Err(error), None),
        };
        let waited = start.elapsed();
        let left = timeout.saturating_sub(waited);
        let connected = self.connect(ConnectBounds { timeout: left, ..bounds }).await;
        drop(place);
        if let Some(result) = result(&connected) {
            self.metrics.dialled(result);
        }
        // The wait may have left no time to answer.
        let is_late = waited > timeout / 2 && matches!(connected, Err(ConnectError::Timeout(_)));
        let change = if is_late { None } else { settle(attempt, &connected) };
        (connected, change)
    }

    /// Connects and closes, and records the result, unless devices connect up to their limit: they show the state.
    pub(super) async fn check(&self, bounds: ConnectBounds) {
        if self.places.try_take().is_none() {
            return;
        }
        let attempt = self.health.begin(Instant::now());
        let connected = self.connect(bounds).await;
        if let Some(result) = result(&connected) {
            self.metrics.set_up(result == ConnectResult::Ok);
        }
        if let Some(change) = settle(attempt, &connected) {
            self.report(change);
        }
    }

    /// Waits for a place among the connects in progress. If the backend is known to be down, it does not wait.
    async fn place(
        &self,
        deadline: Instant,
        has_left: impl Fn() -> Option<Reason>,
    ) -> Result<ConnectPlace<'_>, ConnectError> {
        if let Some(place) = self.places.try_take() {
            return Ok(place);
        }
        if let Some(reason) = self.health.down() {
            return Err(ConnectError::Down(reason));
        }
        let start = Instant::now();
        let place = {
            let _counted = self.metrics.waits();
            timeout_at(deadline, self.places.take()).await
        };
        let waited = start.elapsed();
        let place = place.map_err(|_| ConnectError::NoPlace(waited))?;
        match has_left() {
            Some(reason) => Err(ConnectError::ClientLeft(waited, reason)),
            None => Ok(place),
        }
    }

    /// Connects within the bounds.
    ///
    /// # Errors
    /// The failure of the last address, if none answered.
    async fn connect(&self, bounds: ConnectBounds) -> Result<BackendStream, ConnectError> {
        let ConnectBounds { timeout, first_lookup: _, options } = bounds;
        match &self.addresses {
            Addresses::Unix(path) => connect_unix(path, timeout).await.map(BackendStream::Unix),
            Addresses::Fixed(address) => {
                connect_any(&[*address], timeout, options).await.map(BackendStream::Tcp)
            }
            Addresses::Named { host, port } => {
                connect_name(host, *port, bounds).await.map(BackendStream::Tcp)
            }
        }
    }
}

/// Returns the result of an attempt; none if it was not the backend's.
fn result(connected: &Result<BackendStream, ConnectError>) -> Option<ConnectResult> {
    connected.as_ref().map_or_else(ConnectError::result, |_| Some(ConnectResult::Ok))
}

/// Records the result of an attempt in the health of its address.
fn settle(
    attempt: Attempt<'_>,
    connected: &Result<BackendStream, ConnectError>,
) -> Option<HealthChange> {
    match connected {
        Ok(_) => attempt.succeeded(),
        Err(error) => {
            error.result()?;
            attempt.failed(Instant::now(), error.reason())
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

    /// The error of a socket that cannot have the device's address.
    fn source(address: SocketAddr, cause: io::Error) -> Self {
        match socket::shortage(&cause) {
            Some(_) => Self::of(address.to_string(), cause),
            None => Self::Source { address: address.to_string(), cause },
        }
    }

    /// Returns true if a name may have another address by now that succeeds.
    const fn is_of_the_address(&self) -> bool {
        match self {
            Self::Timeout(_) | Self::Connect { .. } => true,
            Self::Lookup(_)
            | Self::Source { .. }
            | Self::Shortage { .. }
            | Self::NoPlace(_)
            | Self::Down(_)
            | Self::ClientLeft(..) => false,
        }
    }

    /// Returns true if another backend may succeed.
    pub(super) const fn is_of_one_backend(&self) -> bool {
        match self {
            Self::Timeout(_)
            | Self::Connect { .. }
            | Self::Source { .. }
            | Self::Lookup(_)
            | Self::NoPlace(_)
            | Self::Down(_) => true,
            Self::Shortage { .. } | Self::ClientLeft(..) => false,
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
            Self::Timeout(_) | Self::NoPlace(_) => Reason::BackendTimeout,
            Self::Connect { cause, .. } => connect_reason(cause.kind()),
            Self::Source { .. } => Reason::BackendUnreachable,
            Self::Shortage { shortage, .. } => shortage.reason(),
            Self::Down(reason) | Self::ClientLeft(_, reason) => *reason,
        }
    }

    /// Returns the result of the attempt; none if it was not the backend's.
    fn result(&self) -> Option<ConnectResult> {
        match self {
            Self::Lookup(LookupError::NoThread(_))
            | Self::Source { .. }
            | Self::Shortage { .. }
            | Self::NoPlace(_)
            | Self::Down(_)
            | Self::ClientLeft(..) => None,
            Self::Lookup(LookupError::Failed(cause)) => {
                socket::shortage(cause).is_none().then_some(ConnectResult::Unreachable)
            }
            Self::Lookup(LookupError::NoAddress | LookupError::Slow(_)) => {
                Some(ConnectResult::Unreachable)
            }
            Self::Timeout(_) => Some(ConnectResult::Timeout),
            Self::Connect { cause, .. } => Some(connect_result(cause.kind())),
        }
    }
}

/// Returns the result for an error of connect(2).
#[expect(clippy::wildcard_enum_match_arm, reason = "the standard library's enum is non-exhaustive")]
const fn connect_result(cause: io::ErrorKind) -> ConnectResult {
    match cause {
        io::ErrorKind::ConnectionRefused => ConnectResult::Refused,
        io::ErrorKind::TimedOut => ConnectResult::Timeout,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NotFound => ConnectResult::Unreachable,
        _ => ConnectResult::Error,
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
    bounds: ConnectBounds,
) -> Result<TcpStream, ConnectError> {
    let ConnectBounds { timeout, first_lookup, options } = bounds;
    let found = lookup::addresses(host, timeout, first_lookup).await?;
    let connect = async |found: &Resolved| {
        let addresses = found.addresses.iter().map(|&address| SocketAddr::new(address, port));
        connect_any(&addresses.collect::<Vec<_>>(), timeout, options).await
    };
    match connect(&found).await {
        // The name may have other addresses by now.
        Err(error) if error.is_of_the_address() => match found.others().await {
            Some(others) => connect(&others).await,
            None => Err(error),
        },
        connected => connected,
    }
}

async fn connect_any(
    addresses: &[SocketAddr],
    timeout: Duration,
    options: DialOptions,
) -> Result<TcpStream, ConnectError> {
    let mut last = ConnectError::from(LookupError::NoAddress);
    let failed = |address: SocketAddr, error| {
        last = match error {
            DialError::Io(cause) => ConnectError::of(address.to_string(), cause),
            DialError::Source(cause) => ConnectError::source(address, cause),
            DialError::Timeout(_) => ConnectError::Timeout(timeout),
        };
    };
    let addresses = reachable(addresses, options.source);
    let deadline = Instant::now() + timeout;
    let dialled = dial::first_of(&addresses, options.source, deadline, failed).await;
    let Some(dialled) = dialled else { return Err(last) };
    // Best effort: it fails for a backend that has closed already, which the relay notices.
    let _closed = socket::set_dialled_options(&dialled.tcp, dialled.address, options.tcp);
    Ok(dialled.tcp)
}

/// Returns the addresses of the source's family, or all of them if there is none.
fn reachable(addresses: &[SocketAddr], source: Option<IpAddr>) -> Cow<'_, [SocketAddr]> {
    let is_reachable =
        |address: &SocketAddr| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
    if addresses.iter().all(is_reachable) || !addresses.iter().any(is_reachable) {
        return Cow::Borrowed(addresses);
    }
    addresses.iter().copied().filter(is_reachable).collect()
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
    use crate::config::Balance;
    use crate::metrics::Metrics;

    const WHOLE: Duration = Duration::from_secs(2);

    const fn options(tcp: Tcp) -> DialOptions {
        DialOptions { tcp, source: None }
    }

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
        let tcp = connect_any(&addresses, WHOLE, options(Tcp::default())).await.unwrap();
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
            let failed = connect_any(addresses, whole, options(Tcp::default())).await.unwrap_err();
            assert_eq!(failed.reason(), reason, "{addresses:?}");
        }
    }

    #[tokio::test]
    async fn a_device_is_not_connected_to_an_address_of_another_family() {
        let [v4, v6] = ["192.0.2.1:1", "[2001:db8::1]:1"].map(|text| text.parse().unwrap());
        let source: IpAddr = "192.0.2.7".parse().unwrap();
        assert_eq!(*reachable(&[v6, v4], Some(source)), [v4]);
        assert_eq!(*reachable(&[v6, v4], None), [v6, v4]);
        let of_client = DialOptions { source: Some(source), ..options(Tcp::default()) };
        let failed = connect_any(&[v6], WHOLE, of_client).await.unwrap_err();
        assert!(matches!(failed, ConnectError::Source { .. }), "{failed}");
        assert_eq!((failed.reason(), failed.result()), (Reason::BackendUnreachable, None));
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
        let bounds =
            ConnectBounds { timeout: WHOLE, first_lookup: WHOLE, options: self::options(options) };
        let BackendStream::Tcp(tcp) = backend.connect(bounds).await.unwrap() else {
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
        let set = |addresses: &[&str]| {
            let lists: Vec<_> = addresses.iter().map(|text| address(text).into()).collect();
            metrics.set_backends(lists.iter(), Balance::default());
        };
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

    #[tokio::test(start_paused = true)]
    async fn a_device_without_a_place_is_closed_at_once_if_the_backend_is_known_to_be_down() {
        let metrics = Metrics::new().listener("test");
        let address = "127.0.0.1:1".parse::<BackendAddress>().unwrap();
        let backend = Backend::of(&address, &metrics, [].iter());
        backend.set_limit(Some(1));
        let _held = backend.places.try_take().unwrap();
        let wait = || backend.place(Instant::now() + WHOLE, || None);
        assert!(matches!(wait().await, Err(ConnectError::NoPlace(_))), "it is not known yet");
        assert_eq!(backend.bounded(2 * WHOLE), 2 * WHOLE);
        for _ in 0..3 {
            let now = Instant::now();
            backend.health.begin(now).failed(now, Reason::BackendRefused);
            tokio::time::advance(Duration::from_secs(60)).await;
        }
        let begun = Instant::now();
        let refused = wait().await.unwrap_err();
        assert_eq!((refused.reason(), begun.elapsed()), (Reason::BackendRefused, Duration::ZERO));
        assert_eq!(backend.bounded(2 * WHOLE), TIMEOUT_OF_A_DOWN_ADDRESS);
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
