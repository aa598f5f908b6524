//! The sockets of the admin port, and what each of them answers.
//!
//! **Promises.** A Unix socket has mode 0660 before the first client can connect. A socket that a process left behind is
//! replaced; one on which a process listens is not, also if that process starts at the same time or accepts nobody.
//!
//! **Not here.** The answers (`admin.rs`), the connections (`clients.rs`).

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixSocket, UnixStream};

/// Pending connections of a Unix socket, as of a TCP socket of the standard library.
const BACKLOG: u32 = 128;

/// Owner and group may connect: connect(2) needs the permission to write.
const SOCKET_MODE: u32 = 0o660;

/// A listening socket of the admin port.
pub(crate) struct Endpoint {
    acceptor: Acceptor,
    pub(super) scope: Scope,
    /// True if only this machine can connect by TCP, and therefore a browser on it.
    pub(super) is_local: bool,
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The requests that an endpoint answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of them.
    Whole,
    /// Metrics and probes.
    Metrics,
}

/// The other end of a connection, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    Tcp(SocketAddr),
    /// A process of this user, as the kernel reports it: SO_PEERCRED of unix(7).
    Unix {
        uid: Option<u32>,
    },
}

/// A connection of any kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Endpoint {
    /// Makes an endpoint of a TCP socket that is bound to `address`.
    pub(crate) fn tcp(listener: TcpListener, address: SocketAddr, scope: Scope) -> Self {
        let is_local = address.ip().to_canonical().is_loopback();
        Self { acceptor: Acceptor::Tcp(listener), scope, is_local }
    }

    /// Binds a Unix socket that answers all requests.
    ///
    /// # Errors
    /// A process listens on the path, another file has it, or its directory cannot be written.
    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        // Until the socket listens, another process would take it for an abandoned one.
        let _locked = lock_directory(path)?;
        remove_abandoned(path)?;
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        // Between bind and listen nobody can connect.
        fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
        let acceptor = Acceptor::Unix(socket.listen(BACKLOG)?);
        Ok(Self { acceptor, scope: Scope::Whole, is_local: false })
    }

    pub(super) async fn accept(&self) -> io::Result<(Box<dyn Stream>, Caller)> {
        match &self.acceptor {
            Acceptor::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Box::new(stream), Caller::Tcp(address)))
            }
            Acceptor::Unix(listener) => {
                let stream = listener.accept().await?.0;
                let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
                Ok((Box::new(stream), Caller::Unix { uid }))
            }
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { uid: Some(uid) } => write!(f, "uid {uid}"),
            Self::Unix { uid: None } => f.write_str("a local process"),
        }
    }
}

/// Locks the directory of a socket against other starts until the result is dropped (flock(2)).
fn lock_directory(path: &Path) -> io::Result<File> {
    let directory = path.parent().filter(|parent| *parent != Path::new(""));
    let directory = File::open(directory.unwrap_or_else(|| Path::new(".")))?;
    // NFS cannot lock a directory. Two starts at the same moment are unlikely there.
    let _unlocked = directory.lock();
    Ok(directory)
}

/// Removes the socket of a process that has ended.
fn remove_abandoned(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(io::Error::other("the file is no socket")),
    }
    match probe(path)? {
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path)
        }
        // With a full backlog, connect(2) would wait for a process that accepts nobody.
        Poll::Ready(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Poll::Ready(_) | Poll::Pending => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Begins to connect to a socket, without waiting for the result.
fn probe(path: &Path) -> io::Result<Poll<io::Result<UnixStream>>> {
    let connecting = pin!(UnixSocket::new_stream()?.connect(path));
    Ok(connecting.poll(&mut Context::from_waker(Waker::noop())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_abandoned_socket_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let bound = Endpoint::unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        let refused = Endpoint::unix(&path).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        drop(bound);
        Endpoint::unix(&path).unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Endpoint::unix(&file).is_err() && file.exists());
        assert!(Endpoint::unix(&dir.path().join("missing/admin.sock")).is_err());
    }

    #[tokio::test]
    async fn a_socket_whose_process_accepts_nobody_is_not_replaced_and_delays_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let _bound = Endpoint::unix(&path).unwrap();
        let mut waiting = Vec::new();
        // The kernel permits some more than the backlog.
        while waiting.len() < 10 * BACKLOG as usize {
            match UnixSocket::new_stream().unwrap().connect(&path).await {
                Ok(stream) => waiting.push(stream),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        let refused = Endpoint::unix(&path).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
    }
}
