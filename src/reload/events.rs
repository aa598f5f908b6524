//! A reload and its changes, as events.
//!
//! **Not here.** Their list (`events.rs`), the log lines (`announce.rs`).

use crate::events::{Events, Happened};
use crate::terms::labels::ReloadOutcome;
use crate::text::{Shown, shortened};
use crate::trust::changes::{Entries, TrustChange};
use crate::trust::policy::Policy;
use crate::trust::snapshot::Snapshot;
use crate::trust::x509;

/// Failures, and changes that wait for a restart, of one event.
const MAX_SENTENCES: usize = 10;

/// Longest of them, in characters.
const MAX_CHARS: usize = 512;

/// Returns the event of a reload.
pub(super) fn reload(outcome: ReloadOutcome, failures: &[String], waiting: &[String]) -> Happened {
    let first = |sentences: &[String]| {
        let first = sentences.iter().take(MAX_SENTENCES);
        first.map(|sentence| shortened(sentence, MAX_CHARS)).collect()
    };
    Happened::Reload {
        outcome: outcome.as_str(),
        failures: first(failures),
        waiting: first(waiting),
    }
}

/// Records the server certificates that become active.
pub(super) fn certificates(old: &Snapshot, new: &Snapshot, events: &Events) {
    let before = || old.policies.iter().flat_map(Policy::served_certificates);
    let mut noted = Vec::new();
    for (route, policy) in new.by_route() {
        for certificate in policy.served_certificates() {
            // Routes share certificates.
            let is_known = before().any(|known| known.leaf == certificate.leaf)
                || noted.contains(&&certificate.leaf);
            if is_known {
                continue;
            }
            noted.push(&certificate.leaf);
            events.note(Happened::Certificate {
                listener: new.listener.name.as_str().into(),
                route,
                cert: certificate.label.clone(),
                serial: certificate.info.serial.clone(),
                sha256: x509::fingerprint(&certificate.leaf, ""),
                not_after: certificate.info.not_after.timestamp(),
            });
        }
    }
}

/// Returns the event of a change of the trust in clients.
pub(super) fn trust(listener: &str, change: &TrustChange) -> Happened {
    let (object, file, added, removed) = match change {
        TrustChange::Cas { file, added, removed } => ("client_ca", Some(file), *added, *removed),
        TrustChange::Crl { file, entries: Entries { added, removed, .. }, .. } => {
            ("crl", Some(file), *added, *removed)
        }
        TrustChange::Rules { added, removed, .. } => ("allow", None, *added, *removed),
        TrustChange::CrlRemoved { file, entries, .. } => ("crl", Some(file), 0, *entries),
    };
    let file = file.map(|file| Shown(file).to_string());
    Happened::Trust { listener: listener.into(), object, file, added, removed }
}
