//! The records of a handshake, before rustls sees them.
//!
//! **Promises.** A record that cannot be valid is refused at its header, with the error that has the
//! RFC's alert: rustls answers several of these by none or by another.
//!
//! **Not here.** Records after the handshake (`tls/session.rs`), those of the ClientHello
//! (`proxy/hello/message.rs`).

use tokio_rustls::rustls::{ContentType, Error, InvalidMessage};

pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

/// The plaintext of one record: RFC 8446 section 5.1.
const MAX_PLAIN_BYTES: usize = 1 << 14;

/// How the client protects its records.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    None,
    /// RFC 5246 section 6.2.3.
    Tls12,
    /// RFC 8446 section 5.2.
    Tls13,
}

impl Protection {
    const fn max_bytes(self, kind: u8) -> usize {
        match (self, kind) {
            (Self::Tls12, _) => MAX_PLAIN_BYTES + 2048,
            (Self::Tls13, APPLICATION_DATA) => MAX_PLAIN_BYTES + 256,
            (Self::None | Self::Tls13, _) => MAX_PLAIN_BYTES,
        }
    }
}

/// How long the first record of `bytes` is, if all of it has come.
///
/// # Errors
/// What its header says that no record may.
pub(super) fn whole_record(bytes: &[u8], protection: Protection) -> Result<Option<usize>, Error> {
    let Some(&[kind, major, _, high, low]) = bytes.first_chunk() else {
        return bytes.first().map_or(Ok(None), |&kind| check_kind(kind, protection).map(|()| None));
    };
    check_kind(kind, protection)?;
    if major != 3 {
        return Err(InvalidMessage::UnknownProtocolVersion.into());
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    match (kind, length) {
        // Never valid: what is encrypted has a tag. Where a client has offered early data, rustls
        // skips it, since its limit counts bytes.
        (APPLICATION_DATA, 0) => {
            return Err(InvalidMessage::InvalidEmptyPayload.into());
        }
        // RFC 8446 section 5.1: no empty fragments; section 5: a change_cipher_spec is one byte.
        (HANDSHAKE | ALERT, 0) => return Err(inappropriate(kind)),
        (CHANGE_CIPHER_SPEC, length) if length != 1 => return Err(inappropriate(kind)),
        _ if length > protection.max_bytes(kind) => {
            return Err(InvalidMessage::MessageTooLarge.into());
        }
        _ => {}
    }
    Ok((5 + length <= bytes.len()).then_some(5 + length))
}

fn check_kind(kind: u8, protection: Protection) -> Result<(), Error> {
    match (kind, protection) {
        // RFC 8446 section 5: what is not sealed once keys are known.
        (HANDSHAKE, Protection::Tls13) => Err(inappropriate(kind)),
        // RFC 5246 section 7.1: there is one, and it is not sealed.
        (CHANGE_CIPHER_SPEC, Protection::Tls12) => Err(inappropriate(kind)),
        (CHANGE_CIPHER_SPEC | ALERT | HANDSHAKE | APPLICATION_DATA, _) => Ok(()),
        _ => Err(inappropriate(kind)),
    }
}

fn inappropriate(kind: u8) -> Error {
    let expect_types = vec![ContentType::Handshake, ContentType::Alert];
    Error::InappropriateMessage { expect_types, got_type: ContentType::from(kind) }
}
