//! Resumption without a full handshake: session tickets, and remembered sessions for devices whose TLS 1.2
//! has no tickets.
//!
//! The values that a ticket carries from one handshake to the next pass through the [`HandshakeScope`]: rustls calls
//! this module within the scope of a handshake. A configuration for each connection, with its own ticketer,
//! would have to be cloned in every handshake.
//!
//! **Promises.** Ticket keys belong to one policy: after a reload that changes the accepted clients, earlier
//! tickets and sessions are declined and a full handshake follows. A new certificate for the same names does
//! not change the policy, so a renewal invalidates no ticket. A session is resumed until `max_session_age` after
//! its full handshake, or until a certificate of the client's path expires; the lifetime that a ticket states
//! ends no later. Of a client's certificates, a ticket and a remembered session contain only its own.
//!
//! **Not here.** The check of a resumed client's certificate (`proxy/handshake.rs`).

pub(crate) mod key_file;
mod key_ring;
pub(crate) mod keys;
mod remembered;
mod saved_session;
mod state;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::server::{NoServerSessionStorage, ProducesTickets, StoresServerSessions};
use tokio_rustls::rustls::{Error, ProtocolVersion, ServerConfig};
use zeroize::Zeroizing;

use self::key_ring::KeyRing;
use self::keys::MasterKey;
use self::remembered::RememberedSessions;
use self::saved_session::Decoded;
use super::digest::Digest;
use super::issuers::KnownIssuers;
use super::provider::HandshakeScope;
use crate::terms::labels::ResumptionOutcome;

/// The longest ticket that is opened. A longer one is none of ours.
const MAX_TICKET_BYTES: usize = saved_session::MAX_BYTES + keys::OVERHEAD_BYTES;

/// Tickets of a ClientHello that are opened. Clients offer one or two; a ClientHello has room for a thousand.
const MAX_TICKETS: usize = 8;

/// The longest lifetime of a ticket, in seconds: RFC 8446 section 4.6.1.
const MAX_LIFETIME: u64 = 7 * 24 * 3600;

/// The resumption of one policy.
#[derive(Clone)]
pub(crate) struct Resumption {
    /// The policy that a ticket must not outlive.
    policy: Digest,
    /// The digest of the file of ticket keys; none with keys of this process.
    key_file: Option<Digest>,
    sessions: Option<Arc<SavedSessions>>,
}

/// The parts of a policy that its resumption depends on.
pub(crate) struct ResumptionPolicy<'a> {
    /// The policy that a ticket must not outlive.
    pub(crate) digest: Digest,
    /// The number of TLS 1.3 tickets after each handshake. 0: no resumption.
    pub(crate) tickets: u8,
    pub(crate) max_age: Duration,
    /// The keys of the file, with their digest. None: keys of this process.
    pub(crate) keys: Option<(Digest, &'a [MasterKey])>,
    pub(crate) issuers: &'a Arc<KnownIssuers>,
}

impl Resumption {
    /// Returns the resumption of a policy, with keys and remembered sessions of `previous` as far as they are of
    /// the same policy.
    ///
    /// # Errors
    /// If there is no randomness for new keys.
    pub(crate) fn new(
        policy: &ResumptionPolicy<'_>,
        previous: Option<&Self>,
    ) -> Result<Self, Error> {
        let (digest, key_file) = (policy.digest, policy.keys.map(|(digest, _)| digest));
        if policy.tickets == 0 {
            return Ok(Self { policy: digest, key_file, sessions: None });
        }
        let previous = previous.filter(|previous| previous.policy == digest);
        let kept = previous.and_then(|previous| previous.sessions.as_ref());
        let kept_keys = kept.filter(|_| previous.is_some_and(|old| old.key_file == key_file));
        let keys = match kept_keys {
            Some(kept) => Arc::clone(&kept.keys),
            None => Arc::new(new_keys(policy)?),
        };
        let sessions = SavedSessions {
            keys,
            remembered: kept.map(|kept| Arc::clone(&kept.remembered)).unwrap_or_default(),
            issuers: Arc::clone(policy.issuers),
            max_age: policy.max_age.as_secs(),
        };
        Ok(Self { policy: digest, key_file, sessions: Some(Arc::new(sessions)) })
    }

