//! A reconnect storm: after a restart every device connects at once, gives each attempt two seconds, and tries
//! again after a random pause. A proxy that continues with devices that have given up wastes handshakes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Bench, Figure};
use crate::backend::Task;
use crate::device::{self, Dialer, Version};

const DEVICES: usize = 9000;
const ATTEMPT: Duration = Duration::from_secs(2);
const LONGEST_PAUSE_MS: u64 = 1000;

/// Time after which a storm that does not end is stopped.
const GIVE_UP: Duration = Duration::from_secs(60);

pub async fn storm(bench: &Bench<'_>) -> io::Result<Vec<Figure>> {
    let attempts = Arc::new(AtomicUsize::new(0));
    let (start, cpu) = (Instant::now(), bench.proxy.cpu_seconds());
    let dialer = bench.dialer(Version::Tls13, false);
    let devices: Vec<_> = (0..DEVICES)
        .map(|device| {
            let (dialer, attempts) = (dialer.clone(), Arc::clone(&attempts));
            tokio::spawn(async move { come_back(device, &dialer, &attempts, start).await })
        })
        .collect();
    let mut lines = Vec::new();
    for device in devices {
        lines.extend(device.await.map_err(io::Error::other)?);
    }
    let took = start.elapsed().as_secs_f64();
    let cpu = bench.proxy.cpu_seconds() - cpu;
    let tried = attempts.load(Ordering::Relaxed);
    Ok(vec![
        ("devices back, percent", lines.len() as f64 / DEVICES as f64 * 100.0),
        ("until all were back, s", took),
        ("CPU seconds until all were back", cpu),
        ("attempts wasted, percent", (tried - lines.len()) as f64 / tried as f64 * 100.0),
    ])
}

/// Tries until an attempt succeeds, and returns the connection; none if the storm is stopped.
async fn come_back(
    device: usize,
    dialer: &Dialer,
    attempts: &AtomicUsize,
    start: Instant,
) -> Option<device::Line> {
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
