//! The handshake: from an accepted socket to an established TLS session, within one deadline.
//!
//! **Promises.** The deadline covers the time from accept to the last byte of our last flight. A client that
//! is refused gets the alert that the RFCs name before its socket is closed. The certificate of a resumed
//! client is verified again, since rustls does not do so.
//!
//! **Not here.** The ClientHello (`hello.rs`), the choice of the server certificate and the verification of
//! client certificates (`trust/`), the reasons of failures (`handshake/error.rs`).

mod certificate;
mod course;
pub(crate) mod describe;
mod error;
mod labels;
mod negotiated;
mod rejection;
mod selection;
mod steps;
mod turn;

use std::hash::Hash;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::{self, AlertDescription, PeerIncompatible};

use self::certificate::CertificateFault;
pub(crate) use self::course::Kernel;
use self::course::{Course, failed_hello};
pub(crate) use self::error::{FailedHandshake, HandshakeError};
use self::negotiated::negotiated;
use self::selection::Selection;
use self::steps::Traced;
use self::turn::Turn;
use super::close;
use super::handshake_memory::Share;
use super::handshake_slots::SlotAccess;
use super::hello::fault::HelloFault;
use super::hello::{self, Between, Hello, HelloError, HelloLimits};
use super::mirror::Mirrored;
use super::record::{FailedOffer, HandshakeTimes, Offer, Record, ShownCertificate};
use super::tls::{Negotiation, Opening, Progress, RustlsHandshake, TlsStream, plaintext_alert};
use crate::config::{self, HeaderTlv};
use crate::sessions::trace::Tracer;
use crate::sessions::trace::step::Step;
use crate::terms::negotiated::Negotiated;
use crate::terms::rollout::ShownOutcome;
use crate::trust::certs::verifier::VerifiedClient;
use crate::trust::identity::{self, Identity};
use crate::trust::policy::Policy;
use crate::trust::refused::{Hint, RefusedCertificate};
use crate::trust::rollout::trial::Assigned;
use crate::trust::snapshot::Snapshot;

