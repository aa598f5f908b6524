//! Does what a peer sends wrongly end that connection alone, with its own reason?
//!
//! The first part asserts, one wrong at a time, the alert's bytes and the reason; the last runs them
//! all against the real binary and asserts that its log has no error.

use std::net::SocketAddr;

use tlsidecar::proxy::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::bytes::Bytes;
use crate::support::file;
use crate::support::raw::{alert, answer_to, client_hello, old_hello};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Proxy, Sidecar, eventually};

/// Sends `bytes` and expects this answer and this reason, and that others are not disturbed.
async fn sending(bytes: &[u8], answer: Vec<u8>, reason: Reason) {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    assert_eq!(answer_to(proxy.address, bytes).await, answer);
    proxy.ends_with(reason).await;
    Device::new(&authority).echo(proxy.address).await.unwrap();
}

#[tokio::test]
async fn plain_http_is_not_tls() {
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    sending(request, alert(10), Reason::ClientTlsNotTls).await;
}

#[tokio::test]
async fn plain_mqtt_is_not_tls() {
    let connect = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00";
    sending(connect, alert(10), Reason::ClientTlsNotTls).await;
}

#[tokio::test]
async fn random_bytes_are_not_tls() {
    let mut bytes = vec![0; 100_000];
    Bytes::new(11).fill(&mut bytes);
    sending(&bytes, alert(10), Reason::ClientTlsNotTls).await;
}

#[tokio::test]
async fn a_record_that_is_too_long_is_refused_with_record_overflow() {
    // RFC 8446 section 5.1: 2^14 bytes at the most.
    sending(&[22, 3, 1, 0x7f, 0xff], alert(22), Reason::ClientTlsError).await;
}

#[tokio::test]
async fn a_hello_that_is_too_long_is_refused_with_decode_error() {
    // A whole record of a message that announces 16 MiB.
    let mut start = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    start.resize(5 + 0x4000, 0);
    sending(&start, alert(50), Reason::ClientTlsError).await;
}

#[tokio::test]
async fn a_hello_in_endless_tiny_records_is_refused_with_decode_error() {
    // A message of 64 KiB, which is allowed, in records of one byte, of which there is no end.
    let header = [1, 0, 0xff, 0xff];
    let body = std::iter::repeat_n(0, 0xffff);
    let records = header.into_iter().chain(body).flat_map(|byte| [22, 3, 1, 0, 1, byte]);
    sending(&records.collect::<Vec<_>>(), alert(50), Reason::ClientTlsError).await;
}

#[tokio::test]
async fn a_malformed_hello_is_refused_with_decode_error() {
    let mut hello = client_hello();
    // The length of the session id.
    hello[43] = 200;
    sending(&hello, alert(50), Reason::ClientTlsError).await;
}

#[tokio::test]
async fn tls_1_1_is_refused_with_protocol_version() {
    let hello = old_hello([3, 2], &[[0xc0, 0x09], [0xc0, 0x13]]);
    sending(&hello, alert(70), Reason::ClientTlsIncompatible).await;
}

#[tokio::test]
async fn ssl_3_is_refused_with_protocol_version() {
    let hello = old_hello([3, 0], &[[0, 0x35]]);
    sending(&hello, alert(70), Reason::ClientTlsIncompatible).await;
}

#[tokio::test]
async fn suites_that_nobody_should_use_are_refused_with_handshake_failure() {
    // TLS 1.2 with RSA key exchange and CBC.
    let hello = old_hello([3, 3], &[[0, 0x2f], [0, 0x35]]);
    sending(&hello, alert(40), Reason::ClientTlsIncompatible).await;
}

#[tokio::test]
async fn a_client_that_sends_an_alert_instead_of_its_finished_is_counted_as_such() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    // It does not trust the CA: the sign of a certificate that devices reject.
    let distrustful = Device::new(&Authority::new("another"));
    assert!(distrustful.connect(proxy.address).await.is_err());
    proxy.ends_with(Reason::ClientTlsAlert).await;
}

#[tokio::test]
async fn a_health_check_is_a_probe_whether_it_closes_or_resets() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    drop(TcpStream::connect(proxy.address).await.unwrap());
    reset(TcpStream::connect(proxy.address).await.unwrap());
    proxy.end_with(Reason::ClientProbe, 2).await;
    assert_eq!(backend.connections(), 0, "a probe never reaches the backend");
}

#[tokio::test]
async fn a_client_that_leaves_at_any_point_of_its_hello_is_counted_and_forgotten() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let hello = client_hello();
    let cuts: Vec<_> = (1..hello.len()).step_by(7).collect();
    for &cut in &cuts {
        let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
        tcp.write_all(&hello[..cut]).await.unwrap();
    }
    proxy.end_with(Reason::ClientTlsEof, cuts.len() as u64).await;
}

