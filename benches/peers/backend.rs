//! The legacy server behind every proxy: a separate process, so that its memory and CPU time are not counted as
//! another's.
//!
//! The first byte of a connection selects its [`Task`].

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The backend's task on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Send received bytes back.
    Echo,
    /// Read without end.
    Sink,
    /// Write without end.
    Source,
    /// Read and write without end.
    Both,
}

impl Task {
    /// Returns the byte that selects the task.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Echo => b'e',
            Self::Sink => b's',
            Self::Source => b'w',
            Self::Both => b'b',
        }
    }
}

const CHUNK: usize = 64 * 1024;

/// A running backend. Dropping it ends the process.
pub struct Backend {
    child: Child,
    pub address: SocketAddr,
}

impl Backend {
    /// Starts this program again as a backend.
    pub fn start() -> std::io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg("--backend").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line)?;
        let address = line.trim().parse().expect("the backend prints its address");
        Ok(Self { child, address })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Serves until the process is killed or its parent has ended.
pub async fn serve() {
    // Fails only for an invalid signal.
    let _set = set_parent_process_death_signal(Some(Signal::KILL));
    let socket = tokio::net::TcpSocket::new_v4().expect("IPv4 is available");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback has a free port");
    let listener: TcpListener = socket.listen(4096).expect("the socket is bound");
    println!("{}", listener.local_addr().expect("the socket is bound"));
    loop {
        if let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                // A proxy that ends closes its connections.
                let _ended = work(tcp).await;
            });
        }
    }
}

async fn work(mut tcp: TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    match tcp.read_u8().await? {
        b's' => sink(tcp).await,
        b'w' => source(tcp).await,
        b'b' => {
            let (reader, writer) = tcp.into_split();
            tokio::try_join!(sink(reader), source(writer)).map(|_| ())
        }
        _ => echo(tcp).await,
    }
}

async fn echo(mut tcp: TcpStream) -> std::io::Result<()> {
    loop {
        // An idle connection owns no buffer: readiness is awaited first.
        tcp.readable().await?;
        let mut buffer = vec![0; CHUNK];
        match tcp.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => tcp.write_all(&buffer[..read]).await?,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn sink(mut from: impl tokio::io::AsyncRead + Unpin) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while from.read(&mut buffer).await? > 0 {}
    Ok(())
}

async fn source(mut to: impl tokio::io::AsyncWrite + Unpin) -> std::io::Result<()> {
    let buffer = vec![0x5a; CHUNK];
    loop {
        to.write_all(&buffer).await?;
    }
}
