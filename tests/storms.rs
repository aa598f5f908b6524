//! Storms: more handshakes than can be done at a time, and which device gets its turn.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tlsidecar::config::Limits;
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::HandshakeKind;

use crate::support::proxy::{config, listener};
use crate::support::raw;
use crate::support::{Authority, Backend, Device, Proxy, eventually};

/// A proxy that begins one full handshake per second, and a device that has just made one and has its ticket.
async fn slow_proxy(handshake: Duration) -> (Proxy, Authority, Device, Backend) {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    listener.limits = Limits { max_handshakes_per_second: Some(1), ..Limits::default() };
    listener.timeouts.handshake = handshake;
    let mut config = config(listener);
    config.process.max_handshake_bytes = 64 * 1024;
    let proxy = Proxy::on(config, None);
    let resuming = Device::new(&authority).resuming();
    resuming.echo(proxy.address).await.unwrap();
    (proxy, authority, resuming, backend)
}

/// Connects, sends a ClientHello and waits until the proxy has queued it.
async fn queued(proxy: &Proxy, address: SocketAddr) -> TcpStream {
    let waiting = || proxy.count("tlsidecar_handshakes_waiting{listener=\"test\"}");
    let before = waiting();
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(&raw::client_hello()).await.unwrap();
    eventually("the device waits", || waiting() > before).await;
    tcp
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_leaves_while_it_waits_costs_no_cryptography() {
    let (proxy, ..) = slow_proxy(Duration::from_secs(30)).await;
    drop(queued(&proxy, proxy.address).await);
    eventually("it is closed", || proxy.closed(Reason::ClientAbandoned) == 1).await;
    assert_eq!(proxy.count("tlsidecar_handshakes_waiting{listener=\"test\"}"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_left_before_it_was_accepted_costs_no_cryptography() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    listener.limits.max_connections = Some(1);
    let proxy = Proxy::on(config(listener), None);
    let held = Device::new(&authority).echo(proxy.address).await.unwrap();
    let mut leaving = TcpStream::connect(proxy.address).await.unwrap();
    leaving.write_all(&raw::client_hello()).await.unwrap();
    leaving.shutdown().await.unwrap();
    drop(held);
    assert_eq!(leaving.read(&mut [0]).await.unwrap(), 0, "no answer");
    eventually("it is counted", || proxy.closed(Reason::ClientAbandoned) == 1).await;
}

// One thread for all, so that the ClientHellos are there when the proxy runs.
#[tokio::test]
async fn full_handshakes_that_arrive_together_take_turns() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::on(config(listener(backend.config(), &authority.server())), None);
    let mut devices = Vec::new();
    for _ in 0..50 {
        devices.push(TcpStream::connect(proxy.address).await.unwrap());
    }
    eventually("they are accepted", || proxy.active() == 50).await;
    let hello = raw::client_hello();
    for device in &devices {
        assert_eq!(device.try_write(&hello).unwrap(), hello.len());
    }
    let waiting = || proxy.count("tlsidecar_handshakes_waiting{listener=\"test\"}");
    eventually("some wait", || waiting() > 0).await;
    let mut first = [0];
    for device in &mut devices {
        device.read_exact(&mut first).await.unwrap();
        assert_eq!(first, [22], "a handshake record");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_devices_wait_new_ones_have_half_of_the_time() {
    let (proxy, ..) = slow_proxy(Duration::from_secs(4)).await;
    let first = queued(&proxy, proxy.address).await;
    let overloaded = Instant::now() + Duration::from_millis(150);
    eventually("the first has waited", || Instant::now() > overloaded).await;
    let start = Instant::now();
    let mut late = queued(&proxy, proxy.address).await;
    // The newest get the turns.
    let _newest = [queued(&proxy, proxy.address).await, queued(&proxy, proxy.address).await];
    assert_eq!(late.read(&mut [0]).await.unwrap(), 0);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(first.try_read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_waits_gets_its_turn() {
    let (proxy, authority, _, _backend) = slow_proxy(Duration::from_secs(30)).await;
    let start = Instant::now();
    Device::new(&authority).echo(proxy.address).await.unwrap();
    assert!(start.elapsed() > Duration::from_millis(500), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_a_ticket_does_not_wait_for_those_without() {
    let (proxy, _, device, _backend) = slow_proxy(Duration::from_secs(30)).await;
    let _strangers = [queued(&proxy, proxy.address).await, queued(&proxy, proxy.address).await];
    let resumed = device.echo(proxy.address).await.unwrap();
    assert_eq!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!(proxy.count("tlsidecar_handshakes_waiting{listener=\"test\"}"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_turn_does_not_come_before_the_deadline_is_told_apart_from_a_slow_one() {
    let (proxy, ..) = slow_proxy(Duration::from_millis(200)).await;
    let _stranger = queued(&proxy, proxy.address).await;
    eventually("it is closed", || proxy.closed(Reason::ProxyOverloaded) == 1).await;
    assert_eq!(proxy.closed(Reason::ClientTlsTimeout), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_a_device_that_waits_count_in_the_memory_of_handshakes() {
    let (proxy, ..) = slow_proxy(Duration::from_secs(30)).await;
    let mut devices = Vec::new();
    for _ in 0..20 {
        let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
        tcp.write_all(&raw::client_hello()).await.unwrap();
        devices.push(tcp);
    }
    let waiting = || proxy.count("tlsidecar_handshakes_waiting{listener=\"test\"}");
    eventually("they wait", || waiting() >= 15).await;
    for tcp in &mut devices {
        // One that has had its turn is refused for these bytes.
        let _refused = tcp.write_all(&[22; 16 * 1024]).await;
    }
    eventually("the largest end", || proxy.closed(Reason::ClientTlsMemory) > 5).await;
}
