//! A handshake on its socket, by rustls's unbuffered API.
//!
//! **Promises.** rustls gets one record at a time, and none behind the client's Finished: what comes
//! after it, and may have come with it, is the session's. What TLS has to say leaves with the next
//! flush. A record that cost much is the last of its turn ([`Negotiation::is_paused`]), so that other
//! connections of the same worker go on between two signatures. A client that is refused gets a fatal
//! alert, sealed where records are encrypted already.
//!
//! **Not here.** Deadlines, and what a failure means (`handshake.rs`).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::UnbufferedServerConnection;
use tokio_rustls::rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use tokio_rustls::rustls::{
    AlertDescription, CipherSuite, Error, HandshakeKind, InvalidMessage, NamedGroup,
    PeerIncompatible, PeerMisbehaved, ProtocolVersion, ServerConfig,
};

use self::early_data::EarlyData;
pub(crate) use self::early_data::early_data_bytes;
use self::record::{Protection, whole_record};
use super::keys::Keys;
use super::scratch::{self, HANDSHAKE_READ_BYTES};
use super::session::Session;
use super::stream::{ReceiveError, TlsStream};
use super::{HELD_BYTES_HANDSHAKE, alert};
use crate::proxy::close;
use crate::proxy::socket;
use crate::proxy::write_buffer::Unsent;
use crate::trust::certs::verifier::ChainError;
use crate::trust::provider::Disguise;
use crate::trust::provider::HandshakeScope;

/// What a record may cost and have another follow it at once: less than any signature that AWS-LC
/// makes or verifies, on any machine.
const CHEAP: Duration = Duration::from_micros(25);

/// A handshake in progress.
pub(crate) struct Negotiation<Io> {
    io: Io,
    rustls: UnbufferedServerConnection,
    /// Ciphertext that does not make a whole record or message yet; or what came behind the Finished.
    held: Vec<u8>,
    /// How much of `held` is whole records that rustls has seen, and wants to find there again.
    seen: usize,
    /// What the socket would not take yet.
    unsent: Unsent,
    /// What a failed write said of the client's own stream.
    cut: Option<io::ErrorKind>,
    /// How long rustls has taken.
    crypto: Duration,
    scope: HandshakeScope,
    /// Rejected early data may still come.
    early_data: Option<EarlyData>,
    /// The client has sent a change_cipher_spec: in TLS 1.2 what follows is sealed.
    ciphers_changed: bool,
    paused: bool,
}