    /// Returns the sessions; none if resumption is off.
    pub(super) const fn sessions(&self) -> Option<&Arc<SavedSessions>> {
        self.sessions.as_ref()
    }

    /// Removes the remembered sessions that may no longer be resumed.
    pub(crate) fn remove_ended(&self) {
        if let Some(sessions) = self.sessions() {
            sessions.remembered.remove_ended(now());
        }
    }

    /// Configures rustls to resume these sessions, and to send `tickets` after each TLS 1.3 handshake.
    pub(crate) fn install(&self, config: &mut ServerConfig, tickets: u8) {
        config.send_tls13_tickets = usize::from(tickets);
        match self.sessions() {
            Some(sessions) => {
                config.ticketer = Arc::clone(sessions) as Arc<_>;
                config.session_storage = Arc::clone(sessions) as Arc<_>;
            }
            None => config.session_storage = Arc::new(NoServerSessionStorage {}),
        }
    }
}

fn new_keys(policy: &ResumptionPolicy<'_>) -> Result<KeyRing, Error> {
    let shared = policy.keys.and_then(|(_, masters)| KeyRing::shared(masters, &policy.digest));
    let own = || KeyRing::own(policy.digest, now());
    shared.map_or_else(own, Ok).map_err(|_| Error::FailedToGetRandomBytes)
}

fn now() -> u64 {
    UnixTime::now().as_secs()
}

/// The tickets and the remembered sessions of one policy.
pub(super) struct SavedSessions {
    keys: Arc<KeyRing>,
    remembered: Arc<RememberedSessions>,
    issuers: Arc<KnownIssuers>,
    /// Seconds after a full handshake for which its session is resumed.
    max_age: u64,
}

impl SavedSessions {
    /// Encodes a session. Returns also for how many seconds it may be resumed; none if it may not.
    fn save(&self, state: &[u8], now: u64) -> Option<(Zeroizing<Vec<u8>>, u64)> {
        let known = HandshakeScope::with_entered(|scope| {
            scope.resumed.clone().or_else(|| scope.verified.clone())
        });
        let (saved, authentication) = saved_session::encode(state, known.flatten(), now)?;
        Some((saved, authentication.remaining(self.max_age, now).ok()?))
    }

    /// Decodes a session.
    ///
    /// # Errors
    /// The reason for which it is not resumed.
    pub(super) fn restore(&self, saved: &[u8], now: u64) -> Result<Restored, ResumptionOutcome> {
        let Decoded { state, saved, authentication } = saved_session::decode(saved, &self.issuers)?;
        let ends = now.saturating_add(authentication.remaining(self.max_age, now)?);
        HandshakeScope::with_entered(|scope| scope.resumed = Some(authentication));
        Ok(Restored { state, saved, ends })
    }

    /// Seals the state of a session into a ticket.
    pub(super) fn seal(&self, state: &[u8], now: u64) -> Option<Vec<u8>> {
        let (saved, remaining) = self.save(state, now)?;
        let ticket = self.keys.seal(&saved, now)?;
        let key_remaining = ticket.key_ends.map_or(u64::MAX, |end| end.saturating_sub(now));
        let lifetime = remaining.min(key_remaining).min(MAX_LIFETIME);
        HandshakeScope::with_entered(|scope| {
            scope.ticket_lifetime = u32::try_from(lifetime).ok();
            scope.tickets_sealed = scope.tickets_sealed.saturating_add(1);
        });
        Some(ticket.bytes)
    }

    /// Opens a ticket, and returns the state of the session.
    ///
    /// # Errors
    /// The reason for which it is declined.
    pub(super) fn open(&self, ticket: &[u8], now: u64) -> Result<Vec<u8>, ResumptionOutcome> {
        if ticket.len() > MAX_TICKET_BYTES {
            return Err(ResumptionOutcome::UnknownKey);
        }
        let opened = self.keys.open(ticket, now)?;
        let restored = self.restore(&opened.content, now)?;
        let is_renewed = opened.replaced_key_ends.is_some_and(|end| restored.is_renewed(end, now));
        HandshakeScope::with_entered(|scope| {
            scope.keeps_ticket = scope.version == Some(ProtocolVersion::TLSv1_2) && !is_renewed;
        });
        Ok(restored.state)
    }

