//! Invalid input on the wire: it ends only its own connection, with its own reason.
//!
//! The first part asserts the bytes of the alert and the reason for one fault at a time. The last part sends all of
//! them to the real binary and asserts that its log has no error.

use std::net::SocketAddr;

use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::bytes::Bytes;
use crate::support::certs::Wish;
use crate::support::file;
use crate::support::proxy::{config, listener};
use crate::support::raw::{alert, answer_to, client_hello, extended_hello, old_hello, vector16};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Proxy, Sidecar, eventually};

/// Sends `bytes`, and asserts the answer, the reason, and that other connections still work.
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
async fn another_protocol_is_counted_by_its_first_bytes() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    assert!(!proxy.text().contains("tlsidecar_not_tls_total"), "{}", proxy.text());
    for (bytes, looks_like) in [
        (&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], "http"),
        (b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", "mqtt"),
        (b"\x00\x01\x00\x00\x00\x06\x01\x03\x00\x00\x00\x0a", "modbus"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "proxy_header"),
        (b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", "sslv2"),
        (b"SSH-2.0-client\r\n", "ssh"),
        (b"\xff", "other"),
    ] {
        assert_eq!(answer_to(proxy.address, bytes).await, alert(10), "{looks_like}");
        let series =
            format!("tlsidecar_not_tls_total{{listener=\"test\",looks_like={looks_like:?}}}");
        eventually(&series, || proxy.text().contains(&series)).await;
        assert_eq!(proxy.count(&series), 1);
    }
    assert_eq!(proxy.closed(Reason::ProxyHeaderUnexpected), 1);
    assert_eq!(proxy.closed(Reason::ClientTlsNotTls), 6);
}

#[tokio::test]
async fn random_bytes_are_not_tls() {
    let mut bytes = vec![0; 100_000];
    Bytes::new(11).fill(&mut bytes);
    sending(&bytes, alert(10), Reason::ClientTlsNotTls).await;
}

#[tokio::test]
async fn a_record_that_is_too_long_is_refused_with_record_overflow() {
    // RFC 8446 section 5.1: at most 2^14 bytes.
    sending(&[22, 3, 1, 0x7f, 0xff], alert(22), Reason::ClientTlsError).await;
}

#[tokio::test]
async fn a_hello_that_is_too_long_is_refused_with_decode_error() {
    // A complete record of a message with an announced length of 16 MiB.
    let mut start = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    start.resize(5 + 0x4000, 0);
    sending(&start, alert(50), Reason::ClientTlsError).await;
}

#[tokio::test]
async fn a_hello_in_endless_tiny_records_is_refused_with_decode_error() {
    // A message of 64 KiB, which is allowed, in records of one byte.
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

/// A TLS 1.2 suite with ECDSA and AES-128-GCM, and a TLS 1.3 suite.
const TLS_1_2: [u8; 2] = [0xc0, 0x2b];
const TLS_1_3: [u8; 2] = [0x13, 0x01];

/// An extension: number and content.
type Extension<'a> = (u16, &'a [u8]);

/// Returns the extensions of every client: the group X25519, and ECDSA with SHA-256.
const GROUPS: Extension<'static> = (10, &[0, 2, 0, 29]);
const SCHEMES: Extension<'static> = (13, &[0, 2, 4, 3]);
const VERSIONS: Extension<'static> = (43, &[2, 3, 4]);

#[tokio::test]
async fn a_fallback_from_tls_1_3_is_refused_with_inappropriate_fallback() {
    // RFC 7507 section 3.
    let hello = extended_hello([3, 3], &[TLS_1_2, [0x56, 0]], &[GROUPS, SCHEMES]);
    sending(&hello, alert(86), Reason::ClientTlsIncompatible).await;
}

#[tokio::test]
async fn a_hello_that_renegotiates_nothing_is_refused_with_handshake_failure() {
    // RFC 5746 section 3.6.
    let info: Extension<'_> = (0xff01, &[1, 7]);
    let hello = extended_hello([3, 3], &[TLS_1_2], &[GROUPS, SCHEMES, info]);
    sending(&hello, alert(40), Reason::ClientTlsError).await;
}

#[tokio::test]
async fn a_hello_that_lacks_an_extension_of_tls_1_3_is_refused_with_missing_extension() {
    // RFC 8446 section 9.2.
    let share = vector16(&[&[0, 29][..], &vector16(&[9; 32])].concat());
    let all = [GROUPS, SCHEMES, (51, &share)];
    for left_out in 0..all.len() {
        let mut extensions = vec![VERSIONS];
        extensions.extend(all.iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, e)| e));
        let hello = extended_hello([3, 3], &[TLS_1_3], &extensions);
        sending(&hello, alert(109), Reason::ClientTlsIncompatible).await;
    }
}

