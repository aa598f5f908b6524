//! Resumption without a full handshake: session tickets, and remembered sessions for devices whose TLS 1.2
//! has no tickets.
//!
//! **Promises.** Ticket keys are made in this process, never leave it, and rotate. They belong to one
//! policy: after a reload that changes the accepted clients, earlier tickets and sessions are declined and a
//! full handshake follows. A new certificate for the same names does not change the policy, so a renewal
//! invalidates no ticket. A ticket and a remembered session contain only those certificates of the client that
//! lead to a CA. If its state is still larger than [`MAX_STATE_BYTES`], it is not made, and the device makes a
//! full handshake next time.
//!
//! **Not here.** Shared ticket keys. The check of a resumed client's certificate (`proxy/handshake.rs`).

mod remembered;
mod state;

use std::sync::Arc;

use tokio_rustls::rustls::crypto::aws_lc_rs::Ticketer;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::server::{NoServerSessionStorage, ProducesTickets, StoresServerSessions};
use tokio_rustls::rustls::{Error, ServerConfig};

use self::remembered::RememberedSessions;
use self::state::State;
use super::certs::verifier::TrustedClients;
use super::digest::Digest;

/// Bytes of the state of a session at most.
const MAX_STATE_BYTES: usize = 16 << 10;

/// A state up to this size is not reduced: the device's chain has no unused certificates.
const USUAL_STATE_BYTES: usize = 2 << 10;

/// The resumption of one policy.
#[derive(Clone)]
pub(crate) struct Resumption {
    policy: Digest,
    store: Option<TicketStore>,
}

#[derive(Clone)]
struct TicketStore {
    ticketer: Arc<dyn ProducesTickets>,
    remembered: Arc<SlimSessions>,
}

impl Resumption {
    /// Returns the resumption of a policy: with the store of `previous` if its policy is the same, or else with
    /// new keys.
    ///
    /// # Errors
    /// If there is no randomness for new keys.
    pub(crate) fn for_policy(
        policy: Digest,
        enabled: bool,
        clients: Option<Arc<TrustedClients>>,
        previous: Option<&Self>,
    ) -> Result<Self, Error> {
        if !enabled {
            return Ok(Self { policy, store: None });
        }
        let kept = previous.filter(|p| p.policy == policy).and_then(|p| p.store.clone());
        let store = match kept {
            Some(store) => store,
            // rustls's tickets: AES-256-CBC with HMAC-SHA-256, a new key every 6 h, two keys in use.
            None => {
                let inner = Ticketer::new()?;
                let slim = Slim { clients };
                let sessions = SlimSessions { slim: slim.clone(), inner: Default::default() };
                TicketStore {
                    ticketer: Arc::new(SlimTickets { slim, inner }),
                    remembered: Arc::new(sessions),
                }
            }
        };
        Ok(Self { policy, store: Some(store) })
    }

    /// Configures rustls to resume from this store, and to send `tickets` after each TLS 1.3 handshake.
    pub(crate) fn install(&self, config: &mut ServerConfig, tickets: u8) {
        config.send_tls13_tickets = usize::from(tickets);
        match &self.store {
            Some(store) => {
                config.ticketer = Arc::clone(&store.ticketer);
                config.session_storage = Arc::clone(&store.remembered) as Arc<_>;
            }
            None => config.session_storage = Arc::new(NoServerSessionStorage {}),
        }
    }
}

/// Removes the certificates that lead to no CA from the state of a session.
#[derive(Clone, Debug)]
struct Slim {
    /// The clients that the policy accepts; none if certificates are not requested.
    clients: Option<Arc<TrustedClients>>,
}

impl Slim {
    /// Returns the reduced state; none if it is still too large.
    fn state(&self, state: &[u8]) -> Option<Vec<u8>> {
        let slim = if state.len() > USUAL_STATE_BYTES { self.without_strays(state) } else { None };
        let slim = slim.unwrap_or_else(|| state.to_vec());
        (slim.len() <= MAX_STATE_BYTES).then_some(slim)
    }

    fn without_strays(&self, state: &[u8]) -> Option<Vec<u8>> {
        let state = State::parse(state)?;
        let (leaf, rest) = state.certificates.split_first()?;
        // The path was verified in this handshake. Finding it again costs a signature check for each
        // certificate, and only for a chain that is larger than usual.
        let kept = self.clients.as_ref()?.path(leaf, rest, UnixTime::now()).ok()?;
        state.with(&kept.ders)
    }
}

/// Tickets with reduced states.
#[derive(Debug)]
struct SlimTickets {
    slim: Slim,
    inner: Arc<dyn ProducesTickets>,
}

impl ProducesTickets for SlimTickets {
    fn enabled(&self) -> bool {
        self.inner.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.inner.lifetime()
    }

    /// Returns none if the state is too large. rustls then sends no ticket in TLS 1.3, and an empty one in TLS
    /// 1.2, which means "no ticket" by RFC 5077 section 3.3.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.inner.encrypt(&self.slim.state(plain)?)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.inner.decrypt(cipher)
    }
}

/// Remembered sessions with reduced states.
#[derive(Debug)]
struct SlimSessions {
    slim: Slim,
    inner: RememberedSessions,
}

impl StoresServerSessions for SlimSessions {
    fn put(&self, id: Vec<u8>, state: Vec<u8>) -> bool {
        self.slim.state(&state).is_some_and(|state| self.inner.put(id, state))
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.inner.get(id)
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.inner.take(id)
    }

    fn can_cache(&self) -> bool {
        self.inner.can_cache()
    }
}

#[cfg(test)]
mod tests;
