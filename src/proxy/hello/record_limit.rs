//! The size of records that a client asks for.
//!
//! A server may send smaller records than a client can receive without an acknowledgement. Only max_fragment_length in
//! TLS 1.2 gets one (`trust/provider/fragment_ack.rs`). Whether or not, every record that TLS allows is accepted from the
//! client: some send a certificate that is longer than what they have negotiated (Mbed TLS issue 10787).
//!
//! **Not here.** Invalid values, which are refused (`rules.rs`), the division into records (`trust/provider/flight.rs`,
//! `tls/record_layer/size.rs`).

use tokio_rustls::rustls::ProtocolVersion;

use super::client_hello::HelloExtensions;
use crate::config::values::MAX_PLAIN_BYTES_U16 as MAX_PLAIN_BYTES;
use crate::trust::provider::FragmentAck;

/// The least record_size_limit: RFC 8449 section 4.
pub(super) const MIN_RECORD_SIZE_LIMIT: u16 = 64;

/// The longest plaintext of the records that a client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordLimit {
    /// Of encrypted records of TLS 1.2.
    tls12: u16,
    /// Of encrypted records of TLS 1.3, without the type of their content.
    tls13: u16,
    /// Of records before encryption starts.
    pub(crate) plain: u16,
    /// The max_fragment_length to acknowledge.
    ack: Option<FragmentAck>,
}

impl Default for RecordLimit {
    fn default() -> Self {
        Self { tls12: MAX_PLAIN_BYTES, tls13: MAX_PLAIN_BYTES, plain: MAX_PLAIN_BYTES, ack: None }
    }
}

impl RecordLimit {
    /// Reads the extensions of a ClientHello. Invalid values count as none.
    pub(super) fn of(extensions: &HelloExtensions<'_>) -> Self {
        // RFC 8449 section 5: record_size_limit replaces max_fragment_length.
        match (extensions.record_size_limit, extensions.max_fragment_length) {
            (Some(&[high, low]), _) => Self::record_size_limit(u16::from_be_bytes([high, low])),
            // RFC 6066 section 4: 2^9 to 2^12 bytes.
            (None, Some(&[code @ 1..=4])) => Self::max_fragment_length(code),
            _ => Self::default(),
        }
    }

    /// Returns the longest plaintext of an encrypted record.
    pub(crate) fn sealed(self, version: ProtocolVersion) -> u16 {
        if version == ProtocolVersion::TLSv1_3 { self.tls13 } else { self.tls12 }
    }

    /// Returns the acknowledgement for the ServerHello.
    pub(crate) fn ack(self, version: ProtocolVersion) -> Option<FragmentAck> {
        self.ack.filter(|_| version == ProtocolVersion::TLSv1_2)
    }

    /// Returns the limit of RFC 8449 section 4, which excludes plaintext records, and in TLS 1.3 includes a byte for
    /// the type of the content.
    fn record_size_limit(bytes: u16) -> Self {
        // `rules.rs` refuses smaller values.
        let bytes = bytes.max(MIN_RECORD_SIZE_LIMIT);
        let tls12 = bytes.min(MAX_PLAIN_BYTES);
        Self { tls12, tls13: (bytes - 1).min(MAX_PLAIN_BYTES), ..Self::default() }
    }

    /// Returns the limit of RFC 6066 section 4, which is older than TLS 1.3: a byte less there is right for each way of
    /// counting.
    fn max_fragment_length(code: u8) -> Self {
        let bytes = 1 << (8 + code);
        let ack = Some(FragmentAck { code });
        Self { tls12: bytes, tls13: bytes - 1, plain: bytes, ack }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max_fragment_length: Option<&[u8]>, record_size_limit: Option<&[u8]>) -> RecordLimit {
        let extensions = HelloExtensions {
            max_fragment_length,
            record_size_limit,
            ..HelloExtensions::default()
        };
        RecordLimit::of(&extensions)
    }

    #[test]
    fn max_fragment_length_limits_all_records() {
        let sizes = [512, 1024, 2048, 4096];
        for (code, bytes) in (1..).zip(sizes) {
            let ack = Some(FragmentAck { code });
            let expected = RecordLimit { tls12: bytes, tls13: bytes - 1, plain: bytes, ack };
            assert_eq!(limit(Some(&[code]), None), expected);
        }
    }

    #[test]
    fn record_size_limit_limits_encrypted_records_and_counts_the_content_type_in_tls13() {
        let expected = |tls12, tls13| RecordLimit { tls12, tls13, ..RecordLimit::default() };
        assert_eq!(limit(None, Some(&[0, 64])), expected(64, 63));
        assert_eq!(limit(None, Some(&[0x40, 0])), expected(16384, 16383));
        assert_eq!(limit(None, Some(&[0x40, 1])), RecordLimit::default());
        assert_eq!(limit(None, Some(&[0xff, 0xff])), RecordLimit::default());
    }

    #[test]
    fn record_size_limit_replaces_max_fragment_length() {
        assert_eq!(limit(Some(&[1]), Some(&[0x40, 1])), RecordLimit::default());
    }

    #[test]
    fn without_the_extensions_records_have_any_size() {
        assert_eq!(limit(None, None), RecordLimit::default());
    }
}
