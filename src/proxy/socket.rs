//! TCP sockets: their options, what their errors mean, and how many of them there can be.
//!
//! **Not here.** Which options (`config.rs`), and what is done about an error (`listener.rs`).

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::config::Tcp;
use crate::terms::labels::AcceptError;
use crate::terms::reason::Reason;

/// Probes before a silent peer is given up.
const KEEPALIVE_PROBES: u32 = 4;

/// Connections that the kernel keeps for us while we are not accepting. It takes the smaller of
/// this and `net.core.somaxconn`, which is 4,096 since Linux 5.4.
const BACKLOG: i32 = 4096;

/// Bytes that the kernel takes for a peer beyond those that it can send now (`TCP_NOTSENT_LOWAT`, tcp(7)). By
/// itself it takes as much as `net.ipv4.tcp_wmem` allows, 4 MiB, also for a peer that never reads: that is
/// memory of the same container, and looks like a peer that takes everything. With 128 KiB a stream costs a
/// tenth more CPU where its reader is the slower one, with 512 KiB and more nothing that could be measured.
#[cfg(target_os = "linux")]
const KERNEL_UNSENT_BYTES: u32 = 1024 * 1024;

/// Descriptors that are open before anybody connects: standard input, output and error, the runtime's,
/// signals, inotify, systemd's, the admin port's own.
const OPEN_FDS: u64 = 16;

/// Descriptors for what comes and goes: files that are loaded again, name look-ups, what /proc says. One
/// for each 32 that there may be, but for the bounds.
const FEWEST_PASSING_FDS: u64 = 8;
const MOST_PASSING_FDS: u64 = 80;

/// Connections to the admin port: one for each 16 descriptors that there may be, but for the bounds.
/// Prometheus and the kubelet need two or three.
const FEWEST_ADMIN_CONNECTIONS: u64 = 4;
const MOST_ADMIN_CONNECTIONS: u64 = 64;

/// A connection's descriptors: the client's and the backend's socket.
const FDS_PER_CONNECTION: u64 = 2;

/// A listener's descriptors: its own, and that of the device that waits for a place.
const FDS_PER_LISTENER: u64 = 2;

/// How many connections the process can have: what its limit on file descriptors carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Of all listeners together.
    pub(crate) connections: usize,
    /// Of the admin port, beside these.
    pub(crate) admin: usize,
}

/// How many connections the process can have with so many listeners. Its limit on file descriptors is
/// first raised as far as the system allows.
pub(crate) fn capacity(listeners: usize) -> Capacity {
    let limit = getrlimit(Resource::Nofile);
    let raise = Rlimit { current: limit.maximum, maximum: limit.maximum };
    carried(in_force(limit, setrlimit(Resource::Nofile, raise)), listeners)
}

/// The limit on file descriptors after an attempt to raise it; none where there is no limit.
fn in_force(before: Rlimit, raised: rustix::io::Result<()>) -> Option<u64> {
    match raised {
        Ok(()) => before.maximum,
        // getrlimit(2): EPERM, where fs.nr_open was lowered below the hard limit.
        Err(error) => {
            let error = io::Error::from(error);
            tracing::warn!(%error, "cannot raise the limit on file descriptors (ulimit -n)");
            before.current
        }
    }
}

fn carried(fds: Option<u64>, listeners: usize) -> Capacity {
    let fds = fds.unwrap_or(u64::MAX);
    let admin = (fds / 16).clamp(FEWEST_ADMIN_CONNECTIONS, MOST_ADMIN_CONNECTIONS);
    let passing = (fds / 32).clamp(FEWEST_PASSING_FDS, MOST_PASSING_FDS);
    let reserved = OPEN_FDS + passing + admin + FDS_PER_LISTENER * listeners as u64;
    let connections = fds.saturating_sub(reserved) / FDS_PER_CONNECTION;
    // Where there is no limit, memory ends long before this.
    let connections = usize::try_from(connections).unwrap_or(usize::MAX).clamp(1, 1 << 24);
    Capacity { connections, admin: usize::try_from(admin).unwrap_or(usize::MAX) }
}

/// Binds a listening socket.
///
/// # Errors
/// The system's: the address is in use, or not ours, or needs a privilege.
pub(crate) fn listen(address: SocketAddr, options: Tcp) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Without it a restart would have to wait for the last connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // "[::]" means every address, whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    listen_on(socket, options)
}

/// Takes over a socket that listens already.
///
/// # Errors
/// If it does not listen, or the system refuses an option.
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
    // Accepted sockets inherit these from their listener (tcp(7)), which spares five calls each.
    set_options(&socket, options)?;
    // Of a socket that listens already, this sets the backlog.
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Sets what every TCP socket of ours has.
pub(crate) fn set_options<'a>(socket: impl Into<SockRef<'a>>, options: Tcp) -> io::Result<()> {
    let socket = socket.into();
    // Devices send small messages and wait for answers: Nagle would hold each back.
    socket.set_tcp_nodelay(true)?;
    match options.keepalive {
        Some(idle) => {
            let idle = idle.max(std::time::Duration::from_secs(1));
            let interval = (idle / KEEPALIVE_PROBES).max(std::time::Duration::from_secs(1));
            let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval);
            socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))?;
        }
        None => socket.set_keepalive(false)?,
    }
    // None is 0 is the system's default, see tcp(7).
    socket.set_tcp_user_timeout(options.user_timeout)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(KERNEL_UNSENT_BYTES)?;
    Ok(())
}

