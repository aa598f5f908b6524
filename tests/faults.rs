//! Faults around the proxy: a backend that is killed or misbehaves, garbage, scarce descriptors, endless reloads, and a
//! drain at every phase of a connection.
//!
//! **Not here.** Peers that vanish: `dead_peers.rs`. Refused and unanswered connects: `backends.rs`. All at once:
//! `soak.rs`.

/// A system clock that jumps.
mod clock;

/// A disk that is full while files are replaced.
mod disk;

/// A name server that fails and then has another address.
mod names;

/// Limits of inotify that are used up.
mod watches;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tlsidecar::config::{Config, ListenerConfig, ShutdownConfig};
use tlsidecar::lifecycle::Drained;
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::backend::{FullBacklog, echo};
use crate::support::certs::Wish;
use crate::support::client::say_and_hear;
use crate::support::command::{Running, has};
use crate::support::file;
use crate::support::process::by_shell;
use crate::support::proxy::{closed_series, config, listener};
use crate::support::raw::{answer_to, client_hello};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Proxy, Sidecar, eventually};

/// A server that reads nothing and sends for ever.
const SENDER: &str = "import socket
server = socket.create_server((\"127.0.0.1\", 0))
print(server.getsockname()[1], flush=True)
connection, _ = server.accept()
while True: connection.sendall(bytes(65536))";

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_process_that_is_killed_in_mid_transfer_resets_its_device_and_is_then_refused() {
    if !has("python3") {
        return;
    }
    let mut backend = Command::new("python3");
    let mut backend = backend.args(["-c", SENDER]).stdout(Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(backend.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let mut backend = Running(backend);
    let address = SocketAddr::from(([127, 0, 0, 1], port.trim().parse().unwrap()));
    let authority = Authority::new("ca");
    let proxy = Proxy::start(address.to_string().parse().unwrap(), &authority.server());
    let device = Device::new(&authority);
    let mut session = device.connect(proxy.address).await.unwrap();
    session.write_all(b"a command that is not read").await.unwrap();
    session.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
    // SIGKILL.
    backend.0.kill().unwrap();
    // The part must not pass for the whole: no close_notify.
    let mut rest = Vec::new();
    assert!(within("its end", session.read_to_end(&mut rest)).await.is_err());
    proxy.ends_with(Reason::BackendReset).await;
    let mut refused = device.connect(proxy.address).await.unwrap();
    assert_eq!(within("its end", refused.read(&mut [0; 1])).await.unwrap(), 0);
    eventually("it is refused", || proxy.closed(Reason::BackendRefused) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_resets_every_third_connection_disturbs_no_other() {
    let count = Arc::new(AtomicUsize::new(0));
    let backend = Backend::serving(move |mut tcp| {
        let resets = count.fetch_add(1, Ordering::SeqCst) % 3 == 2;
        async move {
            if resets {
                tcp.read_exact(&mut [0; 6]).await.unwrap();
                tcp.set_zero_linger().unwrap();
            } else {
                echo(tcp).await;
            }
        }
    })
    .await;
    let authority = Authority::new("ca");
    let proxy = Proxy::start(backend.config(), &authority.server());
    let device = Device::new(&authority);
    // One after the other, so that the order is the backend's.
    for place in 0..30 {
        let mut session = device.connect(proxy.address).await.unwrap();
        if place % 3 == 2 {
            session.write_all(b"served").await.unwrap();
            assert!(within("its end", session.read(&mut [0; 1])).await.is_err());
        } else {
            say_and_hear(&mut session, b"served").await.unwrap();
            session.shutdown().await.unwrap();
            assert_eq!(within("its end", session.read(&mut [0; 1])).await.unwrap(), 0);
        }
    }
    eventually("all have ended", || proxy.active() == 0).await;
    let ends = [Reason::Ok, Reason::BackendReset].map(|reason| proxy.closed(reason));
    assert_eq!(ends, [20, 10]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_connections_in_every_phase() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let full = FullBacklog::new().await;
    let pair = authority.server();
    let mut stuck = ListenerConfig {
        name: "stuck".to_owned(),
        ..listener(full.address.to_string().parse().unwrap(), &pair)
    };
    stuck.timeouts.connect = Duration::from_secs(600);
    let (drain_spread, drain_timeout) = (Duration::from_millis(100), Duration::from_millis(800));
    let mut config = Config {
        shutdown: ShutdownConfig { drain_spread, drain_timeout, ..ShutdownConfig::default() },
        ..config(listener(backend.config(), &pair))
    };
    config.listeners.push(stuck);
    let proxy = Proxy::on(config, None);
    let device = Device::new(&authority);
    let hello = client_hello();
    let accepted = TcpStream::connect(proxy.address).await.unwrap();
    let mut half = TcpStream::connect(proxy.address).await.unwrap();
    half.write_all(&hello[..hello.len() / 2]).await.unwrap();
    let mut unfinished = TcpStream::connect(proxy.address).await.unwrap();
    unfinished.write_all(&hello).await.unwrap();
    // The server's first flight.
    within("an answer", unfinished.read(&mut [0; 1])).await.unwrap();
    let connecting = device.connect(proxy.app.listeners[1].1).await.unwrap();
    let mut asking = device.echo(proxy.address).await.unwrap();
    asking.write_all(b"unanswered").await.unwrap();
    let idle = device.echo(proxy.address).await.unwrap();
    eventually("all are accepted", || proxy.active() == 5).await;
    proxy.app.shutdown.drain();
    let Drained::Forced(forced) = within("the drain", proxy.app.shutdown.drained()).await else {
        panic!("three handshakes were in progress");
    };
    // The others were forced, or closed at their pause, a second after their last byte.
    assert!((4..=6).contains(&forced), "{forced}");
    let ended = || proxy.closed(Reason::DrainDeadline) + proxy.closed(Reason::Drain);
    eventually("all have ended", || ended() == 5).await;
    let stuck = "tlsidecar_connections_closed_total{listener=\"stuck\",reason=\"drain_deadline\"}";
    assert_eq!(proxy.count(stuck), 1);
    drop((accepted, half, unfinished, connecting, asking, idle));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_with_garbage_disturb_none_of_a_hundred_devices() {
    const EACH: usize = 500;
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let (device, address) = (Device::new(&authority), proxy.address);
    let noise = (0..20).map(|_| {
        tokio::spawn(async move {
            for _ in 0..EACH {
                answer_to(address, &[0x42; 64]).await;
            }
        })
    });
    let noise: Vec<_> = noise.collect();
    let devices = (0..100).map(|_| {
        let device = device.clone();
        tokio::spawn(async move {
            let mut session = device.connect(address).await.unwrap();
            for _ in 0..20 {
                say_and_hear(&mut session, b"measurement").await.unwrap();
            }
            session.shutdown().await.unwrap();
            assert_eq!(session.read(&mut [0; 1]).await.unwrap(), 0);
        })
    });
    for device in devices.collect::<Vec<_>>() {
        within("a device", device).await.unwrap();
    }
    for one in noise {
        // The number of connections is the test's; their speed is the machine's.
        tokio::time::timeout(Duration::from_secs(90), one).await.expect("the noise ends").unwrap();
    }
    eventually("all have ended", || proxy.active() == 0).await;
    let ends = [Reason::Ok, Reason::ClientTlsNotTls].map(|reason| proxy.closed(reason));
    assert_eq!(ends, [100, 10_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_64_file_descriptors_each_of_200_devices_gets_its_turn() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let text = file::text(backend.address, &authority.server(), "");
    let mut command = by_shell("ulimit -n 64; exec \"$@\"");
    command.arg("--config").arg(file::write(authority.dir(), &text));
    let sidecar = Sidecar::run(command);
    let (device, address) = (Device::new(&authority), sidecar.address);
    // A device that is evicted tries again.
    let devices = (0..200).map(|_| {
        let device = device.clone();
        tokio::spawn(async move {
            let mut attempts = 1;
            let mut session = loop {
                match device.echo(address).await {
                    Ok(session) => break session,
                    Err(_) => attempts += 1,
                }
            };
            session.shutdown().await.unwrap();
            assert_eq!(session.read(&mut [0; 1]).await.unwrap(), 0);
            attempts
        })
    });
    let mut attempts = 0;
    for device in devices.collect::<Vec<_>>() {
        attempts += within("a device", device).await.unwrap();
    }
    eprintln!("200 devices needed {attempts} attempts");
    let served = || sidecar.count(&closed_series(Reason::Ok)) == 200;
    eventually("all are counted", served).await;
    assert!(!sidecar.log().contains("ERROR"), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_every_100_ms_fails_no_handshake_and_ends_no_session() {
    reload_all_the_time(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn a_reload_every_100_ms_for_a_minute_fails_no_handshake_and_ends_no_session() {
    reload_all_the_time(Duration::from_secs(60)).await;
}

/// Replaces the certificate of a sidecar and reloads every 100 ms, while devices connect and one stays.
async fn reload_all_the_time(time: Duration) {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let text = file::text(backend.address, &authority.server(), "");
    let sidecar = Arc::new(Sidecar::start(authority.dir(), &text));
    let (device, address) = (Device::new(&authority), sidecar.address);
    let mut kept = device.echo(address).await.unwrap();
    let end = Instant::now() + time;
    let load = (0..3).map(|_| {
        let device = device.clone();
        tokio::spawn(async move {
            while Instant::now() < end {
                device.echo(address).await.expect("no handshake fails");
            }
        })
    });
    let load: Vec<_> = load.collect();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut asked = 0;
    while Instant::now() < end {
        tick.tick().await;
        authority.issue("server", &Wish { serial: 100 + asked, ..Wish::default() });
        let reloading = Arc::clone(&sidecar);
        let reload = tokio::task::spawn_blocking(move || reloading.ask("POST", "/reload"));
        let (status, report) = within("a reload", reload).await.unwrap().unwrap();
        assert_eq!(status, 200, "{report}");
        say_and_hear(&mut kept, b"still here").await.unwrap();
        asked += 1;
    }
    for task in load {
        within("the load", task).await.unwrap();
    }
    // Each is a certificate of its own. A change that the kernel reports during a request is loaded by either.
    let swapped = sidecar.count("tlsidecar_reloads_total{outcome=\"swapped\"}");
    assert!(swapped >= asked, "{swapped} of {asked}");
    assert!(asked >= time.as_secs() * 5, "only {asked} reloads");
    assert_eq!(sidecar.count("tlsidecar_reload_failing"), 0);
}
