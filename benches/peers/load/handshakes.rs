//! Handshakes: full, resumed, and during certificate reloads.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use super::{Bench, Figure, HANDSHAKES, Rates, Steady, percentile_ms};
use crate::backend::Task;
use crate::device::{self, Dialer, Stream, Version, within};

/// Number of concurrent handshakes.
const CLIENTS: usize = 16;

/// Figure of a load without TLS.
pub const CONNECTIONS_RATE: &str = "connections per CPU second";

const RELOADS: usize = 20;
const RELOAD_INTERVAL: Duration = Duration::from_millis(250);

/// Results of one client.
#[derive(Default)]
struct Seen {
    times: Vec<Duration>,
    failed: usize,
    /// Handshakes that were full instead of resumed, or the reverse.
    other_kind: usize,
}

pub async fn steady(bench: &Bench<'_>, version: Version, resumed: bool) -> io::Result<Vec<Figure>> {
    let (rates, mut seen) = measure(bench, version, resumed, 1).await?;
    Ok(vec![
        (HANDSHAKES, rates.per_cpu_second),
        ("handshakes per second", rates.per_second),
        ("handshake p50, ms", percentile_ms(&mut seen.times, 0.50)),
        ("handshake p99, ms", percentile_ms(&mut seen.times, 0.99)),
    ])
}

/// Measures connections without TLS, each with echoes as the handshakes have one.
pub async fn connections(bench: &Bench<'_>, echoes: usize) -> io::Result<Vec<Figure>> {
    let (rates, _) = measure(bench, Version::Tls13, false, echoes).await?;
    Ok(vec![(CONNECTIONS_RATE, rates.per_cpu_second)])
}

/// Returns the rates of handshakes alone.
pub(super) async fn rates(bench: &Bench<'_>, version: Version, resumed: bool) -> io::Result<Rates> {
    measure(bench, version, resumed, 1).await.map(|(rates, _)| rates)
}

async fn measure(
    bench: &Bench<'_>,
    version: Version,
    resumed: bool,
    echoes: usize,
) -> io::Result<(Rates, Seen)> {
    let load = Steady::default();
    let clients = start(bench, &load, version, resumed, echoes);
    let rates = load.measure(bench.proxy, bench.time).await;
    let seen = all(clients).await?;
    if seen.failed > 0 || seen.other_kind > seen.times.len() / 100 {
        let (failed, other) = (seen.failed, seen.other_kind);
        return Err(io::Error::other(format!("{failed} failed, {other} not of the kind")));
    }
    Ok((rates, seen))
}

/// Measures full handshakes while the certificate is renewed [`RELOADS`] times, and for the same time without.
pub async fn reloads(bench: &Bench<'_>) -> io::Result<Vec<Figure>> {
    let mut p99 = Vec::new();
    let mut lost = 0;
    for reload in [false, true] {
        let load = Steady::default();
        let clients = start(bench, &load, Version::Tls13, false, 1);
        let reloading = async {
            for _ in 0..RELOADS {
                tokio::time::sleep(RELOAD_INTERVAL).await;
                if reload {
                    bench.site.material.renew(bench.site.setup.key).map_err(io::Error::other)?;
                    bench.peer.reload(bench.proxy, bench.site);
                }
            }
            io::Result::Ok(())
        };
        let time = RELOAD_INTERVAL * u32::try_from(RELOADS).expect("the number is small");
        let (_, reloaded) = tokio::join!(load.measure(bench.proxy, time), reloading);
        reloaded?;
        let mut seen = all(clients).await?;
        p99.push(percentile_ms(&mut seen.times, 0.99));
        lost = seen.failed;
    }
    Ok(vec![
        ("handshakes lost", lost as f64),
        ("handshake p99 without reloads, ms", p99[0]),
        ("handshake p99 during reloads, ms", p99[1]),
    ])
}

fn start(
    bench: &Bench<'_>,
    load: &Steady,
    version: Version,
    resumed: bool,
    echoes: usize,
) -> Vec<JoinHandle<Seen>> {
    let client = || {
        let (dialer, load) = (bench.dialer(version, resumed), load.clone());
        tokio::spawn(async move {
            let mut seen = Seen::default();
            let mut first = true;
            while !load.is_stopped() {
                let start = Instant::now();
                match within(Duration::from_secs(10), shake_hands(&dialer, echoes)).await {
                    Ok(Ok(was_resumed)) => {
                        load.add(1);
                        if load.is_measuring() {
                            seen.times.push(start.elapsed());
                        }
                        seen.other_kind += usize::from(!first && was_resumed != resumed);
                    }
                    Ok(Err(_)) | Err(_) => seen.failed += 1,
                }
                first = false;
            }
            seen
        })
    };
    (0..CLIENTS).map(|_| client()).collect()
}

/// Performs one handshake and echoes bytes in sequence, at least one, since a TLS 1.3 client finishes before its server.
/// Returns whether the session was resumed.
async fn shake_hands(dialer: &Dialer, echoes: usize) -> io::Result<bool> {
    if !dialer.has_tls() {
        let mut tcp = dialer.connect().await?;
        converse(&mut tcp, echoes).await?;
        tcp.set_zero_linger()?;
        return Ok(false);
    }
    let mut session = dialer.handshake().await?;
    converse(&mut session, echoes).await?;
    let resumed = device::is_resumed(&session);
    // Otherwise sockets in TIME_WAIT would use up the ports.
    session.get_ref().0.set_zero_linger()?;
    Ok(resumed)
}

async fn converse(line: &mut impl Stream, echoes: usize) -> io::Result<()> {
    line.write_all(&[Task::Echo.byte()]).await?;
    for _ in 0..echoes {
        device::echo(line, &[7]).await?;
    }
    Ok(())
}

async fn all(clients: Vec<JoinHandle<Seen>>) -> io::Result<Seen> {
    let mut all = Seen::default();
    for client in clients {
        let seen = client.await.map_err(io::Error::other)?;
        all.times.extend(seen.times);
        all.failed += seen.failed;
        all.other_kind += seen.other_kind;
    }
    Ok(all)
}
