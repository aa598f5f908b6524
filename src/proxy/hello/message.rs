//! Assembly of a ClientHello from its records.
//!
//! **Promises.** One copy of the message is kept, and no record header. The copy grows with the bytes that
//! have arrived, never with an announced length. A record or message that cannot become a ClientHello is
//! refused at its header.
//!
//! **Not here.** The content of the message (`client_hello.rs`), sockets and deadlines (`hello.rs`).

use super::fault::HelloFault;
use super::foreign;
use crate::config::values::MAX_PLAIN_BYTES;
use crate::proxy::tls::early_data_bytes;
use crate::terms::labels::LooksLike;

/// Size of a record's header: type, version and length. RFC 8446 section 5.1.
const HEADER_BYTES: usize = 5;

/// Size of a message's header: type and length. RFC 8446 section 4.
const MESSAGE_HEADER_BYTES: usize = 4;

const HANDSHAKE: u8 = 22;
const CHANGE_CIPHER_SPEC: u8 = 20;
const APPLICATION_DATA: u8 = 23;
const CLIENT_HELLO: u8 = 1;

/// A ClientHello that may be incomplete.
#[derive(Debug)]
pub(super) struct PartialHello {
    message: Vec<u8>,
    /// The longest message that is accepted, without its header.
    max_bytes: usize,
    header: [u8; HEADER_BYTES],
    /// Number of received bytes of `header`.
    have: usize,
    /// Number of missing bytes of the record.
    left: usize,
    /// The record is skipped.
    skipping: bool,
    /// The header of a record has arrived.
    is_tls: bool,
    between: Between,
}

/// Records that may precede the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Between {
    /// None: it is the first message.
    Nothing,
    /// Records between two ClientHellos: change_cipher_spec, and rejected early data up to this number of
    /// bytes. RFC 8446 sections 4.2.10 and 5.
    Retry { change_cipher_specs: u8, early_data: usize },
}

impl PartialHello {
    pub(super) const fn new(max_bytes: usize, between: Between) -> Self {
        let header = [0; HEADER_BYTES];
        let is_tls = matches!(between, Between::Retry { .. });
        Self {
            message: Vec::new(),
            max_bytes,
            header,
            have: 0,
            left: 0,
            skipping: false,
            is_tls,
            between,
        }
    }

    /// Returns the size of its memory.
    pub(super) const fn bytes(&self) -> usize {
        self.message.capacity()
    }

    pub(super) fn into_message(self) -> Vec<u8> {
        self.message
    }

