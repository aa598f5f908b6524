//! The kernel's figures of a TCP socket, from its netlink interface for socket diagnostics (sock_diag(7)).
//!
//! `getsockopt(TCP_INFO)` would be one system call instead of four. No dependency of ours offers it: socket2 and rustix
//! have no safe function for it, and the macro of nix compiles `unsafe` code into this crate, panics if the kernel's
//! structure is shorter than its own, and would turn on a feature of libc that every dependency is then built with.
//!
//! **Promises.** It is asked only about connections that have failed, and before a scrape. Nothing is kept open. Without
//! an answer (a kernel without `INET_DIAG`, a sandbox without `AF_NETLINK`, a connection that was reset), there are no
//! figures, and nothing else changes.
//!
//! **Not here.** The meaning of the figures (`handshake/course.rs`).

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::fs::fstat;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// `AF_NETLINK`, `NETLINK_SOCK_DIAG`: linux/socket.h, linux/netlink.h.
const NETLINK: i32 = 16;
const SOCK_DIAG: i32 = 4;

/// `SOCK_DIAG_BY_FAMILY` and `NLM_F_REQUEST`: linux/sock_diag.h, linux/netlink.h. A request without `NLM_F_DUMP` is about
/// one socket, which the kernel finds in its hash table.
const BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;

/// `AF_INET`, `AF_INET6`, `IPPROTO_TCP`.
const INET: u8 = 2;
const INET6: u8 = 10;
const TCP: u8 = 6;

/// The attribute with a `struct tcp_info`, and its bit in a request: linux/inet_diag.h.
const INFO: u16 = 2;
const INFO_BIT: u8 = 1 << (INFO - 1);

/// Lengths of `struct nlmsghdr`, of it with `struct inet_diag_req_v2`, and of `struct inet_diag_msg`.
const HEADER: usize = 16;
const QUESTION: u32 = 72;
const MESSAGE: usize = 72;

/// Offsets in `struct inet_diag_msg`.
const RECEIVE_QUEUE: usize = 56;
const SEND_QUEUE: usize = 60;
const INODE: usize = 68;

/// Offsets in `struct tcp_info` (linux/tcp.h), which later kernels only append to.
const SEND_MSS: usize = 16;
const RTT: usize = 68;
const TOTAL_RETRANS: usize = 100;

/// The figures of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpState {
    /// Bytes that were given to the kernel and that the peer's TCP has not acknowledged.
    pub(crate) unacked: u32,
    /// Segments that were sent again since the connection began.
    pub(crate) retransmits: u32,
    /// The smoothed round-trip time.
    pub(crate) rtt: Duration,
    /// The largest payload of a segment to the peer, in bytes.
    pub(crate) mss: u32,
}

impl TcpState {
    /// Returns the figures of a connection, unless it was reset or the kernel does not answer.
    pub(crate) fn of(tcp: &TcpStream) -> Option<Self> {
        let answer = Answer::about(tcp.local_addr().ok()?, tcp.peer_addr().ok()?)?;
        let info = answer.attribute(INFO)?;
        Some(Self {
            unacked: number(answer.message(), SEND_QUEUE)?,
            retransmits: number(info, TOTAL_RETRANS)?,
            rtt: Duration::from_micros(number(info, RTT)?.into()),
            mss: number(info, SEND_MSS)?,
        })
    }
}

/// The queue of connections that a listening socket has not accepted.
#[derive(Debug)]
pub(crate) struct AcceptQueue {
    address: SocketAddr,
    inode: u32,
}

impl AcceptQueue {
    /// Returns the queue of a socket.
    pub(crate) fn of(socket: &TcpListener) -> Option<Self> {
        let inode = u32::try_from(fstat(socket).ok()?.st_ino).ok()?;
        Some(Self { address: socket.local_addr().ok()?, inode })
    }

