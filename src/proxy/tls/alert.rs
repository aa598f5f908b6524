//! Which alert tells a client what was wrong with what it sent.
//!
//! **Not here.** The alerts that rustls queues in a handshake (`negotiation.rs`).

use tokio_rustls::rustls::{AlertDescription, Error, InvalidMessage, PeerMisbehaved};

/// An alert whose level is neither warning nor fatal.
pub(super) const UNKNOWN_LEVEL: InvalidMessage = InvalidMessage::UnexpectedMessage("AlertLevel");

/// A fatal alert before anything is encrypted, RFC 8446 sections 5.1 and 6.
pub(crate) fn plaintext_alert(description: AlertDescription) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, u8::from(description)]
}

/// The alert for what a session was ended by: RFC 8446 section 6.2. None for the client's own
/// alert, after which there is nothing to say.
pub(super) fn for_session(error: &Error) -> Option<AlertDescription> {
    Some(match error {
        Error::AlertReceived(_) => return None,
        Error::DecryptError
        // Early data is over where a message has begun.
        | Error::PeerMisbehaved(
            PeerMisbehaved::RejectedEarlyDataInterleavedWithHandshakeMessage,
        ) => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord | Error::InvalidMessage(InvalidMessage::MessageTooLarge) => {
            AlertDescription::RecordOverflow
        }
        // RFC 8446 section 6: a value that is none of its enum's.
        Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => {
            AlertDescription::IllegalParameter
        }
        Error::InvalidMessage(invalid) if *invalid == UNKNOWN_LEVEL => {
            AlertDescription::IllegalParameter
        }
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        // Of a session that was resumed: rustls's own choice, as in a full handshake.
        Error::InvalidCertificate(error) => AlertDescription::from(error.clone()),
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_) => AlertDescription::UnexpectedMessage,
        _ => AlertDescription::InternalError,
    })
}
