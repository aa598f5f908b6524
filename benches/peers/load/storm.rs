//! A reconnect storm: after a restart every device connects at once, gives each attempt two seconds, and tries
//! again after a random pause. A proxy that continues with devices that have given up wastes handshakes.
//!
//! Times and CPU are compared with those of as many quiet handshakes, which are measured first, in the same process.
//! Meanwhile, connected devices send messages and wait for the replies.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Bench, Figure, handshakes, percentile_ms};
use crate::backend::Task;
use crate::device::{self, Dialer, Line, Version, within};

const ATTEMPT: Duration = Duration::from_secs(2);
const LONGEST_PAUSE_MS: u64 = 1000;

/// Time after which a storm that does not end is stopped.
const GIVE_UP: Duration = Duration::from_secs(60);

/// Connected devices that talk.
const TALKING: usize = 200;

/// Pause of a connected device between two messages.
const TALK_INTERVAL: Duration = Duration::from_millis(100);

/// Measures a storm of `count` devices.
pub async fn storm(bench: &Bench<'_>, count: usize) -> io::Result<Vec<Figure>> {
    let quiet = handshakes::rates(bench, Version::Tls13, false).await?;
    let dialer = bench.dialer(Version::Tls13, false);
    let lines = dialer.dial_many(TALKING).await?;
    let (lines, mut replies_quiet) = talk(lines, tokio::time::sleep(bench.time)).await?;

    let attempts = Arc::new(AtomicUsize::new(0));
    let (start, cpu) = (Instant::now(), bench.proxy.cpu_seconds());
    let coming = async {
        let devices: Vec<_> = (0..count)
            .map(|device| {
                let (dialer, attempts) = (dialer.clone(), Arc::clone(&attempts));
                tokio::spawn(async move { come_back(device, &dialer, &attempts, start).await })
            })
            .collect();
        let mut back = Vec::new();
        for device in devices {
            back.extend(device.await.map_err(io::Error::other)?);
        }
        io::Result::Ok((back, start.elapsed().as_secs_f64(), bench.proxy.cpu_seconds() - cpu))
    };
    let mut came = None;
    let (_lines, mut replies_during) = talk(lines, async { came = Some(coming.await) }).await?;
    let (back, took, cpu) = came.expect("the storm has ended")?;
    let tried = attempts.load(Ordering::Relaxed);
    let count = count as f64;
    Ok(vec![
        ("devices back, percent", back.len() as f64 / count * 100.0),
        ("until all were back, s", took),
        ("until all were back, times as many quiet handshakes", took * quiet.per_second / count),
        ("CPU seconds until all were back", cpu),
        ("CPU, times as many quiet handshakes", cpu * quiet.per_cpu_second / count),
        (
            "attempts that devices gave up, percent",
            (tried - back.len()) as f64 / tried as f64 * 100.0,
        ),
        ("reply p99 before the storm, ms", percentile_ms(&mut replies_quiet, 0.99)),
        ("reply p99 in the storm, ms", percentile_ms(&mut replies_during, 0.99)),
    ])
}

/// Lets connected devices talk until `end` completes. Returns them and the times of their replies.
async fn talk(
    lines: Vec<Line>,
    end: impl Future<Output = ()>,
) -> io::Result<(Vec<Line>, Vec<Duration>)> {
    let has_ended = Arc::new(AtomicBool::new(false));
    let talking: Vec<_> = lines
        .into_iter()
        .map(|mut line| {
            let has_ended = Arc::clone(&has_ended);
            tokio::spawn(async move {
                let mut times = Vec::new();
                while !has_ended.load(Ordering::Relaxed) {
                    let sent = Instant::now();
                    within(Duration::from_secs(30), device::echo(&mut *line, &[7; 64])).await??;
                    times.push(sent.elapsed());
                    tokio::time::sleep(TALK_INTERVAL).await;
                }
                io::Result::Ok((line, times))
            })
        })
        .collect();
    end.await;
    has_ended.store(true, Ordering::Relaxed);
    let (mut lines, mut all) = (Vec::new(), Vec::new());
    for one in talking {
        let (line, times) = one.await.map_err(io::Error::other)??;
        lines.push(line);
        all.extend(times);
    }
    Ok((lines, all))
}

/// Tries until an attempt succeeds, and returns the connection; none if the storm is stopped.
async fn come_back(
    device: usize,
    dialer: &Dialer,
    attempts: &AtomicUsize,
    start: Instant,
) -> Option<Line> {
    for attempt in 0_u64.. {
        if start.elapsed() > GIVE_UP {
            return None;
        }
        attempts.fetch_add(1, Ordering::Relaxed);
        let trying = async {
            let mut line = dialer.dial(Task::Echo).await?;
            device::echo(&mut *line, &[7]).await?;
            io::Result::Ok(line)
        };
        if let Ok(Ok(line)) = tokio::time::timeout(ATTEMPT, trying).await {
            return Some(line);
        }
        tokio::time::sleep(Duration::from_millis(pause_ms(device, attempt))).await;
    }
    None
}

/// Returns a pseudo-random pause, the same for every proxy.
const fn pause_ms(device: usize, attempt: u64) -> u64 {
    let mixed = (device as u64 * 31 + attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) % LONGEST_PAUSE_MS
}
