//! Stand-ins for legacy servers: plain TCP, each with its own manners.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tlsidecar::config::BackendAddress;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// A plain TCP server. It ends with the test.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Backend {
    /// Serves each connection by `serve`.
    pub(crate) async fn serving<F, S>(serve: S) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(TcpStream) -> F + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, serve)
    }

    /// The same on a socket that is bound already.
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

    /// Sends back what it gets, and ends when the other side has.
    pub(crate) async fn echo() -> Self {
        Self::serving(echo).await
    }

    /// Ends it. On return its port refuses: a task that is only told to end may still listen for a while.
    pub(crate) async fn end(mut self) {
        self.task.abort();
        assert!((&mut self.task).await.unwrap_err().is_cancelled());
    }

    /// How many connections it has had.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Its address, as a configuration has it.
    pub(crate) fn config(&self) -> BackendAddress {
        self.address.to_string().parse::<BackendAddress>().unwrap()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address where nobody listens, and no other test will: its port stays taken.
pub(crate) fn nobody() -> SocketAddr {
    Box::leak(Box::new(silent_port())).local_addr().unwrap()
}

/// A port that is taken and refuses, until it is made to listen.
pub(crate) fn silent_port() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    socket
}

/// An address for something else to listen at.
pub(crate) fn free() -> SocketAddr {
    silent_port().local_addr().unwrap()
}

/// Sends back what it gets, and ends when the other side has.
pub(crate) async fn echo(mut tcp: TcpStream) {
    let (mut reader, mut writer) = tcp.split();
    // A peer that is gone has no use for its echo.
    let _gone = tokio::io::copy(&mut reader, &mut writer).await;
    let _gone = writer.shutdown().await;
}

/// Reads until the end and returns everything.
pub(crate) async fn read_all<R: AsyncReadExt + Unpin>(reader: &mut R) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    reader.read_to_end(&mut all).await?;
    Ok(all)
}
