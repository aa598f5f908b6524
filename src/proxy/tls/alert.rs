//! Alerts for errors of a client.
//!
//! **Promises.** An error has the alert that RFC 8446 section 6.2 names.
//!
//! **Not here.** Alerts that rustls queues in a handshake (`negotiation/rustls_handshake.rs`).

use tokio_rustls::rustls::{AlertDescription, Error, InvalidMessage, PeerMisbehaved};

use crate::proxy::handshake::describe;
use crate::sessions::trace::Tracer;
use crate::sessions::trace::step::{Sender, Step};

/// An alert whose level is neither warning nor fatal.
pub(super) const UNKNOWN_LEVEL: InvalidMessage = InvalidMessage::UnexpectedMessage("AlertLevel");

/// Returns the record of a fatal alert before encryption starts: RFC 8446 sections 5.1 and 6.
pub(crate) fn plaintext_alert(description: AlertDescription) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, u8::from(description)]
}

/// Records an alert of a session.
pub(super) fn trace(tracer: Option<&Tracer>, sender: Sender, description: AlertDescription) {
    if let Some(tracer) = tracer {
        tracer.step(Step::Alert { sender, alert: describe::alert(description) });
    }
}

/// Returns the alert for the error that ended a session: RFC 8446 section 6.2; none if the client itself sent
/// an alert.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum is non-exhaustive")]
pub(super) fn for_session(error: &Error) -> Option<AlertDescription> {
    Some(match error {
        Error::AlertReceived(_) => return None,
        Error::DecryptError
        // Early data cannot follow the start of a message.
        | Error::PeerMisbehaved(
            PeerMisbehaved::RejectedEarlyDataInterleavedWithHandshakeMessage,
        ) => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord | Error::InvalidMessage(InvalidMessage::MessageTooLarge) => {
            AlertDescription::RecordOverflow
        }
        // RFC 8446 section 6: an undefined value of an enumeration.
        Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => {
            AlertDescription::IllegalParameter
        }
        Error::InvalidMessage(invalid) if *invalid == UNKNOWN_LEVEL => {
            AlertDescription::IllegalParameter
        }
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        // The certificate of a resumed session: rustls's choice, as in a full handshake.
        Error::InvalidCertificate(error) => AlertDescription::from(error.clone()),
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_) => AlertDescription::UnexpectedMessage,
        _ => AlertDescription::InternalError,
    })
}
