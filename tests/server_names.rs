//! Server names that are not DNS names: served by the default certificate, and logged on one line.

use std::net::SocketAddr;

use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::certs::Wish;
use crate::support::proxy::listener;
use crate::support::raw::{alert, answer_to, extended_hello, vector16};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Proxy, Sidecar, file};

/// Returns a ClientHello that requests this server name.
fn hello(name: &[u8], is_tls13: bool) -> Vec<u8> {
    hello_with(name, is_tls13, &[])
}

/// Returns a ClientHello that requests this server name and has empty extensions of these types.
fn hello_with(name: &[u8], is_tls13: bool, more: &[u16]) -> Vec<u8> {
    let name = vector16(&[&[0][..], &vector16(name)].concat());
    let share = vector16(&[&[0, 29][..], &vector16(&[9; 32])].concat());
    let (groups, schemes) = (vector16(&[0, 29]), vector16(&[4, 3]));
    let both = [(0, &name[..]), (10, &groups), (13, &schemes)];
    let of_tls13 = [(43, &[2, 3, 4][..]), (51, &share)];
    let more: Vec<_> = more.iter().map(|kind| (*kind, &[][..])).collect();
    let extensions = [&both[..], if is_tls13 { &of_tls13 } else { &[] }, &more].concat();
    extended_hello([3, 3], &[if is_tls13 { [0x13, 1] } else { [0xc0, 0x2b] }], &extensions)
}

/// Sends a ClientHello, reads the flight that answers it, and leaves.
async fn flight(address: SocketAddr, hello: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(hello).await.unwrap();
    let mut answer = vec![0; 1 << 14];
    let read = within("the flight", tcp.read(&mut answer)).await.unwrap();
    answer.truncate(read);
    answer
}

/// Names that no certificate has, as devices send them.
fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        &b"gw.example:8883"[..],
        b"[::1]",
        b"::1",
        b"10.0.0.1",
        b"10.0.0.1:8883",
        b"1234",
        "ger\u{e4}t.example".as_bytes(),
        b"gw_1.example",
        b".example",
        b"a b",
        b"\x1b[2Jred\r\nreason=ok \"quoted\" \\",
        b"\xff\xfe",
        b"",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    names.extend([vec![b'a'; 64], vec![b'a'; 255]]);
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_no_dns_name_gets_the_default_certificate_and_is_logged_escaped() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let first = authority.issue("first", &Wish { names: &["first.example"], ..Wish::default() });
    let second = authority.issue("second", &Wish { names: &["second.example"], ..Wish::default() });
    let default = first.load().0.remove(0);
    let files = [&first, &second]
        .map(|pair| format!("{{ cert = {:?}, key = {:?} }}", pair.files.cert, pair.files.key));
    let text = file::text(backend.address, &first, "[log]\nformat = \"json\"\n");
    let single = text.lines().find(|line| line.starts_with("tls.certificates")).unwrap();
    let text = text.replace(single, &format!("tls.certificates = [{}]", files.join(", ")));
    let mut sidecar = Sidecar::start(authority.dir(), &text);
    let second = second.load().0.remove(0);
    let answer = flight(sidecar.address, &hello(b"second.example.", false)).await;
    assert!(answer.windows(second.len()).any(|part| part == &*second), "a final dot is no part");
    for name in odd_names() {
        let shown = name.escape_ascii().to_string();
        let logged = format!("\"sni\":{}", serde_json::to_string(&shown).unwrap());
        let lines = |log: &str| log.lines().filter(|line| line.contains(&logged)).count();
        // In TLS 1.3 the certificate is encrypted.
        let answer = flight(sidecar.address, &hello(&name, true)).await;
        assert_eq!(answer[..6], [22, 3, 3, answer[3], answer[4], 2], "{shown}: a ServerHello");
        let answer = flight(sidecar.address, &hello(&name, false)).await;
        let has_default = answer.windows(default.len()).any(|part| part == &*default);
        assert!(has_default, "{shown}: {}", answer.escape_ascii());
        sidecar.until(&shown, |log| lines(log) == 2);
    }
}

#[tokio::test]
async fn a_device_that_uses_all_reserved_extension_types_gets_the_default_certificate_as_well() {
    let authority = Authority::new("ca");
    let proxy = Proxy::start(Backend::echo().await.config(), &authority.server());
    let reserved: Vec<_> = (0..16).map(|n| 0x1010 * n + 0x0a0a).collect();
    for is_tls13 in [false, true] {
        let answer =
            flight(proxy.address, &hello_with(b"10.0.0.1:8883", is_tls13, &reserved)).await;
        assert_eq!(answer[0], 22, "{answer:?}");
    }
}

#[tokio::test]
async fn a_name_that_no_host_can_have_is_refused_with_unrecognized_name() {
    let authority = Authority::new("ca");
    let proxy = Proxy::start(Backend::echo().await.config(), &authority.server());
    for name in [&[b'a'; 256][..], b"gw.example\0.other.example"] {
        assert_eq!(answer_to(proxy.address, &hello(name, true)).await, alert(112));
        assert_eq!(answer_to(proxy.address, &hello(name, false)).await, alert(112));
    }
    proxy.end_with(Reason::ClientTlsError, 4).await;
}

#[tokio::test]
async fn where_unknown_names_are_refused_a_name_that_is_no_dns_name_is_one_of_them() {
    let authority = Authority::new("ca");
    let mut listener = listener(Backend::echo().await.config(), &authority.server());
    listener.unknown_name = tlsidecar::config::UnknownName::Refuse;
    let proxy = Proxy::with(listener);
    for name in [&b"localhost:8883"[..], b"127.0.0.1"] {
        assert_eq!(answer_to(proxy.address, &hello(name, true)).await, alert(112));
    }
    proxy.end_with(Reason::ClientNameUnknown, 2).await;
    // An empty name is like none, which is served.
    let answer = flight(proxy.address, &hello(b"", true)).await;
    assert_eq!((answer[0], answer[5]), (22, 2), "a ServerHello");
}
