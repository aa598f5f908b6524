//! rustls's part of a handshake: its unbuffered connection, fed record by record.
//!
//! Together with `tls/keys.rs` this file is the seam to rustls: no other file of the server side names a
//! connection type of rustls.
//!
//! **Promises.** rustls gets one record at a time, and none behind the client's Finished: bytes behind it,
//! even those of the same read, belong to the record layer.
//!
//! **Not here.** The socket (`negotiation.rs`), records after the handshake (`tls/record_layer.rs`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_rustls::rustls::crypto::SupportedKxGroup;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::UnbufferedServerConnection;
use tokio_rustls::rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use tokio_rustls::rustls::{
    AlertDescription, CipherSuite, Error, HandshakeKind, NamedGroup, PeerIncompatible,
    PeerMisbehaved, ProtocolVersion, ServerConfig,
};

use super::early_data::EarlyData;
use super::framing::Framing;
use super::record::{self, Protection, whole_record};
use crate::proxy::tls::alert;
use crate::proxy::tls::keys::Keys;
use crate::terms::labels::ResumptionOutcome;
use crate::trust::certs::verifier::ChainError;
use crate::trust::identity::Identity;
use crate::trust::provider::{Disguise, FlightSizes, FragmentAck, HandshakeScope};
use crate::trust::refused::RefusedCertificate;

/// Time that a record may cost for another to follow it at once: less than any signature that AWS-LC makes
/// or verifies, on any machine.
const CHEAP: Duration = Duration::from_micros(25);

/// rustls's state of one handshake.
pub(crate) struct RustlsHandshake {
    connection: UnbufferedServerConnection,
    scope: HandshakeScope,
    /// Bytes at the start of the input that are whole records which rustls has seen, and expects to find
    /// there again: a partial message.
    seen: usize,
    /// Rejected early data that may still come.
    early_data: Option<EarlyData>,
    /// The client has sent a change_cipher_spec: in TLS 1.2 its next records are encrypted.
    ciphers_changed: bool,
    /// The division of our flights into records.
    framing: Framing,
    /// CPU time that rustls has taken.
    crypto: Duration,
}

/// A ClientHello in the form that rustls gets.
pub(crate) struct Opening {
    /// The records of the message, and the bytes that came behind them.
    pub(crate) records: Vec<u8>,
    /// The version that the message leads to.
    pub(crate) version: ProtocolVersion,
    /// The place where the message differs from the one that the client sent.
    pub(crate) disguise: Option<Disguise>,
    /// The client may send early data next.
    pub(crate) early_data: bool,
    /// The sizes of the records that answer the message.
    pub(crate) plain_sizes: FlightSizes,
    pub(crate) sealed_sizes: FlightSizes,
    /// The acknowledgement that the ServerHello gets.
    pub(crate) fragment_ack: Option<FragmentAck>,
}

/// The next step of a handshake in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Another call of `Negotiation::process`, after other tasks had a turn.
    Paused,
    /// More bytes from the client.
    WantsBytes,
    /// The ClientHello that answers a HelloRetryRequest: RFC 8446 section 4.1.4.
    WantsSecondHello,
    /// Nothing: both sides have finished.
    Finished,
}

