//! Version 2, a binary header with more parts (TLVs): section 2.2.
//!
//! **Promises.** The parts that a peer has sent are checked for their lengths and their checksum, and nothing else of
//! them is used.
//!
//! **Not here.** The recognition of the version (`parse.rs`), the content of the parts (`send.rs`).

use std::net::{IpAddr, SocketAddr};

use super::checksum::crc32c;
use super::header::{Header, HeaderFault, MAX_HEADER_BYTES};
use super::tlv::{self, Tlvs};
use crate::sessions::ForwardedAddresses;

/// First bytes of a header.
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and protocol, length.
const FIXED_BYTES: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

const UNSPECIFIED: u8 = 0;
const IPV4: u8 = 1;
const IPV6: u8 = 2;
const UNIX: u8 = 3;
const STREAM: u8 = 1;
const DATAGRAM: u8 = 2;

/// Returns the header in bytes that begin with [`SIGNATURE`] or a part of it, or none if more bytes are needed.
///
/// # Errors
/// If the header is too long, or breaks a rule of the specification.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderFault> {
    let Some(&[.., command, family, high, low]) = bytes.first_chunk::<FIXED_BYTES>() else {
        return Ok(None);
    };
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_HEADER_BYTES {
        return Err(HeaderFault::TooLong);
    }
    if !matches!(command, LOCAL | PROXY) {
        return Err(HeaderFault::V2("an unknown version or command"));
    }
    let Some(whole) = bytes.get(..length) else { return Ok(None) };
    let addresses = match command {
        PROXY => forwarded(whole, family)?,
        // The rest is to be discarded.
        _ => None,
    };
    Ok(Some(Header { addresses, length }))
}

/// Returns the addresses of a whole header, or none if they are not those of TCP.
fn forwarded(whole: &[u8], family: u8) -> Result<Option<ForwardedAddresses>, HeaderFault> {
    let (family, protocol) = (family >> 4, family & 15);
    let block = &whole[FIXED_BYTES..];
    if !matches!(protocol, UNSPECIFIED | STREAM | DATAGRAM) {
        return Err(HeaderFault::V2("an unknown protocol"));
    }
    let (addresses, bytes) = match family {
        // Without a known length of the addresses, there are no TLVs to be found.
        UNSPECIFIED => return Ok(None),
        IPV4 => (sockets::<4>(block), 12),
        IPV6 => (sockets::<16>(block), 36),
        UNIX => (None, 216),
        _ => return Err(HeaderFault::V2("an unknown address family")),
    };
    if block.len() < bytes {
        return Err(HeaderFault::V2("an incomplete address"));
    }
    check_tlvs(whole, FIXED_BYTES + bytes)?;
    Ok(addresses.filter(|_| protocol == STREAM))
}

/// Returns the two addresses of `N` bytes, and their ports behind them.
fn sockets<const N: usize>(block: &[u8]) -> Option<ForwardedAddresses>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let &[a, b, c, d] = rest.first_chunk()?;
    let socket = |ip: [u8; N], port| SocketAddr::new(ip.into(), u16::from_be_bytes(port));
    Some(ForwardedAddresses {
        source: socket(*source, [a, b]),
        destination: socket(*destination, [c, d]),
    })
}

