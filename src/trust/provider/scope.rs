//! The data that rustls's callbacks in one handshake share with the code that drives the handshake.
//!
//! rustls calls the resolver, the ciphers, the hash and the key log without a reference to the connection.
//! A [`HandshakeScope`] is entered on the thread for each step of a handshake, and they find it there.
//!
//! **Promises.** A nonce is used once: an alert that is sealed here takes the next sequence number of the
//! cipher. A scope is left also by a panic.
//!
//! **Not here.** The ciphers that share themselves with the scope (`provider.rs`).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::cipher::{
    InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundOpaqueMessage,
    OutboundPlainMessage,
};
use tokio_rustls::rustls::crypto::tls13::OkmBlock;
use tokio_rustls::rustls::{
    AlertDescription, ContentType, Error, KeyLog, PeerIncompatible, ProtocolVersion,
    SignatureScheme,
};

use super::disguise::Disguise;
use super::flight::FlightSizes;
use super::fragment_ack::FragmentAck;
use crate::lock::Lock;
use crate::terms::labels::ResumptionOutcome;
use crate::trust::authentication::Authentication;
use crate::trust::identity::Identity;
use crate::trust::refused::RefusedCertificate;

/// Labels of rustls's `KeyLog`: draft-ietf-tls-keylogfile.
const CLIENT_SECRET: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER_SECRET: &str = "SERVER_TRAFFIC_SECRET_0";

thread_local! {
    /// The scope that is entered on this thread.
    static ENTERED: RefCell<Entered> = RefCell::default();
}

#[derive(Default)]
struct Entered {
    /// Empty while no scope is entered.
    scope: HandshakeScope,
    is_entered: bool,
}

impl Entered {
    /// Exchanges the scope in place, which is large, and whether it is entered. Returns whether one was before.
    fn exchange(&mut self, scope: &mut HandshakeScope, is_entered: bool) -> bool {
        mem::swap(&mut self.scope, scope);
        mem::replace(&mut self.is_entered, is_entered)
    }
}

/// The shared data of one handshake.
#[derive(Default)]
pub(crate) struct HandshakeScope {
    /// The version that the ClientHello leads to.
    pub(crate) version: Option<ProtocolVersion>,
    /// The difference to the ClientHello that the client sent, if there is one.
    pub(crate) disguise: Option<Disguise>,
    /// The acknowledgement that our ServerHello gets, if the client asks for it.
    pub(crate) fragment_ack: Option<FragmentAck>,
    /// The reason for which the resolver found no certificate for the client.
    pub(crate) no_certificate_fits: Option<PeerIncompatible>,
    /// The first signature scheme of the client that the certificate's key can use.
    pub(crate) first_scheme: Option<SignatureScheme>,
    /// The resolver chose a certificate that clients of both groups of a rollout get.
    pub(crate) is_common_certificate: bool,
    /// The client whose certificates were verified in this handshake.
    pub(crate) client: Option<Box<Identity>>,
    /// The authentication of a client whose certificates were verified in this handshake.
    pub(crate) verified: Option<Authentication>,
    /// The authentication of the session that the client resumes.
    pub(crate) resumed: Option<Authentication>,
    /// The outcome of the resumption that the client offered.
    pub(crate) resumption: Option<ResumptionOutcome>,
    /// Tickets that the client has offered.
    pub(crate) tickets_offered: usize,
    /// Seconds for which the last ticket that was sealed can be used.
    pub(crate) ticket_lifetime: Option<u32>,
    /// The client of TLS 1.2 keeps the ticket with which it resumes.
    pub(crate) keeps_ticket: bool,
    /// Tickets that were sealed for the client.
    pub(crate) tickets_sealed: u8,
    /// The secrets of the tickets were derived with short nonces.
    pub(super) has_short_nonces: bool,
    /// The client's certificate, if it or its chain was refused.
    pub(crate) refused: Option<Box<RefusedCertificate>>,
    pub(super) sealer: Option<Arc<Lock<HandshakeSealer>>>,
    pub(super) opener: Option<Arc<Lock<Box<dyn MessageDecrypter>>>>,
    pub(super) has_sealed: bool,
    /// The alert that the client was sent.
    pub(crate) sent_alert: Option<AlertDescription>,
    /// The sizes of our encrypted records.
    pub(crate) sealed_sizes: FlightSizes,
    /// The records to send before each record that rustls has encrypted and not returned yet.
    pub(crate) sealed_before: VecDeque<Vec<u8>>,
    client_secret: Option<OkmBlock>,
    server_secret: Option<OkmBlock>,
}

/// The secrets of TLS 1.3 from which the keys of a session are derived: RFC 8446 section 7.1.
pub(crate) struct TrafficSecrets {
    pub(crate) client: OkmBlock,
    pub(crate) server: OkmBlock,
}

