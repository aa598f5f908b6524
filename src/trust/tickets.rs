//! What lets a device come back without a full handshake: session tickets, and sessions that are
//! remembered for devices whose TLS 1.2 has no tickets.
//!
//! **Promises.** Keys are made in this process, never leave it, and rotate. They are bound to the
//! policy under which they were handed out: where a reload changes who is believed, what was handed
//! out before is declined and a full handshake follows. A new certificate for the same names is not
//! another policy, so a renewal costs no device its ticket.
//!
//! **Not here.** Shared ticket keys. Whether a resumed client's certificate still holds
//! (`proxy/handshake.rs`).

use std::sync::Arc;

use tokio_rustls::rustls::crypto::aws_lc_rs::Ticketer;
use tokio_rustls::rustls::server::{
    NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions,
};
use tokio_rustls::rustls::{Error, ServerConfig};

use super::digest::Digest;

/// Sessions remembered for devices without ticket support. A session takes some 200 bytes and the
/// client's chain, so the bound is about 1 MiB for devices with certificates of usual size.
const REMEMBERED_SESSIONS: usize = 1024;

/// One policy's means to resume.
#[derive(Clone)]
pub(crate) struct Resumption {
    policy: Digest,
    means: Option<Means>,
}

#[derive(Clone)]
struct Means {
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl Resumption {
    /// The means for a policy: those of `previous`, if its policy was the same, or else new ones.
    ///
    /// # Errors
    /// If there is no randomness for new keys.
    pub(crate) fn for_policy(
        policy: Digest,
        enabled: bool,
        previous: Option<&Self>,
    ) -> Result<Self, Error> {
        if !enabled {
            return Ok(Self { policy, means: None });
        }
        let kept = previous.filter(|p| p.policy == policy).and_then(|p| p.means.clone());
        let means = match kept {
            Some(means) => means,
            // rustls's own: AES-256-CBC with HMAC-SHA-256, a new key every 6 h, two in use.
            None => Means {
                ticketer: Ticketer::new()?,
                sessions: ServerSessionMemoryCache::new(REMEMBERED_SESSIONS),
            },
        };
        Ok(Self { policy, means: Some(means) })
    }

    /// Makes `config` resume by these means, and hand out `tickets` at each TLS 1.3 handshake.
    pub(crate) fn install(&self, config: &mut ServerConfig, tickets: u8) {
        config.send_tls13_tickets = usize::from(tickets);
        match &self.means {
            Some(means) => {
                config.ticketer = Arc::clone(&means.ticketer);
                config.session_storage = Arc::clone(&means.sessions);
            }
            None => config.session_storage = Arc::new(NoServerSessionStorage {}),
        }
    }
}