/// Checks that the TLVs from `start` on fill the header, and that its checksum is right if it has one.
fn check_tlvs(whole: &[u8], start: usize) -> Result<(), HeaderFault> {
    let mut rest = &whole[start..];
    while !rest.is_empty() {
        let at = whole.len() - rest.len();
        let Some((&[kind, high, low], value)) = rest.split_first_chunk() else {
            return Err(HeaderFault::V2("an incomplete TLV"));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some((value, behind)) = value.split_at_checked(length) else {
            return Err(HeaderFault::V2("an incomplete TLV"));
        };
        if kind == tlv::CRC32C {
            let sent = value.try_into().map_err(|_| HeaderFault::V2("an invalid CRC32c"))?;
            let before = &whole[..at + tlv::HEADER_BYTES];
            // The checksum is computed with zeros in its own place.
            if crc32c(&[before, &[0; 4], behind]) != u32::from_be_bytes(sent) {
                return Err(HeaderFault::Checksum);
            }
        }
        rest = behind;
    }
    Ok(())
}

/// Returns the header with these addresses, which are of one family, and these TLVs. `checked` adds a checksum.
pub(super) fn header(addresses: ForwardedAddresses, tlvs: Tlvs, checked: bool) -> Vec<u8> {
    let mut block = Vec::with_capacity(64);
    let ForwardedAddresses { source, destination } = addresses;
    for address in [source.ip(), destination.ip()] {
        match address {
            IpAddr::V4(v4) => block.extend(v4.octets()),
            IpAddr::V6(v6) => block.extend(v6.octets()),
        }
    }
    block.extend(source.port().to_be_bytes());
    block.extend(destination.port().to_be_bytes());
    block.extend(tlvs.into_bytes());
    if checked {
        let mut checksum = Tlvs::default();
        checksum.add(tlv::CRC32C, &[0; 4]);
        block.extend(checksum.into_bytes());
    }
    let family = if source.is_ipv4() { IPV4 } else { IPV6 };
    let length = u16::try_from(block.len()).expect("the parts are bounded by `send.rs`");
    let mut header = Vec::with_capacity(FIXED_BYTES + block.len());
    header.extend(SIGNATURE);
    header.extend([PROXY, family << 4 | STREAM]);
    header.extend(length.to_be_bytes());
    header.extend(block);
    if checked {
        let checksum = crc32c(&[&header]).to_be_bytes();
        let at = header.len() - checksum.len();
        header[at..].copy_from_slice(&checksum);
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &[u8] = b"\xc0\x00\x02\x01\xc6\x33\x64\x02\x01\x02\x22\xb3";

    fn v4() -> ForwardedAddresses {
        ForwardedAddresses {
            source: ([192, 0, 2, 1], 0x102).into(),
            destination: ([198, 51, 100, 2], 8883).into(),
        }
    }

    fn with(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, block].concat()
    }

    #[test]
    fn the_bytes_of_a_header_are_those_of_the_specification() {
        let expected = with(0x21, 0x11, V4);
        assert_eq!(header(v4(), Tlvs::default(), false), expected);
        assert_eq!(parse(&expected), Ok(Some(Header { addresses: Some(v4()), length: 28 })));

        let v6 = ForwardedAddresses {
            source: "[2001:db8::1]:1".parse().unwrap(),
            destination: "[::1]:65535".parse().unwrap(),
        };
        let block = b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x01\xff\xff";
        let expected = with(0x21, 0x21, block);
        assert_eq!(header(v6, Tlvs::default(), false), expected);
        assert_eq!(parse(&expected), Ok(Some(Header { addresses: Some(v6), length: 52 })));
    }

    #[test]
    fn tlvs_follow_the_addresses() {
        let mut tlvs = Tlvs::default();
        tlvs.add(0x01, b"mqtt");
        tlvs.add(0x02, b"a.example");
        let expected = with(0x21, 0x11, &[V4, b"\x01\0\x04mqtt\x02\0\x09a.example"].concat());
        assert_eq!(header(v4(), tlvs, false), expected);
        let length = expected.len();
        assert_eq!(parse(&expected), Ok(Some(Header { addresses: Some(v4()), length })));
    }

    #[test]
    fn the_checksum_covers_the_whole_header() {
        let mut sent = header(v4(), Tlvs::default(), true);
        assert_eq!(&sent[28..31], b"\x03\0\x04");
        assert_eq!(parse(&sent).unwrap().unwrap().addresses, Some(v4()));
        // Computed bit by bit by another program.
        assert_eq!(&sent[31..], b"\x85\x71\xd6\x45");
        for at in 16..sent.len() {
            // The lengths of the TLV are another fault.
            if (29..31).contains(&at) {
                continue;
            }
            sent[at] ^= 1;
            // Without its type, the TLV is no checksum.
            let fault = if at == 28 { Ok(()) } else { Err(HeaderFault::Checksum) };
            assert_eq!(parse(&sent).map(drop), fault, "byte {at}");
            sent[at] ^= 1;
        }
    }

    #[test]
    fn connections_of_the_proxy_itself_and_other_sockets_have_no_addresses() {
        let unix = [1; 216];
        for (command, family, block) in [
            (0x20, 0x00, &b""[..]),
            (0x20, 0x11, V4),
            (0x20, 0xff, b"\x03\0\x04"),
            (0x21, 0x00, b"any"),
            (0x21, 0x12, V4),
            (0x21, 0x31, &unix),
        ] {
            let sent = with(command, family, block);
            let expected = Header { addresses: None, length: sent.len() };
            assert_eq!(parse(&sent), Ok(Some(expected)), "{command:x} {family:x}");
        }
    }

    #[test]
    fn a_header_that_breaks_a_rule_is_refused() {
        for (command, family, block) in [
            (0x11, 0x11, V4),
            (0x22, 0x11, V4),
            (0x21, 0x41, V4),
            (0x21, 0x13, V4),
            (0x21, 0x11, &V4[..11]),
            (0x21, 0x21, V4),
            (0x21, 0x31, V4),
            (0x21, 0x11, &[V4, b"\x01"].concat()),
            (0x21, 0x11, &[V4, b"\x01\0\x02a"].concat()),
            (0x21, 0x11, &[V4, b"\x03\0\x02ab"].concat()),
        ] {
            let sent = with(command, family, block);
            assert!(matches!(parse(&sent), Err(HeaderFault::V2(_))), "{command:x} {family:x}");
        }
        let announced = &with(0x21, 0x11, &[0; MAX_HEADER_BYTES])[..16];
        assert_eq!(parse(announced), Err(HeaderFault::TooLong), "at its announcement");
    }
}
