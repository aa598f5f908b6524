//! Stand-ins for legacy servers, on plain TCP.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tlsidecar::config::BackendAddress;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::wait::eventually;

/// A plain TCP server. It ends with the test.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Backend {
    /// Serves each connection with `serve`.
    pub(crate) async fn serving<F, S>(serve: S) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(TcpStream) -> F + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, serve)
    }

    /// Serves each connection on a socket that is already bound.
    pub(crate) fn on<F, S>(listener: TcpListener, serve: S) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(TcpStream) -> F + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tcp.set_nodelay(true).unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(tcp));
            }
        });
        Self { address, connections, task }
    }

    /// Echoes, and ends its stream after the other side has.
    pub(crate) async fn echo() -> Self {
        Self::serving(echo).await
    }

    /// Ends it. On return its port refuses connections: an aborted task can still listen for a while, and so does a process
    /// that another test has forked, up to its exec.
    pub(crate) async fn end(mut self) {
        self.task.abort();
        assert!((&mut self.task).await.unwrap_err().is_cancelled());
        let address = self.address;
        let refuses = || std::net::TcpStream::connect(address).is_err();
        eventually("the port refuses connections", refuses).await;
    }

    /// Returns the number of accepted connections.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Returns its address for a configuration.
    pub(crate) fn config(&self) -> BackendAddress {
        self.address.to_string().parse::<BackendAddress>().unwrap()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A listener that does not answer: with a full backlog, the kernel drops each SYN.
pub(crate) struct FullBacklog {
    pub(crate) address: SocketAddr,
    _listener: Socket,
    _waiting: Vec<TcpStream>,
}

impl FullBacklog {
    pub(crate) async fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = Vec::new();
        let is_dropped = Duration::from_millis(300);
        while let Ok(tcp) = timeout(is_dropped, TcpStream::connect(address)).await {
            waiting.push(tcp.unwrap());
        }
        Self { address, _listener: listener, _waiting: waiting }
    }
}

/// Returns an address at which nothing listens. No other test can use it: its port stays bound.
pub(crate) fn nobody() -> SocketAddr {
    Box::leak(Box::new(silent_port())).local_addr().unwrap()
}

/// Returns a bound socket, which refuses connections until it listens.
pub(crate) fn silent_port() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    socket
}

/// Returns a free address for another program to listen on.
pub(crate) fn free() -> SocketAddr {
    silent_port().local_addr().unwrap()
}

/// Echoes, and ends its stream after the other side has.
pub(crate) async fn echo(mut tcp: TcpStream) {
    let (mut reader, mut writer) = tcp.split();
    // The peer may have closed the connection.
    let _gone = tokio::io::copy(&mut reader, &mut writer).await;
    let _gone = writer.shutdown().await;
}

/// Reads until the end and returns everything.
pub(crate) async fn read_all<R: AsyncReadExt + Unpin>(reader: &mut R) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    reader.read_to_end(&mut all).await?;
    Ok(all)
}
