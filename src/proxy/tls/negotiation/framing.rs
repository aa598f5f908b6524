//! The records of our side of a handshake.
//!
//! rustls returns records in which all messages of a flight are joined. Plaintext messages are divided here into new
//! records: no hash or signature covers the headers of records. A ServerHello gets the acknowledgement that the
//! transcript has. Encrypted messages were divided before their encryption (`trust/provider/scope.rs`), and the records
//! that this has added are put back into their place here.
//!
//! **Promises.** Records leave in the order in which rustls has made them.
//!
//! **Not here.** The rule for the division (`trust/provider/flight.rs`), the acknowledgement
//! (`trust/provider/fragment_ack.rs`).

use tokio_rustls::rustls::ProtocolVersion;

use super::record::{APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE};
use crate::proxy::tls::record_layer::HEADER_BYTES;
use crate::trust::provider::{FlightSizes, FragmentAck, HandshakeScope};

/// Size up to which the messages of a flight of TLS 1.2 stay in one record. No device without an extension for the
/// size of records has a smaller buffer. With it, the flights with short ECDSA chains have no more headers.
const SMALL_FLIGHT_BYTES: usize = 1024;

/// The division of our flights into records.
#[derive(Default)]
pub(super) struct Framing {
    is_tls12: bool,
    plain: FlightSizes,
    ack: Option<FragmentAck>,
    /// In TLS 1.2 our records are encrypted behind our change_cipher_spec.
    is_sealed: bool,
}

impl Framing {
    /// Sets the sizes for the answer to a ClientHello that leads to this version.
    pub(super) fn set(
        &mut self,
        version: ProtocolVersion,
        plain: FlightSizes,
        ack: Option<FragmentAck>,
    ) {
        self.is_tls12 = version == ProtocolVersion::TLSv1_2;
        (self.plain, self.ack) = (plain, ack);
    }

    /// Appends the records of rustls to `reply`, divided.
    pub(super) fn divide(
        &mut self,
        mut records: &[u8],
        scope: &mut HandshakeScope,
        reply: &mut Vec<u8>,
    ) {
        reply.reserve(records.len());
        while let Some((record, rest)) = split_record(records) {
            records = rest;
            let kind = record[0];
            if kind == APPLICATION_DATA || self.is_sealed {
                reply.extend(scope.sealed_before.pop_front().unwrap_or_default());
                reply.extend_from_slice(record);
            } else if kind == HANDSHAKE {
                self.divide_plain(record, reply);
            } else {
                self.is_sealed = self.is_tls12 && kind == CHANGE_CIPHER_SPEC;
                reply.extend_from_slice(record);
            }
        }
    }

    fn divide_plain(&mut self, record: &[u8], reply: &mut Vec<u8>) {
        let (header, flight) = record.split_at(HEADER_BYTES);
        let changed = self.ack.and_then(|ack| ack.added_to(flight));
        if changed.is_some() {
            // There is one ServerHello.
            self.ack = None;
        }
        let flight = changed.as_deref().unwrap_or(flight);
        let sizes = if self.is_tls12 {
            self.plain.within_largest_message(flight, SMALL_FLIGHT_BYTES)
        } else {
            self.plain
        };
        for part in sizes.divide(flight) {
            let length = u16::try_from(part.len()).expect("a part of a record");
            reply.extend_from_slice(&header[..3]);
            reply.extend_from_slice(&length.to_be_bytes());
            reply.extend_from_slice(part);
        }
    }
}

/// Splits the first record of `records` from the others.
fn split_record(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let &[_, _, _, high, low] = records.first_chunk()?;
    records.split_at_checked(HEADER_BYTES + usize::from(u16::from_be_bytes([high, low])))
}