impl RustlsHandshake {
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            scope: HandshakeScope::default(),
            seen: 0,
            early_data: None,
            ciphers_changed: false,
            framing: Framing::default(),
            crypto: Duration::ZERO,
        })
    }

    /// Returns the kind of the handshake, as soon as it is known.
    pub(crate) fn kind(&self) -> Option<HandshakeKind> {
        self.connection.handshake_kind()
    }

    /// Returns the cipher suite, as soon as it is negotiated.
    pub(crate) fn cipher_suite(&self) -> Option<CipherSuite> {
        self.connection.negotiated_cipher_suite().map(|suite| suite.suite())
    }

    /// Returns the group of the key exchange, if there was one.
    pub(crate) fn group(&self) -> Option<NamedGroup> {
        self.connection.negotiated_key_exchange_group().map(SupportedKxGroup::name)
    }

    /// Returns the protocol that ALPN selected.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// Returns the client's verified chain, leaf first. It is empty if the client sent no certificate.
    pub(crate) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.connection.peer_certificates().unwrap_or_default()
    }

    /// Takes the identity of the client, if it sent a certificate in this handshake.
    pub(crate) fn take_client(&mut self) -> Option<Box<Identity>> {
        self.scope.client.take()
    }

    /// Returns whether the client was sent a certificate that only one group of a rollout gets.
    pub(crate) fn has_shown_certificate(&self) -> bool {
        let is_full = matches!(
            self.kind(),
            Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
        );
        // In TLS 1.3 the kind is known before the flight, which is sealed.
        let is_answered = !self.is_tls13() || self.scope.is_sealing();
        is_full && !self.scope.is_common_certificate && is_answered
    }

    /// Returns whether TLS 1.3 is negotiated.
    pub(crate) fn is_tls13(&self) -> bool {
        self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// Returns the CPU time of the handshake up to now: mostly signatures and key exchange.
    pub(crate) const fn crypto(&self) -> Duration {
        self.crypto
    }

    /// Returns the outcome of the resumption that the client offered, if it offered any.
    pub(crate) const fn resumption(&self) -> Option<ResumptionOutcome> {
        self.scope.resumption
    }

    /// Returns why no certificate of ours fits the client, if that is so.
    pub(crate) fn no_certificate_fits(&self) -> Option<PeerIncompatible> {
        self.scope.no_certificate_fits.clone()
    }

    /// Takes the client's certificate, if it or its chain was refused.
    pub(crate) fn take_refused(&mut self) -> Option<Box<RefusedCertificate>> {
        self.scope.refused.take()
    }

    /// Returns how much early data may still come between two ClientHellos.
    pub(crate) fn early_data_left(&self) -> usize {
        self.early_data.as_ref().map_or(0, EarlyData::left)
    }

    /// Prepares for a whole ClientHello, and returns its records for [`Self::feed`].
    pub(super) fn open(&mut self, opening: Opening) -> Vec<u8> {
        self.scope.version = Some(opening.version);
        self.scope.disguise = opening.disguise;
        self.scope.sealed_sizes = opening.sealed_sizes;
        self.scope.fragment_ack = opening.fragment_ack;
        self.framing.set(opening.version, opening.plain_sizes, opening.fragment_ack);
        self.early_data = opening.early_data.then(EarlyData::default);
        opening.records
    }

    /// Uses records of `held`, up to the first that is costly, and leaves the unused bytes there. Appends
    /// replies to `reply`.
    ///
    /// # Errors
    /// rustls's, if it refuses the client. [`Self::append_alert`] has the alert to send.
    pub(super) fn feed(
        &mut self,
        held: &mut Vec<u8>,
        reply: &mut Vec<u8>,
    ) -> Result<Progress, Error> {
        let start = Instant::now();
        let mut given = self.seen;
        let mut discarded = 0;
        let fed = loop {
            let fed = self.step(&mut held[discarded..], &mut given, &mut discarded, reply);
            match fed {
                Ok(Step::Done) => break Ok(false),
                Ok(Step::More) if start.elapsed() > CHEAP => break Ok(true),
                Ok(Step::More) => {}
                Err(error) => break Err(error),
            }
        };
        if discarded > 0 {
            // Nothing that was used is kept while the next bytes are awaited.
            *held = held[discarded..].to_vec();
        }
        self.crypto += start.elapsed();
        fed.map(|is_paused| if is_paused { Progress::Paused } else { self.progress() })
    }

    fn progress(&self) -> Progress {
        let is_retry = self.kind() == Some(HandshakeKind::FullWithHelloRetryRequest);
        match (self.connection.is_handshaking(), is_retry && !self.scope.can_open()) {
            (false, _) => Progress::Finished,
            (true, true) => Progress::WantsSecondHello,
            (true, false) => Progress::WantsBytes,
        }
    }

    /// Lets rustls use the first `given` bytes of `rest`, and adds the next record to them.
    fn step(
        &mut self,
        rest: &mut [u8],
        given: &mut usize,
        discarded: &mut usize,
        reply: &mut Vec<u8>,
    ) -> Result<Step, Error> {
        let used = self.process(&mut rest[..*given], discarded, reply)?;
        *given -= used;
        if *given == rest.len() - used || !self.connection.is_handshaking() {
            return Ok(Step::Done);
        }
        let rest = &rest[used..];
        let Some(bytes) = whole_record(&rest[*given..], self.protection())? else {
            return Ok(Step::Done);
        };
        let record = &rest[*given..*given + bytes];
        if let Some(early_data) = &mut self.early_data {
            match early_data.passes_over(record, &self.scope)? {
                Some(true) => {
                    *discarded += bytes;
                    return Ok(Step::More);
                }
                Some(false) => self.early_data = None,
                None => {}
            }
        }
        self.ciphers_changed |= record[0] == record::CHANGE_CIPHER_SPEC;
        *given += bytes;
        self.seen = *given;
        Ok(Step::More)
    }

    /// Lets rustls use `records`, and appends its replies to `reply`. Returns how many bytes rustls does
    /// not expect to find there again.
    fn process(
        &mut self,
        records: &mut [u8],
        discarded: &mut usize,
        reply: &mut Vec<u8>,
    ) -> Result<usize, Error> {
        let Self { connection, scope, framing, .. } = self;
        let (mut used, mut queued) = (0, Vec::new());
        let processed = scope.enter(|| {
            loop {
                let UnbufferedStatus { discard, state, .. } =
                    connection.process_tls_records(&mut records[used..]);
                let waiting = match state {
                    Ok(ConnectionState::EncodeTlsData(mut data)) => {
                        append(&mut queued, |out| data.encode(out)).map(|()| false)
                    }
                    // Reporting it as sent is safe: replies leave in the order of `reply`.
                    Ok(ConnectionState::TransmitTlsData(data)) => {
                        data.done();
                        Ok(false)
                    }
                    Ok(_) => Ok(true),
                    Err(error) => Err(error),
                };
                used += discard;
                if waiting? {
                    return Ok(());
                }
            }
        });
        framing.divide(&queued, scope, reply);
        // rustls opens a ticket before it decides whether to resume it, for example under another server name.
        if connection.handshake_kind() != Some(HandshakeKind::Resumed) {
            scope.decline_resumed();
        }
        *discarded += used;
        self.seen -= used;
        processed.map(|()| used)
    }

    /// Returns how the client's next record may be protected.
    fn protection(&self) -> Protection {
        match self.connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) if self.scope.can_open() => Protection::Tls13,
            Some(ProtocolVersion::TLSv1_2) if self.ciphers_changed => Protection::Tls12,
            _ => Protection::None,
        }
    }

    /// Appends the alert for a handshake that failed with `error` to `reply`: the one that rustls has
    /// queued, or the one that the RFCs name instead.
    pub(super) fn append_alert(&mut self, error: &Error, held: &mut [u8], reply: &mut Vec<u8>) {
        let before = reply.len();
        while self.connection.wants_write() {
            let status = self.connection.process_tls_records(held);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else { break };
            let mut queued = Vec::new();
            if append(&mut queued, |out| data.encode(out)).is_err() {
                break;
            }
            self.framing.divide(&queued, &mut self.scope, reply);
        }
        let queued = reply.len() > before;
        if self.scope.is_sealing() {
            let unqueued = alert::for_session(error).filter(|_| !queued);
            self.scope.sent_alert = unqueued.or(self.scope.sent_alert);
            reply.extend(
                unqueued.and_then(|alert| self.scope.seal_alert(alert)).unwrap_or_default(),
            );
        } else if let Some(alert) =
            plaintext_alert(self.connection.protocol_version(), error, queued)
        {
            reply.truncate(before);
            reply.extend_from_slice(&alert::plaintext_alert(alert));
            self.scope.sent_alert = Some(alert);
        } else if let [21, _, _, 0, 2, _, alert] = reply[before..] {
            self.scope.sent_alert = Some(AlertDescription::from(alert));
        }
    }

    /// Returns the alert that was queued for the client.
    pub(crate) const fn sent_alert(&self) -> Option<AlertDescription> {
        self.scope.sent_alert
    }

    /// Returns the keys of the session that the handshake has established.
    ///
    /// # Errors
    /// If the handshake is not complete: an internal fault.
    pub(super) fn into_keys(mut self) -> Result<Keys, Error> {
        let secrets = self.scope.take_traffic_secrets();
        Keys::of(self.connection, secrets, self.scope.added_records())
    }
}

