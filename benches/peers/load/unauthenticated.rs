//! Cost of an unauthenticated client, by its input: CPU time and memory per connection, and CPU time per KiB sent.
//!
//! **Promises.** A connection counts, even if the proxy refuses it. CPU time is measured until the proxy is idle,
//! memory while all connections that the proxy has not ended are held.
//!
//! **Not here.** The inputs (`inputs.rs`).

mod chain;
mod hello;
pub mod inputs;
mod sealed;

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use self::inputs::{Act, Input};
use super::{Bench, Figure};
use crate::device::within;

pub const CPU: &str = "CPU ms per connection";
pub const CPU_BY_BYTES: &str = "CPU µs per KiB sent";
pub const MEMORY: &str = "memory KiB per connection";
const SENT: &str = "KiB sent per connection";

/// Connections whose CPU time is measured, and the size of a batch.
const CONNECTIONS: usize = 160;
const AT_A_TIME: usize = 16;
/// Connections that are held while memory is measured.
const HELD: usize = 300;
/// Time of connections before the measurement.
const WARM_UP: Duration = Duration::from_millis(200);
/// Longest measurement, if connections are costly.
const AT_MOST: Duration = Duration::from_secs(3);
/// The longest wait for a proxy that sends nothing.
const SILENCE: Duration = Duration::from_millis(40);

/// A connection after its input has been sent.
pub struct Sent {
    pub tcp: TcpStream,
    pub bytes: usize,
}

pub async fn run(bench: &Bench<'_>, input: &'static Input) -> io::Result<Vec<Figure>> {
    let act = Act::prepare(input, bench.site);
    // Loads the shared parts: code pages, buffers of threads.
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        batch(bench, &act, true).await;
    }
    settle(bench, Duration::from_secs(15)).await;
    if input.holds { memory(bench, &act).await } else { cost(bench, &act).await }
}

async fn cost(bench: &Bench<'_>, act: &Act) -> io::Result<Vec<Figure>> {
    let before = bench.proxy.precise_cpu_seconds();
    let (start, mut count, mut bytes) = (Instant::now(), 0, 0);
    while count < CONNECTIONS && start.elapsed() < AT_MOST {
        for sent in batch(bench, act, true).await.into_iter().flatten() {
            bytes += sent.bytes;
            count += 1;
        }
    }
    if count == 0 {
        return Err(io::Error::other("no connection was accepted"));
    }
    settle(bench, Duration::from_secs(15)).await;
    let cpu = bench.proxy.precise_cpu_seconds() - before;
    let kib = bytes as f64 / 1024.0;
    Ok(vec![
        (CPU, cpu * 1e3 / count as f64),
        (CPU_BY_BYTES, cpu * 1e6 / kib),
        (SENT, kib / count as f64),
    ])
}

/// Sends the input on a batch of connections. With `reads`, each is read until the proxy ends it or is silent.
async fn batch(bench: &Bench<'_>, act: &Act, reads: bool) -> Vec<io::Result<Sent>> {
    let address = bench.site.listen;
    let sending = (0..AT_A_TIME).map(|_| {
        let act = act.clone();
        tokio::spawn(async move {
            let mut sent = act.send(address).await?;
            if reads {
                read(&mut sent.tcp).await;
            }
            io::Result::Ok(sent)
        })
    });
    let mut all = Vec::new();
    for one in sending.collect::<Vec<_>>() {
        let joined = within(Duration::from_secs(20), one).await;
        all.push(joined.and_then(|sent| sent.map_err(io::Error::other)?));
    }
    all
}

async fn memory(bench: &Bench<'_>, act: &Act) -> io::Result<Vec<Figure>> {
    let before = bench.proxy.memory_bytes();
    let (mut held, mut bytes) = (Vec::new(), 0);
    while held.len() < HELD {
        for sent in batch(bench, act, false).await {
            let sent = sent?;
            bytes += sent.bytes;
            held.push(sent.tcp);
        }
    }
    settle(bench, Duration::from_secs(3)).await;
    let each = (bench.proxy.memory_bytes() - before) / held.len() as f64;
    Ok(vec![(MEMORY, each.max(0.0) / 1024.0), (SENT, bytes as f64 / 1024.0 / held.len() as f64)])
}

/// Reads until the proxy ends the connection or is silent.
async fn read(tcp: &mut TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(Ok(1..)) = within(SILENCE, tcp.read(&mut buffer)).await {}
}

/// Waits until the proxy is idle: it may still process received bytes.
async fn settle(bench: &Bench<'_>, at_most: Duration) {
    let start = Instant::now();
    let mut was = bench.proxy.precise_cpu_seconds();
    while start.elapsed() < at_most {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = bench.proxy.precise_cpu_seconds();
        if now - was < 0.001 {
            break;
        }
        was = now;
    }
}

/// Writes the pieces one by one, until the proxy refuses one.
async fn write(tcp: &mut TcpStream, pieces: &[Vec<u8>]) -> usize {
    let mut bytes = 0;
    for piece in pieces {
        let written = within(Duration::from_secs(10), tcp.write_all(piece)).await;
        if !matches!(written, Ok(Ok(()))) {
            break;
        }
        bytes += piece.len();
    }
    bytes
}
