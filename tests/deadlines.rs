//! Deadlines: every wait ends.
//!
//! The tests of the relay cover idle, half-close and age with paused time. These need sockets.

use std::io::Write;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use tlsidecar::config::{ListenerConfig, Timeouts};
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::proxy::{config, listener};
use crate::support::raw::client_hello;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Proxy};

async fn proxy(timeouts: Timeouts) -> (Authority, Backend, Proxy) {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let listener = ListenerConfig { timeouts, ..listener(backend.config(), &authority.server()) };
    let proxy = Proxy::with(listener);
    (authority, backend, proxy)
}

/// Waits until the other side ends or resets the connection.
async fn closed(tcp: &mut TcpStream) {
    let mut rest = Vec::new();
    let _reset = within("it is closed", tcp.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_silent_client_is_closed_after_the_handshake_timeout() {
    let handshake = Duration::from_millis(400);
    let (_authority, _backend, proxy) = proxy(Timeouts { handshake, ..Timeouts::default() }).await;
    let start = Instant::now();
    let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
    closed(&mut tcp).await;
    assert!(start.elapsed() >= handshake);
    proxy.ends_with(Reason::ClientTlsTimeout).await;
}

#[tokio::test]
async fn a_client_that_sends_its_hello_byte_by_byte_is_closed_after_the_hello_timeout() {
    let hello = Duration::from_millis(400);
    let (_authority, _backend, proxy) = proxy(Timeouts { hello, ..Timeouts::default() }).await;
    let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
    let start = Instant::now();
    // Each byte comes soon after the one before, but the hello is not complete in time.
    for byte in client_hello() {
        if tcp.write_all(&[byte]).await.is_err() {
            break;
        }
        let answer = tokio::time::timeout(Duration::from_millis(20), tcp.read(&mut [0; 1])).await;
        if answer.is_ok() {
            break;
        }
    }
    assert!(start.elapsed() >= hello && start.elapsed() < Timeouts::default().handshake);
    proxy.ends_with(Reason::ClientTlsTimeout).await;
}

#[tokio::test]
async fn a_client_that_stops_after_its_hello_is_closed_after_the_handshake_timeout() {
    let handshake = Duration::from_millis(400);
    let (_authority, _backend, proxy) = proxy(Timeouts { handshake, ..Timeouts::default() }).await;
    let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
    tcp.write_all(&client_hello()).await.unwrap();
    closed(&mut tcp).await;
    proxy.ends_with(Reason::ClientTlsTimeout).await;
}

#[tokio::test]
async fn an_idle_device_gets_a_close_notify() {
    let idle = Some(Duration::from_millis(300));
    let (authority, _backend, proxy) = proxy(Timeouts { idle, ..Timeouts::default() }).await;
    let mut session = Device::new(&authority).echo(proxy.address).await.unwrap();
    // rustls reports a close_notify as 0 bytes, and an end without one as an error.
    assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
    proxy.ends_with(Reason::IdleTimeout).await;
}

#[tokio::test]
async fn thirty_idle_connections_all_end_at_their_maximum_age() {
    let max_age = Some(Duration::from_millis(500));
    let (authority, _backend, proxy) = proxy(Timeouts { max_age, ..Timeouts::default() }).await;
    let mut sessions = Vec::new();
    for _ in 0..30 {
        sessions.push(Device::new(&authority).connect(proxy.address).await.unwrap());
    }
    for session in &mut sessions {
        assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
    }
    proxy.end_with(Reason::MaxAge, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_the_same_age_end_at_the_limit_of_closes() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    listener.timeouts.max_age = Some(Duration::from_millis(500));
    let mut config = config(listener);
    config.shutdown.max_closes_per_second = NonZeroU32::new(10);
    let proxy = Proxy::on(config, None);
    let mut sessions = Vec::new();
    for _ in 0..25 {
        sessions.push(Device::new(&authority).connect(proxy.address).await.unwrap());
    }
    let ends = sessions.into_iter().map(|mut session| {
        tokio::spawn(async move {
            assert_eq!(session.read(&mut [0; 1]).await.unwrap(), 0);
            Instant::now()
        })
    });
    let mut times = Vec::new();
    for end in ends.collect::<Vec<_>>() {
        times.push(within("the end", end).await.unwrap());
    }
    times.sort();
    // Seen by the devices, which are late or punctual.
    let shortest = times.windows(11).map(|eleven| eleven[10] - eleven[0]).min();
    assert!(shortest > Some(Duration::from_millis(900)), "{shortest:?} for eleven");
    proxy.end_with(Reason::MaxAge, 25).await;
}

/// Sends until a write fails.
async fn flood<W: AsyncWriteExt + Unpin>(to: &mut W) {
    while to.write_all(&[7; 65_536]).await.is_ok() {}
}

/// A listener with a TCP user timeout of a second.
fn impatient(backend: &Backend, authority: &Authority) -> ListenerConfig {
    let mut listener = listener(backend.config(), &authority.server());
    listener.tcp.user_timeout = Some(Duration::from_secs(1));
    listener
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_takes_no_byte_for_the_user_timeout_is_lost() {
    let authority = Authority::new("ca");
    let backend = Backend::serving(|mut tcp| async move { flood(&mut tcp).await }).await;
    let proxy = Proxy::with(impatient(&backend, &authority));
    let start = Instant::now();
    let unread = Device::new(&authority).connect(proxy.address).await.unwrap();
    proxy.ends_with(Reason::ClientLost).await;
    assert!(start.elapsed() >= Duration::from_secs(1));
    drop(unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_takes_no_byte_for_the_user_timeout_is_lost() {
    let authority = Authority::new("ca");
    let backend = Backend::serving(|tcp| async move {
        std::future::pending::<()>().await;
        drop(tcp);
    })
    .await;
    let proxy = Proxy::with(impatient(&backend, &authority));
    let start = Instant::now();
    let mut device = Device::new(&authority).connect(proxy.address).await.unwrap();
    let flooding = tokio::spawn(async move { flood(&mut device).await });
    proxy.ends_with(Reason::BackendLost).await;
    assert!(start.elapsed() >= Duration::from_secs(1));
    within("the device's connection ends", flooding).await.unwrap();
}

#[tokio::test]
async fn a_device_that_sends_a_record_byte_by_byte_is_closed_after_the_idle_timeout() {
    let idle = Duration::from_millis(400);
    let (authority, _backend, proxy) =
        proxy(Timeouts { idle: Some(idle), ..Timeouts::default() }).await;
    let (mut tcp, mut tls) =
        Device::new(&authority).connect(proxy.address).await.unwrap().into_inner();
    tls.writer().write_all(&[7; 1000]).unwrap();
    let mut record = Vec::new();
    tls.write_tls(&mut record).unwrap();
    let start = Instant::now();
    for byte in record {
        if tcp.write_all(&[byte]).await.is_err() {
            break;
        }
        // A ticket, later the end.
        let answer = tokio::time::timeout(Duration::from_millis(5), tcp.read(&mut [0; 4096])).await;
        if matches!(answer, Ok(Ok(0) | Err(_))) {
            break;
        }
    }
    assert!(start.elapsed() >= idle && start.elapsed() < Duration::from_secs(5));
    proxy.ends_with(Reason::IdleTimeout).await;
}