/// The result of a step.
enum Step {
    /// There may be another record.
    More,
    /// All records are used, or the handshake is complete.
    Done,
}

/// Returns the alert for an error that rustls has none for, or another than the one that the RFCs name,
/// while nothing is encrypted yet.
fn plaintext_alert(
    version: Option<ProtocolVersion>,
    error: &Error,
    queued: bool,
) -> Option<AlertDescription> {
    match (version, error) {
        // RFC 5246 section 7.2.2: no acceptable set of parameters.
        (
            _,
            Error::PeerIncompatible(
                PeerIncompatible::NoSignatureSchemesInCommon
                | PeerIncompatible::NoCipherSuitesInCommon,
            ),
        ) => Some(AlertDescription::HandshakeFailure),
        // RFC 5246 section 7.4.6; certificate_required came with TLS 1.3.
        (Some(ProtocolVersion::TLSv1_2), Error::NoCertificatesPresented) => {
            Some(AlertDescription::HandshakeFailure)
        }
        // RFC 5246 section 7.4.2: `opaque ASN.1Cert<1..2^24-1>`.
        (_, Error::InvalidCertificate(error))
            if ChainError::within(error) == Some(ChainError::Empty) =>
        {
            Some(AlertDescription::DecodeError)
        }
        // RFC 7627 section 5.3.
        (_, Error::PeerMisbehaved(PeerMisbehaved::ResumptionAttemptedWithVariedEms)) => {
            Some(AlertDescription::HandshakeFailure)
        }
        // RFC 8446 section 4.1.2: a second ClientHello may change a few extensions only.
        (_, Error::PeerMisbehaved(PeerMisbehaved::ServerNameDifferedOnRetry)) => {
            Some(AlertDescription::IllegalParameter)
        }
        _ if queued => None,
        _ => alert::for_session(error),
    }
}

/// Lets `encode` write at the end of `reply`, with as much room as it needs.
fn append(
    reply: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Error> {
    let start = reply.len();
    // The error for too little room has the size that it needs. More room would be set to zero for nothing.
    let mut room = 0;
    loop {
        reply.resize(start + room, 0);
        match encode(&mut reply[start..]) {
            Ok(written) => {
                reply.truncate(start + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(error)) if error.required_size > room => {
                room = error.required_size;
            }
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}