#[tokio::test]
async fn a_client_that_resets_at_any_point_of_its_hello_is_counted_and_forgotten() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let hello = client_hello();
    let cuts: Vec<_> = (1..=hello.len()).step_by(7).collect();
    for &cut in &cuts {
        let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
        tcp.write_all(&hello[..cut]).await.unwrap();
        reset(tcp);
    }
    proxy.end_with(Reason::ClientReset, cuts.len() as u64).await;
}

#[tokio::test]
async fn a_client_that_resets_before_its_finished_is_counted_as_reset() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    for _ in 0..20 {
        let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
        tcp.write_all(&client_hello()).await.unwrap();
        // Our flight has begun to come, so the whole hello has been read.
        assert_eq!(within("our flight", tcp.read_u8()).await.unwrap(), 22);
        reset(tcp);
    }
    proxy.end_with(Reason::ClientReset, 20).await;
    assert_eq!(backend.connections(), 0, "who did not finish never reaches the backend");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_in_single_bytes_is_as_good_as_one_in_one_piece() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let relay = chopper(proxy.address).await;
    let mut session = Device::new(&authority).connect(relay).await.unwrap();
    crate::support::client::say_and_hear(&mut session, b"in pieces").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_silent_and_twenty_babbling_clients_do_not_keep_a_device_from_its_backend() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = crate::support::proxy::listener(backend.config(), &authority.server());
    listener.timeouts.handshake = std::time::Duration::from_secs(2);
    let proxy = Proxy::with(listener);
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(proxy.address).await.unwrap());
    }
    for _ in 0..20 {
        let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
        tcp.write_all(b"babble").await.unwrap();
        silent.push(tcp);
    }
    for _ in 0..10 {
        Device::new(&authority).echo(proxy.address).await.unwrap();
    }
    let silenced = || proxy.closed(Reason::ClientTlsTimeout) > 39;
    eventually("the silent ones are given up", silenced).await;
    eventually("nobody is left", || proxy.active() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_peer_sends_makes_an_error_of_ours() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let more = "timeouts.handshake = \"1s\"\ntimeouts.hello = \"300ms\"\n\
                [log]\nfilter = \"debug\"\n";
    let text = file::text(backend.address, &authority.server(), more);
    let sidecar = Sidecar::start(authority.dir(), &text);
    let hello = client_hello();
    let mut noise = Bytes::new(99);
    for round in 0..150 {
        // A hello with a few bytes changed, cut somewhere, closed or reset.
        let mut bytes = hello.clone();
        for _ in 0..noise.below(6) {
            let at = noise.below(bytes.len());
            bytes[at] = noise.below(256) as u8;
        }
        bytes.truncate(1 + noise.below(bytes.len()));
        let mut tcp = TcpStream::connect(sidecar.address).await.unwrap();
        tcp.write_all(&bytes).await.unwrap();
        if round % 2 == 0 {
            reset(tcp);
        }
    }
    let idle = TcpStream::connect(sidecar.address).await.unwrap();
    Device::new(&authority).echo(sidecar.address).await.unwrap();
    let settled = || sidecar.count("tlsidecar_connections_active{listener=\"test\"}") == 0;
    eventually("all have ended", settled).await;
    drop(idle);
    let log = sidecar.log();
    assert!(log.lines().filter(|line| line.contains("access")).count() >= 150, "{log}");
    for line in log.lines() {
        assert!(!line.contains("ERROR") && !line.contains("panicked"), "{line}");
    }
    let internal = "tlsidecar_connections_closed_total{listener=\"test\",reason=\"internal\"}";
    assert_eq!(sidecar.count(internal), 0);
}

/// Closes with a reset.
fn reset(tcp: TcpStream) {
    tcp.set_zero_linger().unwrap();
    drop(tcp);
}

/// A relay before the proxy that passes on what the client says one byte at a time.
async fn chopper(to: SocketAddr) -> SocketAddr {
    let relay = Backend::serving(move |mut tcp| async move {
        let mut proxy = TcpStream::connect(to).await.unwrap();
        proxy.set_nodelay(true).unwrap();
        let (mut from_proxy, mut to_proxy) = proxy.split();
        let (mut from_client, mut to_client) = tcp.split();
        let up = async {
            while let Ok(byte) = from_client.read_u8().await {
                to_proxy.write_u8(byte).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let down = tokio::io::copy(&mut from_proxy, &mut to_client);
        let _ended = tokio::join!(up, down);
    })
    .await;
    let address = relay.address;
    // It lives as long as the test's runtime.
    std::mem::forget(relay);
    address
}
