//! Reports a new snapshot in the log and in the metrics.
//!
//! **Not here.** The replacement of the snapshot (`reload.rs`), the names of the metrics (`metrics/`).

use std::path::PathBuf;

use super::changes;
use crate::config;
use crate::metrics::{
    ActiveCa, ActiveCertificate, ActiveCrl, ActiveFile, ListenerMetrics, Objects, Reported,
};
use crate::terms::labels::{MaterialKind, ReloadObject, ReloadOutcome};
use crate::text::Shown;
use crate::trust::certs::chain::ServerCertificate;
use crate::trust::certs::summary::FileSummary;
use crate::trust::changes::{Entries, TrustChange};
use crate::trust::findings::Warning;
use crate::trust::policy::Policy;
use crate::trust::snapshot::Snapshot;
use crate::trust::x509::{self, CertInfo, Timestamp};

/// Reports a snapshot that becomes active.
pub(crate) fn announce(snapshot: &Snapshot, warnings: &[Warning], metrics: &ListenerMetrics) {
    let listener = &snapshot.listener.name;
    for warning in warnings {
        tracing::warn!(listener, "{warning}");
    }
    for policy in &snapshot.policies {
        announce_policy(listener, policy);
    }
    metrics.set_backends(snapshot.listener.backends().map(ToString::to_string));
    metrics.active().publish(reported(snapshot));
}

fn announce_policy(listener: &str, policy: &Policy) {
    for certificate in &policy.certificates {
        let (cert, not_after) = (&certificate.label, certificate.info.not_after);
        let certificates = certificate.chain_length;
        // The words stay: operators search the log for them.
        tracing::info!(listener, cert, %not_after, certificates, "certificate in force");
    }
    for FileSummary { role, path, count, .. } in policy.files() {
        let file = Shown(path);
        match role {
            // These are logged above.
            MaterialKind::Certificate | MaterialKind::Key => {}
            MaterialKind::ClientCa => {
                let pinned = policy.trust.pinned;
                tracing::info!(listener, %file, count, pinned, "client CAs active");
            }
            MaterialKind::Crl => tracing::info!(listener, %file, count, "CRLs active"),
            MaterialKind::Allow => tracing::info!(listener, %file, count, "allow rules active"),
            MaterialKind::TicketKeys => {
                tracing::info!(listener, %file, count, "ticket keys active");
            }
        }
    }
}

/// Returns the active material with its dates, for the metrics.
fn reported(snapshot: &Snapshot) -> Reported {
    let certificate = |c: &ServerCertificate| ActiveCertificate {
        cert: c.label.clone(),
        serial: c.info.serial.clone(),
        sha256: x509::fingerprint(&c.leaf, ""),
        issuer: c.info.issuer_text.clone(),
        key: c.info.key.as_str(),
        not_before: c.info.not_before.timestamp(),
        not_after: c.info.not_after.timestamp(),
    };
    let ca = |info: &CertInfo| ActiveCa {
        ca: info.subject_text.clone(),
        not_before: info.not_before.timestamp(),
        not_after: info.not_after.timestamp(),
    };
    let crl = |(file, due): &(PathBuf, Timestamp)| ActiveCrl {
        crl: Shown(file).to_string(),
        next_update: due.timestamp(),
    };
    let material = |file: FileSummary<'_>| ActiveFile {
        file: Shown(file.path).to_string(),
        kind: file.role,
        count: file.count,
    };
    let policies = || snapshot.policies.iter();
    Reported {
        certificates: policies().flat_map(|p| &p.certificates).map(certificate).collect(),
        cas: policies().flat_map(|p| &p.trust.cas).map(ca).collect(),
        crls: policies().flat_map(|p| &p.trust.crls).map(crl).collect(),
        files: policies().flat_map(Policy::files).map(material).collect(),
    }
}

/// Logs the changes of the trust in a listener's clients.
pub(super) fn announce_trust_changes(old: &Snapshot, new: &Snapshot) {
    let listener = &new.listener.name;
    for change in new.policy().trust_changes(old.policy()) {
        match change {
            TrustChange::Cas { file, added, removed } => {
                let file = Shown(&file);
                tracing::info!(listener, %file, added, removed, "client CAs changed");
            }
            TrustChange::Crl { file, issuer, entries, next_update } => {
                let (file, Entries { all, added, removed }) = (Shown(&file), entries);
                let next_update = next_update.map(tracing::field::display);
                tracing::info!(
                    listener, %file, issuer, entries = all, added, removed, next_update, "CRL changed"
                );
            }
            TrustChange::CrlRemoved { file, issuer, entries } => {
                tracing::warn!(listener, file = %Shown(&file), issuer, entries, "CRL removed");
            }
        }
    }
}

/// Logs the changed parts of a listener's configuration.
pub(super) fn announce_changes(old: &config::ListenerConfig, new: &config::ListenerConfig) {
    let changed = changes::of_listener(old, new);
    if !changed.is_empty() {
        let (listener, changed) = (&new.name, changed.join(", "));
        // The words stay, as in `announce_policy`.
        tracing::info!(listener, changed, "configuration in force");
    }
}

/// Records the kinds of objects that differ between two snapshots.
pub(super) fn note_swapped(old: &Snapshot, new: &Snapshot, objects: &mut Objects) {
    let differs = |object: ReloadObject| match object {
        ReloadObject::Config => old.listener != new.listener,
        ReloadObject::Certificate
        | ReloadObject::ClientCa
        | ReloadObject::Crl
        | ReloadObject::Allow
        | ReloadObject::TicketKeys => old.digest(object) != new.digest(object),
    };
    for &object in ReloadObject::ALL.iter().filter(|object| differs(**object)) {
        objects.note(object, ReloadOutcome::Swapped);
    }
}