/// How a ClientHello is handed to rustls.
pub(crate) struct Opening {
    /// The records of the message, and what came behind them.
    pub(crate) records: Vec<u8>,
    /// What the message leads to.
    pub(crate) version: ProtocolVersion,
    /// Where it differs from what the client sent.
    pub(crate) disguise: Option<Disguise>,
    /// Whether early data may follow.
    pub(crate) early_data: bool,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Negotiation<Io> {
    /// A handshake of which nothing has been seen yet.
    ///
    /// # Errors
    /// If the configuration cannot be used: a fault of ours.
    pub(crate) fn new(io: Io, config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            io,
            rustls: UnbufferedServerConnection::new(config)?,
            held: Vec::new(),
            seen: 0,
            unsent: Unsent::default(),
            cut: None,
            crypto: Duration::ZERO,
            scope: HandshakeScope::default(),
            early_data: None,
            ciphers_changed: false,
            paused: false,
        })
    }

    pub(crate) const fn io_mut(&mut self) -> &mut Io {
        &mut self.io
    }

    /// How much memory is held of the client's bytes and ours.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.capacity() + self.unsent.rest().len()
    }

    /// Whether there is more to be done of what has been read: [`Self::resume`] does it.
    pub(crate) const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether the client has been asked for another ClientHello: RFC 8446 section 4.1.4.
    pub(crate) fn awaits_second_hello(&self) -> bool {
        self.rustls.handshake_kind() == Some(HandshakeKind::FullWithHelloRetryRequest)
            && self.rustls.is_handshaking()
            && !self.scope.can_open()
    }

    /// Why none of our certificates fits the client, if none does.
    pub(crate) fn no_certificate_fits(&self) -> Option<PeerIncompatible> {
        self.scope.no_certificate_fits.clone()
    }

    /// How much early data may still come between two ClientHellos.
    pub(crate) fn early_data_left(&self) -> usize {
        self.early_data.as_ref().map_or(0, EarlyData::left)
    }

    /// Takes back what has been read and not been used.
    pub(crate) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Takes a whole ClientHello; replies are queued.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub(crate) fn open(&mut self, mut opening: Opening) -> Result<(), Error> {
        self.scope.version = Some(opening.version);
        self.scope.disguise = opening.disguise;
        self.early_data = opening.early_data.then(EarlyData::default);
        self.feed(&mut opening.records)
    }

    /// Goes on after a pause.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub(crate) fn resume(&mut self) -> Result<(), Error> {
        let mut held = self.take_held();
        self.feed(&mut held)
    }

    /// Returns whether flights are still to come.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.rustls.is_handshaking()
    }

    /// Returns the kind of the handshake, once rustls has chosen it.
    pub(crate) fn kind(&self) -> Option<HandshakeKind> {
        self.rustls.handshake_kind()
    }

    /// Returns the cipher suite, once rustls has chosen it.
    pub(crate) fn suite(&self) -> Option<CipherSuite> {
        self.rustls.negotiated_cipher_suite().map(|suite| suite.suite())
    }

    /// Returns the group of the key exchange; none if there was no key exchange.
    pub(crate) fn group(&self) -> Option<NamedGroup> {
        self.rustls.negotiated_key_exchange_group().map(|group| group.name())
    }

    /// Returns the protocol that ALPN has agreed on.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.rustls.alpn_protocol()
    }

    /// Returns the client's verified certificate and the others that it has sent; none if it has sent
    /// none.
    pub(crate) fn peer_certificates(
        &self,
    ) -> Option<(&CertificateDer<'static>, &[CertificateDer<'static>])> {
        self.rustls.peer_certificates()?.split_first()
    }

    /// How long TLS itself has taken up to now: signatures and key exchange above all.
    pub(crate) const fn crypto(&self) -> Duration {
        self.crypto
    }

    /// Takes bytes that go on where the last ended; replies are queued.
    ///
    /// # Errors
    /// rustls's, when it refuses the client; [`Self::queue_last_words`] has the alert to send.
    fn feed(&mut self, incoming: &mut [u8]) -> Result<(), Error> {
        let start = Instant::now();
        self.paused = false;
        let mut given = self.seen;
        let mut discarded = 0;
        let fed = loop {
            let fed = self.step(&mut incoming[discarded..], &mut given, &mut discarded);
            match fed {
                Ok(Step::Done) => break Ok(()),
                Ok(Step::More) if start.elapsed() > CHEAP => {
                    self.paused = true;
                    break Ok(());
                }
                Ok(Step::More) => {}
                Err(error) => break Err(error),
            }
        };
        self.held = incoming[discarded..].to_vec();
        self.crypto += start.elapsed();
        fed.and_then(|()| self.check_held())
    }

    /// Has rustls use the `given` first bytes of `rest`, and adds the next record to them.
    fn step(
        &mut self,
        rest: &mut [u8],
        given: &mut usize,
        discarded: &mut usize,
    ) -> Result<Step, Error> {
        let used = self.process(&mut rest[..*given], discarded)?;
        *given -= used;
        if *given == rest.len() - used || !self.rustls.is_handshaking() {
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

    /// Has rustls use `records` and queues its replies. Returns how many bytes it does not want to
    /// find there again.
    fn process(&mut self, records: &mut [u8], discarded: &mut usize) -> Result<usize, Error> {
        let Self { rustls, scope, unsent, .. } = self;
        let mut used = 0;
        let processed = scope.enter(|| {
            loop {
                let UnbufferedStatus { discard, state, .. } =
                    rustls.process_tls_records(&mut records[used..]);
                let waiting = match state {
                    Ok(ConnectionState::EncodeTlsData(mut data)) => {
                        append(unsent.tail(), |out| data.encode(out)).map(|()| false)
                    }
                    // Nothing is lost by saying so early: replies leave in the order of `unsent`.
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
        *discarded += used;
        self.seen -= used;
        processed.map(|()| used)
    }

    /// What the client's next record may be.
    fn protection(&self) -> Protection {
        match self.rustls.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) if self.scope.can_open() => Protection::Tls13,
            Some(ProtocolVersion::TLSv1_2) if self.ciphers_changed => Protection::Tls12,
            _ => Protection::None,
        }
    }

    /// A peer can send a message in as many records as it has bytes: it is not collected for ever.
    fn check_held(&self) -> Result<(), Error> {
        let fits = self.held.len() <= HELD_BYTES_HANDSHAKE || self.paused;
        if fits || !self.rustls.is_handshaking() {
            return Ok(());
        }
        Err(InvalidMessage::HandshakePayloadTooLarge.into())
    }

    /// Reads once; `false` is the end of the client's stream.
    ///
    /// # Errors
    /// The socket's, or as [`Self::feed`].
    pub(crate) async fn receive(&mut self) -> Result<bool, ReceiveError> {
        poll_fn(|cx| {
            scratch::with(|scratch| {
                let held = self.held.len();
                scratch.incoming[..held].copy_from_slice(&self.held);
                let end = held + HANDSHAKE_READ_BYTES;
                let mut buffer = ReadBuf::new(&mut scratch.incoming[held..end]);
                ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))
                    .map_err(ReceiveError::Io)?;
                let read = buffer.filled().len();
                if read == 0 {
                    return Poll::Ready(Ok(false));
                }
                let fed = self.feed(&mut scratch.incoming[..held + read]);
                Poll::Ready(fed.map(|()| true).map_err(ReceiveError::Tls))
            })
        })
        .await
    }

    /// Writes all that is queued.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        let flushed = poll_fn(|cx| self.unsent.poll_flush(&mut self.io, cx)).await;
        self.cut = flushed.as_ref().err().and_then(socket::cut);
        flushed
    }

    /// Queues what is to be sent before a handshake that has failed is closed: the alert that rustls
    /// has queued, or what the RFC has instead.
    pub(crate) fn queue_last_words(&mut self, error: &Error) {
        let reply = self.unsent.tail();
        let before = reply.len();
        while self.rustls.wants_write() {
            let status = self.rustls.process_tls_records(&mut self.held);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else { break };
            if append(reply, |out| data.encode(out)).is_err() {
                break;
            }
        }
        let queued = reply.len() > before;
        if self.scope.is_sealing() {
            let unqueued = alert::for_session(error).filter(|_| !queued);
            reply.extend(
                unqueued.and_then(|alert| self.scope.seal_alert(alert)).unwrap_or_default(),
            );
        } else if let Some(alert) = plaintext_alert(self.rustls.protocol_version(), error, queued) {
            reply.truncate(before);
            reply.extend_from_slice(&alert::plaintext_alert(alert));
        }
    }

    /// Ends the connection so that all that is queued arrives.
    pub(crate) async fn close(&mut self) {
        close::linger(&mut self.io, self.unsent.rest()).await;
    }

    /// The session that the handshake was for, and what was opened of it already.
    ///
    /// # Errors
    /// If it is not over: a fault of ours.
    pub(crate) fn into_stream(mut self) -> Result<(TlsStream<Io>, Vec<u8>), Error> {
        let keys = Keys::of(self.rustls, self.scope.take_traffic_secrets())?;
        let mut stream = TlsStream::new(self.io, Session::new(keys), self.unsent, self.cut);
        let early = stream.feed(self.held);
        Ok((stream, early))
    }
}

/// What is to be done after a step.
enum Step {
    /// There may be another record.
    More,
    /// All records are used, or the handshake is over.
    Done,
}

/// The alert for an error that rustls has none for, or not the one that the RFC names, where nothing
/// is encrypted yet.
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
        // RFC 8446 section 4.1.2: a second ClientHello may change a few extensions alone.
        (_, Error::PeerMisbehaved(PeerMisbehaved::ServerNameDifferedOnRetry)) => {
            Some(AlertDescription::IllegalParameter)
        }
        _ if queued => None,
        _ => alert::for_session(error),
    }
}

/// Lets `encode` write at the end of `reply`, however much room it needs.
fn append(
    reply: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Error> {
    let start = reply.len();
    // Most flights fit at once; the error of one that does not says how much it needs.
    let mut room = 4096;
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

mod early_data;
mod record;

#[cfg(test)]
mod tests;