    /// Looks a remembered session up with `find`, and returns its state.
    fn recall(
        &self,
        find: impl FnOnce(&RememberedSessions) -> Option<Zeroizing<Vec<u8>>>,
    ) -> Option<Vec<u8>> {
        let found = find(&self.remembered).ok_or(ResumptionOutcome::UnknownSession);
        noted(found.and_then(|saved| Ok(self.restore(&saved, now())?.state)))
    }
}

/// A session that can be resumed.
pub(super) struct Restored {
    /// rustls's state, with the client's certificates.
    state: Vec<u8>,
    /// The time at which it was saved, in Unix time.
    saved: u64,
    /// The time from which on it is not resumed, in Unix time.
    ends: u64,
}

impl Restored {
    /// Returns whether the client gets a new ticket in TLS 1.2, where it uses a ticket until it gets another one: half
    /// of the ticket's life has passed, and a new one can be used for longer. `key_ends` is the end of a key that was
    /// replaced.
    fn is_renewed(&self, key_ends: u64, now: u64) -> bool {
        let half = key_ends.saturating_sub(self.saved) / 2;
        key_ends < self.ends && now.saturating_sub(self.saved) >= half
    }
}

/// Notes the outcome of a resumption in the scope of the handshake.
fn noted(result: Result<Vec<u8>, ResumptionOutcome>) -> Option<Vec<u8>> {
    let outcome = result.as_ref().err().copied().unwrap_or(ResumptionOutcome::Resumed);
    HandshakeScope::with_entered(|scope| scope.resumption = Some(outcome));
    result.ok()
}

/// Returns whether the client has offered more tickets than are opened.
fn are_too_many() -> bool {
    let offered = HandshakeScope::with_entered(|scope| {
        scope.tickets_offered += 1;
        scope.tickets_offered
    });
    offered.is_some_and(|offered| offered > MAX_TICKETS)
}

impl fmt::Debug for SavedSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedSessions").finish_non_exhaustive()
    }
}

impl ProducesTickets for SavedSessions {
    /// Returns false if the client keeps its ticket: rustls asks before it announces a new one in TLS 1.2.
    fn enabled(&self) -> bool {
        !HandshakeScope::with_entered(|scope| scope.keeps_ticket).unwrap_or_default()
    }

    /// Returns the lifetime of the ticket that was sealed last in this handshake: rustls calls it after
    /// [`Self::encrypt`]. 0 states no lifetime in TLS 1.2, and is only used where no ticket was sealed.
    fn lifetime(&self) -> u32 {
        HandshakeScope::with_entered(|scope| scope.ticket_lifetime).flatten().unwrap_or(0)
    }

    /// Returns none if the session cannot be saved. rustls then sends no ticket in TLS 1.3, and an empty one in
    /// TLS 1.2, which means "no ticket" by RFC 5077 section 3.3.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        if are_too_many() {
            return None;
        }
        noted(self.open(cipher, now()))
    }
}

impl StoresServerSessions for SavedSessions {
    fn put(&self, id: Vec<u8>, state: Vec<u8>) -> bool {
        let (state, now) = (Zeroizing::new(state), now());
        let Some((saved, remaining)) = self.save(&state, now) else { return false };
        self.remembered.put(id, &saved, now.saturating_add(remaining));
        true
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.recall(|remembered| remembered.get(id))
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.recall(|remembered| remembered.take(id))
    }

    /// Returns true. rustls asks once it makes a full handshake in TLS 1.2, also if it has opened a ticket which it
    /// then does not use: the client gets another one.
    fn can_cache(&self) -> bool {
        HandshakeScope::with_entered(|scope| scope.keeps_ticket = false);
        true
    }
}

#[cfg(test)]
mod tests;
