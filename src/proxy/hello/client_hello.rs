//! Parser of a ClientHello.
//!
//! **Promises.** Each vector has exactly its announced length, and no extension occurs twice: RFC 8446 sections
//! 3.4 and 4.1.2. The result borrows from the message.
//!
//! **Not here.** Rules on values (`rules.rs`), label values for the metrics (`offer.rs`).

use std::ops::Range;

use super::code_set::CodeSet;
use super::fault::HelloFault;

/// The parts of a ClientHello: RFC 8446 section 4.1.2, in the same form as RFC 5246 section 7.4.1.2.
#[derive(Debug)]
pub(super) struct ClientHello<'a> {
    pub(super) legacy_version: u16,
    pub(super) random: [u8; 32],
    pub(super) suites: &'a [[u8; 2]],
    pub(super) compressions: &'a [u8],
    pub(super) extensions: HelloExtensions<'a>,
}

/// The extensions that this proxy reads, without their headers.
#[derive(Debug, Default)]
pub(super) struct HelloExtensions<'a> {
    pub(super) server_name: Option<&'a [u8]>,
    /// Place of the server_name's type in the message.
    pub(super) server_name_at: usize,
    pub(super) max_fragment_length: Option<&'a [u8]>,
    pub(super) supported_groups: Option<&'a [u8]>,
    /// Place of the content of supported_groups in the message.
    pub(super) supported_groups_at: usize,
    pub(super) ec_point_formats: Option<&'a [u8]>,
    pub(super) signature_algorithms: Option<&'a [u8]>,
    pub(super) alpn: Option<&'a [u8]>,
    /// Place of its type in the message.
    pub(super) alpn_at: usize,
    /// The extension encrypt_then_mac is there: RFC 7366.
    pub(super) has_encrypt_then_mac: bool,
    pub(super) extended_master_secret: Option<&'a [u8]>,
    pub(super) record_size_limit: Option<&'a [u8]>,
    pub(super) session_ticket: Option<&'a [u8]>,
    pub(super) pre_shared_key: Option<&'a [u8]>,
    pub(super) early_data: Option<&'a [u8]>,
    pub(super) supported_versions: Option<&'a [u8]>,
    pub(super) psk_key_exchange_modes: Option<&'a [u8]>,
    pub(super) post_handshake_auth: Option<&'a [u8]>,
    pub(super) key_share: Option<&'a [u8]>,
    pub(super) renegotiation_info: Option<&'a [u8]>,
    /// The types in the message.
    pub(super) kinds: CodeSet,
    /// Type of the last extension.
    pub(super) last_type: Option<u16>,
}

/// The codes of versions: RFC 8446 section 4.2.1.
pub(crate) mod version {
    pub(crate) const SSL_3: u16 = 0x0300;
    pub(crate) const TLS_1_1: u16 = 0x0302;
    pub(crate) const TLS_1_2: u16 = 0x0303;
    pub(crate) const TLS_1_3: u16 = 0x0304;
}

/// The types of [`HelloExtensions`] in IANA's registry.
pub(crate) mod kind {
    pub(crate) const SERVER_NAME: u16 = 0;
    pub(crate) const MAX_FRAGMENT_LENGTH: u16 = 1;
    pub(crate) const SUPPORTED_GROUPS: u16 = 10;
    pub(crate) const EC_POINT_FORMATS: u16 = 11;
    pub(crate) const SIGNATURE_ALGORITHMS: u16 = 13;
    pub(crate) const ALPN: u16 = 16;
    pub(crate) const ENCRYPT_THEN_MAC: u16 = 22;
    pub(crate) const EXTENDED_MASTER_SECRET: u16 = 23;
    pub(crate) const RECORD_SIZE_LIMIT: u16 = 28;
    pub(crate) const SESSION_TICKET: u16 = 35;
    pub(crate) const PRE_SHARED_KEY: u16 = 41;
    pub(crate) const EARLY_DATA: u16 = 42;
    pub(crate) const SUPPORTED_VERSIONS: u16 = 43;
    pub(crate) const PSK_KEY_EXCHANGE_MODES: u16 = 45;
    pub(crate) const POST_HANDSHAKE_AUTH: u16 = 49;
    pub(crate) const KEY_SHARE: u16 = 51;
    pub(crate) const RENEGOTIATION_INFO: u16 = 0xff01;
}

/// Types that RFC 8701 reserves: no implementation may give them a meaning.
const RESERVED: [u16; 16] = [
    0x0a0a, 0x1a1a, 0x2a2a, 0x3a3a, 0x4a4a, 0x5a5a, 0x6a6a, 0x7a7a, 0x8a8a, 0x9a9a, 0xaaaa, 0xbaba,
    0xcaca, 0xdada, 0xeaea, 0xfafa,
];

/// Types that IANA has not assigned: more than the extensions for which a message has room. rustls knows none of them.
const UNASSIGNED: Range<u16> = 0x8000..0xfd00;

impl<'a> ClientHello<'a> {
    /// Parses a complete message.
    ///
    /// # Errors
    /// If a length is wrong or an extension occurs twice.
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, HelloFault> {
        Self::parts(message).ok_or(HelloFault::Malformed("the ClientHello"))?
    }

