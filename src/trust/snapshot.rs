//! The current state of a listener: its configuration and its TLS policies, immutable.
//!
//! **Promises.** A snapshot is built whole, checked whole, and replaced by one pointer store, so that no
//! connection uses a new certificate with an old CA or an old timeout. Its files are read as of one
//! moment. A connection holds a snapshot only until its relay starts: replaced material is freed, however
//! long connections live. Every problem is returned, not only the first one.
//!
//! **Not here.** The policies (`policy.rs`), the time to load (`reload.rs`).

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::digest::Digest;
use super::findings::{CertError, Findings, Warning};
use super::material;
use super::policy::Policy;
use crate::config;
use crate::terms::labels::ReloadObject;

/// The configuration and the policies of a listener.
pub(crate) struct Snapshot {
    /// The configuration that it was built from.
    pub(crate) listener: config::ListenerConfig,
    /// At least one; the first is the listener's own.
    pub(crate) policies: Vec<Policy>,
}

/// A new snapshot, with warnings about its material.
pub(crate) type Loaded = (Snapshot, Vec<Warning>);

/// The result of an attempt to replace a snapshot.
#[derive(Default)]
pub(crate) struct Reloaded {
    /// The new snapshot; none if nothing has changed.
    pub(crate) loaded: Option<Loaded>,
    /// The problems of files that keep their current content.
    pub(crate) errors: Vec<CertError>,
}

impl Snapshot {
    /// Builds the first snapshot of a listener from its files. Blocks on the disk.
    ///
    /// # Errors
    /// Every problem of its files.
    pub(crate) fn load(
        listener: &config::ListenerConfig,
        now: SystemTime,
    ) -> Result<Loaded, Vec<CertError>> {
        let Reloaded { loaded, errors } = build(listener, None, now)?;
        loaded.ok_or(errors)
    }

    /// Builds the snapshot that replaces this one. A file with a problem keeps its current content.
    /// Blocks on the disk.
    pub(crate) fn reload(&self, listener: &config::ListenerConfig, now: SystemTime) -> Reloaded {
        let errors = match build(listener, Some(self), now) {
            Ok(reloaded) => return reloaded,
            Err(errors) => errors,
        };
        // A new configuration is taken whole or not at all, and delays no renewal under the current one.
        let kept = if self.listener == *listener {
            None
        } else {
            build(&self.listener, Some(self), now).ok()
        };
        let Reloaded { loaded, errors: more } = kept.unwrap_or_default();
        Reloaded { loaded, errors: errors.into_iter().chain(more).collect() }
    }

    /// Returns the listener's own policy.
    pub(crate) fn policy(&self) -> &Policy {
        self.policies.first().expect("a snapshot has the listener's own policy")
    }

    /// Returns the digest of all files of one kind of object.
    pub(crate) fn digest(&self, object: ReloadObject) -> Digest {
        let digests: Vec<_> = self.policies.iter().map(|policy| policy.digest(object)).collect();
        Digest::of(digests.iter().map(Digest::as_bytes))
    }

    /// Returns whether `other` was built from the same configuration and the same content.
    fn is_same(&self, other: &Self) -> bool {
        self.listener == other.listener
            && ReloadObject::ALL.iter().all(|&object| self.digest(object) == other.digest(object))
    }
}

/// Builds the snapshot that replaces `active`; none is returned if it would be the same.
fn build(
    listener: &config::ListenerConfig,
    active: Option<&Snapshot>,
    now: SystemTime,
) -> Result<Reloaded, Vec<CertError>> {
    let tls = &listener.tls;
    let named: Vec<_> = material::named(tls).collect();
    let material = material::read(&named).map_err(|error| vec![error])?;
    let mut findings = Findings::default();
    let policy = Policy::build(tls, &material, active.map(Snapshot::policy), now, &mut findings);
    let Findings { errors, warnings, .. } = findings;
    let Some(policy) = policy else { return Err(errors) };
    let snapshot = Snapshot { listener: listener.clone(), policies: vec![policy] };
    let is_new = active.is_none_or(|active| !snapshot.is_same(active));
    Ok(Reloaded { loaded: is_new.then_some((snapshot, warnings)), errors })
}

/// The current snapshot of one listener.
pub(crate) struct Current(watch::Sender<Arc<Snapshot>>);

impl Current {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self(watch::Sender::new(Arc::new(snapshot)))
    }

    /// Returns the current snapshot.
    pub(crate) fn load(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.borrow())
    }

    /// Replaces the snapshot for every connection that starts from now on.
    pub(crate) fn store(&self, snapshot: Snapshot) {
        self.0.send_replace(Arc::new(snapshot));
    }

    /// Returns a receiver of every later snapshot.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.subscribe()
    }
}
