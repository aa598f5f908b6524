//! The parts of a header of version 2: types, and their encoding (section 2.2).
//!
//! **Not here.** Their content (`send.rs`).

pub(super) const ALPN: u8 = 0x01;
pub(super) const AUTHORITY: u8 = 0x02;
pub(super) const CRC32C: u8 = 0x03;
pub(super) const UNIQUE_ID: u8 = 0x05;
pub(super) const SSL: u8 = 0x20;

/// The parts of [`SSL`].
pub(super) const SSL_VERSION: u8 = 0x21;
pub(super) const SSL_CN: u8 = 0x22;
pub(super) const SSL_CIPHER: u8 = 0x23;
pub(super) const SSL_GROUP: u8 = 0x26;
pub(super) const SSL_CLIENT_CERT: u8 = 0x28;

/// Size of the type and the length.
pub(super) const HEADER_BYTES: usize = 3;

/// Encoded TLVs.
#[derive(Debug, Default)]
pub(super) struct Tlvs(Vec<u8>);

impl Tlvs {
    /// Adds a TLV. A value that has no room in one is left out.
    pub(super) fn add(&mut self, kind: u8, value: &[u8]) {
        let Ok(length) = u16::try_from(value.len()) else { return };
        self.0.push(kind);
        self.0.extend(length.to_be_bytes());
        self.0.extend(value);
    }

    /// Returns the number of bytes.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}
