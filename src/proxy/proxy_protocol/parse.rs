//! Recognition of the two formats of a header.
//!
//! **Not here.** The formats (`v1.rs`, `v2.rs`), sockets (`receive.rs`).

use super::header::{Header, HeaderFault};
use super::{v1, v2};

/// Returns the header that `bytes` begin with, or none if more bytes are needed.
///
/// # Errors
/// If the bytes cannot become a header.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderFault> {
    let begins = |signature: &[u8]| {
        let common = signature.len().min(bytes.len());
        bytes[..common] == signature[..common]
    };
    if begins(v2::SIGNATURE) {
        v2::parse(bytes)
    } else if begins(v1::SIGNATURE) {
        v1::parse(bytes)
    } else {
        Err(HeaderFault::NoHeader)
    }
}

/// Returns true if the first bytes of a connection are those of a header.
pub(crate) fn begins_header(bytes: &[u8]) -> bool {
    bytes.starts_with(v2::SIGNATURE) || bytes.starts_with(v1::SIGNATURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_protocols_are_refused_at_the_first_byte_that_differs() {
        for bytes in [&b"\x16"[..], b"G", b"PO", b"PROXY\t", b"\r\n\r\n\x01", b"\x10\x0e"] {
            assert_eq!(parse(bytes), Err(HeaderFault::NoHeader), "{bytes:?}");
            assert!(!begins_header(bytes));
        }
    }

    #[test]
    fn a_part_of_a_header_is_incomplete() {
        let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
        let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\x01\0\x02";
        for header in [&v1[..], v2] {
            for length in 0..header.len() {
                assert_eq!(parse(&header[..length]), Ok(None), "{length} bytes of {header:?}");
            }
            let behind = [header, b"PROXY"].concat();
            assert_eq!(parse(&behind).unwrap().unwrap().length, header.len());
            assert_eq!(parse(&behind).unwrap(), parse(header).unwrap());
        }
        assert_eq!(parse(v1).unwrap().unwrap().addresses, parse(v2).unwrap().unwrap().addresses);
    }
}
