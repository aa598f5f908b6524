//! The steps of a handshake, for traces.
//!
//! **Promises.** Without a trace, nothing is made. The configuration of a connection whose secrets are traced is a clone:
//! those of other connections are in no trace.
//!
//! **Not here.** The selection of connections (`sessions/trace.rs`), the offer of a ClientHello (`hello/listing.rs`).

use std::sync::Arc;

use tokio_rustls::rustls::{AlertDescription, HandshakeKind, KeyLog, ServerConfig};

use super::describe;
use super::error::HandshakeError;
use super::selection::Selection;
use crate::proxy::hello::{Hello, HelloError};
use crate::proxy::tls::RustlsHandshake;
use crate::sessions::trace::Tracer;
use crate::sessions::trace::step::{ClientCertificateStep, KeyLine, Sender, Step};
use crate::terms::rollout::RolloutGroup;
use crate::trust::provider::{self, SecretsToScope};
use crate::trust::refused::RefusedCertificate;
use crate::trust::x509;

/// Records the policy that was chosen for a client.
pub(super) fn policy(tracer: &Tracer, selection: &Selection<'_>, group: Option<RolloutGroup>) {
    let client_certificate = match &selection.policy.client_verifier {
        None => "not_requested",
        Some(verifier) if verifier.is_mandatory() => "required",
        Some(_) => "optional",
    };
    tracer.step(Step::Policy {
        route: selection.route,
        rollout: group.map(RolloutGroup::as_str),
        client_certificate,
    });
}

/// A handshake of which a trace may get the steps.
#[derive(Clone, Copy)]
pub(super) struct Traced<'a> {
    pub(super) tracer: &'a Tracer,
    pub(super) hello: &'a Hello,
}

impl Traced<'_> {
    /// Records the server certificate that the client is shown.
    pub(super) fn answered(self, selection: &Selection<'_>, handshake: &RustlsHandshake) {
        if handshake.kind() == Some(HandshakeKind::Resumed) {
            return;
        }
        let Some(cipher) = handshake.cipher_suite().and_then(provider::label) else { return };
        let (name, schemes) = (self.hello.server_name.as_deref(), &self.hello.schemes);
        let leaf = selection.resolver().certificate(name, schemes, |key| cipher.goes_with(key));
        if let Some(info) = leaf.and_then(|leaf| x509::cert_info(leaf).ok()) {
            self.tracer.step(Step::ServerCertificate {
                subject: info.subject_text,
                serial: info.serial,
                not_after: info.not_after.to_string(),
                key: info.key.as_str(),
            });
        }
    }
}

/// Records the certificate and the alert of a handshake that has failed, and returns its error. `sent` is the alert that
/// the client gets.
pub(super) fn failed(
    tracer: Option<&Arc<Tracer>>,
    error: HandshakeError,
    sent: Option<AlertDescription>,
) -> HandshakeError {
    let Some(tracer) = tracer else { return error };
    if let Some(certificate) = error.refused_certificate() {
        tracer.step(Step::ClientCertificate(Box::new(claimed(certificate))));
        tracer.on_claim(&certificate.names);
    }
    let (sender, alert) = if let HandshakeError::Alert(received) = &error {
        (Sender::Device, Some(*received))
    } else if let HandshakeError::Hello(HelloError::Fault(fault)) = &error {
        (Sender::Tlsidecar, Some(fault.alert()))
    } else {
        (Sender::Tlsidecar, sent)
    };
    if let Some(alert) = alert {
        tracer.step(Step::Alert { sender, alert: describe::alert(alert) });
    }
    error
}

/// Records an alert that the client gets.
pub(super) fn sent(tracer: Option<&Arc<Tracer>>, alert: AlertDescription) {
    if let Some(tracer) = tracer {
        tracer.step(Step::Alert { sender: Sender::Tlsidecar, alert: describe::alert(alert) });
    }
}

fn claimed(certificate: &RefusedCertificate) -> ClientCertificateStep {
    ClientCertificateStep {
        verified: false,
        names: certificate.names.clone(),
        subject: certificate.subject.clone(),
        issuer: certificate.issuer.clone(),
        serial: certificate.serial.clone(),
        sha256: Some(certificate.sha256.clone()),
        not_after: None,
    }
}

/// Returns the configuration of a connection, which reports the secrets if a trace wants them.
pub(super) fn with_keys(
    config: Arc<ServerConfig>,
    tracer: Option<&Arc<Tracer>>,
) -> Arc<ServerConfig> {
    let Some(tracer) = tracer.filter(|tracer| tracer.has_keys()) else { return config };
    let mut config = ServerConfig::clone(&config);
    config.key_log = Arc::new(TracedKeys(Arc::clone(tracer)));
    Arc::new(config)
}

/// A key log of one connection.
struct TracedKeys(Arc<Tracer>);

impl std::fmt::Debug for TracedKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TracedKeys")
    }
}

impl KeyLog for TracedKeys {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        // The record layer needs them as well.
        if SecretsToScope.will_log(label) {
            SecretsToScope.log(label, client_random, secret);
        }
        self.0.step(Step::Key { line: KeyLine::new(label, client_random, secret) });
    }
}
