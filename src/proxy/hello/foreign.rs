//! Other protocols than TLS, recognised by the first bytes of a connection.
//!
//! **Promises.** Only bytes that were read before are looked at, and none of them is kept.
//!
//! **Not here.** The decision that they are not TLS (`message.rs`), the reading of a PROXY protocol header
//! (`proxy_protocol.rs`).

use crate::proxy::proxy_protocol::begins_header;
use crate::terms::labels::LooksLike;

/// The methods of HTTP (RFC 9110 section 9, RFC 5789), and the start of HTTP/2's preface (RFC 9113 section 3.4).
const HTTP: &[&[u8]] = &[
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
    b"PRI ",
];

/// Returns the protocol that the first bytes of a connection look like.
pub(super) fn looks_like(bytes: &[u8]) -> LooksLike {
    if begins_header(bytes) {
        LooksLike::ProxyHeader
    } else if HTTP.iter().any(|method| bytes.starts_with(method)) {
        LooksLike::Http
    } else if bytes.starts_with(b"SSH-") {
        LooksLike::Ssh
    } else if is_mqtt(bytes) {
        LooksLike::Mqtt
    } else if is_dtls(bytes) {
        LooksLike::Dtls
    } else if is_sslv2(bytes) {
        LooksLike::Sslv2
    } else if is_modbus(bytes) {
        LooksLike::Modbus
    } else {
        LooksLike::Other
    }
}

/// A CONNECT packet: its type, the rest of its length in one to four bytes, the name of the protocol. MQTT 5.0 sections
/// 2.1.4 and 3.1; `MQIsdp` is the name in MQTT 3.1.
fn is_mqtt(bytes: &[u8]) -> bool {
    let Some((0x10, rest)) = bytes.split_first() else { return false };
    let lengths = rest.iter().take_while(|&&byte| byte >= 0x80).count() + 1;
    let name = rest.get(lengths..).unwrap_or_default();
    lengths <= 4 && (name.starts_with(b"\0\x04MQTT") || name.starts_with(b"\0\x06MQIsdp"))
}

/// A record of DTLS: its type, and the inverted version. RFC 6347 section 4.1.
const fn is_dtls(bytes: &[u8]) -> bool {
    matches!(bytes, [20..=25, 0xfe, 0xff | 0xfd | 0xfc, ..])
}

/// A ClientHello in the format of SSL 2.0, with the version 2.0 or a later one: RFC 5246 appendix E.2.
const fn is_sslv2(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80..=0xff, _, 1, 0, 2, ..] | [0x80..=0xff, _, 1, 3, 0..=4, ..])
}

/// A whole request: the identifier of its transaction, the protocol 0, the length, a unit, a function. Modbus Messaging
/// on TCP/IP Implementation Guide V1.0b, section 3.1.3; a request has at most 260 bytes.
fn is_modbus(bytes: &[u8]) -> bool {
    let &[_, _, 0, 0, 0, length @ 2..=254, _, 1..=127, ..] = bytes else { return false };
    bytes.len() >= 6 + usize::from(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_of_plants_and_scanners_are_recognised_by_their_first_bytes() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], LooksLike::Http),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", LooksLike::Http),
            (b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", LooksLike::Mqtt),
            (b"\x10\x8e\x02\x00\x06MQIsdp\x03\x02\x00\x3c", LooksLike::Mqtt),
            (b"\x00\x01\x00\x00\x00\x06\x01\x03\x00\x00\x00\x0a", LooksLike::Modbus),
            (b"\x12\x34\x00\x00\x00\x02\xff\x07", LooksLike::Modbus),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", LooksLike::ProxyHeader),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", LooksLike::ProxyHeader),
            (b"\x80\x2e\x01\x00\x02\x00\x15", LooksLike::Sslv2),
            (b"\x80\x2e\x01\x03\x01\x00\x15", LooksLike::Sslv2),
            (b"\x16\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x00", LooksLike::Dtls),
            (b"SSH-2.0-OpenSSH_9.2\r\n", LooksLike::Ssh),
        ] {
            assert_eq!(looks_like(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn bytes_of_no_known_protocol_are_other() {
        for bytes in [
            &b""[..],
            b"G",
            b"GETTING",
            b"\x10",
            b"\x10\x80\x80\x80\x80\x01\x00\x04MQTT",
            b"\x10\x0c\x00\x04HTTP",
            b"\x00\x01\x00\x00\x00\x06\x01\x03\x00",
            b"\x00\x01\x00\x00\x00\x01\x01",
            b"\x00\x01\x00\x00\x00\x06\x01\x83\x00\x00\x00\x0a",
            b"\x80\x2e\x02\x00\x02",
            b"\x15\x03\x01\x00\x02\x02\x28",
        ] {
            assert_eq!(looks_like(bytes), LooksLike::Other, "{}", bytes.escape_ascii());
        }
    }
}