/// A client after its handshake.
pub(crate) struct EstablishedClient<Io> {
    pub(crate) stream: TlsStream<Io>,
    /// Application data that came with the end of the handshake.
    pub(crate) early: Vec<u8>,
    /// The place of the route; none for the listener's own backend.
    pub(crate) route: Option<usize>,
    /// Result of the handshake.
    pub(crate) negotiated: Option<Negotiated>,
    /// The client's certificate, if it is to be sent to the backend.
    pub(crate) certificate: Option<CertificateDer<'static>>,
    /// Identity in the client's certificate.
    pub(crate) identity: Option<Box<Identity>>,
    pub(crate) times: HandshakeTimes,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> EstablishedClient<Io> {
    /// Reports the handshake, which decides the traces that select the connection.
    pub(crate) fn reported_to(&mut self, record: &mut Record) {
        let (negotiated, identity) = (self.negotiated.take(), self.identity.take());
        record.on_handshake(negotiated, identity, self.route, self.times);
        self.stream.trace(record.tracer());
    }

    /// Closes the session of a client for which there is no backend connection.
    pub(crate) async fn close_gracefully(mut self) {
        self.stream.queue_close_notify();
        self.stream.close().await;
    }
}

/// A handshake whose ClientHello has been read and not been answered.
pub(crate) struct StartedHandshake<Io> {
    io: Io,
    hello: Hello,
    limits: HelloLimits,
    memory: Share,
    /// The steps of the handshake, if a trace may select it.
    tracer: Option<Arc<Tracer>>,
    /// The time at which the ClientHello was complete.
    read_at: Instant,
    kernel: Kernel<Io>,
}

/// Reads the ClientHello of a socket that was just accepted. `kernel` knows the socket. `tracer` gets the alert for a
/// ClientHello that is refused.
///
/// # Errors
/// If no valid ClientHello arrives. The alert has then been sent and the socket closed.
pub(crate) async fn read_client_hello<Io: AsyncRead + AsyncWrite + Unpin>(
    mut io: Io,
    listener: &config::ListenerConfig,
    memory: Share,
    kernel: Kernel<Io>,
    tracer: Option<Arc<Tracer>>,
) -> Result<StartedHandshake<Io>, Box<FailedHandshake>> {
    let limits = HelloLimits::of(&listener.timeouts, listener.limits);
    let read = {
        if let Some(tracer) = &tracer {
            tracer.on_local(kernel.local(&io));
        }
        let mut io = Mirrored::new(&mut io, tracer.as_deref());
        let read = pin!(hello::read(&mut io, Vec::new(), Between::Nothing, limits, &memory));
        memory.or_exceeded(read).await.map_err(HandshakeError::from)?
    };
    match read {
        Ok(hello) => {
            let read_at = Instant::now();
            Ok(StartedHandshake { io, hello, limits, memory, tracer, read_at, kernel })
        }
        Err(error) => {
            if let HelloError::Fault(fault) = &error {
                steps::sent(tracer.as_ref(), fault.alert());
            }
            refuse_hello(&mut Mirrored::new(&mut io, tracer.as_deref()), &error).await;
            Err(failed_hello(error, &io, kernel))
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> StartedHandshake<Io> {
    /// Reports the client's offer. `on_offer` returns the tracer, if a trace may still select the connection.
    pub(crate) fn offered_to(
        self,
        on_offer: impl FnOnce(&Offer<'_>) -> Option<Arc<Tracer>>,
    ) -> Self {
        let tracer = on_offer(&self.offer());
        if let Some(tracer) = &tracer {
            tracer.step(Step::Hello(Box::new(self.hello.listing())));
        }
        Self { tracer, ..self }
    }

    /// Returns the client's offer.
    fn offer(&self) -> Offer<'_> {
        let hello = &self.hello;
        Offer {
            server_name: hello.server_name.as_deref().or(hello.odd_name.as_deref()),
            version: hello.version,
            resumption: hello.offers_resumption,
        }
    }

    /// Returns the part of the offer that explains a failure.
    fn failed_offer(&self) -> FailedOffer {
        let Hello { version, best_suite, client_time, .. } = self.hello;
        FailedOffer { version, best_suite, client_time, waited: Duration::ZERO }
    }

    /// Returns the place of the route that the ClientHello selects.
    ///
    /// # Errors
    /// The ClientHello is refused: it needs no route.
    pub(crate) fn route(&self, snapshot: &Snapshot) -> Result<Option<usize>, HelloFault> {
        let selection = Selection::of(&self.hello, snapshot);
        selection.check(&self.hello).map(|()| selection.route)
    }

    /// The client's socket.
    pub(crate) const fn io(&self) -> &Io {
        &self.io
    }

    /// Closes the connection of a client that cannot be served, with the alert `internal_error`: RFC 8446 section 6.2.
    pub(crate) async fn refuse_unserved(mut self) {
        let alert = AlertDescription::InternalError;
        steps::sent(self.tracer.as_ref(), alert);
        let mut io = Mirrored::new(&mut self.io, self.tracer.as_deref());
        close::linger(&mut io, &plaintext_alert(alert)).await;
    }

    /// Completes the handshake with a client at this address, within the slots that it gets from `slots`; without them
    /// it waits for nobody. If it fails, the alert has been sent and the socket closed. Returns also the part that the
    /// handshake has in a rollout of the server certificate.
    pub(crate) async fn accept(
        self,
        snapshot: &Snapshot,
        address: &impl Hash,
        slots: Option<&SlotAccess>,
    ) -> (Result<EstablishedClient<Io>, Box<FailedHandshake>>, Option<ShownCertificate>) {
        let mut selection = Selection::of(&self.hello, snapshot);
        let assigned = selection.assign(address);
        if let Some(tracer) = &self.tracer {
            let group = assigned.as_ref().map(|assigned| assigned.group);
            steps::policy(tracer, &selection, group);
        }
        let mut shown = None;
        let offer = self.failed_offer();
        let mut course = Course::new(self.kernel, self.read_at);
        let accepted = self.negotiate(selection, slots, assigned, &mut shown, &mut course).await;
        if let Some(slots) = slots {
            slots.ended(accepted.as_ref().err().map(HandshakeError::will_recur));
        }
        (accepted.map_err(|error| course.failed(error, offer)), shown)
    }

    /// Completes the handshake. Sets `shown` if the client was to get a certificate for its group of a rollout.
    async fn negotiate(
        self,
        mut selection: Selection<'_>,
        slots: Option<&SlotAccess>,
        assigned: Option<Assigned>,
        shown: &mut Option<ShownCertificate>,
        course: &mut Course<Io>,
    ) -> Result<EstablishedClient<Io>, HandshakeError> {
        let Self { mut io, mut hello, mut limits, memory, tracer, .. } = self;
        if slots.is_some_and(SlotAccess::is_overloaded) {
            limits = limits.halved();
        }
        let opening = match selection.opening(&mut hello) {
            Ok(opening) => opening,
            Err(fault) => {
                let error = HelloError::from(fault);
                refuse_hello(&mut Mirrored::new(&mut io, tracer.as_deref()), &error).await;
                return Err(steps::failed(tracer.as_ref(), error.into(), None));
            }
        };
        let sizes = selection.sent_sizes(&hello, opening.version);
        let config = steps::with_keys(selection.server_config(&hello), tracer.as_ref());
        let negotiation = Negotiation::new(io, config, sizes, tracer.clone());
        // Boxed and pinned: a future reserves room for each place that a value is moved to.
        let mut negotiation = Box::new(negotiation.map_err(HandshakeError::Internal)?);
        let finished = {
            let traced = tracer.as_deref().map(|tracer| Traced { tracer, hello: &hello });
            let resumes = hello.offers_resumption;
            let turn = Turn { slots, limits, memory: &memory, resumes, traced };
            let finished = pin!(finish(&mut negotiation, opening, selection, turn, course));
            let finished = pin!(memory.or_exceeded(finished));
            timeout_at(limits.deadline, finished).await
        };
        let was_shown = negotiation.state().has_shown_certificate();
        let (ended, has_alert) = match finished {
            Ok(Ok(Ok(()))) => (Ok(()), false),
            Ok(Ok(Err(unfinished))) => {
                let is_refused = matches!(unfinished, Unfinished::Tls(_));
                (Err(unfinished.refuse(&mut negotiation, &hello)), is_refused)
            }
            Ok(Err(exceeded)) => (Err(exceeded.into()), false),
            Err(_) => (Err(HandshakeError::Timeout(limits.time())), false),
        };
        // Before the close, which waits for the client: its next attempt may come first.
        *shown = assigned.and_then(|assigned| count(&assigned, ended.as_ref().err(), was_shown));
        if let Err(error) = ended {
            let error = steps::failed(tracer.as_ref(), error, negotiation.state().sent_alert());
            course.on_failure(&error, negotiation.io(), negotiation.state().crypto());
            let cause = rejection::cause(&error, &hello, &selection, negotiation.state());
            course.on_rejection(cause);
            if let HandshakeError::Hello(fault) = &error {
                refuse_hello(&mut negotiation.mirrored(), fault).await;
            } else if has_alert {
                negotiation.close().await;
            }
            return Err(error);
        }
        if !negotiation.state().peer_certificates().is_empty() {
            // The verification before and the work below should not be one turn of the worker.
            tokio::task::yield_now().await;
        }
        let verified = match verify_resumed(negotiation.state(), selection.policy) {
            Some(resumed) => resumed.map(|client| Some(client.identity.into())),
            None => Ok(negotiation.take_client()),
        };
        let negotiated = negotiated(negotiation.state(), hello.class, |cipher| {
            let name = hello.server_name.as_deref();
            selection.resolver().accepted(name, &hello.schemes, |key| cipher.goes_with(key))
        });
        let refused = verified.is_err().then(|| negotiation.state().peer_certificates().first());
        let refused = refused.flatten().map(|leaf| identity::of(leaf).into());
        let certificate = sent_on(negotiation.state(), selection.snapshot);
        let crypto = negotiation.state().crypto();
        let stream = negotiation.into_stream();
        let (mut stream, early) = stream.map_err(HandshakeError::Internal)?;
        let identity = match verified {
            Ok(identity) => identity,
            Err(fault) => {
                let alert = rustls::Error::InvalidCertificate(fault.cause.clone());
                let error = HandshakeError::Resumed { fault, identity: refused };
                // The stream has the step of its alert.
                let error = steps::failed(tracer.as_ref(), error, None);
                stream.queue_alert(&alert);
                stream.close().await;
                return Err(error);
            }
        };
        let route = selection.route;
        let times = HandshakeTimes { waited: course.waited(), crypto };
        Ok(EstablishedClient { stream, early, route, negotiated, certificate, identity, times })
    }
}

/// Returns the client's certificate if the backend gets it in the PROXY protocol.
fn sent_on(client: &RustlsHandshake, snapshot: &Snapshot) -> Option<CertificateDer<'static>> {
    let is_sent = snapshot.listener.proxy_protocol.sends(HeaderTlv::ClientCert);
    client.peer_certificates().first().filter(|_| is_sent).cloned()
}

/// Sends the alert of RFC 8446 section 6.2 to a client whose first message was not a valid ClientHello.
async fn refuse_hello<Io>(io: &mut Io, error: &HelloError)
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    match error {
        HelloError::Fault(fault) => close::linger(io, &plaintext_alert(fault.alert())).await,
        HelloError::Silent
        | HelloError::Slow { .. }
        | HelloError::Probe
        | HelloError::Eof { .. }
        | HelloError::Io(_) => {}
    }
}

/// Reason for a handshake that was not completed.
enum Unfinished {
    /// rustls refused the client, and may have an alert to send.
    Tls(rustls::Error),
    Other(HandshakeError),
}

impl From<io::Error> for Unfinished {
    fn from(error: io::Error) -> Self {
        Self::Other(HandshakeError::Io(error))
    }
}

impl Unfinished {
    /// Queues the alert for this reason, if there is one, and returns the error.
    fn refuse<Io>(self, negotiation: &mut Negotiation<Io>, hello: &Hello) -> HandshakeError
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        match self {
            Self::Tls(error) => {
                let error = negotiation.state().no_certificate_fits().map_or(error, Into::into);
                let error = corrected(error, hello.has_accepted_suite);
                negotiation.queue_alert(&error);
                let mut error = HandshakeError::from(error);
                if let HandshakeError::Certificate(fault) = &mut error {
                    fault.certificate = negotiation.take_refused();
                }
                error
            }
            Self::Other(error) => error,
        }
    }
}

/// Counts the outcome of a handshake in a rollout. Returns none if the certificate has no part in it.
fn count(
    assigned: &Assigned,
    error: Option<&HandshakeError>,
    was_shown: bool,
) -> Option<ShownCertificate> {
    let outcome = match error {
        Some(error) => error.shown_outcome(was_shown)?,
        None => was_shown.then_some(ShownOutcome::Completed)?,
    };
    assigned.count(outcome);
    Some(ShownCertificate { group: assigned.group, outcome })
}

/// Exchanges flights until the handshake is complete.
async fn finish<Io: AsyncRead + AsyncWrite + Unpin>(
    negotiation: &mut Negotiation<Io>,
    opening: Opening,
    selection: Selection<'_>,
    turn: Turn<'_>,
    course: &mut Course<Io>,
) -> Result<(), Unfinished> {
    // rustls keeps the messages for the CertificateVerify of TLS 1.2: RFC 5246 section 7.4.8.
    let kept = selection.policy.client_verifier.as_ref().map_or(0, |_| opening.records.len());
    negotiation.open(opening);
    let mut slot = turn.take(negotiation, course).await.map_err(Unfinished::Other)?;
    let mut traced = turn.traced;
    loop {
        let progress = negotiation.process().map_err(Unfinished::Tls)?;
        if progress == Progress::Paused {
            tokio::task::yield_now().await;
            continue;
        }
        if progress == Progress::WantsBytes
            && let Some(traced) = traced.take()
        {
            traced.answered(&selection, negotiation.state());
        }
        course.on_send(negotiation.state().crypto());
        // Only the answer to a ClientHello waits for a slot: what comes afterwards is from a device that is there.
        let flushed = match slot.take() {
            Some(slot) => turn.answer(slot, negotiation, progress).await,
            None => course.flush(negotiation, progress).await.map(|()| None),
        };
        if progress == Progress::Finished {
            // A device that reports and leaves at once may be gone before it has read its tickets. Its data
            // counts, and the relay's own flush finds the device gone.
            return Ok(());
        }
        let unanswered = flushed?;
        if progress == Progress::WantsSecondHello {
            let second = second_hello(negotiation, turn, selection).await;
            negotiation.open(second.map_err(|error| Unfinished::Other(error.into()))?);
            course.on_hello(negotiation.state().crypto());
            slot = turn.take(negotiation, course).await.map_err(Unfinished::Other)?;
            continue;
        }
        turn.memory.set(kept + negotiation.held_bytes());
        if !negotiation.read().await? {
            return Err(Unfinished::Other(HandshakeError::Eof));
        }
        if let Some(unanswered) = unanswered {
            unanswered.on_answer();
        }
    }
}

/// Reads the ClientHello that answers a HelloRetryRequest: RFC 8446 section 4.1.2.
async fn second_hello<Io: AsyncRead + AsyncWrite + Unpin>(
    negotiation: &mut Negotiation<Io>,
    turn: Turn<'_>,
    selection: Selection<'_>,
) -> Result<Opening, HelloError> {
    let early_data = negotiation.state().early_data_left();
    let between = Between::Retry { change_cipher_specs: 1, early_data };
    let carried = negotiation.take_held();
    let Turn { limits, memory, .. } = turn;
    let mut io = negotiation.mirrored();
    let mut second = hello::read(&mut io, carried, between, limits, memory).await?;
    Ok(selection.reopening(&mut second)?)
}

/// Corrects the error for a device without an accepted suite. rustls reports a missing group or signature scheme before
/// it checks the suites, but a device that only has RSA key exchange offers no group because none of its suites needs one,
/// and schemes count only for common suites.
fn corrected(error: rustls::Error, has_accepted_suite: bool) -> rustls::Error {
    use PeerIncompatible as P;
    let is_reported_first = matches!(
        error,
        rustls::Error::PeerIncompatible(
            P::NoKxGroupsInCommon | P::NamedGroupsExtensionRequired | P::NoSignatureSchemesInCommon
        )
    );
    if is_reported_first && !has_accepted_suite { P::NoCipherSuitesInCommon.into() } else { error }
}

/// Verifies the certificate of a resumed client again: rustls takes it from the ticket unchecked. (After a
/// change of the policy or the end of the certificate's validity, the ticket itself is declined:
/// `trust/tickets.rs`.) Returns none if the client has no certificate, or was verified in this handshake.
fn verify_resumed(
    client: &RustlsHandshake,
    policy: &Policy,
) -> Option<Result<VerifiedClient, CertificateFault>> {
    let resumed = client.kind() == Some(rustls::HandshakeKind::Resumed);
    match (&policy.client_verifier, client.peer_certificates()) {
        (Some(verifier), [leaf, rest @ ..]) if resumed => {
            let verified = verifier.verify(leaf, rest, UnixTime::now());
            Some(verified.map_err(|cause| CertificateFault {
                cause,
                certificate: Some(RefusedCertificate::new(leaf, Hint::None).into()),
            }))
        }
        _ => None,
    }
}
