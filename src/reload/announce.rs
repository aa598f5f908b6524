//! Reports a new snapshot in the log and in the metrics.
//!
//! **Not here.** The replacement of the snapshot (`reload.rs`), the names of the metrics (`metrics/`).

use std::collections::HashSet;
use std::hash::Hash;
use std::path::PathBuf;

use super::{changes, events};
use crate::config;
use crate::events::Happened;
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
        if warning.is_notice() {
            tracing::info!(listener, "{warning}");
        } else {
            tracing::warn!(listener, "{warning}");
        }
    }
    let mut logged = HashSet::new();
    for (route, policy) in snapshot.by_route() {
        announce_policy(listener, route, policy, &mut logged);
    }
    metrics.set_backends(snapshot.listener.backends(), snapshot.listener.balance);
    if snapshot.listener.backend.is_none() {
        metrics.export_no_route();
    }
    metrics.active().publish(reported(snapshot));
    if snapshot.listener.policies().any(|(_, tls)| tls.rollout.is_some()) {
        metrics.rollouts().export();
    }
}

/// Logs the certificates and files of a policy, except those in `logged`: most policies of routes share files.
fn announce_policy(
    listener: &str,
    route: Option<usize>,
    policy: &Policy,
    logged: &mut HashSet<(&'static str, String)>,
) {
    for certificate in policy.served_certificates() {
        let (cert, not_after) = (&certificate.label, certificate.info.not_after);
        let (certificates, key) = (certificate.chain_length, certificate.info.key.as_str());
        if logged.insert(("", cert.clone())) {
            // The words stay: operators search the log for them.
            tracing::info!(listener, route, cert, %not_after, key, certificates, "certificate in force");
        }
    }
    for FileSummary { role, path, count, .. } in policy.files() {
        let file = Shown(path);
        if !logged.insert((role.as_str(), file.to_string())) {
            continue;
        }
        match role {
            // These are logged above.
            MaterialKind::Certificate | MaterialKind::Key => {}
            MaterialKind::ClientCa => {
                let pinned = policy.trust.pinned;
                tracing::info!(listener, route, %file, count, pinned, "client CAs active");
            }
            MaterialKind::Crl => tracing::info!(listener, route, %file, count, "CRLs active"),
            MaterialKind::Allow => {
                tracing::info!(listener, route, %file, count, "allow rules active");
            }
            MaterialKind::TicketKeys => {
                tracing::info!(listener, route, %file, count, "ticket keys active");
            }
        }
    }
}

/// Returns the active material with its dates, for the metrics.
fn reported(snapshot: &Snapshot) -> Reported {
    let certificate = |c: &ServerCertificate| ActiveCertificate {
        cert: c.label.clone(),
        key_file: c.key_file.clone(),
        serial: c.info.serial.clone(),
        sha256: x509::fingerprint(&c.leaf, ""),
        issuer: c.info.issuer_text.clone(),
        key: c.info.key.as_str(),
        chain_length: c.chain_length,
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
    let certificates = policies().flat_map(Policy::served_certificates).map(certificate);
    let cas = policies().flat_map(|p| &p.trust.cas).map(ca);
    let crls = policies().flat_map(|p| &p.trust.crls).map(crl);
    let files = policies().flat_map(Policy::files).map(material);
    // Policies of routes share files.
    Reported {
        certificates: distinct(certificates, |c| (c.cert.clone(), c.sha256.clone())),
        cas: distinct(cas, |ca| (ca.ca.clone(), ca.not_before, ca.not_after)),
        crls: distinct(crls, |crl| crl.crl.clone()),
        files: distinct(files, |file| (file.file.clone(), file.kind.as_str())),
    }
}

/// Returns the first of all items with the same key.
fn distinct<T, K: Eq + Hash>(items: impl Iterator<Item = T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut known = HashSet::new();
    items.filter(|item| known.insert(key(item))).collect()
}

/// Logs the changes of the trust in a listener's clients.
pub(super) fn announce_trust_changes(old: &Snapshot, new: &Snapshot, metrics: &ListenerMetrics) {
    let listener = &new.listener.name;
    let mut changes = Vec::new();
    for (route, policy) in new.by_route() {
        let before = old.counterpart(&new.listener, route);
        for change in before.into_iter().flat_map(|before| policy.trust_changes(before)) {
            // A file of several routes changes once.
            if !changes.contains(&change) {
                changes.push(change);
            }
        }
    }
    for change in changes {
        metrics.events().note(events::trust(listener, &change));
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
            TrustChange::Rules { all, added, removed } => {
                tracing::info!(listener, rules = all, added, removed, "allow rules changed");
            }
            TrustChange::CrlRemoved { file, issuer, entries } => {
                tracing::warn!(listener, file = %Shown(&file), issuer, entries, "CRL removed");
            }
        }
    }
}

/// Logs each file whose certificate has another type of key than before, with the number of handshakes that used the
/// earlier type: those devices may have nothing else.
pub(super) fn announce_key_types(old: &Snapshot, new: &Snapshot, metrics: &ListenerMetrics) {
    let listener = &new.listener.name;
    let certificates = |snapshot: &'_ Snapshot| {
        let served = snapshot.policies.iter().flat_map(Policy::served_certificates);
        let kinds = served.map(|one| (one.label.clone(), one.info.key));
        distinct(kinds, |(label, _)| label.clone())
    };
    let before = certificates(old);
    for (cert, kind) in certificates(new) {
        let earlier = before.iter().find(|(label, earlier)| *label == cert && *earlier != kind);
        if let Some((_, earlier)) = earlier {
            let handshakes = metrics.handshakes_with(*earlier);
            let (old, new) = (earlier.as_str(), kind.as_str());
            tracing::info!(
                listener,
                cert,
                old,
                new,
                handshakes,
                "the key type of the certificate has changed; handshakes since the start used the old one"
            );
        }
    }
}

/// Logs the changed parts of a listener's configuration.
pub(super) fn announce_changes(
    old: &config::ListenerConfig,
    new: &config::ListenerConfig,
    metrics: &ListenerMetrics,
) {
    let changed = changes::of_listener(old, new);
    if !changed.is_empty() {
        let (listener, changed) = (&new.name, changed.join(", "));
        // The words stay, as in `announce_policy`.
        tracing::info!(listener, changed, "configuration in force");
        let listener = Some(listener.as_str().into());
        metrics.events().note(Happened::Config { listener, changed });
    }
}

/// Records the kinds of objects that differ between two snapshots.
pub(super) fn note_swapped(old: &Snapshot, new: &Snapshot, objects: &mut Objects) {
    let differs = |object: ReloadObject| match object {
        ReloadObject::Config => old.listener != new.listener,
        // It belongs to no listener.
        ReloadObject::AdminToken => false,
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
