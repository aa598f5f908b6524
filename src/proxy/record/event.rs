//! The opening and the end of a session, as events.
//!
//! **Promises.** Health checks make no events. Texts are as long as in the log.
//!
//! **Not here.** Their list and whether they are recorded (`events.rs`).

use std::error::Error;

use super::Brief;
use super::failure::HandshakeFailure;
use crate::events::{Claim, Happened, SessionEnd, SessionFacts};
use crate::metrics::BackendUse;
use crate::sessions::Session;
use crate::terms::labels::Direction;
use crate::terms::reason::Reason;
use crate::trust::refused::RefusedCertificate;

/// Returns the event of a session whose relay begins.
pub(super) fn opened(session: &Session) -> Happened {
    Happened::Opened(facts(session))
}

/// Records the end of a connection.
pub(super) fn record(
    session: &Session,
    failure: Option<&HandshakeFailure>,
    reason: Reason,
    error: Option<&dyn Error>,
) {
    if reason != Reason::ClientProbe {
        session.metrics.events().session(|| ended(session, failure, reason, error));
    }
}

fn ended(
    session: &Session,
    failure: Option<&HandshakeFailure>,
    reason: Reason,
    error: Option<&dyn Error>,
) -> Happened {
    let end = SessionEnd {
        reason,
        bytes_to_backend: session.bytes(Direction::ToBackend),
        bytes_to_client: session.bytes(Direction::ToClient),
        duration_seconds: session.age().as_secs_f64(),
    };
    let certificate = failure.and_then(|failure| failure.certificate.as_deref());
    let mut session_facts = facts(session);
    if let Some(certificate) = certificate.filter(|_| session_facts.identity.is_none()) {
        session_facts.names.clone_from(&certificate.names);
    }
    match session.is_established() {
        true => Happened::Closed { session: session_facts, end },
        false => Happened::Refused {
            session: session_facts,
            end,
            claim: certificate.map(claim).unwrap_or_default(),
            likely_cause: failure.and_then(HandshakeFailure::likely_cause),
            error: error.map(|error| Brief(error).to_string().into()),
        },
    }
}

fn facts(session: &Session) -> SessionFacts {
    let tls = session.handshake.get().map(|handshake| &handshake.negotiated);
    let names = session.identity.get().map(|identity| identity.names.clone());
    SessionFacts {
        connection: session.id,
        listener: session.metrics.name().into(),
        peer: session.peer(),
        identity: session.identity().map(Box::from),
        names: names.unwrap_or_default(),
        sni: session.server_name.get().cloned(),
        tls: tls.map(|tls| tls.cipher.version()),
        cipher: tls.map(|tls| tls.cipher.as_str()),
        handshake: tls.map(|tls| tls.kind.as_str()),
        backend: session.backend.get().map(BackendUse::address).map(Box::from),
    }
}

fn claim(certificate: &RefusedCertificate) -> Claim {
    Claim {
        cert_subject: certificate.subject.clone(),
        cert_issuer: certificate.issuer.clone(),
        cert_serial: certificate.serial.clone(),
        cert_sha256: Some(certificate.sha256.clone()),
    }
}
