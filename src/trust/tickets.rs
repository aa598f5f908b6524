//! What lets a device come back without a full handshake: session tickets, and sessions that are
//! remembered for devices whose TLS 1.2 has no tickets.
//!
//! **Promises.** Keys are made in this process, never leave it, and rotate. They are bound to the
//! policy under which they were handed out: where a reload changes who is believed, what was handed
//! out before is declined and a full handshake follows. A new certificate for the same names is not
//! another policy, so a renewal costs no device its ticket. Of the certificates that a client has
//! sent, a ticket and a session have those that lead to a CA and no others; one that is larger than
//! [`MAX_STATE_BYTES`] all the same is not made, and a full handshake follows.
//!
//! **Not here.** Shared ticket keys. Whether a resumed client's certificate still holds
//! (`proxy/handshake.rs`).

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

/// Bytes of a session's state, at most.
const MAX_STATE_BYTES: usize = 16 << 10;

/// A state up to here is taken as it is: one of a device whose chain has no more than it needs.
const USUAL_STATE_BYTES: usize = 2 << 10;

/// One policy's store to resume.
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
    /// The store for a policy: those of `previous`, if its policy was the same, or else new ones.
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
            // rustls's own: AES-256-CBC with HMAC-SHA-256, a new key every 6 h, two in use.
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

    /// Makes `config` resume by these store, and hand out `tickets` at each TLS 1.3 handshake.
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

/// Drops from a session's state the certificates that lead nowhere.
#[derive(Clone, Debug)]
struct Slim {
    /// Whom the policy believes; none where no certificates are asked for.
    clients: Option<Arc<TrustedClients>>,
}

impl Slim {
    /// The state with nothing but what is needed; none if it is too large all the same.
    fn state(&self, state: &[u8]) -> Option<Vec<u8>> {
        let slim = if state.len() > USUAL_STATE_BYTES { self.without_strays(state) } else { None };
        let slim = slim.unwrap_or_else(|| state.to_vec());
        (slim.len() <= MAX_STATE_BYTES).then_some(slim)
    }

    fn without_strays(&self, state: &[u8]) -> Option<Vec<u8>> {
        let state = State::parse(state)?;
        let (leaf, rest) = state.certificates.split_first()?;
        // They have been verified a moment ago. Once more costs a signature check for each that is
        // kept, and that only where there is more than usual.
        let kept = self.clients.as_ref()?.path(leaf, rest, UnixTime::now()).ok()?;
        state.with(&kept.ders)
    }
}

/// Tickets of slim states.
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

    /// With none, rustls sends no ticket in TLS 1.3, and in TLS 1.2 an empty one: RFC 5077 section
    /// 3.3 has that for "no ticket".
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.inner.encrypt(&self.slim.state(plain)?)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.inner.decrypt(cipher)
    }
}

/// Remembered sessions, of slim states.
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
