//! The nonce of a TLS 1.3 ticket, of one byte.
//!
//! rustls writes a nonce of 32 random bytes into each ticket. wolfSSL keeps 8 bytes by default, and ends the session of
//! a longer one (`WOLFSSL_TICKET_NONCE_MALLOC`). RFC 8446 section 4.6.1 requires only that the nonces of one session
//! differ, so a count is enough, and no device has to receive 31 bytes more.
//!
//! rustls uses the nonce twice: it derives the secret of the resumption from it, and sends it. Both pass through the
//! suites of this provider, HKDF and the cipher, which use the count instead.
//!
//! **Promises.** Tickets of one session have different nonces. A nonce is only replaced on the wire if the secret was
//! derived with its replacement. No record becomes longer.
//!
//! **Not here.** The content of a ticket (`trust/tickets/`).

use tokio_rustls::rustls::crypto::ActiveKeyExchange;
use tokio_rustls::rustls::crypto::hmac::Tag;
use tokio_rustls::rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError};
use tokio_rustls::rustls::{Error, HandshakeType};

use super::scope::HandshakeScope;

/// HKDF that derives the secrets of tickets with short nonces.
pub(super) struct ShortNonceHkdf(pub(super) &'static dyn Hkdf);

impl Hkdf for ShortNonceHkdf {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        self.0.extract_from_zero_ikm(salt)
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        self.0.extract_from_secret(salt, secret)
    }

    fn extract_from_kx_shared_secret(
        &self,
        salt: Option<&[u8]>,
        kx: Box<dyn ActiveKeyExchange>,
        peer_pub_key: &[u8],
    ) -> Result<Box<dyn HkdfExpander>, Error> {
        self.0.extract_from_kx_shared_secret(salt, kx, peer_pub_key)
    }

    /// Returns an expander for a secret that is stored as such, as the one of the resumption is.
    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        Box::new(ShortNonceExpander(self.0.expander_for_okm(okm)))
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        self.0.hmac_sign(key, message)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct ShortNonceExpander(Box<dyn HkdfExpander>);

impl HkdfExpander for ShortNonceExpander {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        self.0.expand_slice(info, output)
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        // HkdfLabel of RFC 8446 section 7.1, in the parts in which rustls passes it.
        if let [length, label_length, b"tls13 ", b"resumption", _, [_, ..]] = info
            && let Some(nonce) = HandshakeScope::with_entered(HandshakeScope::next_ticket_nonce)
        {
            let parts = [length, label_length, &b"tls13 "[..], b"resumption", &[1], &[nonce]];
            return self.0.expand_block(&parts);
        }
        self.0.expand_block(info)
    }

    fn hash_len(&self) -> usize {
        self.0.hash_len()
    }
}

/// Bytes of a ticket's message up to the length of its nonce: type, length, lifetime, `ticket_age_add`.
const HEAD_BYTES: usize = 4 + 4 + 4 + 1;

/// A rewriter of the tickets in the handshake messages of a session, which may be split over records in any way.
#[derive(Default)]
pub(super) struct ShortNonces {
    /// The start of a message that is not complete enough to be passed on.
    head: Vec<u8>,
    /// The nonce that replaces the next one.
    number: Option<u8>,
    /// Bytes that are left of a nonce: they are dropped.
    nonce_left: usize,
    /// Bytes that are left of the message: they stay as they are.
    left: usize,
    /// Tickets that have been passed on.
    tickets: u8,
}

impl ShortNonces {
    /// Returns the messages in the next record with a short nonce in each ticket.
    pub(super) fn shorten(&mut self, mut record: &[u8]) -> Vec<u8> {
        let mut short = Vec::with_capacity(record.len());
        while let Some((&byte, rest)) = record.split_first() {
            if self.nonce_left > 0 {
                short.extend(self.number.take());
                let dropped = self.nonce_left.min(record.len());
                self.nonce_left -= dropped;
                record = &record[dropped..];
            } else if self.left > 0 {
                let (same, rest) = record.split_at(self.left.min(record.len()));
                self.left -= same.len();
                short.extend_from_slice(same);
                record = rest;
            } else {
                self.head.reserve_exact(HEAD_BYTES - self.head.len());
                self.head.push(byte);
                record = rest;
                self.pass_head(&mut short);
            }
        }
        short
    }

    /// Appends the start of a message to `short` once it is complete.
    fn pass_head(&mut self, short: &mut Vec<u8>) {
        let Some(&[kind, high, middle, low]) = self.head.first_chunk() else { return };
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        if HandshakeType::from(kind) != HandshakeType::NewSessionTicket {
            short.append(&mut self.head);
            self.left = length;
            return;
        }
        let Some(&[.., nonce_bytes]) = self.head.first_chunk::<HEAD_BYTES>() else { return };
        self.nonce_left = nonce_bytes.into();
        self.left = (4 + length).saturating_sub(HEAD_BYTES + self.nonce_left);
        let has_nonce = self.nonce_left > 0;
        let length = HEAD_BYTES - 4 + usize::from(has_nonce) + self.left;
        let [_, high, middle, low] = u32::try_from(length).unwrap_or(0).to_be_bytes();
        short.extend([kind, high, middle, low]);
        short.extend_from_slice(&self.head[4..HEAD_BYTES - 1]);
        short.push(has_nonce.into());
        self.number = has_nonce.then_some(self.tickets);
        self.tickets = self.tickets.wrapping_add(1);
        self.head.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes a ticket: RFC 8446 section 4.6.1.
    fn ticket(nonce: &[u8], ticket: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
        let mut body = vec![1, 2, 3, 4, 5, 6, 7, 8, length(nonce)[1]];
        body.extend_from_slice(nonce);
        body.extend(length(ticket));
        body.extend_from_slice(ticket);
        body.extend([0, 0]);
        [&[4, 0], &length(&body)[..], &body].concat()
    }

    #[test]
    fn each_ticket_has_its_number_as_nonce() {
        let (one, other) = ([7; 300], [8; 70]);
        let sent = [ticket(&[9; 32], &one), ticket(&[10; 32], &other)].concat();
        let short = [ticket(&[0], &one), ticket(&[1], &other)].concat();
        for cut in 1..sent.len() {
            let mut nonces = ShortNonces::default();
            let records = sent.chunks(cut).map(|record| (record.len(), nonces.shorten(record)));
            let (lengths, records): (Vec<_>, Vec<_>) = records.unzip();
            assert_eq!(records.concat(), short, "records of {cut} bytes");
            if cut >= 64 {
                let same = lengths.into_iter().zip(&records);
                let fits = same.clone().all(|(bytes, record)| record.len() <= bytes);
                assert!(fits && records.iter().all(|record| !record.is_empty()), "{cut} bytes");
            }
        }
    }

    #[test]
    fn other_messages_and_tickets_without_a_nonce_stay() {
        let sent = [&[20, 0, 0, 2, 4, 4][..], &ticket(&[], &[7; 30]), &[24, 0, 0, 1, 0]].concat();
        assert_eq!(ShortNonces::default().shorten(&sent), sent);
    }
}
