//! TCP sockets: options, the meaning of errors, and how many sockets the process can have.
//!
//! **Not here.** The values of options (`config.rs`), the handling of errors (`listener.rs`), the figures of a connection
//! (`socket/diag.rs`).

pub(crate) mod diag;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
#[cfg(target_os = "linux")]
use rustix::net::SendFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
#[cfg(target_os = "linux")]
use socket2::SockFilter;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::config::Tcp;
use crate::terms::labels::AcceptError;
use crate::terms::reason::Reason;

/// Unanswered keepalive probes before a connection is dropped.
const KEEPALIVE_PROBES: u32 = 4;

/// The kernel counts in seconds (tcp(7)).
const SHORTEST_PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Backlog of a listening socket. The kernel uses the smaller of this and `net.core.somaxconn`, 4,096 by default since
/// Linux 5.4.
const BACKLOG: i32 = 4096;

/// Bytes that the kernel accepts for a peer beyond those that it can send now (`TCP_NOTSENT_LOWAT`, tcp(7)). The default
/// is the limit of `net.ipv4.tcp_wmem`, 4 MiB, also for a peer that never reads: that memory counts for the same
/// container, and the peer looks as if it took everything. With 128 KiB a stream costs a tenth more CPU if its reader
/// is slower than its writer; with 512 KiB or more no cost could be measured.
#[cfg(target_os = "linux")]
const KERNEL_UNSENT_BYTES: u32 = 1024 * 1024;

/// Descriptors that are open before the first connection: standard input, output and error, the runtime's, signals,
/// inotify, systemd's, the admin port's listening socket.
const OPEN_FDS: u64 = 16;

/// Descriptors for temporary use: reloaded files, name look-ups, /proc. One for each 32 of the limit, within these
/// bounds.
const MIN_TEMPORARY_FDS: u64 = 8;
const MAX_TEMPORARY_FDS: u64 = 80;

/// Connections to the admin port: one for each 16 descriptors of the limit, within these bounds. Prometheus and the
/// kubelet need two or three.
const MIN_ADMIN_CONNECTIONS: u64 = 4;
const MAX_ADMIN_CONNECTIONS: u64 = 64;

/// Descriptors of a connection: the client's socket and the backend's.
const FDS_PER_CONNECTION: u64 = 2;

/// Descriptors of a listener: its own, and the socket of an accepted device that waits for a permit.
const FDS_PER_LISTENER: u64 = 2;

/// Number of connections that the limit on file descriptors allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Connections of all listeners together.
    pub(crate) connections: usize,
    /// Connections of the admin port, in addition.
    pub(crate) admin: usize,
}

/// Raises the limit on file descriptors as far as the system allows, and returns how many connections it carries
/// beside this number of listeners.
pub(crate) fn capacity(listeners: usize) -> Capacity {
    let limit = getrlimit(Resource::Nofile);
    let raise = Rlimit { current: limit.maximum, maximum: limit.maximum };
    carried(effective(limit, setrlimit(Resource::Nofile, raise)), listeners)
}

/// Returns the limit on file descriptors after an attempt to raise it, or none if there is no limit.
fn effective(before: Rlimit, raised: rustix::io::Result<()>) -> Option<u64> {
    match raised {
        Ok(()) => before.maximum,
        // getrlimit(2): EPERM if fs.nr_open was lowered below the hard limit.
        Err(error) => {
            let error = io::Error::from(error);
            tracing::warn!(%error, "cannot raise the limit on file descriptors (ulimit -n)");
            before.current
        }
    }
}

fn carried(fds: Option<u64>, listeners: usize) -> Capacity {
    let fds = fds.unwrap_or(u64::MAX);
    let admin = (fds / 16).clamp(MIN_ADMIN_CONNECTIONS, MAX_ADMIN_CONNECTIONS);
    let temporary = (fds / 32).clamp(MIN_TEMPORARY_FDS, MAX_TEMPORARY_FDS);
    let reserved = OPEN_FDS + temporary + admin + FDS_PER_LISTENER * listeners as u64;
    let connections = fds.saturating_sub(reserved) / FDS_PER_CONNECTION;
    // Without a limit, memory is exhausted long before this.
    let connections = usize::try_from(connections).unwrap_or(usize::MAX).clamp(1, 1 << 24);
    Capacity { connections, admin: usize::try_from(admin).unwrap_or(usize::MAX) }
}

