//! A reconnect storm: after a restart every device connects at once, gives each attempt two seconds, and tries
//! again after a random pause. A proxy that continues with devices that have given up wastes handshakes.
//!
//! Times and CPU are compared with those of as many quiet handshakes, which are measured first, in the same process.
//! Meanwhile, connected devices send messages and wait for the replies.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinSet;

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

/// Time after a storm within which the proxy has to be idle.
const CALM_AFTER: Duration = Duration::from_secs(1);

/// Measures a storm of `count` devices. Devices that resume have connected once before; they use TLS 1.2, because rustls
/// uses a ticket of TLS 1.3 once, and devices that store theirs offer it until it is replaced.
pub async fn storm(bench: &Bench<'_>, count: usize, resumes: bool) -> io::Result<Vec<Figure>> {
    let version = if resumes { Version::Tls12 } else { Version::Tls13 };
    let quiet = handshakes::rates(bench, version, resumes).await?;
    let dialer = bench.dialer(version, false);
    let devices: Vec<_> = if resumes {
        let devices: Vec<_> = (0..count).map(|_| dialer.of_one_device()).collect();
        for some in devices.chunks(device::AT_A_TIME) {
            // Each gets its ticket.
            drop(device::dial_all(some).await?);
        }
        devices
    } else {
        vec![dialer.clone(); count]
    };
    let talk = Talk::begin(dialer).await?;
    let _begin = talk.times();
    tokio::time::sleep(bench.time).await;
    let mut replies_quiet = talk.times();

    let attempts = Arc::new(AtomicUsize::new(0));
    let (start, cpu) = (Instant::now(), bench.proxy.cpu_seconds());
    let coming: Vec<_> = devices
        .into_iter()
        .enumerate()
        .map(|(device, dialer)| {
            let attempts = Arc::clone(&attempts);
            tokio::spawn(async move { come_back(device, &dialer, &attempts, start).await })
        })
        .collect();
    let mut back = Vec::new();
    for device in coming {
        back.extend(device.await.map_err(io::Error::other)?);
    }
    let (took, cpu) = (start.elapsed().as_secs_f64(), bench.proxy.cpu_seconds() - cpu);
    let mut replies_during = talk.times();
    talk.end()?;
    tokio::time::sleep(CALM_AFTER).await;
    let cpu_of_storm = bench.proxy.cpu_seconds();
    tokio::time::sleep(bench.time).await;
    let calm = (bench.proxy.cpu_seconds() - cpu_of_storm) / bench.time.as_secs_f64();
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
        ("CPU from 1 s after the storm on, percent", calm * 100.0),
    ])
}

/// Connected devices that send messages and wait for the replies, in a thread of their own: the devices of the storm do
/// not delay them.
struct Talk {
    times: Arc<Mutex<Vec<Duration>>>,
    end: oneshot::Sender<()>,
    thread: thread::JoinHandle<io::Result<()>>,
}

impl Talk {
    /// Connects the devices, and returns when they talk.
    async fn begin(dialer: Dialer) -> io::Result<Self> {
        let times = Arc::new(Mutex::new(Vec::new()));
        let (end, ended) = oneshot::channel();
        let (connected, talks) = oneshot::channel();
        let all = Arc::clone(&times);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let lines = dialer.dial_many(TALKING).await?;
                let mut talking = JoinSet::new();
                for line in lines {
                    talking.spawn(talk(line, Arc::clone(&all)));
                }
                let _waits = connected.send(());
                tokio::select! {
                    _ = ended => Ok(()),
                    failed = talking.join_next() => failed.expect("it has devices").map_err(io::Error::other)?,
                }
            })
        });
        // It fails if the thread has ended, which returns the cause.
        let _talks = talks.await;
        Ok(Self { times, end, thread })
    }

    /// Returns the times of the replies since the last call.
    fn times(&self) -> Vec<Duration> {
        std::mem::take(&mut self.times.lock().expect("no holder panics"))
    }

    /// Ends the talk.
    ///
    /// # Errors
    /// A device lost its connection, or got no reply.
    fn end(self) -> io::Result<()> {
        let _ended = self.end.send(());
        self.thread.join().map_err(|_| io::Error::other("the connected devices panicked"))?
    }
}

async fn talk(mut line: Line, times: Arc<Mutex<Vec<Duration>>>) -> io::Result<()> {
    loop {
        let sent = Instant::now();
        within(Duration::from_secs(30), device::echo(&mut *line, &[7; 64])).await??;
        times.lock().expect("no holder panics").push(sent.elapsed());
        tokio::time::sleep(TALK_INTERVAL).await;
    }
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