    /// Returns the number of connections in the queue. None if the kernel does not answer, or answers about another
    /// socket on this address (`reuse_port`).
    pub(crate) fn length(&self) -> Option<u32> {
        let nobody = match self.address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let answer = Answer::about(self.address, SocketAddr::new(nobody, 0))?;
        let message = answer.message();
        (number(message, INODE)? == self.inode).then(|| number(message, RECEIVE_QUEUE))?
    }
}

/// The kernel's answer about one socket: a `struct inet_diag_msg`, then attributes.
struct Answer(Vec<u8>);

impl Answer {
    /// Asks for the socket between these addresses.
    fn about(local: SocketAddr, peer: SocketAddr) -> Option<Self> {
        let kind = Type::DGRAM.nonblocking();
        let kernel = Socket::new(Domain::from(NETLINK), kind, Some(Protocol::from(SOCK_DIAG)));
        let mut kernel = kernel.ok()?;
        kernel.send(&question(local, peer)).ok()?;
        // The kernel answers within the call of send.
        let mut answer = vec![0; 1024];
        let length = kernel.read(&mut answer).ok()?;
        answer.truncate(length);
        let kind = answer.get(4..6)?;
        (length >= HEADER + MESSAGE && kind == BY_FAMILY.to_ne_bytes()).then_some(Self(answer))
    }

    fn message(&self) -> &[u8] {
        &self.0[HEADER..]
    }

    /// Returns the content of an attribute: netlink(7).
    fn attribute(&self, wanted: u16) -> Option<&[u8]> {
        let mut rest = &self.message()[MESSAGE..];
        loop {
            let (length, kind) = (rest.get(..2)?, rest.get(2..4)?);
            let length = usize::from(u16::from_ne_bytes(length.try_into().ok()?));
            if kind == wanted.to_ne_bytes() {
                return rest.get(4..length);
            }
            rest = rest.get(length.max(4).next_multiple_of(4)..)?;
        }
    }
}

fn question(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    const ANY_STATE: u32 = u32::MAX;
    const NO_COOKIE: [u8; 8] = [0xff; 8];
    let mut bytes = QUESTION.to_ne_bytes().to_vec();
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    // Sequence number and sender.
    bytes.extend([0; 8]);
    let family = if local.is_ipv4() { INET } else { INET6 };
    bytes.extend([family, TCP, INFO_BIT, 0]);
    bytes.extend(ANY_STATE.to_ne_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(peer.port().to_be_bytes());
    for address in [local.ip(), peer.ip()] {
        match address {
            IpAddr::V4(address) => {
                bytes.extend(address.octets());
                bytes.extend([0; 12]);
            }
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    // Any interface.
    bytes.extend([0; 4]);
    bytes.extend(NO_COOKIE);
    bytes
}

/// Returns the number of four bytes at an offset.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn connected(address: &str) -> (TcpListener, TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let accepted = listener.accept().await.unwrap().0;
        (listener, client, accepted)
    }

    #[tokio::test]
    async fn the_figures_of_a_connection_come_over_both_families() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let (_listener, mut client, mut accepted) = connected(address).await;
            accepted.write_all(b"x").await.unwrap();
            client.read_exact(&mut [0]).await.unwrap();
            let state = TcpState::of(&accepted).unwrap();
            assert_eq!((state.unacked, state.retransmits), (0, 0), "{address}");
            assert!(state.mss > 500 && state.rtt > Duration::ZERO, "{state:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_reset_has_no_figures() {
        let (_listener, client, accepted) = connected("127.0.0.1:0").await;
        client.set_zero_linger().unwrap();
        drop(client);
        assert_eq!(TcpState::of(&accepted), None);
    }

    #[tokio::test]
    async fn the_accept_queue_has_the_connections_that_nobody_has_accepted() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let (listener, _client, _accepted) = connected(address).await;
            let queue = AcceptQueue::of(&listener).unwrap();
            assert_eq!(queue.length(), Some(0), "{address}");
            let port = listener.local_addr().unwrap().port();
            let _waiting = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            assert_eq!(queue.length(), Some(1), "{address}");
            drop(listener);
            assert_eq!(queue.length(), None, "{address}");
        }
    }
}