impl HandshakeScope {
    /// Runs `work`, in which rustls takes a step of this handshake.
    pub(crate) fn enter<R>(&mut self, work: impl FnOnce() -> R) -> R {
        /// Leaves the scope on drop, so that a panic leaves it as well.
        struct Leave<'a>(&'a mut HandshakeScope, bool);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                ENTERED.with_borrow_mut(|entered| entered.exchange(self.0, self.1));
            }
        }
        let was_entered = ENTERED.with_borrow_mut(|entered| entered.exchange(self, true));
        let _leave = Leave(self, was_entered);
        work()
    }

    /// Calls `look` with the scope that is entered on this thread, if there is one.
    pub(crate) fn with_entered<R>(look: impl FnOnce(&mut Self) -> R) -> Option<R> {
        ENTERED.with_borrow_mut(|entered| entered.is_entered.then(|| look(&mut entered.scope)))
    }

    /// Forgets the session that was opened for the client: rustls does not resume it.
    pub(crate) fn decline_resumed(&mut self) {
        if self.resumed.take().is_some() {
            self.resumption = Some(ResumptionOutcome::NotUsable);
        }
    }

    /// Returns the nonce of the next TLS 1.3 ticket: the count of those before it.
    pub(super) const fn next_ticket_nonce(&mut self) -> u8 {
        self.has_short_nonces = true;
        self.tickets_sealed
    }

    /// Takes the secrets of the session that the handshake led to; none before TLS 1.3.
    pub(crate) fn take_traffic_secrets(&mut self) -> Option<TrafficSecrets> {
        let (client, server) = (self.client_secret.take(), self.server_secret.take());
        client.zip(server).map(|(client, server)| TrafficSecrets { client, server })
    }

    /// Returns the count of records that our current key has sealed and rustls has not counted.
    pub(crate) fn added_records(&self) -> u64 {
        self.sealer.as_ref().map_or(0, |sealer| sealer.lock().added)
    }

    /// Returns whether our records are encrypted.
    pub(crate) const fn is_sealing(&self) -> bool {
        self.has_sealed
    }

    /// Returns whether the keys for the client's records are known.
    pub(crate) const fn can_open(&self) -> bool {
        self.opener.is_some()
    }

    /// Seals a fatal alert as our next record.
    pub(crate) fn seal_alert(&self, description: AlertDescription) -> Option<Vec<u8>> {
        let mut sealer = self.sealer.as_ref()?.lock();
        let alert = [2, u8::from(description)];
        let message = OutboundPlainMessage {
            typ: ContentType::Alert,
            version: ProtocolVersion::TLSv1_2,
            payload: alert[..].into(),
        };
        let next = sealer.next;
        sealer.encrypt(message, next).ok().map(OutboundOpaqueMessage::encode)
    }

    /// Returns whether `payload`, a copy of an application_data record, is the first record that the client
    /// sealed with its handshake keys. `payload` is decrypted in place.
    pub(crate) fn opens_first(&self, payload: &mut [u8]) -> bool {
        let Some(opener) = &self.opener else { return false };
        let version = ProtocolVersion::TLSv1_2;
        let record = InboundOpaqueMessage::new(ContentType::ApplicationData, version, payload);
        opener.lock().decrypt(record, 0).is_ok()
    }
}

/// A cipher for our records in a handshake.
pub(super) struct HandshakeSealer {
    pub(super) cipher: Box<dyn MessageEncrypter>,
    /// The sequence number of the next record, as rustls counts.
    pub(super) next: u64,
    /// Records that rustls has not counted.
    pub(super) added: u64,
}

impl HandshakeSealer {
    pub(super) fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        self.next = sequence + 1;
        self.cipher.encrypt(message, sequence + self.added)
    }

    /// Encrypts a record of rustls as one or more records of these sizes. Returns those before the last one, encoded.
    pub(super) fn encrypt_divided(
        &mut self,
        message: &OutboundPlainMessage<'_>,
        sequence: u64,
        sizes: FlightSizes,
    ) -> Result<(Vec<u8>, OutboundOpaqueMessage), Error> {
        let (typ, version) = (message.typ, message.version);
        if typ != ContentType::Handshake || message.payload.len() <= sizes.joined {
            let record = OutboundPlainMessage { typ, version, payload: message.payload.clone() };
            return Ok((Vec::new(), self.encrypt(record, sequence)?));
        }
        let content = message.payload.to_vec();
        let parts = sizes.divide(&content);
        let (&last, before) = parts.split_last().unwrap_or((&&[][..], &[]));
        let mut encoded = Vec::new();
        for &part in before {
            let record = OutboundPlainMessage { typ, version, payload: part.into() };
            encoded.extend(self.encrypt(record, sequence)?.encode());
            self.added += 1;
        }
        let record = OutboundPlainMessage { typ, version, payload: last.into() };
        Ok((encoded, self.encrypt(record, sequence)?))
    }
}

/// A key log that stores the secrets of a session in the entered scope, and writes nothing.
#[derive(Debug)]
pub(crate) struct SecretsToScope;

impl KeyLog for SecretsToScope {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        HandshakeScope::with_entered(|scope| match label {
            CLIENT_SECRET => scope.client_secret = Some(OkmBlock::new(secret)),
            SERVER_SECRET => scope.server_secret = Some(OkmBlock::new(secret)),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        [CLIENT_SECRET, SERVER_SECRET].contains(&label)
    }
}
