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
use tokio_rustls::rustls::pki_types::DnsName;

use super::certs::crl_files::CrlFiles;
use super::digest::Digest;
use super::findings::{CertError, Findings, Warning};
use super::material;
use super::policy::{Policy, PolicyPlan};
use crate::config::{self, Route};
use crate::terms::labels::{NoRouteCause, ReloadObject};

/// The configuration and the policies of a listener.
pub(crate) struct Snapshot {
    /// The configuration that it was built from.
    pub(crate) listener: config::ListenerConfig,
    /// In the order of [`config::ListenerConfig::policies`]: the first is the listener's own.
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

    /// Returns the place of the route that a server name and an ALPN protocol lead to. A name that is not a DNS name
    /// counts as none.
    pub(crate) fn route(&self, server_name: Option<&str>, alpn: Option<&[u8]>) -> Option<usize> {
        self.listener.route(dns_name(server_name), alpn)
    }

    /// Returns the condition that a client without a route does not meet. A name that is not a DNS name counts as none,
    /// as for the route.
    pub(crate) fn no_route_cause(&self, server_name: Option<&str>) -> NoRouteCause {
        self.listener.no_route_cause(dns_name(server_name))
    }

    /// Returns the policy of a route; without one, the listener's own.
    pub(crate) fn policy_of(&self, route: Option<usize>) -> &Policy {
        &self.policies[self.listener.policy_of(route)]
    }

    /// Returns each policy with the place of its route; the listener's own has none.
    pub(crate) fn by_route(&self) -> impl Iterator<Item = (Option<usize>, &Policy)> {
        self.listener.policies().map(|(route, _)| route).zip(&self.policies)
    }

    /// Returns the policy of the route with the same conditions as a route of `listener`, or for none the listener's
    /// own. None is returned if that route had no policy of its own.
    pub(crate) fn counterpart(
        &self,
        listener: &config::ListenerConfig,
        route: Option<usize>,
    ) -> Option<&Policy> {
        let Some(route) = route else { return Some(self.policy()) };
        let wanted = conditions(&listener.routes[route]);
        let mut own = self.by_route().filter_map(|(route, policy)| Some((route?, policy)));
        let found = own.find(|(route, _)| conditions(&self.listener.routes[*route]) == wanted);
        found.map(|(_, policy)| policy)
    }

    /// Returns whether a route has the server name, or one of the certificates of its policy.
    pub(crate) fn knows(&self, name: &str, route: Option<usize>) -> bool {
        let has_name = |route: usize| self.listener.routes[route].has_name(name);
        route.is_some_and(has_name) || self.policy_of(route).has_name(name)
    }

    /// Returns the digest of everything that decides which live sessions stay.
    pub(crate) fn client_trust(&self) -> Digest {
        let routes = self.listener.routes.iter().filter(|_| self.policies.len() > 1);
        let routes: Vec<_> = routes.map(conditions).collect();
        let policies = self.by_route().map(|(route, policy)| {
            let route = route.map_or([0; 8], |route| (route as u64 + 1).to_be_bytes());
            let trust = policy.client_trust;
            Digest::of([&route[..], trust.as_bytes(), &[u8::from(policy.recheck)]])
        });
        let all: Vec<_> = routes.into_iter().chain(policies).collect();
        Digest::of(all.iter().map(Digest::as_bytes))
    }

    /// Returns the digest of all files of one kind of object.
    pub(crate) fn digest(&self, object: ReloadObject) -> Digest {
        let digests: Vec<_> = self.policies.iter().map(|policy| policy.digest(object)).collect();
        Digest::of(digests.iter().map(Digest::as_bytes))
    }

    /// Returns whether `other` was built from the same configuration and the same content, and no rollout has changed
    /// its state.
    fn is_same(&self, other: &Self) -> bool {
        let policies = || self.policies.iter().zip(&other.policies);
        self.listener == other.listener
            && policies().all(|(policy, other)| policy.has_same_rollout(other))
            && ReloadObject::ALL.iter().all(|&object| self.digest(object) == other.digest(object))
    }
}

/// Builds the snapshot that replaces `active`; none is returned if it would be the same.
fn build(
    listener: &config::ListenerConfig,
    active: Option<&Snapshot>,
    now: SystemTime,
) -> Result<Reloaded, Vec<CertError>> {
    let files = |tls| material::named(tls).collect::<Vec<_>>();
    let named: Vec<_> = listener.policies().flat_map(|(_, tls)| files(tls)).collect();
    let mut material = material::read(&named).map_err(|error| vec![error])?;
    let mut findings = Findings::default();
    let earlier = active.map_or(&[][..], |active| &active.policies);
    let known: Vec<_> = earlier.iter().map(Policy::loaded).collect();
    let crls = CrlFiles::decode(&mut material, &known, &mut findings);
    let mut rest = &material[..];
    let mut policies = Vec::new();
    for (route, tls) in listener.policies() {
        let (material, others) = rest.split_at(files(tls).len());
        rest = others;
        let active = active.and_then(|active| active.counterpart(listener, route));
        let route = route.map(|route| conditions(&listener.routes[route]));
        let plan = PolicyPlan { tls, route, material, crls: &crls, active, earlier };
        policies.extend(Policy::build(plan, now, &mut findings));
    }
    let Findings { errors, warnings, .. } = findings;
    if policies.len() < listener.policies().count() {
        return Err(errors);
    }
    let snapshot = Snapshot { listener: listener.clone(), policies };
    let is_new = active.is_none_or(|active| !snapshot.is_same(active));
    Ok(Reloaded { loaded: is_new.then(|| (snapshot, distinct(warnings))), errors })
}

/// Returns the digest of the conditions of a route, by which it is found again after a change of the configuration.
fn conditions(route: &Route) -> Digest {
    let names = Digest::of(route.sni.iter().map(|name| name.as_str().as_bytes()));
    let protocols = Digest::of(route.alpn.iter().map(|protocol| &protocol[..]));
    Digest::of([names.as_bytes(), protocols.as_bytes()])
}

/// Returns each warning once: policies can share a file.
fn distinct(warnings: Vec<Warning>) -> Vec<Warning> {
    let mut distinct = Vec::with_capacity(warnings.len());
    for warning in warnings {
        if !distinct.contains(&warning) {
            distinct.push(warning);
        }
    }
    distinct
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

/// Returns a client's server name, if it is a DNS name.
fn dns_name(server_name: Option<&str>) -> Option<&str> {
    server_name.filter(|name| DnsName::try_from(*name).is_ok())
}