/// Binds a listening socket. With `reuse_port`, other processes of the same user can bind the same address, and the
/// kernel divides connections among them. A kernel without IPv6 binds all addresses of IPv4 for `[::]`.
///
/// # Errors
/// The error of the system: the address is in use, is not local, or needs a privilege.
pub(crate) fn listen(
    address: SocketAddr,
    options: Tcp,
    reuse_port: bool,
) -> io::Result<TcpListener> {
    match bind(address, options, reuse_port) {
        // `ipv6.disable=1`.
        Err(error)
            if Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT)
                && address.ip() == Ipv6Addr::UNSPECIFIED =>
        {
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into(), options, reuse_port)
        }
        bound => bound,
    }
}

fn bind(address: SocketAddr, options: Tcp, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Otherwise a restart would have to wait for the TIME_WAIT of the last connections.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if address.is_ipv6() {
        // "[::]" means every address, whatever net.ipv6.bindv6only is.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    listen_on(socket, options)
}

/// Returns a TCP socket that is to be connected, in non-blocking mode.
///
/// # Errors
/// The error of socket(2).
pub(crate) fn nonblocking(domain: Domain) -> io::Result<Socket> {
    #[cfg(target_os = "linux")]
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    #[cfg(not(target_os = "linux"))]
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    #[cfg(not(target_os = "linux"))]
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Passes an error of connect(2) on, unless it says that the socket is not connected yet.
///
/// # Errors
/// Any other error.
pub(crate) fn unless_in_progress(error: io::Error) -> io::Result<()> {
    if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) { Ok(()) } else { Err(error) }
}

/// Takes over a socket that is listening already.
///
/// # Errors
/// If it is not listening, or the system rejects an option.
pub(crate) fn adopt(socket: std::net::TcpListener, options: Tcp) -> io::Result<TcpListener> {
    let socket = Socket::from(socket);
    if !socket.is_listener()? {
        let what = "the socket that was passed does not listen (Accept=yes?)";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    socket.set_nonblocking(true)?;
    listen_on(socket, options)
}

fn listen_on(socket: Socket, options: Tcp) -> io::Result<TcpListener> {
    // Accepted sockets inherit the options (tcp(7)), which saves five system calls for each.
    set_options(&socket, options)?;
    // For a socket that is listening already, this sets the backlog.
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Makes the kernel drop SYN segments to a listening socket. Connections that have begun are completed; a client repeats
/// its SYN after a second (RFC 6298 section 2), and gets to another socket on this address once this one is closed. Closing
/// the socket at once would reset the connections that the kernel has put into its queues.
///
/// # Errors
/// The error of `SO_ATTACH_FILTER` (socket(7)).
#[cfg(target_os = "linux")]
pub(crate) fn drop_new(socket: &TcpListener) -> io::Result<()> {
    // The filter sees segments from the TCP header on. Codes: Documentation/networking/filter.rst of Linux.
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // RFC 9293 section 3.1.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const SYN_OR_ACK: u32 = 0x12;
    const PASS: u32 = u32::MAX;
    const DROP: u32 = 0;
    SockRef::from(socket).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN_OR_ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, DROP),
        SockFilter::new(RETURN, 0, 0, PASS),
    ])
}

/// Other systems have no such filter.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "it can fail on Linux")]
pub(crate) const fn drop_new(_socket: &TcpListener) -> io::Result<()> {
    Ok(())
}

/// Sets the options of all our TCP sockets.
pub(crate) fn set_options<'a>(socket: impl Into<SockRef<'a>>, options: Tcp) -> io::Result<()> {
    let socket = socket.into();
    match options.keepalive {
        Some(idle) => {
            let idle = idle.max(SHORTEST_PROBE_INTERVAL);
            let keepalive = TcpKeepalive::new().with_time(idle).with_interval(probe_interval(idle));
            socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))?;
        }
        None => socket.set_keepalive(false)?,
    }
    set_other_options(&socket, options)
}

/// Sets the options other than keepalive.
fn set_other_options(socket: &SockRef<'_>, options: Tcp) -> io::Result<()> {
    // Devices send small messages and wait for answers: Nagle's algorithm would delay each.
    socket.set_tcp_nodelay(true)?;
    // None is 0, the system's default (tcp(7)).
    socket.set_tcp_user_timeout(options.user_timeout)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(KERNEL_UNSENT_BYTES)?;
    Ok(())
}

/// Returns the time between two keepalive probes that follow a silence of `idle`.
fn probe_interval(idle: Duration) -> Duration {
    (idle / KEEPALIVE_PROBES).max(SHORTEST_PROBE_INTERVAL)
}

