//! Traffic through established connections: bulk transfers, and messages with replies.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Bench, Figure, MB, MESSAGES, Steady, percentile_ms};
use crate::backend::Task;
use crate::device::{self, Line, Version, within};

const CHUNK: usize = 64 * 1024;
const MEGABYTE: f64 = 1e6;

pub async fn bulk(bench: &Bench<'_>, task: Task, connections: usize) -> io::Result<Vec<Figure>> {
    let load = Steady::default();
    let mut moving = Vec::new();
    for line in dial(bench, task, connections).await? {
        let (mut reader, mut writer) = tokio::io::split(line);
        if task != Task::Source {
            let load = load.clone();
            moving.push(tokio::spawn(async move {
                let chunk = vec![0x5a; CHUNK];
                while !load.is_stopped() {
                    writer.write_all(&chunk).await?;
                    load.add(CHUNK);
                }
                io::Result::Ok(())
            }));
        }
        if task != Task::Sink {
            let load = load.clone();
            moving.push(tokio::spawn(async move {
                let mut chunk = vec![0; CHUNK];
                while !load.is_stopped() {
                    match reader.read(&mut chunk).await? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        read => load.add(read),
                    }
                }
                Ok(())
            }));
        }
    }
    let rates = load.measure(bench.proxy, bench.time).await;
    for one in moving {
        one.abort();
        if let Ok(Err(error)) = one.await {
            return Err(error);
        }
    }
    Ok(vec![(MB, rates.per_cpu_second / MEGABYTE), ("MB per second", rates.per_second / MEGABYTE)])
}

pub async fn replies(
    bench: &Bench<'_>,
    bytes: usize,
    connections: usize,
) -> io::Result<Vec<Figure>> {
    let load = Steady::default();
    let mut talking = Vec::new();
    for mut line in dial(bench, Task::Echo, connections).await? {
        let load = load.clone();
        talking.push(tokio::spawn(async move {
            let message = vec![0x5a; bytes];
            let mut times = Vec::new();
            while !load.is_stopped() {
                let start = Instant::now();
                device::echo(&mut *line, &message).await?;
                load.add(1);
                if load.is_measuring() {
                    times.push(start.elapsed());
                }
            }
            io::Result::Ok(times)
        }));
    }
    let rates = load.measure(bench.proxy, bench.time).await;
    let mut times = Vec::new();
    for one in talking {
        times.extend(within(Duration::from_secs(10), one).await?.map_err(io::Error::other)??);
    }
    Ok(vec![
        (MESSAGES, rates.per_cpu_second),
        ("messages per second", rates.per_second),
        ("message p50, ms", percentile_ms(&mut times, 0.50)),
        ("message p99, ms", percentile_ms(&mut times, 0.99)),
    ])
}

async fn dial(bench: &Bench<'_>, task: Task, connections: usize) -> io::Result<Vec<Line>> {
    let dialer = bench.dialer(Version::Tls13, false);
    let mut lines = Vec::with_capacity(connections);
    for _ in 0..connections {
        lines.push(within(Duration::from_secs(10), dialer.dial(task)).await??);
    }
    Ok(lines)
}
