//! The rollout of a new server certificate to a share of the clients, with a roll-back.
//!
//! A policy whose files have new certificates keeps the earlier ones as well: its own certificates are those of the
//! files, and [`Rollout::earlier`] is for the other clients. Everything else of the policy is the same for both groups.
//!
//! **Promises.** A rollout goes on over reloads, until the files have other certificates. A further change of the files
//! begins a new one; the earlier certificates stay the same until new ones are promoted. An earlier certificate that
//! has expired is not kept. Tickets are valid in both groups, and after the decision.
//!
//! **Not here.** The groups and the decision (`rollout/trial.rs`), the log (`reload/rollouts.rs`).

mod addresses;
mod comparison;
pub(crate) mod trial;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use tokio_rustls::rustls;

use self::trial::{Trial, Verdict};
use super::certs::chain::{Chain, ServerCertificate};
use super::certs::verifier::ClientVerifier;
use super::findings::Warning;
use super::provider;
use super::resolver::{NamedCertificate, Resolver};
use super::server_configs::ServerConfigs;
use super::tickets::Resumption;
use crate::config;
use crate::terms::rollout::{RolloutCause, RolloutState};

/// The rollout of the certificates of a policy.
pub(crate) struct Rollout {
    pub(crate) settings: config::Rollout,
    /// The groups, their figures and the decision.
    pub(crate) trial: Arc<Trial>,
    /// The state when the policy was built.
    pub(crate) state: RolloutState,
    pub(crate) earlier: EarlierCertificates,
}

/// The certificates that a rollout replaces.
pub(crate) struct EarlierCertificates {
    chains: Arc<[Chain]>,
    pub(crate) certificates: Vec<ServerCertificate>,
    /// Chooses one of them for a device; part of `server_configs`.
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) server_configs: ServerConfigs,
}

/// A rollout of a policy that is being built.
pub(super) struct PlannedRollout {
    settings: config::Rollout,
    trial: Arc<Trial>,
    /// The certificates that it replaces.
    pub(super) earlier: Arc<[Chain]>,
}

/// The certificates of the policy that is replaced.
#[derive(Clone, Copy)]
pub(super) struct ActiveCertificates<'a> {
    /// As in its files.
    pub(super) loaded: &'a [Chain],
    pub(super) rollout: Option<&'a Rollout>,
}

impl<'a> ActiveCertificates<'a> {
    /// Returns the rollout that is not over.
    fn running(self) -> Option<&'a Rollout> {
        self.rollout.filter(|rollout| rollout.trial.verdict() != Some(Verdict::Promote))
    }

    /// Returns the certificates that most clients get.
    pub(super) fn served(self) -> &'a [Chain] {
        self.running().map_or(self.loaded, |rollout| &rollout.earlier.chains[..])
    }

    /// Plans the rollout of `new` certificates. Returns none if they are the ones that clients get already, or if
    /// there is a reason not to wait, with a warning if nobody has chosen it.
    pub(super) fn plan(
        self,
        new: &[Chain],
        settings: Option<config::Rollout>,
        now: SystemTime,
    ) -> (Option<PlannedRollout>, Option<Warning>) {
        let Some(settings) = settings.filter(|_| !are_same(self.served(), new)) else {
            return (None, None);
        };
        let running = self.running();
        let replaced = self.served().iter().filter(|old| !is_among(new, old));
        let ends = replaced.map(|old| old.info.not_after).min_by_key(|end| end.timestamp());
        let deadline = if running.is_some() { now } else { now + settings.observe };
        if let Some(not_after) = ends.filter(|end| end.has_passed(deadline)) {
            return match running {
                Some(running) => {
                    running.trial.decide(Verdict::Promote, RolloutCause::EarlierExpired);
                    (None, None)
                }
                None => (None, Some(Warning::NoRollout { not_after })),
            };
        }
        let (trial, earlier) = match running {
            Some(running) if are_same(self.loaded, new) => {
                (Arc::clone(&running.trial), Arc::clone(&running.earlier.chains))
            }
            Some(running) => (Arc::new(Trial::new()), Arc::clone(&running.earlier.chains)),
            None => (Arc::new(Trial::new()), self.loaded.into()),
        };
        (Some(PlannedRollout { settings, trial, earlier }), None)
    }
}

impl PlannedRollout {
    /// Builds the rollout of a policy with `new` certificates.
    ///
    /// # Errors
    /// If rustls refuses a setting.
    pub(super) fn build(
        self,
        new: &[Chain],
        tls: &config::TlsConfig,
        client_verifier: Option<Arc<ClientVerifier>>,
        resumption: &Resumption,
    ) -> Result<Rollout, rustls::Error> {
        let Self { settings, trial, earlier: chains } = self;
        let resolver = Arc::new(resolver(tls, &chains, new));
        let earlier = EarlierCertificates {
            certificates: chains.iter().map(Chain::server_certificate).collect(),
            server_configs: ServerConfigs::new(tls, &resolver, client_verifier, resumption)?,
            resolver,
            chains,
        };
        Ok(Rollout { settings, state: trial.state(), trial, earlier })
    }
}

impl Rollout {
    /// Returns whether these certificates are the earlier ones.
    pub(super) fn replaces(&self, chains: &[Chain]) -> bool {
        are_same(&self.earlier.chains, chains)
    }

    /// Returns whether `other` is the same rollout in the same state.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.trial, &other.trial) && self.state == other.state
    }
}

/// Returns the resolver of one group, and marks the certificates that the other group has as well.
pub(super) fn resolver(tls: &config::TlsConfig, chains: &[Chain], others: &[Chain]) -> Resolver {
    let named = chains.iter().map(|chain| NamedCertificate {
        names: chain.info.names.clone(),
        key: Arc::clone(&chain.key),
        is_common: is_among(others, chain),
        is_accepted: AtomicBool::new(false),
    });
    Resolver::new(named.collect(), &provider::offering(tls).cipher_suites)
}

/// Returns whether two lists have the same certificates in the same order.
fn are_same(one: &[Chain], other: &[Chain]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.sends_same(other))
}

fn is_among(chains: &[Chain], chain: &Chain) -> bool {
    chains.iter().any(|one| one.sends_same(chain))
}
