//! Stands in rustls's handshake and notes what the server does there, without refusing it.
//!
//! **Promises.** A certificate is believed for the sake of the report, whatever it says; that the server
//! has its key is verified all the same.
//!
//! **Not here.** What to think of the certificates (`verdict.rs`).

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

/// Sessions that are kept to be resumed.
const SESSIONS: usize = 8;

/// What was seen in a handshake.
#[derive(Debug)]
pub(super) struct CapturingVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    /// What is shown if it is asked for.
    certificate: Option<Arc<CertifiedKey>>,
    seen: Lock<Seen>,
    sessions: ClientSessionMemoryCache,
    ticketed: AtomicBool,
    /// Told of each ticket.
    pub(super) ticket: Notify,
}

/// What was seen in a handshake.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The certificates that the server showed, in its order.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// How the server asked for a client certificate, if it did.
    pub(super) request: Option<CertificateRequest>,
}

/// How a server asked for a client certificate.
#[derive(Clone, Debug)]
pub(super) struct CertificateRequest {
    /// The names of the CAs that it accepts, encoded.
    pub(super) authorities: Vec<Vec<u8>>,
    /// Whether a certificate was shown: one was there, and its key signs by an accepted scheme.
    pub(super) shown: bool,
}

impl CapturingVerifier {
    pub(super) fn new(
        algorithms: WebPkiSupportedAlgorithms,
        certificate: Option<Arc<CertifiedKey>>,
    ) -> Self {
        Self {
            algorithms,
            certificate,
            seen: Lock::default(),
            sessions: ClientSessionMemoryCache::new(SESSIONS),
            ticketed: AtomicBool::new(false),
            ticket: Notify::new(),
        }
    }

    /// What was seen up to now, which is forgotten.
    pub(super) fn take_seen(&self) -> Seen {
        std::mem::take(&mut *self.lock())
    }

    /// Whether there is something to resume.
    pub(super) fn is_ticketed(&self) -> bool {
        self.ticketed.load(Ordering::Acquire)
    }

    fn note_ticket(&self) {
        self.ticketed.store(true, Ordering::Release);
        self.ticket.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock()
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
        let shown = self.certificate.as_ref().filter(signs).map(Arc::clone);
        let authorities = authorities.iter().map(|name| name.to_vec()).collect();
        self.lock().request = Some(CertificateRequest { authorities, shown: shown.is_some() });
        shown
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