    fn parts(message: &'a [u8]) -> Option<Result<Self, HelloFault>> {
        let mut rest = Rest(message);
        let [_kind, _, _, _] = rest.array()?;
        let legacy_version = u16::from_be_bytes(rest.array()?);
        let random = rest.array()?;
        let _session_id = rest.vector8().filter(|id| id.len() <= 32)?;
        let (suites, []) = rest.vector16()?.as_chunks() else { return None };
        let compressions = rest.vector8().filter(|methods| !methods.is_empty())?;
        if suites.is_empty() {
            return None;
        }
        let mut extensions = HelloExtensions::default();
        // Before TLS 1.3 a message may have no extensions.
        if !rest.0.is_empty() {
            let at = message.len() - rest.0.len() + 2;
            let block = rest.vector16().filter(|_| rest.0.is_empty())?;
            if let Err(fault) = extensions.fill(block, at) {
                return Some(Err(fault));
            }
        }
        Some(Ok(Self { legacy_version, random, suites, compressions, extensions }))
    }
}

impl<'a> HelloExtensions<'a> {
    /// Reads the extensions of `block`, which starts at the offset `at` of the message.
    fn fill(&mut self, block: &'a [u8], at: usize) -> Result<(), HelloFault> {
        const MALFORMED: HelloFault = HelloFault::Malformed("the list of extensions");
        let mut rest = Rest(block);
        let mut is_twice = false;
        while !rest.0.is_empty() {
            let place = at + block.len() - rest.0.len();
            let kind = u16::from_be_bytes(rest.array().ok_or(MALFORMED)?);
            let body = rest.vector16().ok_or(MALFORMED)?;
            match kind {
                kind::SERVER_NAME => self.server_name_at = place,
                kind::ALPN => self.alpn_at = place,
                kind::SUPPORTED_GROUPS => self.supported_groups_at = place + 4,
                kind::ENCRYPT_THEN_MAC => self.has_encrypt_then_mac = true,
                _ => {}
            }
            if let Some(known) = self.known(kind) {
                *known = Some(body);
            }
            is_twice |= !self.kinds.insert(kind);
            self.last_type = Some(kind);
        }
        // A list with a wrong length is that first.
        if is_twice {
            return Err(HelloFault::Illegal("an extension twice"));
        }
        Ok(())
    }

    /// Returns types without a meaning that do not occur in the message.
    pub(super) fn unused_types(&self) -> impl Iterator<Item = [u8; 2]> {
        let unused = RESERVED.into_iter().chain(UNASSIGNED);
        unused.filter(|&kind| !self.kinds.contains(kind)).map(u16::to_be_bytes)
    }

    const fn known(&mut self, kind: u16) -> Option<&mut Option<&'a [u8]>> {
        Some(match kind {
            kind::SERVER_NAME => &mut self.server_name,
            kind::MAX_FRAGMENT_LENGTH => &mut self.max_fragment_length,
            kind::SUPPORTED_GROUPS => &mut self.supported_groups,
            kind::EC_POINT_FORMATS => &mut self.ec_point_formats,
            kind::SIGNATURE_ALGORITHMS => &mut self.signature_algorithms,
            kind::ALPN => &mut self.alpn,
            kind::EXTENDED_MASTER_SECRET => &mut self.extended_master_secret,
            kind::RECORD_SIZE_LIMIT => &mut self.record_size_limit,
            kind::SESSION_TICKET => &mut self.session_ticket,
            kind::PRE_SHARED_KEY => &mut self.pre_shared_key,
            kind::EARLY_DATA => &mut self.early_data,
            kind::SUPPORTED_VERSIONS => &mut self.supported_versions,
            kind::PSK_KEY_EXCHANGE_MODES => &mut self.psk_key_exchange_modes,
            kind::POST_HANDSHAKE_AUTH => &mut self.post_handshake_auth,
            kind::KEY_SHARE => &mut self.key_share,
            kind::RENEGOTIATION_INFO => &mut self.renegotiation_info,
            _ => return None,
        })
    }
}

/// The bytes that have not been read yet.
pub(super) struct Rest<'a>(pub(super) &'a [u8]);

impl<'a> Rest<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Reads a vector with a length of one byte: RFC 8446 section 3.4.
    pub(super) fn vector8(&mut self) -> Option<&'a [u8]> {
        let [length] = self.array()?;
        self.bytes(length.into())
    }

    /// Reads a vector with a length of two bytes.
    pub(super) fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_be_bytes(self.array()?);
        self.bytes(length.into())
    }
}

/// Returns the content of an extension that is one vector with a length of one byte.
pub(super) fn whole8(extension: &[u8]) -> Option<&[u8]> {
    let mut rest = Rest(extension);
    rest.vector8().filter(|_| rest.0.is_empty())
}

/// Returns the content of an extension that is one vector with a length of two bytes.
pub(super) fn whole16(extension: &[u8]) -> Option<&[u8]> {
    let mut rest = Rest(extension);
    rest.vector16().filter(|_| rest.0.is_empty())
}

/// Returns the codes of a non-empty list of two-byte codes.
pub(super) fn codes(list: Option<&[u8]>) -> Option<&[[u8; 2]]> {
    match list?.as_chunks() {
        ([], _) => None,
        (codes, []) => Some(codes),
        _ => None,
    }
}
