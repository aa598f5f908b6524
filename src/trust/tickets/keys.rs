//! The keys that seal tickets.
//!
//! A [`MasterKey`] is shared by replicas or made by this process. The key of a policy is derived from it and
//! from the policy's digest with HKDF-SHA-256 (RFC 5869), so a ticket cannot be opened under another policy.
//!
//! Tickets are sealed with AES-256-GCM-SIV (RFC 8452) and random nonces. With AES-GCM, random nonces limit a key
//! to 2^32 tickets, since a repeated nonce reveals the authentication key (NIST SP 800-38D section 8.3). Replicas
//! that share a key for days can reach that number. A repeated nonce of AES-GCM-SIV reveals only whether two
//! tickets have the same content, and each nonce has its own encryption key.
//!
//! **Promises.** Keys are wiped on drop: master keys here, derived keys by AWS-LC (`OPENSSL_free` in mem.c).
//! No output contains a key. The key of a ticket is found by its name, without attempts to open the ticket.
//!
//! **Not here.** The file of shared keys (`key_file.rs`), rotation (`key_ring.rs`).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::trust::digest::Digest;

/// The bytes of a key's name.
const NAME_BYTES: usize = 16;

/// The bytes of a ticket before its content.
const HEADER_BYTES: usize = NAME_BYTES + NONCE_LEN;

/// The bytes by which a ticket is longer than its content.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + 16;

/// The salt of the derivation. Changes with the format of tickets, so that a process never opens a ticket in
/// another format.
const SALT: &[u8] = b"tlsidecar session ticket 1";

/// Secret random bytes from which ticket keys are derived.
#[derive(Clone)]
pub(crate) struct MasterKey(Arc<Zeroizing<Vec<u8>>>);

/// The ticket key of one policy.
pub(super) struct TicketKey {
    /// Derived, not secret: the first bytes of each ticket.
    name: [u8; NAME_BYTES],
    key: LessSafeKey,
}

impl MasterKey {
    /// Takes the bytes of a key.
    pub(super) fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Arc::new(bytes))
    }

    /// Makes a new key.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub(super) fn random() -> Result<Self, Unspecified> {
        let mut bytes = Zeroizing::new(vec![0; 32]);
        rand::fill(&mut bytes)?;
        Ok(Self::new(bytes))
    }

    /// Derives the ticket key of a policy.
    pub(super) fn of_policy(&self, policy: &Digest) -> TicketKey {
        const SHORT: &str = "HKDF-SHA-256 yields up to 8160 bytes";
        let secret = Salt::new(HKDF_SHA256, SALT).extract(&self.0);
        let info = [b"name", policy.as_bytes()];
        let mut name = [0; NAME_BYTES];
        let derived = secret.expand(&info, NameLength).and_then(|name_of| name_of.fill(&mut name));
        derived.expect(SHORT);
        let info = [&b"key"[..], policy.as_bytes()];
        let key = secret.expand(&info, &AES_256_GCM_SIV).expect(SHORT);
        TicketKey { name, key: LessSafeKey::new(UnboundKey::from(key)) }
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").finish_non_exhaustive()
    }
}

/// The length of a name, in the form that HKDF takes.
struct NameLength;

impl KeyType for NameLength {
    fn len(&self) -> usize {
        NAME_BYTES
    }
}

/// Returns the name of the key that sealed a ticket. Returns none if the bytes are no ticket.
pub(super) fn key_name(ticket: &[u8]) -> Option<&[u8]> {
    ticket.get(..NAME_BYTES).filter(|_| ticket.len() >= OVERHEAD_BYTES)
}

impl TicketKey {
    /// Returns whether this key has the name.
    pub(super) fn is_named(&self, name: &[u8]) -> bool {
        self.name == name
    }

    /// Seals the content of a ticket. Returns none if the system has no randomness.
    pub(super) fn seal(&self, content: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(content.len() + OVERHEAD_BYTES);
        ticket.extend_from_slice(&self.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(content);
        let (nonce, name) = (Nonce::assume_unique_for_key(nonce), Aad::from(self.name));
        let content = &mut ticket[HEADER_BYTES..];
        let tag = self.key.seal_in_place_separate_tag(nonce, name, content).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    /// Opens a ticket. Returns none if this key did not seal it.
    pub(super) fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (header, sealed) = ticket.split_at_checked(HEADER_BYTES)?;
        let nonce = Nonce::try_assume_unique_for_key(&header[NAME_BYTES..]).ok()?;
        let mut content = sealed.to_vec();
        let opened = self.key.open_in_place(nonce, Aad::from(self.name), &mut content).ok()?.len();
        content.truncate(opened);
        Some(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(byte: u8) -> MasterKey {
        MasterKey::new(Zeroizing::new(vec![byte; 80]))
    }

    fn policy(text: &str) -> Digest {
        Digest::of([text.as_bytes()])
    }

    #[test]
    fn a_ticket_is_opened_in_every_process_with_the_key_and_the_policy() {
        let ticket = master(1).of_policy(&policy("a")).seal(b"content").unwrap();
        let elsewhere = master(1).of_policy(&policy("a"));
        assert!(elsewhere.is_named(key_name(&ticket).unwrap()));
        assert_eq!(elsewhere.open(&ticket).unwrap(), b"content");
        assert_eq!(ticket.len(), b"content".len() + OVERHEAD_BYTES);
    }

    #[test]
    fn another_policy_or_key_has_another_name_and_opens_nothing() {
        let ticket = master(1).of_policy(&policy("a")).seal(b"content").unwrap();
        for other in [master(1).of_policy(&policy("b")), master(2).of_policy(&policy("a"))] {
            assert!(!other.is_named(key_name(&ticket).unwrap()));
            assert!(other.open(&ticket).is_none());
        }
    }

    #[test]
    fn a_changed_ticket_is_not_opened() {
        let key = master(1).of_policy(&policy("a"));
        let ticket = key.seal(b"content").unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            let named = key_name(&changed).is_some_and(|name| key.is_named(name));
            assert!(!named || key.open(&changed).is_none(), "byte {at}");
            assert!(key.open(&ticket[..at]).is_none(), "cut to {at}");
        }
    }

    #[test]
    fn the_same_content_is_sealed_differently_each_time() {
        let key = master(1).of_policy(&policy("a"));
        assert_ne!(key.seal(b"content"), key.seal(b"content"));
    }
}