/// Sets what a socket has that has just been connected to `address`. One to this machine needs no
/// keepalive: its other end cannot vanish without a word of the kernel's, and it takes four calls.
pub(crate) fn set_dialled_options(
    tcp: &TcpStream,
    address: SocketAddr,
    options: Tcp,
) -> io::Result<()> {
    let keepalive = options.keepalive.filter(|_| !address.ip().is_loopback());
    set_options(tcp, Tcp { keepalive, ..options })
}

/// What a socket is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// Asks the kernel, rather than tokio, whether a socket has bytes or an end to read, or room to write.
pub(crate) fn is_ready(socket: &impl AsFd, interest: Interest) -> bool {
    let mut wanted = PollFlags::empty();
    wanted.set(PollFlags::IN, interest.read);
    wanted.set(PollFlags::OUT, interest.write);
    let mut asked = [PollFd::new(socket, wanted)];
    // poll(2) reports errors and hang-ups unasked: those alone are nothing that is waited for.
    let polled = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok() && asked[0].revents().intersects(wanted)
}

/// Makes the close that follows send a reset.
pub(crate) fn reset_on_close(tcp: &TcpStream) {
    // It fails only for a socket that is no longer connected, whose peer has nothing to be told.
    let _not_connected = tcp.set_zero_linger();
}

/// Whether the peer has stopped answering, rather than said that it is gone: keepalive or
/// `TCP_USER_TIMEOUT` gave up on it, or the way to it is gone.
pub(crate) fn is_lost(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// What a failed write says of the stream that comes the other way, if that was cut. The write takes
/// the socket's error with it: a read after it finds what had come, and then a mere end. But where
/// the peer had ended its stream before it refused ours, the error is EPIPE (Linux's `tcp_reset`).
pub(crate) fn cut(failed_write: &io::Error) -> Option<io::ErrorKind> {
    Some(failed_write.kind()).filter(|&kind| kind != io::ErrorKind::BrokenPipe)
}

/// What this process or this machine lacks for one more socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// File descriptors.
    Fds,
    /// Memory of the kernel.
    Memory,
}

impl Shortage {
    /// The stable reason for this shortage.
    pub(crate) const fn reason(self) -> Reason {
        match self {
            Self::Fds => Reason::ProxyFdLimit,
            Self::Memory => Reason::ProxyMemoryLimit,
        }
    }
}

/// The shortage that made an attempt to connect fail, if one did: socket(2), connect(2).
pub(crate) fn shortage(error: &io::Error) -> Option<Shortage> {
    match error.raw_os_error().map(Errno::from_raw_os_error)? {
        Errno::MFILE | Errno::NFILE => Some(Shortage::Fds),
        Errno::NOBUFS | Errno::NOMEM => Some(Shortage::Memory),
        _ => None,
    }
}

/// Why a connection could not be accepted: accept(2).
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
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_limit_that_cannot_be_raised_is_used_as_it_is() {
        let limit = Rlimit { current: Some(1024), maximum: Some(1 << 40) };
        assert_eq!(in_force(limit, Ok(())), Some(1 << 40));
        assert_eq!(in_force(limit, Err(Errno::PERM)), Some(1024));
    }

    #[test]
    fn connections_have_what_everything_else_leaves() {
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
    fn the_kernel_knows_what_a_socket_is_ready_for() {
        use std::io::{Read, Write};

        const READ: Interest = Interest { read: true, write: false };
        const WRITE: Interest = Interest { read: false, write: true };
        const NOTHING: Interest = Interest { read: false, write: false };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut tcp = listener.accept().unwrap().0;
        assert!(!is_ready(&tcp, READ) && is_ready(&tcp, WRITE) && !is_ready(&tcp, NOTHING));
        peer.write_all(b"x").unwrap();
        // Over loopback it has come once it is sent.
        assert!(is_ready(&tcp, READ) && !is_ready(&tcp, NOTHING));
        tcp.read_exact(&mut [0; 1]).unwrap();
        assert!(!is_ready(&tcp, READ));
        tcp.set_nonblocking(true).unwrap();
        while tcp.write(&[0; 65_536]).is_ok() {}
        assert!(!is_ready(&tcp, WRITE));
        drop(peer);
        assert!(is_ready(&tcp, READ), "its end can be read");
    }

    #[tokio::test]
    async fn an_accepted_socket_inherits_the_options_of_its_listener() {
        let options = Tcp {
            keepalive: Some(Duration::from_secs(40)),
            user_timeout: Some(Duration::from_secs(90)),
        };
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), options).unwrap();
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
}
