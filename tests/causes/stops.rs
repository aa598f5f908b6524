//! The device stops in the handshake, and the log says where: a scanner, a path that loses packets, a device that rejects
//! the certificate without an alert.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::Scene;
use crate::support::access_log::{has_fields, line, number};
use crate::support::network::{Link, Network};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, backend, eventually, raw};

#[tokio::test]
async fn a_silent_scanner_is_silent_in_the_log() {
    let mut scene = Scene::new("timeouts.handshake = \"1s\"\n").await;
    let _silent = scene.connect().await;
    let line = scene.line("client_tls_timeout");
    has_fields(&line, &["stage=\"silent\"", "unacked=0", "retransmits=0", "rtt_ms=", "mss="]);
    assert_eq!(scene.unfinished("timeout", "silent"), 1);
}

#[tokio::test]
async fn a_scanner_that_closes_at_once_is_a_probe() {
    let scene = Scene::new("").await;
    drop(scene.connect().await);
    let probes = "tlsidecar_connections_closed_total{listener=\"test\",reason=\"client_probe\"}";
    eventually("it is counted", || scene.sidecar.count(probes) == 1).await;
    assert_eq!(scene.unfinished("eof", "silent"), 1);
}

#[tokio::test]
async fn a_scanner_that_closes_in_its_hello_is_named_by_its_stage() {
    let mut scene = Scene::new("").await;
    let mut scanner = scene.connect().await;
    scanner.write_all(&raw::client_hello()[..20]).await.unwrap();
    drop(scanner);
    has_fields(&scene.line("client_tls_eof"), &["stage=\"hello\""]);
    assert_eq!(scene.unfinished("eof", "hello"), 1);
}

#[tokio::test]
async fn a_device_that_closes_after_the_certificate_has_the_answer() {
    let mut scene = Scene::new("").await;
    let mut device = scene.connect().await;
    device.write_all(&raw::client_hello()).await.unwrap();
    let mut answer = vec![0; 4096];
    let mut length = 0;
    // To the last record. Unread bytes would make the close a reset.
    while !ends_a_record(&answer[..length]) || length < 500 {
        let read = within("the answer", device.read(&mut answer[length..])).await.unwrap();
        assert!(read > 0, "closed after {length} bytes");
        length += read;
    }
    device.shutdown().await.unwrap();
    has_fields(&scene.line("client_tls_eof"), &["stage=\"answered\"", "unacked=0"]);
    assert_eq!(scene.unfinished("eof", "answered"), 1);
}

fn ends_a_record(mut bytes: &[u8]) -> bool {
    while let Some((header, rest)) = bytes.split_first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        match rest.get(length..) {
            Some(rest) => bytes = rest,
            None => return false,
        }
    }
    bytes.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_loses_large_packets_is_unacknowledged() {
    let Some(network) = Network::new() else { return };
    let authority = Authority::new("ca");
    let address = SocketAddr::from((network.near(Link::Backends), 0));
    let listener = TcpListener::bind(address).await.unwrap();
    let backend = Backend::on(listener, backend::echo);
    let timeout = "timeouts.handshake = \"2s\"\n";
    let mut sidecar = network.sidecar(&authority, backend.address.port(), timeout);
    let _loss = network.lose_larger(Link::Devices, 600);
    let device = Device::new(&authority);
    let address = sidecar.address;
    let connecting = tokio::spawn(async move { device.connect(address).await });
    let line = line(&mut sidecar, "client_tls_timeout");
    has_fields(&line, &["stage=\"unacknowledged\""]);
    assert!(number(&line, "unacked") > 0.0 && number(&line, "retransmits") > 0.0, "{line}");
    // The round trip of the small packets is as always.
    assert!(number(&line, "rtt_ms") < 200.0, "{line}");
    let series = r#"unfinished_total{how="timeout",listener="test",stage="unacknowledged"} 1"#;
    let metrics = format!("curl -s http://{}/metrics | grep '{series}'", sidecar.admin);
    assert!(network.run(&metrics), "no {series}");
    // The device does not learn of the end: its kernel has no packet in order.
    connecting.abort();
}
