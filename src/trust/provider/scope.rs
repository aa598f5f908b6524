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
use std::mem;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::cipher::{
    InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundOpaqueMessage,
    OutboundPlainMessage,
};
use tokio_rustls::rustls::crypto::tls13::OkmBlock;
use tokio_rustls::rustls::{
    AlertDescription, ContentType, Error, KeyLog, PeerIncompatible, ProtocolVersion,
};

use super::disguise::Disguise;
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
    static ENTERED: RefCell<Option<HandshakeScope>> = const { RefCell::new(None) };
}

/// The shared data of one handshake.
#[derive(Default)]
pub(crate) struct HandshakeScope {
    /// The version that the ClientHello leads to.
    pub(crate) version: Option<ProtocolVersion>,
    /// The difference to the ClientHello that the client sent, if there is one.
    pub(crate) disguise: Option<Disguise>,
    /// The reason for which the resolver found no certificate for the client.
    pub(crate) no_certificate_fits: Option<PeerIncompatible>,
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
    /// The client's certificate, if it or its chain was refused.
    pub(crate) refused: Option<Box<RefusedCertificate>>,
    pub(super) sealer: Option<Arc<Lock<HandshakeSealer>>>,
    pub(super) opener: Option<Arc<Lock<Box<dyn MessageDecrypter>>>>,
    pub(super) has_sealed: bool,
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
        struct Leave<'a>(&'a mut HandshakeScope);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                *self.0 = ENTERED.take().unwrap_or_default();
            }
        }
        ENTERED.replace(Some(mem::take(self)));
        let _leave = Leave(self);
        work()
    }

    /// Calls `look` with the scope that is entered on this thread, if there is one.
    pub(crate) fn with_entered<R>(look: impl FnOnce(&mut Self) -> R) -> Option<R> {
        ENTERED.with_borrow_mut(|entered| entered.as_mut().map(look))
    }

    /// Forgets the session that was opened for the client: rustls does not resume it.
    pub(crate) fn decline_resumed(&mut self) {
        if self.resumed.take().is_some() {
            self.resumption = Some(ResumptionOutcome::NotUsable);
        }
    }

    /// Takes the secrets of the session that the handshake led to; none before TLS 1.3.
    pub(crate) fn take_traffic_secrets(&mut self) -> Option<TrafficSecrets> {
        let (client, server) = (self.client_secret.take(), self.server_secret.take());
        client.zip(server).map(|(client, server)| TrafficSecrets { client, server })
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
    /// The sequence number of the next record.
    pub(super) next: u64,
}

impl HandshakeSealer {
    pub(super) fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        self.next = sequence + 1;
        self.cipher.encrypt(message, sequence)
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
