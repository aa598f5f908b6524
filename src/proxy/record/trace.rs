//! The steps of a connection that its record knows, for traces.
//!
//! **Promises.** Without a trace, nothing is made.
//!
//! **Not here.** The steps of the handshake (`proxy/handshake/steps.rs`), the selection of connections
//! (`sessions/trace.rs`).

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use super::{Brief, HandshakeTimes, Record, milliseconds};
use crate::metrics::BackendUse;
use crate::sessions::trace::step::{ClientCertificateStep, ClosedStep, HandshakeStep, Step};
use crate::sessions::trace::{Counted, Tracer};
use crate::sessions::{Session, Sessions};
use crate::terms::labels::{Direction, ResumptionOutcome};
use crate::terms::negotiated::Negotiated;
use crate::terms::reason::Reason;
use crate::trust::identity::Identity;
use crate::trust::x509::Timestamp;

/// Returns the tracer of a session that was just opened, if a trace runs.
pub(super) fn tracer(session: &Arc<Session>, sessions: &Sessions) -> Option<Arc<Tracer>> {
    sessions.traces.tracer(|| session.facts(), || Arc::clone(session) as Arc<dyn Counted>)
}

impl Record {
    /// The address of the device is known.
    pub(super) fn trace_peer(&self) {
        let Some(tracer) = &self.tracer else { return };
        if self.session.forwarded().is_some() {
            tracer.step(Step::Forwarded { via: self.session.socket_peer.to_string() });
        }
        tracer.on_peer(self.session.peer());
    }

    /// The ClientHello was read.
    pub(super) fn trace_hello(&mut self) {
        if let Some(tracer) = &self.tracer {
            tracer.on_server_name(self.session.server_name.get().map(AsRef::as_ref));
        }
        self.tracer = self.tracer.take().filter(|tracer| !tracer.is_over());
    }

    /// The handshake is complete.
    pub(super) fn trace_handshake(
        &mut self,
        negotiated: &Negotiated,
        identity: Option<&Identity>,
        times: HandshakeTimes,
    ) {
        let Some(tracer) = &self.tracer else { return };
        if let Some(identity) = identity {
            tracer.step(Step::ClientCertificate(Box::new(verified(identity))));
        }
        tracer.step(Step::Handshake(Box::new(HandshakeStep {
            tls: negotiated.cipher.version(),
            cipher: negotiated.cipher.as_str(),
            group: negotiated.group.as_str(),
            handshake: negotiated.kind.as_str(),
            alpn: negotiated.alpn.clone(),
            resumption: negotiated.resumption.map(ResumptionOutcome::as_str),
            identity: identity.and_then(|identity| identity.names.first().cloned()),
            waited_ms: milliseconds(times.waited),
            crypto_ms: milliseconds(times.crypto),
        })));
        tracer.on_identity(identity.map(|identity| &*identity.names).unwrap_or_default());
        self.tracer = self.tracer.take().filter(|tracer| !tracer.is_over());
    }

    /// An address of the backend was tried.
    pub(super) fn trace_backend(&self, used: &BackendUse, connected: bool) {
        if let Some(tracer) = &self.tracer {
            tracer.step(Step::Backend { backend: used.address().into(), connected });
        }
    }

    /// The relay begins.
    pub(super) fn trace_relay(&self, took: Duration) {
        if let Some(tracer) = &self.tracer {
            tracer.step(Step::Relay { connect_ms: milliseconds(took) });
        }
        let (session, traces) = (&self.session, &self.sessions.traces);
        if traces.is_running() {
            let counts: Arc<dyn Counted> = Arc::clone(session) as _;
            let step = || session.connected_step();
            traces.established(&session.seen(), || session.facts(), &counts, step);
        }
    }

    /// The connection has ended.
    pub(super) fn trace_end(&self, reason: Reason, error: Option<&dyn Error>) {
        let step = || {
            Step::Closed(Box::new(ClosedStep {
                reason,
                phase: self.phase.as_str(),
                likely_cause: self.likely_cause(),
                error: error.map(|error| Brief(error).to_string()),
                bytes_to_backend: self.session.bytes(Direction::ToBackend),
                bytes_to_client: self.session.bytes(Direction::ToClient),
                duration_ms: milliseconds(self.session.age()),
            }))
        };
        if let Some(tracer) = &self.tracer {
            tracer.end(step());
        }
        let traces = &self.sessions.traces;
        if traces.is_running() {
            traces.ended(self.session.id, step);
        }
    }
}

fn verified(identity: &Identity) -> ClientCertificateStep {
    ClientCertificateStep {
        verified: true,
        names: identity.names.clone(),
        subject: None,
        issuer: None,
        serial: Some(identity.serial_number().into()),
        sha256: None,
        not_after: u64::try_from(identity.not_after)
            .ok()
            .map(|end| Timestamp::from_unix(end).to_string()),
    }
}
