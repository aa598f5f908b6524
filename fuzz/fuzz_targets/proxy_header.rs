//! Parses PROXY protocol headers. A header is recognised at its last byte, and at no other length.

#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use tlsidecar::proxy::fuzz::{may_become_proxy_header, proxy_header};

fuzz_target!(|data: &[u8]| {
    let Some((length, addresses)) = proxy_header(data) else { return };
    assert!((15..=4096).contains(&length) && length <= data.len(), "{length} bytes");
    assert_eq!(proxy_header(&data[..length]), Some((length, addresses)));
    for part in 0..length {
        assert!(may_become_proxy_header(&data[..part]), "{part} of {length} bytes");
    }
    if let Some((source, destination)) = addresses {
        assert_eq!(source.is_ipv4(), destination.is_ipv4());
        let line = line(source, destination);
        assert_eq!(proxy_header(line.as_bytes()), Some((line.len(), addresses)));
    }
});

/// Returns these addresses as a header of version 1.
fn line(source: SocketAddr, destination: SocketAddr) -> String {
    let protocol = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let ports = (source.port(), destination.port());
    format!("PROXY {protocol} {} {} {} {}\r\n", source.ip(), destination.ip(), ports.0, ports.1)
}
