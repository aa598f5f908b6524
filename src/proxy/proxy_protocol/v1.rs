//! Version 1, a line of text: section 2.1.
//!
//! **Promises.** The line is compared with the grammar to the byte: one space, no leading zeros, no sign.
//!
//! **Not here.** The recognition of the version (`parse.rs`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::header::{Header, HeaderFault};
use crate::sessions::ForwardedAddresses;

/// First bytes of the line.
pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// Longest line, with its end.
const MAX_LINE_BYTES: usize = 107;

/// Returns the header in bytes that begin with [`SIGNATURE`] or a part of it, or none if more bytes are needed.
///
/// # Errors
/// If the line is too long, or not one of the grammar.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderFault> {
    let bytes = &bytes[..bytes.len().min(MAX_LINE_BYTES)];
    let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else {
        let is_too_long = bytes.len() == MAX_LINE_BYTES;
        return if is_too_long { Err(HeaderFault::V1("no end of its line")) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&bytes[SIGNATURE.len()..end]);
    let line = line.map_err(|_| HeaderFault::V1("bytes that are not ASCII"))?;
    Ok(Some(Header { addresses: addresses(line)?, length: end + 2 }))
}

fn addresses(line: &str) -> Result<Option<ForwardedAddresses>, HeaderFault> {
    let mut fields = line.split(' ');
    let ip = match fields.next() {
        Some("TCP4") => ip::<Ipv4Addr>,
        Some("TCP6") => ip::<Ipv6Addr>,
        // The rest of the line is to be ignored.
        Some("UNKNOWN") => return Ok(None),
        _ => return Err(HeaderFault::V1("an unknown protocol")),
    };
    let [Some(source), Some(destination), Some(source_port), Some(destination_port), None] =
        std::array::from_fn(|_| fields.next())
    else {
        return Err(HeaderFault::V1("another number of fields"));
    };
    let address = |address, number| Some(SocketAddr::new(ip(address)?, port(number)?));
    let source = address(source, source_port);
    let destination = address(destination, destination_port);
    match (source, destination) {
        (Some(source), Some(destination)) => Ok(Some(ForwardedAddresses { source, destination })),
        (None, _) => Err(HeaderFault::V1("an invalid source address")),
        (_, None) => Err(HeaderFault::V1("an invalid destination address")),
    }
}

fn ip<T: FromStr + Into<IpAddr>>(text: &str) -> Option<IpAddr> {
    text.parse::<T>().ok().map(Into::into)
}

fn port(text: &str) -> Option<u16> {
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

/// Returns the line for these addresses, which are of one family.
pub(super) fn header(addresses: ForwardedAddresses) -> Vec<u8> {
    let ForwardedAddresses { source, destination } = addresses;
    let protocol = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let ports = (source.port(), destination.port());
    format!("PROXY {protocol} {from} {to} {} {}\r\n", ports.0, ports.1).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(source: &str, destination: &str) -> ForwardedAddresses {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        ForwardedAddresses { source: address(source), destination: address(destination) }
    }

    #[test]
    fn the_line_of_the_specification_is_written_and_read() {
        // The example of section 2.1.
        let line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
        let v4 = addresses("192.168.0.1:56324", "192.168.0.11:443");
        assert_eq!(header(v4), line);
        assert_eq!(parse(line), Ok(Some(Header { addresses: Some(v4), length: line.len() })));
        let line = b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n";
        let v6 = addresses("[2001:db8::1]:1", "[::1]:65535");
        assert_eq!(header(v6), line);
        assert_eq!(parse(line), Ok(Some(Header { addresses: Some(v6), length: line.len() })));
    }

    #[test]
    fn an_unknown_connection_has_no_addresses() {
        for line in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN ffff::1 \xc3\xa4 65535\r\n"] {
            assert_eq!(parse(line), Ok(Some(Header { addresses: None, length: line.len() })));
        }
    }

    #[test]
    fn a_line_that_differs_from_the_grammar_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 ",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536",
            "PROXY TCP4 192.0.2.1 192.0.2.02 1 2",
            "PROXY TCP4 ::1 ::1 1 2",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2",
            "PROXY TCP6 fe80::1%1 ::1 1 2",
            "PROXY tcp4 192.0.2.1 192.0.2.2 1 2",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2",
            "PROXY UNKNOWNS",
            "PROXY ",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        ] {
            let sent = format!("{line}\r\n");
            assert!(matches!(parse(sent.as_bytes()), Err(HeaderFault::V1(_))), "{line:?}");
        }
        let long = format!("PROXY UNKNOWN {}", "x".repeat(MAX_LINE_BYTES));
        assert_eq!(parse(&long.as_bytes()[..MAX_LINE_BYTES - 1]), Ok(None));
        assert!(parse(long.as_bytes()).is_err());
    }
}