/// Sets the options of a socket that was just connected to `address`. A loopback socket gets no keepalive: its peer
/// cannot vanish without the kernel closing the socket, and keepalive takes four system calls. A new socket has none.
pub(crate) fn set_dialled_options(
    tcp: &TcpStream,
    address: SocketAddr,
    options: Tcp,
) -> io::Result<()> {
    if options.keepalive.is_some() && !address.ip().is_loopback() {
        set_options(tcp, options)
    } else {
        set_other_options(&SockRef::from(tcp), options)
    }
}

/// Operations that a socket is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// Asks the kernel, not tokio, whether a socket can be read (bytes or an end) or written.
pub(crate) fn is_ready(socket: &impl AsFd, interest: Interest) -> bool {
    let mut wanted = PollFlags::empty();
    wanted.set(PollFlags::IN, interest.read);
    wanted.set(PollFlags::OUT, interest.write);
    let mut asked = [PollFd::new(socket, wanted)];
    // poll(2) always reports errors and hang-ups: those alone are not in `interest`.
    let polled = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok() && asked[0].revents().intersects(wanted)
}

/// The peer has ended its stream. Other systems than Linux do not report it.
#[cfg(target_os = "linux")]
const ENDED: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const ENDED: PollFlags = PollFlags::empty();

/// Asks the kernel whether the peer has reset the connection, or ended its stream.
pub(crate) fn stream_end(socket: &impl AsFd) -> Option<StreamEnd> {
    let mut asked = [PollFd::new(socket, ENDED)];
    poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).ok()?;
    match asked[0].revents() {
        found if found.intersects(PollFlags::ERR | PollFlags::HUP) => Some(StreamEnd::Reset),
        found if found.intersects(ENDED) => Some(StreamEnd::Ended),
        _ => None,
    }
}

/// The end of a peer's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The connection is closed in both directions.
    Reset,
    /// The peer sends no more, and may still read.
    Ended,
}

/// Gives the kernel bytes that may wait for the next ones, and returns how many it took. It sends them with the next
/// bytes that are written, when the peer acknowledges or sends any, or after the time in which it would send a lost
/// packet again: 0.2 s, on a slow path more (`MSG_MORE` in send(2); `tcp_push` and `tcp_check_probe_timer` in Linux).
///
/// # Errors
/// The socket's.
#[cfg(target_os = "linux")]
pub(crate) fn send_with_next(tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    tcp.try_io(tokio::io::Interest::WRITABLE, || Ok(rustix::net::send(tcp, bytes, flags)?))
}

/// Other systems do not hold bytes back.
///
/// # Errors
/// Always, so that they are written as any other.
#[cfg(not(target_os = "linux"))]
pub(crate) fn send_with_next(_: &TcpStream, _: &[u8]) -> io::Result<usize> {
    Err(io::ErrorKind::WouldBlock.into())
}

/// Makes the next close send a reset.
pub(crate) fn reset_on_close(tcp: &TcpStream) {
    // It fails only for a socket that is no longer connected.
    let _not_connected = tcp.set_zero_linger();
}

/// Returns true if the peer stopped answering without closing: keepalive or `TCP_USER_TIMEOUT` expired, or
/// there is no route to it.
pub(crate) fn is_lost(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// Returns the error that cut the peer's own stream, from a failed write. A failed write consumes SO_ERROR, so later
/// reads return the remaining data and then EOF instead of ECONNRESET. If the peer had ended its stream before it
/// reset ours, nothing was cut: the error is EPIPE then (Linux's `tcp_reset`).
pub(crate) fn cut(failed_write: &io::Error) -> Option<io::ErrorKind> {
    Some(failed_write.kind()).filter(|&kind| kind != io::ErrorKind::BrokenPipe)
}

/// A resource that this process or machine lacks for one more socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// File descriptors.
    Fds,
    /// Kernel memory.
    Memory,
}

impl Shortage {
    /// Returns the stable reason for this shortage.
    pub(crate) const fn reason(self) -> Reason {
        match self {
            Self::Fds => Reason::ProxyFdLimit,
            Self::Memory => Reason::ProxyMemoryLimit,
        }
    }
}

/// Returns the shortage that made a connect fail, if one did (socket(2), connect(2)).
pub(crate) fn shortage(error: &io::Error) -> Option<Shortage> {
    match error.raw_os_error().map(Errno::from_raw_os_error)? {
        Errno::MFILE | Errno::NFILE => Some(Shortage::Fds),
        Errno::NOBUFS | Errno::NOMEM => Some(Shortage::Memory),
        _ => None,
    }
}