    /// Takes the next bytes. Once the message is complete, returns how many of them belonged to it.
    ///
    /// # Errors
    /// If they cannot become a ClientHello.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Option<usize>, HelloFault> {
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            if self.have < HEADER_BYTES {
                self.header[self.have] = byte;
                self.have += 1;
                rest = &rest[1..];
                let taken = bytes.len() - rest.len();
                self.check_header().map_err(|fault| self.named(fault, bytes, taken))?;
                continue;
            }
            let (part, behind) = rest.split_at(self.left.min(rest.len()));
            rest = behind;
            self.left -= part.len();
            if !self.skipping {
                self.append(part)?;
            }
            if self.left == 0 {
                self.have = 0;
            }
            if self.is_complete()? {
                return Ok(Some(bytes.len() - rest.len()));
            }
        }
        Ok(None)
    }

    /// Returns the fault of the first bytes, which may be those of another protocol. `taken` of `bytes` are in the header,
    /// after those that came before.
    fn named(&self, fault: HelloFault, bytes: &[u8], taken: usize) -> HelloFault {
        let HelloFault::NotTls(_) = fault else { return fault };
        let before = &self.header[..self.have.saturating_sub(taken)];
        let looks_like = match before {
            [] => foreign::looks_like(bytes),
            // At most one byte, which is that of a handshake record.
            _ => foreign::looks_like(&[before, &bytes[..bytes.len().min(HEADER_BYTES)]].concat()),
        };
        if looks_like == LooksLike::ProxyHeader {
            HelloFault::ProxyHeader
        } else {
            HelloFault::NotTls(looks_like)
        }
    }

    /// Returns whether the message is complete. It must end with its record: the keys change behind it (RFC
    /// 8446 section 5.1), and in TLS 1.2 no other message may follow it.
    fn is_complete(&self) -> Result<bool, HelloFault> {
        let Some(length) = self.length() else { return Ok(false) };
        let whole = MESSAGE_HEADER_BYTES + length;
        if self.message.len() > whole || self.message.len() == whole && self.left > 0 {
            return Err(HelloFault::Unexpected("bytes behind the ClientHello in its record"));
        }
        Ok(self.message.len() == whole)
    }

    /// Checks the received part of a record's header.
    fn check_header(&mut self) -> Result<(), HelloFault> {
        let [kind, major, _, high, low] = self.header;
        let started = !self.message.is_empty();
        match (self.have, self.between) {
            (1, _) if kind == HANDSHAKE => self.skipping = false,
            (1, Between::Retry { .. })
                if !started && matches!(kind, CHANGE_CIPHER_SPEC | APPLICATION_DATA) =>
            {
                self.skipping = true;
            }
            (1, _) if !self.is_tls => return Err(HelloFault::NotTls(LooksLike::Other)),
            (1, _) => {
                return Err(HelloFault::Unexpected("a record that is not a handshake record"));
            }
            (2, _) if major != 3 && !self.is_tls => {
                return Err(HelloFault::NotTls(LooksLike::Other));
            }
            (2, _) if major != 3 => return Err(HelloFault::Malformed("the version of a record")),
            (HEADER_BYTES, _) => {
                self.is_tls = true;
                self.left = usize::from(u16::from_be_bytes([high, low]));
                self.check_length(kind)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn check_length(&mut self, kind: u8) -> Result<(), HelloFault> {
        match (kind, &mut self.between) {
            (APPLICATION_DATA, Between::Retry { early_data, .. }) => {
                // RFC 8446 section 5.2: the ciphertext of one record.
                if self.left > MAX_PLAIN_BYTES + 256 {
                    return Err(HelloFault::Overflow);
                }
                let data = early_data_bytes(self.left);
                *early_data = early_data
                    .checked_sub(data)
                    .ok_or(HelloFault::Unexpected("more early data than this server skips"))?;
            }
            (CHANGE_CIPHER_SPEC, Between::Retry { change_cipher_specs, .. }) => {
                *change_cipher_specs = change_cipher_specs
                    .checked_sub(1)
                    .filter(|_| self.left == 1)
                    .ok_or(HelloFault::Unexpected("a change_cipher_spec"))?;
            }
            _ if self.left > MAX_PLAIN_BYTES => return Err(HelloFault::Overflow),
            _ if self.left == 0 => return Err(HelloFault::Unexpected("an empty record")),
            _ => {}
        }
        Ok(())
    }

    fn append(&mut self, part: &[u8]) -> Result<(), HelloFault> {
        let needed = self.message.len() + part.len();
        if needed > self.message.capacity() {
            // An eighth more than has arrived, so that single bytes do not cause a copy each.
            self.message.reserve_exact(part.len().max(self.message.len() / 8));
        }
        self.message.extend_from_slice(part);
        if self.message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
            return Err(HelloFault::Unexpected("a message that is not a ClientHello"));
        }
        if self.length().is_some_and(|length| length > self.max_bytes) {
            return Err(HelloFault::TooLong(self.max_bytes));
        }
        Ok(())
    }

    fn length(&self) -> Option<usize> {
        let &[_, high, middle, low] = self.message.first_chunk()?;
        Some(u32::from_be_bytes([0, high, middle, low]) as usize)
    }
}

/// Returns the message in records of the greatest length.
pub(crate) fn records(message: &[u8]) -> Vec<u8> {
    let headers = message.len().div_ceil(MAX_PLAIN_BYTES) * HEADER_BYTES;
    let mut records = Vec::with_capacity(message.len() + headers);
    for part in message.chunks(MAX_PLAIN_BYTES) {
        let [high, low] =
            u16::try_from(part.len()).expect("a chunk has at most 16 KiB").to_be_bytes();
        records.extend([HANDSHAKE, 3, 1, high, low]);
        records.extend_from_slice(part);
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a ClientHello with this number of bytes behind its header.
    fn message(bytes: u16) -> Vec<u8> {
        let [high, low] = bytes.to_be_bytes();
        [&[1, 0, high, low][..], &vec![7; usize::from(bytes)]].concat()
    }

    fn in_records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(records).collect()
    }

    fn first() -> PartialHello {
        PartialHello::new(0xffff, Between::Nothing)
    }

    fn refused(bytes: &[u8]) -> HelloFault {
        first().take(bytes).unwrap_err()
    }

    #[test]
    fn a_message_is_the_same_for_every_size_and_split() {
        for bytes in [0, 1, 300, 16384, 40000, 65535] {
            let message = message(bytes);
            for size in [1, 5, 1000, 16384] {
                let records = in_records(&message, size);
                let behind = [&records[..], b"behind"].concat();
                for segment in [1, 3, 1460, 1 << 20] {
                    let mut partial = first();
                    let mut taken = 0;
                    let complete = behind.chunks(segment).find_map(|part| {
                        let done = partial.take(part).unwrap();
                        taken += done.unwrap_or(part.len());
                        done
                    });
                    assert!(complete.is_some());
                    assert_eq!(taken, records.len());
                    assert_eq!(partial.into_message(), message);
                }
            }
        }
    }

    #[test]
    fn one_copy_grows_with_the_bytes_that_arrive() {
        let records = in_records(&message(65535), 1000);
        let mut partial = first();
        let mut came = 0;
        for part in records[..60_000].chunks(500) {
            assert_eq!(partial.take(part), Ok(None));
            came += part.len();
            assert!(partial.bytes() <= came + came / 8, "{} of {came}", partial.bytes());
        }
    }

    #[test]
    fn a_record_that_cannot_become_a_hello_is_refused_at_its_header() {
        assert_eq!(refused(&[23]), HelloFault::NotTls(LooksLike::Other));
        assert_eq!(refused(&[22, 2]), HelloFault::NotTls(LooksLike::Other));
        assert_eq!(refused(&[22, 0xfe, 0xfd]), HelloFault::NotTls(LooksLike::Dtls));
        assert_eq!(refused(b"PROXY TCP4 "), HelloFault::ProxyHeader);
        assert_eq!(refused(b"\r\n\r\n\0\r\nQUIT\n\x21"), HelloFault::ProxyHeader);
        assert_eq!(refused(b"PUT / HTTP/1.1\r\n"), HelloFault::NotTls(LooksLike::Http));
        assert_eq!(refused(&[22, 3, 1, 0x40, 1]), HelloFault::Overflow);
        assert!(matches!(refused(&[22, 3, 1, 0, 0]), HelloFault::Unexpected(_)));
        assert!(matches!(refused(&[22, 3, 1, 0, 9, 2]), HelloFault::Unexpected(_)));
        assert_eq!(refused(&[22, 3, 1, 0, 9, 1, 1, 0, 0]), HelloFault::TooLong(0xffff));
        let mut short = PartialHello::new(100, Between::Nothing);
        assert_eq!(short.take(&records(&message(101))), Err(HelloFault::TooLong(100)));
        let more = [&message(10)[..], &[1]].concat();
        assert!(matches!(refused(&records(&more)), HelloFault::Unexpected(_)));
        let cut = [&records(&message(10)[..6])[..], &[20]].concat();
        assert!(matches!(refused(&cut), HelloFault::Unexpected(_)));
    }

    #[test]
    fn between_two_hellos_early_data_and_a_change_cipher_spec_are_skipped() {
        let retry = Between::Retry { change_cipher_specs: 1, early_data: 100 };
        let early = [&[23, 3, 3, 0, 67][..], &[9; 67]].concat();
        let hello = records(&message(10));
        let came = [&[20, 3, 3, 0, 1, 1][..], &early, &early, &hello].concat();
        let mut partial = PartialHello::new(0xffff, retry);
        assert_eq!(partial.take(&came), Ok(Some(came.len())));
        assert_eq!(partial.into_message(), message(10));
        let too_much = [&early[..], &early, &early].concat();
        assert!(PartialHello::new(0xffff, retry).take(&too_much).is_err());
        assert!(PartialHello::new(0xffff, retry).take(&[20, 3, 3, 0, 2]).is_err());
    }
}
