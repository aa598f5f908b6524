//! The cost of an unauthenticated client, by its input: CPU and memory per connection, and CPU per KiB of
//! input.
//!
//! **Promises.** A connection counts as one, whether the proxy has refused it or not. CPU is measured until
//! the proxy has nothing left to do, and memory while all connections are held that the proxy has not
//! ended.
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

/// Connections whose CPU is measured, and how many of them at a time.
const CONNECTIONS: usize = 160;
const AT_A_TIME: usize = 16;
/// Connections that are held while memory is measured.
const HELD: usize = 300;
/// Warm-up: connections without measurement.
const WARM_UP: Duration = Duration::from_millis(200);
/// Maximum measurement time, for expensive connections.
const AT_MOST: Duration = Duration::from_secs(3);
/// The longest wait for a proxy that sends nothing.
const SILENCE: Duration = Duration::from_millis(40);

/// A connection after its input was sent.
pub struct Sent {
    pub tcp: TcpStream,
    pub bytes: usize,
}

pub async fn run(bench: &Bench<'_>, input: &'static Input) -> io::Result<Vec<Figure>> {
    let act = Act::prepare(input, bench.site);
    // Shared by all connections: code pages, buffers of threads.
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        some(bench, &act).await;
    }
    settle(bench, Duration::from_secs(15)).await;
    if input.holds { memory(bench, &act).await } else { cost(bench, &act).await }
}

async fn cost(bench: &Bench<'_>, act: &Act) -> io::Result<Vec<Figure>> {
    let before = bench.proxy.precise_cpu_seconds();
    let (start, mut count, mut bytes) = (Instant::now(), 0, 0);
    while count < CONNECTIONS && start.elapsed() < AT_MOST {
        for sent in some(bench, act).await {
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

/// Some connections at a time, each read until it ends or is silent.
async fn some(bench: &Bench<'_>, act: &Act) -> Vec<Sent> {
    let address = bench.site.listen;
    let going = (0..AT_A_TIME).map(|_| {
        let act = act.clone();
        tokio::spawn(async move {
            let mut sent = act.send(address).await?;
            listen(&mut sent.tcp).await;
            io::Result::Ok(sent)
        })
    });
    let mut all = Vec::new();
    for one in going.collect::<Vec<_>>() {
        if let Ok(Ok(Ok(sent))) = within(Duration::from_secs(20), one).await {
            all.push(sent);
        }
    }
    all
}

async fn memory(bench: &Bench<'_>, act: &Act) -> io::Result<Vec<Figure>> {
    let before = bench.proxy.memory_bytes();
    let (mut held, mut bytes) = (Vec::new(), 0);
    while held.len() < HELD {
        let address = bench.site.listen;
        let going: Vec<_> = (0..AT_A_TIME)
            .map(|_| {
                let act = act.clone();
                tokio::spawn(async move { act.send(address).await })
            })
            .collect();
        for one in going {
            let sent = within(Duration::from_secs(20), one).await?.map_err(io::Error::other)??;
            bytes += sent.bytes;
            held.push(sent.tcp);
        }
    }
    settle(bench, Duration::from_secs(3)).await;
    let each = (bench.proxy.memory_bytes() - before) / held.len() as f64;
    Ok(vec![(MEMORY, each.max(0.0) / 1024.0), (SENT, bytes as f64 / 1024.0 / held.len() as f64)])
}

/// Reads from the proxy until it ends the connection or is silent.
async fn listen(tcp: &mut TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(Ok(1..)) = within(SILENCE, tcp.read(&mut buffer)).await {}
}

/// Waits until the proxy is idle: it may still process earlier input.
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

/// Writes pieces one by one. A proxy that has refused one does not accept the rest.
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