#[tokio::test]
async fn extensions_that_the_rfcs_forbid_are_refused_by_their_alerts() {
    let forbidden: [(&[Extension<'_>], u8); 8] = [
        (&[(0xaaaa, &[]), (0xaaaa, &[])], 47),
        // RFC 6066 sections 3 and 4: an empty list, a name with a NUL, an undefined length.
        (&[(0, &[0, 0])], 50),
        (&[(0, &[0, 6, 0, 0, 3, b'a', 0, b'b'])], 112),
        (&[(1, &[5])], 47),
        // RFC 7301 section 3.1: no protocol, and an empty protocol.
        (&[(16, &[0, 0])], 50),
        (&[(16, &[0, 1, 0])], 50),
        // RFC 8446 section 4.2.1: half of a version.
        (&[(43, &[1, 3])], 50),
        (&[(23, &[0])], 50),
    ];
    for (extensions, description) in forbidden {
        let extensions = [&[GROUPS, SCHEMES][..], extensions].concat();
        let hello = extended_hello([3, 3], &[TLS_1_2], &extensions);
        sending(&hello, alert(description), Reason::ClientTlsError).await;
    }
}

#[tokio::test]
async fn bytes_behind_a_hello_in_its_record_are_refused_with_unexpected_message() {
    let mut hello = client_hello();
    hello.push(1);
    let length = u16::from_be_bytes([hello[3], hello[4]]) + 1;
    hello[3..5].copy_from_slice(&length.to_be_bytes());
    sending(&hello, alert(10), Reason::ClientTlsError).await;
}

#[tokio::test]
async fn a_hello_longer_than_its_limit_is_refused_and_not_taken_for_one_without_a_name() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    listener.limits.max_hello_bytes = 4096;
    let proxy = Proxy::with(listener);
    let hello = |bytes| {
        let padding: Extension<'_> = (21, &vec![0; bytes]);
        extended_hello([3, 3], &[[0, 0x2f]], &[GROUPS, SCHEMES, padding])
    };
    assert_eq!(answer_to(proxy.address, &hello(4500)).await, alert(50));
    proxy.ends_with(Reason::ClientTlsError).await;
    assert_eq!(answer_to(proxy.address, &hello(3900)).await, alert(40), "no suite in common");
}

#[tokio::test]
async fn a_name_counts_in_a_hello_of_every_size_and_split() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let first = authority.server();
    let wish = Wish { names: &["plant.example"], ..Wish::default() };
    let second = authority.issue("plant", &wish);
    let mut listener = listener(backend.config(), &first);
    listener.tls.certificates.push(second.files.clone());
    let proxy = Proxy::with(listener);
    let to = chopper(proxy.address).await;
    // With these numbers of protocols the hello has about 200 bytes, a few KiB, and four records. Four records take
    // too long in single bytes.
    for protocols in [0, 500, 6000] {
        let protocols: Vec<_> = (0..protocols).map(|i| format!("p-{i:06}")).collect();
        let protocols: Vec<_> = protocols.iter().map(String::as_str).collect();
        let device = || Device::new(&authority).asking_for("plant.example").offering(&protocols);
        for address in [proxy.address, to] {
            if address == to && protocols.len() > 500 {
                continue;
            }
            let session = device().echo(address).await.unwrap();
            let shown = &session.get_ref().1.peer_certificates().unwrap()[0];
            assert_eq!(*shown, second.load().0[0], "{} protocols", protocols.len());
        }
    }
}

#[tokio::test]
async fn half_sent_hellos_beyond_the_ceiling_end_and_devices_get_in() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut config = config(listener(backend.config(), &authority.server()));
    config.process.max_handshake_bytes = 1 << 20;
    let proxy = Proxy::on(config, None);
    let padding: Extension<'_> = (21, &vec![0; 60_000]);
    let hello = extended_hello([3, 3], &[TLS_1_2], &[GROUPS, SCHEMES, padding]);
    let mut held = Vec::new();
    for _ in 0..40 {
        let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
        tcp.write_all(&hello[..50_000]).await.unwrap();
        held.push(tcp);
    }
    // 1 MiB is 20 of them.
    eventually("the largest have ended", || proxy.closed(Reason::ClientTlsMemory) >= 20).await;
    Device::new(&authority).echo(proxy.address).await.unwrap();
    assert!(proxy.active() >= 10, "the others are waited for: {}", proxy.active());
}

#[tokio::test]
async fn a_client_that_sends_an_alert_instead_of_its_finished_is_counted_as_such() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    // The device does not trust the CA: the operator sees that devices reject the certificate.
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
    // After a complete hello it has left before its turn: `causes/overload.rs`.
    let cuts: Vec<_> = (1..hello.len()).step_by(7).collect();
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
        // The server's flight has started to arrive, so the whole hello has been read.
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
    let mut listener = listener(backend.config(), &authority.server());
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
        // A hello with a few changed bytes, truncated, then closed or reset.
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
    // Log lines are written by a thread.
    let logged = || sidecar.log().lines().filter(|line| line.contains("access")).count();
    eventually("they are logged", || logged() >= 150).await;
    let log = sidecar.log();
    for line in log.lines() {
        assert!(!line.contains("ERROR") && !line.contains("panicked"), "{line}");
    }
    let internal = "tlsidecar_connections_closed_total{listener=\"test\",reason=\"internal\"}";
    assert_eq!(sidecar.count(internal), 0);
}

/// Closes the connection with a reset.
fn reset(tcp: TcpStream) {
    tcp.set_zero_linger().unwrap();
    drop(tcp);
}

/// Starts a relay in front of the proxy that forwards the client's bytes one at a time.
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
    // The relay runs as long as the test's runtime.
    std::mem::forget(relay);
    address
}
