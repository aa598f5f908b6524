//! Revocation of some of many connected devices: the time until exactly these are disconnected, and its cost for the
//! others.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use super::{Bench, Figure, percentile_ms};
use crate::device::{self, Line, Version, within};

/// Connected devices.
const DEVICES: u64 = 9000;

/// Every so many connected devices one is revoked.
const REVOKED_EVERY: u64 = 18;

/// Serial numbers of the list, most of them of devices that are not connected.
const ENTRIES: u64 = 1_000_000;

/// Devices that send messages and wait for the replies.
const TALKING: usize = 200;

/// Time of a measurement of replies without a change.
const QUIET: Duration = Duration::from_secs(5);

/// Time to wait for the end of sessions: `recheck_spread`, and some for the list to be loaded.
const LONGEST: Duration = Duration::from_secs(20);

/// Interval between two measurements of memory.
const SAMPLE: Duration = Duration::from_millis(100);

pub async fn run(bench: &Bench<'_>) -> io::Result<Vec<Figure>> {
    let material = bench.site.material;
    let revoked: HashSet<u64> = (1..=DEVICES).step_by(REVOKED_EVERY as usize).collect();
    let others = (1..).map(|n| DEVICES + n).take(ENTRIES as usize - revoked.len());
    let next = material.dir().join("devices.crl.next");
    fs::write(&next, material.crl(revoked.iter().copied().chain(others)))?;
    let file_bytes = fs::metadata(&next)?.len() as f64;

    let mut lines = dial(bench).await?;
    let talking = lines.iter().filter(|(serial, _)| !revoked.contains(serial)).take(TALKING);
    let talking: HashSet<u64> = talking.map(|(serial, _)| *serial).collect();
    let (mut talkers, waiting): (Vec<_>, Vec<_>) =
        lines.drain(..).partition(|(serial, _)| talking.contains(serial));
    let mut quiet = replies(&mut talkers, QUIET).await?;

    let before = bench.proxy.memory_bytes();
    let cpu = bench.proxy.cpu_seconds();
    let arrival = Instant::now();
    fs::rename(&next, material.crl_file())?;
    let watched: Vec<_> = waiting
        .into_iter()
        .map(|(serial, line)| (serial, tokio::spawn(ended(line, arrival))))
        .collect();
    let (during, memory) = tokio::join!(replies(&mut talkers, LONGEST), peak(bench, LONGEST));
    let cpu = bench.proxy.cpu_seconds() - cpu;
    let mut during = during?;

    let (mut ends, mut by_mistake) = (Vec::new(), 0_u32);
    for (serial, watched) in watched {
        match watched.await.map_err(io::Error::other)? {
            End::Closed(after) if revoked.contains(&serial) => ends.push(after),
            End::Closed(_) | End::Mute => by_mistake += 1,
            End::Live => {}
        }
    }
    fs::write(material.crl_file(), material.crl([]))?;
    let last = ends.iter().max().copied().unwrap_or_default();
    Ok(vec![
        ("revoked and closed", ends.len() as f64),
        ("revoked and not closed", revoked.len() as f64 - ends.len() as f64),
        ("others closed or mute", f64::from(by_mistake)),
        ("last close after the file, s", last.as_secs_f64()),
        ("reply p99, quiet, ms", percentile_ms(&mut quiet, 0.99)),
        ("reply p99, during, ms", percentile_ms(&mut during, 0.99)),
        ("more memory at the peak, in sizes of the file", (memory - before) / file_bytes),
        ("CPU seconds", cpu),
    ])
}

/// Connects the devices, each with a certificate of its own.
async fn dial(bench: &Bench<'_>) -> io::Result<Vec<(u64, Line)>> {
    let mut lines = Vec::new();
    for serial in 1..=DEVICES {
        let identity = bench.site.material.device_of(serial).map_err(io::Error::other)?;
        let dialer = device::Dialer::showing(
            bench.site.listen,
            bench.site.material,
            Version::Tls13,
            identity,
        );
        let mut dialled = within(Duration::from_secs(10), dialer.dial_many(1)).await??;
        lines.extend(dialled.pop().map(|line| (serial, line)));
    }
    Ok(lines)
}

/// The state of a watched session.
enum End {
    /// Closed this long after the file arrived.
    Closed(Duration),
    Live,
    /// Not closed, and without a reply.
    Mute,
}

/// Waits for the end of a session. After [`LONGEST`], checks that it is live.
async fn ended(mut line: Line, since: Instant) -> End {
    let mut byte = [0];
    let read = tokio::io::AsyncReadExt::read(&mut line, &mut byte);
    if tokio::time::timeout(LONGEST, read).await.is_ok() {
        return End::Closed(since.elapsed());
    }
    match within(Duration::from_secs(10), device::echo(&mut *line, b"live")).await {
        Ok(Ok(())) => End::Live,
        _ => End::Mute,
    }
}

/// Measures replies on all lines for some time, in turns.
async fn replies(lines: &mut [(u64, Line)], time: Duration) -> io::Result<Vec<Duration>> {
    let start = Instant::now();
    let mut times = Vec::new();
    while start.elapsed() < time {
        for (_, line) in lines.iter_mut() {
            let sent = Instant::now();
            within(Duration::from_secs(10), device::echo(&mut **line, &[7; 64])).await??;
            times.push(sent.elapsed());
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }
    Ok(times)
}

/// Returns the highest memory within some time.
async fn peak(bench: &Bench<'_>, time: Duration) -> f64 {
    let start = Instant::now();
    let mut peak: f64 = 0.0;
    while start.elapsed() < time {
        peak = peak.max(bench.proxy.memory_bytes());
        tokio::time::sleep(SAMPLE).await;
    }
    peak
}
