//! A verifier for rustls's handshake that accepts every certificate and records what the server sends.
//!
//! **Promises.** The signature of the handshake is verified: the server has the key of its certificate.
//!
//! **Not here.** The verification of the certificates (`verdict.rs`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};

use tokio::sync::Notify;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, ResolvesClientCert, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{
    DigitallySignedStruct, DistinguishedName, Error, NamedGroup, SignatureScheme,
};

use crate::lock::Lock;

/// The limit of sessions that are kept for resumption.
const SESSIONS: usize = 8;

/// Accepts every server certificate, and records the messages of the server.
#[derive(Debug)]
pub(super) struct CapturingVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    /// The client certificate, sent if the server requests one.
    certificate: Option<Arc<CertifiedKey>>,
    captured: Lock<Captured>,
    sessions: ClientSessionMemoryCache,
    has_ticket: AtomicBool,
    /// Notified of each ticket.
    pub(super) ticket: Notify,
}

/// The messages of a server in a handshake.
#[derive(Clone, Debug, Default)]
pub(super) struct Captured {
    /// The certificates of the server, in the order in which they came.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The request for a client certificate, if there was one.
    pub(super) request: Option<CertificateRequest>,
}

/// A request for a client certificate.
#[derive(Clone, Debug)]
pub(super) struct CertificateRequest {
    /// The names of the accepted CAs, in DER.
    pub(super) authorities: Vec<Vec<u8>>,
    /// True if a certificate was sent: there is one, and its key supports an accepted signature scheme.
    pub(super) sent: bool,
}

impl CapturingVerifier {
    pub(super) fn new(
        algorithms: WebPkiSupportedAlgorithms,
        certificate: Option<Arc<CertifiedKey>>,
    ) -> Self {
        Self {
            algorithms,
            certificate,
            captured: Lock::default(),
            sessions: ClientSessionMemoryCache::new(SESSIONS),
            has_ticket: AtomicBool::new(false),
            ticket: Notify::new(),
        }
    }

    /// Returns and clears the recorded messages.
    pub(super) fn take_captured(&self) -> Captured {
        std::mem::take(&mut *self.lock())
    }

    /// Returns true if there is a session to resume.
    pub(super) fn has_ticket(&self) -> bool {
        self.has_ticket.load(Ordering::Acquire)
    }

    fn note_ticket(&self) {
        self.has_ticket.store(true, Ordering::Release);
        self.ticket.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Captured> {
        self.captured.lock()
    }
}

impl ServerCertVerifier for CapturingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = [end_entity].into_iter().chain(intermediates);
        self.lock().chain = chain.map(|certificate| certificate.clone().into_owned()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

impl ResolvesClientCert for CapturingVerifier {
    fn resolve(
        &self,
        authorities: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let signs = |certified: &&Arc<CertifiedKey>| certified.key.choose_scheme(schemes).is_some();
        let sent = self.certificate.as_ref().filter(signs).map(Arc::clone);
        let authorities = authorities.iter().map(|name| name.to_vec()).collect();
        self.lock().request = Some(CertificateRequest { authorities, sent: sent.is_some() });
        sent
    }

    fn has_certs(&self) -> bool {
        self.certificate.is_some()
    }
}

impl ClientSessionStore for CapturingVerifier {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.sessions.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.sessions.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.sessions.set_tls12_session(server, value);
        self.note_ticket();
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.sessions.tls12_session(server)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.sessions.remove_tls12_session(server);
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.sessions.insert_tls13_ticket(server, value);
        self.note_ticket();
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.sessions.take_tls13_ticket(server)
    }
}
