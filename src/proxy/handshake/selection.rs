//! Selects the route of a connection by its ClientHello, and with it the policy of its handshake.
//!
//! In a rollout of the policy's certificates, the client's address selects those that it gets.
//!
//! **Promises.** The route is selected once, before rustls sees the ClientHello: the backend is always the one that
//! belongs to the policy with which the client was verified. A second ClientHello cannot select another one.
//!
//! **Not here.** The conditions of routes (`config/route.rs`).

use std::hash::Hash;
use std::sync::Arc;

use tokio_rustls::rustls::{ProtocolVersion, ServerConfig};

use crate::config::UnknownName;
use crate::proxy::hello::fault::HelloFault;
use crate::proxy::hello::message::records;
use crate::proxy::hello::{Hello, Round};
use crate::proxy::tls::{Opening, SentSizes};
use crate::terms::rollout::RolloutGroup;
use crate::trust::policy::Policy;
use crate::trust::provider::{Disguise, FlightSizes};
use crate::trust::resolver::Resolver;
use crate::trust::rollout::EarlierCertificates;
use crate::trust::rollout::trial::Assigned;
use crate::trust::snapshot::Snapshot;

/// A route, and the policy that belongs to it.
#[derive(Clone, Copy)]
pub(super) struct Selection<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// The place of the route; none for the listener's own backend.
    pub(super) route: Option<usize>,
    pub(super) policy: &'a Policy,
    /// A hash of the groups in the first ClientHello; known once it was opened.
    groups_hash: u64,
    /// The earlier certificates of a rollout, if the client gets them.
    earlier: Option<&'a EarlierCertificates>,
}

impl<'a> Selection<'a> {
    /// Selects the route for a ClientHello.
    pub(super) fn of(hello: &Hello, snapshot: &'a Snapshot) -> Self {
        let alpn = hello.select(&snapshot.listener.tls.alpn);
        let route = snapshot.route(hello.server_name.as_deref(), alpn);
        let policy = snapshot.policy_of(route);
        Self { snapshot, route, policy, groups_hash: 0, earlier: None }
    }

    /// Selects the certificates of a client by its address. Returns its place in a rollout, if there is one.
    pub(super) fn assign(&mut self, address: &impl Hash) -> Option<Assigned> {
        let rollout = self.policy.rollout.as_ref()?;
        let assigned = rollout.trial.assign(address, rollout.settings);
        self.earlier = match assigned.group {
            RolloutGroup::Old => Some(&rollout.earlier),
            RolloutGroup::New => None,
        };
        Some(assigned)
    }

    /// Returns the resolver that chooses the client's certificate.
    pub(super) fn resolver(&self) -> &'a Resolver {
        self.earlier.map_or(&self.policy.resolver, |earlier| &earlier.resolver)
    }

    /// Returns rustls's configuration for a client.
    pub(super) fn server_config(&self, hello: &Hello) -> Arc<ServerConfig> {
        let configs =
            self.earlier.map_or(&self.policy.server_configs, |earlier| &earlier.server_configs);
        Arc::clone(if hello.prefers_chacha20 {
            &configs.client_order
        } else {
            &configs.server_order
        })
    }

    /// Returns a ClientHello in the form that rustls gets, and frees its message.
    ///
    /// # Errors
    /// A rule that the message breaks, or a server name that is refused.
    pub(super) fn opening(&mut self, hello: &mut Hello) -> Result<Opening, HelloFault> {
        let opening = self.shown(hello, Round::First)?;
        self.groups_hash = hello.groups_hash;
        Ok(opening)
    }

    fn shown(&self, hello: &mut Hello, round: Round) -> Result<Opening, HelloFault> {
        let Policy { versions, server_configs, .. } = self.policy;
        let protocols = &self.snapshot.listener.tls.alpn;
        let (version, changes) =
            hello.compare(*versions, &server_configs.accepted, protocols, round)?;
        self.check_name(hello)?;
        let mut message = std::mem::take(&mut hello.message);
        let disguise = Disguise::put_on(&mut message, &changes);
        let mut records = records(&message);
        records.append(&mut hello.behind);
        let early_data = hello.early_data;
        let (plain_sizes, sealed_sizes) = self.flight_sizes(hello, version);
        Ok(Opening {
            records,
            version,
            disguise,
            early_data,
            plain_sizes,
            sealed_sizes,
            fragment_ack: hello.record_limit.ack(version),
        })
    }

    /// Returns the sizes of our records before and after encryption starts. The policy's limit divides flights between
    /// messages; a message is split only if the client asks for smaller records.
    fn flight_sizes(&self, hello: &Hello, version: ProtocolVersion) -> (FlightSizes, FlightSizes) {
        let (limit, joined) = (hello.record_limit, self.sent_sizes(hello, version).max);
        let sizes =
            |fragment: u16| FlightSizes { joined: joined.into(), fragment: fragment.into() };
        (sizes(limit.plain), sizes(limit.sealed(version)))
    }

    /// Returns the record sizes of the session that a ClientHello leads to.
    pub(super) fn sent_sizes(&self, hello: &Hello, version: ProtocolVersion) -> SentSizes {
        SentSizes {
            max: hello.record_limit.sealed(version).min(self.policy.max_record_bytes),
            starts_small: self.policy.small_first_records,
        }
    }

    /// Returns the answer to a HelloRetryRequest in the form that rustls gets.
    ///
    /// # Errors
    /// As [`Self::opening`], or the message selects another route: RFC 8446 section 4.1.2.
    pub(super) fn reopening(&self, second: &mut Hello) -> Result<Opening, HelloFault> {
        if Self::of(second, self.snapshot).route != self.route {
            return Err(HelloFault::Illegal("another server name or protocol than the first one"));
        }
        let opening = self.shown(second, Round::Second)?;
        // rustls would take a group from the new list.
        if second.groups_hash != self.groups_hash {
            return Err(HelloFault::Illegal("other groups than the first one"));
        }
        Ok(opening)
    }

    /// Checks that a ClientHello is not refused before rustls gets it.
    ///
    /// # Errors
    /// As [`Self::opening`].
    pub(super) fn check(&self, hello: &Hello) -> Result<(), HelloFault> {
        hello.check(self.policy.versions)?;
        self.check_name(hello)
    }

    fn check_name(&self, hello: &Hello) -> Result<(), HelloFault> {
        match self.snapshot.listener.unknown_name {
            UnknownName::Default => return Ok(()),
            UnknownName::Refuse => {}
        }
        let is_known = match &hello.server_name {
            Some(name) => self.snapshot.knows(name, self.route),
            None => hello.odd_name.as_deref().is_none_or(str::is_empty),
        };
        if is_known { Ok(()) } else { Err(HelloFault::NameNotServed) }
    }
}
