//! A TCP relay that counts bytes and round trips, and the legacy server, which notes that a request has arrived.
//!
//! Each chunk is delayed, so that what a device sends without waiting counts as one flight.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Delay in each direction.
const DELAY: Duration = Duration::from_millis(5);

/// TLS bytes of a connection until the device has the answer, and round trips before its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    pub to_server: usize,
    pub to_device: usize,
    pub round_trips: usize,
}

impl Wire {
    pub const fn bytes(self) -> usize {
        self.to_server + self.to_device
    }

    /// Returns the figures without the records of the request and its answer.
    pub const fn without(self, record: usize) -> Self {
        let Self { to_server, to_device, round_trips } = self;
        Self { to_server: to_server - record, to_device: to_device - record, round_trips }
    }
}

/// Counters of one connection.
#[derive(Default)]
struct Counting {
    wire: Wire,
    /// The last chunk went to the device.
    was_to_device: bool,
    /// The request has arrived at the legacy server.
    requested: bool,
    /// The device has sent something after the answer: its close_notify, which is not counted, and what follows.
    is_closing: bool,
}

impl Counting {
    fn device_wrote(&mut self, bytes: usize) {
        self.is_closing |= self.requested;
        if self.is_closing {
            return;
        }
        self.wire.round_trips += usize::from(self.was_to_device);
        self.was_to_device = false;
        self.wire.to_server += bytes;
    }

    fn server_wrote(&mut self, bytes: usize) {
        if !self.is_closing {
            self.was_to_device = true;
            self.wire.to_device += bytes;
        }
    }
}

/// The counters of all connections, in their order; the devices connect one after another.
type Connections = Arc<Mutex<Vec<Counting>>>;

/// The legacy server.
pub struct Echo {
    pub address: SocketAddr,
    connections: Connections,
    task: JoinHandle<()>,
}

/// A running relay.
pub struct Relay {
    pub address: SocketAddr,
    connections: Connections,
    task: JoinHandle<()>,
}

/// Starts the legacy server.
pub async fn echo() -> io::Result<Echo> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let connections = Connections::default();
    let all = Arc::clone(&connections);
    let task = tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let connections = Arc::clone(&all);
            tokio::spawn(async move {
                let mut request = [0; 64];
                while let Ok(read @ 1..) = tcp.read(&mut request).await {
                    if let Some(last) = locked(&connections).last_mut() {
                        last.requested = true;
                    }
                    let _gone = tcp.write_all(&request[..read]).await;
                }
            });
        }
    });
    Ok(Echo { address, connections, task })
}

impl Relay {
    /// Starts a relay to `server`.
    pub async fn start(server: SocketAddr, echo: &Echo) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let all = Arc::clone(&echo.connections);
        let task = tokio::spawn(async move {
            while let Ok((device, _)) = listener.accept().await {
                let index = {
                    let mut all = locked(&all);
                    all.push(Counting::default());
                    all.len() - 1
                };
                if let Ok(server) = TcpStream::connect(server).await {
                    let from = [device, server].map(TcpStream::into_split);
                    let [(from_device, to_device), (from_server, to_server)] = from;
                    let count = |count| Count { all: Arc::clone(&all), index, count };
                    tokio::spawn(copy(from_device, to_server, count(Counting::device_wrote)));
                    tokio::spawn(copy(from_server, to_device, count(Counting::server_wrote)));
                }
            }
        });
        Ok(Self { address, connections: Arc::clone(&echo.connections), task })
    }

    /// Returns the figures of all connections.
    pub fn connections(&self) -> Vec<Wire> {
        locked(&self.connections).iter().map(|counting| counting.wire).collect()
    }
}

/// Counts one direction of one connection.
struct Count {
    all: Connections,
    index: usize,
    count: fn(&mut Counting, usize),
}

/// Copies until either side ends.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, Count { all, index, count }: Count) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        count(&mut locked(&all)[index], read);
        tokio::time::sleep(DELAY).await;
        if to.write_all(&chunk[..read]).await.is_err() {
            return;
        }
    }
}

fn locked(connections: &Connections) -> std::sync::MutexGuard<'_, Vec<Counting>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
