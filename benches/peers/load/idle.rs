//! Cost of idle connections: memory and CPU, while they are open and after they have closed; and the cost of a
//! proxy without connections.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Bench, Figure};
use crate::backend::Task;
use crate::device::{self, Line, Version, within};

const MIB: f64 = 1024.0 * 1024.0;

/// Time for allocators and the kernel to settle.
const SETTLE: Duration = Duration::from_secs(1);

/// Silence after which a device is idle: tlsidecar frees the keys of sessions without traffic for ten seconds.
const QUIET: Duration = Duration::from_secs(12);

/// Time from a burst, or from the end of all connections, to the measurement of memory.
const LATER: Duration = Duration::from_secs(10);

const BURST_BYTES: usize = 1 << 20;

pub async fn start(bench: &Bench<'_>) -> io::Result<Vec<Figure>> {
    Ok(vec![
        ("start to listening, ms", bench.started_in.as_secs_f64() * 1e3),
        ("base memory, MiB", base(bench).await? / MIB),
    ])
}

/// Measures with 1,000, then 3,000, then 9,000 connections.
pub async fn many(bench: &Bench<'_>) -> io::Result<Vec<Figure>> {
    let base = base(bench).await?;
    let per_connection = |held: usize| (bench.proxy.memory_bytes() - base) / held as f64;
    let dialer = bench.dialer(Version::Tls13, false);
    let mut lines = dialer.dial_many(1000).await?;
    tokio::time::sleep(QUIET).await;
    let at_1000 = per_connection(lines.len());
    lines.extend(dialer.dial_many(2000).await?);
    tokio::time::sleep(QUIET).await;
    let at_3000 = per_connection(lines.len());
    let mut lines = burst(lines).await?;
    tokio::time::sleep(QUIET).await;
    let after_burst = per_connection(lines.len());
    lines.extend(dialer.dial_many(6000).await?);
    tokio::time::sleep(QUIET).await;
    let at_9000 = per_connection(lines.len());
    let cpu = bench.proxy.cpu_seconds();
    tokio::time::sleep(LATER).await;
    let idle_cpu = (bench.proxy.cpu_seconds() - cpu) / LATER.as_secs_f64();
    drop(lines);
    tokio::time::sleep(LATER).await;
    Ok(vec![
        ("bytes per connection, 1,000 held", at_1000),
        ("bytes per connection, 3,000 held", at_3000),
        ("bytes per connection, 12 s after 1 MiB each way", after_burst),
        ("bytes per connection, 9,000 held", at_9000),
        ("CPU with 9,000 held, percent", idle_cpu * 100.0),
        ("memory 10 s after 9,000 left, MiB", bench.proxy.memory_bytes() / MIB),
    ])
}

pub async fn few(bench: &Bench<'_>) -> io::Result<Vec<Figure>> {
    let base = base(bench).await?;
    let lines = bench.dialer(Version::Tls13, false).dial_many(3000).await?;
    let each = || (bench.proxy.memory_bytes() - base) / lines.len() as f64;
    tokio::time::sleep(SETTLE).await;
    let at_once = each();
    tokio::time::sleep(QUIET).await;
    Ok(vec![
        ("bytes per connection, 3,000 held", each()),
        ("bytes per connection, 1 s after the last byte", at_once),
    ])
}

/// Returns the memory after the first connection, which loads the shared parts: code pages, buffers of threads.
async fn base(bench: &Bench<'_>) -> io::Result<f64> {
    drop(bench.dialer(Version::Tls13, false).dial_many(1).await?);
    tokio::time::sleep(SETTLE).await;
    Ok(bench.proxy.memory_bytes())
}

/// Sends 1 MiB in each direction on all connections at once.
async fn burst(lines: Vec<Line>) -> io::Result<Vec<Line>> {
    let bursting = lines.into_iter().map(|line| {
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(line);
            let writing = async {
                // In pieces, so that thousands of devices do not hold 1 MiB each.
                for _ in 0..BURST_BYTES / 4096 {
                    writer.write_all(&[7; 4096]).await?;
                }
                // A TLS client keeps bytes that the socket has not taken until it is flushed.
                writer.flush().await
            };
            let reading = async {
                let mut buffer = [0; 4096];
                let mut left = BURST_BYTES;
                while left > 0 {
                    match reader.read(&mut buffer).await? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        read => left -= read,
                    }
                }
                Ok(())
            };
            tokio::try_join!(writing, reading)?;
            io::Result::Ok(reader.unsplit(writer))
        })
    });
    let mut lines = Vec::new();
    for one in bursting.collect::<Vec<_>>() {
        lines.push(within(Duration::from_secs(180), one).await?.map_err(io::Error::other)??);
    }
    // The last messages are small again, as on an idle connection.
    for line in &mut lines {
        device::echo(&mut **line, &[Task::Echo.byte(); 64]).await?;
    }
    Ok(lines)
}
