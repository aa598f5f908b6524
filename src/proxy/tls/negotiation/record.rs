//! Checks of a handshake's records before rustls gets them.
//!
//! **Promises.** An invalid record is refused at its header, with the error that has the alert of the RFCs:
//! rustls answers some of these with no alert, or with another.
//!
//! **Not here.** Records after the handshake (`tls/record_layer.rs`), those of the ClientHello
//! (`proxy/hello/message.rs`).

use tokio_rustls::rustls::{ContentType, Error, InvalidMessage};

use crate::config::values::MAX_PLAIN_BYTES;

pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

/// Protection of the client's records.
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

/// Returns the length of the first record of `bytes`, if it is complete.
///
/// # Errors
/// If its header is invalid.
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
        // Never valid, since an encrypted record has a tag. After an offer of early data, rustls would skip any
        // number of them: its limit counts bytes.
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
        // RFC 8446 section 5: a plaintext record after the keys are known.
        (HANDSHAKE, Protection::Tls13) => Err(inappropriate(kind)),
        // RFC 5246 section 7.1: there is only one, and it is not sealed.
        (CHANGE_CIPHER_SPEC, Protection::Tls12) => Err(inappropriate(kind)),
        (CHANGE_CIPHER_SPEC | ALERT | HANDSHAKE | APPLICATION_DATA, _) => Ok(()),
        _ => Err(inappropriate(kind)),
    }
}

fn inappropriate(kind: u8) -> Error {
    let expect_types = vec![ContentType::Handshake, ContentType::Alert];
    Error::InappropriateMessage { expect_types, got_type: ContentType::from(kind) }
}