/// Returns the kind of an error of accept(2).
pub(crate) fn accept_error(error: &io::Error) -> AcceptError {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE) => AcceptError::FdLimit,
        Some(Errno::NOBUFS | Errno::NOMEM) => AcceptError::Memory,
        Some(
            Errno::CONNABORTED
            | Errno::NETDOWN
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH,
        ) => AcceptError::Aborted,
        _ => AcceptError::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_a_vanished_peer_is_lost_within_two_minutes() {
        let Tcp { keepalive, user_timeout } = Tcp::default();
        let (idle, user_timeout) = (keepalive.unwrap(), user_timeout.unwrap());
        // With a user timeout, the number of probes does not matter: the first one that is due after it ends the
        // connection (tcp_keepalive_timer in Linux's net/ipv4/tcp_timer.c).
        let probes = (1..).map(|probe| idle + probe_interval(idle) * probe);
        let lost = probes.into_iter().find(|due| *due > user_timeout).unwrap();
        assert!(lost <= Duration::from_secs(110), "{lost:?}");
        // With data in flight.
        assert!(user_timeout <= Duration::from_secs(110), "{user_timeout:?}");
    }

    #[test]
    fn a_limit_that_cannot_be_raised_is_used_as_it_is() {
        let limit = Rlimit { current: Some(1024), maximum: Some(1 << 40) };
        assert_eq!(effective(limit, Ok(())), Some(1 << 40));
        assert_eq!(effective(limit, Err(Errno::PERM)), Some(1024));
    }

    #[test]
    fn connections_get_the_descriptors_that_nothing_else_needs() {
        let carries = |fds, listeners| {
            let Capacity { connections, admin } = carried(fds, listeners);
            (connections, admin)
        };
        assert_eq!(carries(Some(64), 1), ((64 - 16 - 8 - 4 - 2) / 2, 4));
        assert_eq!(carries(Some(256), 2), ((256 - 16 - 8 - 16 - 4) / 2, 16));
        assert_eq!(carries(Some(1024), 1), ((1024 - 16 - 32 - 64 - 2) / 2, 64));
        assert_eq!(carries(Some(20_000), 1), ((20_000 - 162) / 2, 64));
        assert_eq!(carries(Some(64), 100), (1, 4));
        assert_eq!(carries(None, 1), (1 << 24, 64));
    }

    #[test]
    fn the_kernel_reports_what_a_socket_is_ready_for() {
        use std::io::{Read, Write};

        const READ: Interest = Interest { read: true, write: false };
        const WRITE: Interest = Interest { read: false, write: true };
        const NOTHING: Interest = Interest { read: false, write: false };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut tcp = listener.accept().unwrap().0;
        assert!(!is_ready(&tcp, READ) && is_ready(&tcp, WRITE) && !is_ready(&tcp, NOTHING));
        peer.write_all(b"x").unwrap();
        // On loopback, bytes arrive with the write.
        assert!(is_ready(&tcp, READ) && !is_ready(&tcp, NOTHING));
        tcp.read_exact(&mut [0; 1]).unwrap();
        assert!(!is_ready(&tcp, READ));
        tcp.set_nonblocking(true).unwrap();
        while tcp.write(&[0; 65_536]).is_ok() {}
        assert!(!is_ready(&tcp, WRITE));
        drop(peer);
        assert!(is_ready(&tcp, READ), "the end can be read");
    }

    #[tokio::test]
    async fn an_accepted_socket_inherits_the_options_of_its_listener() {
        let options = Tcp {
            keepalive: Some(Duration::from_secs(40)),
            user_timeout: Some(Duration::from_secs(90)),
        };
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), options, false).unwrap();
        let address = listener.local_addr().unwrap();
        let (_client, accepted) =
            tokio::join!(TcpStream::connect(address), async { listener.accept().await.unwrap().0 });
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap());
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(40));
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 4);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(Duration::from_secs(90)));
        assert_eq!(accepted.tcp_notsent_lowat().unwrap(), KERNEL_UNSENT_BYTES);
    }

    #[tokio::test]
    async fn a_shared_socket_is_closed_without_the_loss_of_a_connection() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let old = listen(any, Tcp::default(), true).unwrap();
        let address = old.local_addr().unwrap();
        let _first = TcpStream::connect(address).await.unwrap();
        drop_new(&old).unwrap();
        let second = tokio::spawn(TcpStream::connect(address));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!second.is_finished(), "its SYN was dropped");
        let _first_is_accepted = old.accept().await.unwrap();
        let new = listen(address, Tcp::default(), true).unwrap();
        drop(old);
        let _second_is_accepted = new.accept().await.unwrap();
        second.await.unwrap().unwrap();
    }
}
