//! Access for the fuzz targets to tickets, to the file of their keys, and to allow rules.
//!
//! Built only with the feature `fuzz`. Not a stable interface: it changes with the parts.
//!
//! **Promises.** The proxy does the same with the same input. Input is declined by a return value: a panic is
//! a finding.
//!
//! **Not here.** The target and its assertions (`fuzz/`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::pki_types::CertificateDer;

use super::digest::Digest;
use super::issuers::{IssuersId, KnownIssuers};
use super::tickets::{Resumption, ResumptionPolicy, SavedSessions, key_file};
use crate::config::file::parse_allow_file;
use crate::terms::rule_pattern::{TextPattern, UriPattern, folded, text_matches, uri_matches};

/// The time of all calls, in Unix time.
const NOW: u64 = 1_800_000_000;

/// The tickets of one policy, with keys of this process.
pub struct FuzzTickets {
    sessions: Arc<SavedSessions>,
    known: IssuersId,
}

impl FuzzTickets {
    /// Makes new keys. One issuer is known.
    ///
    /// # Panics
    /// If the system has no randomness.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes keys")]
    pub fn new() -> Self {
        let issuers = Arc::new(KnownIssuers::default());
        let issuer = CertificateDer::from(&b"issuer"[..]);
        let known = issuers.store(&[&issuer]).expect("the path is not empty").id;
        let policy = ResumptionPolicy {
            digest: Digest::of([&b"policy"[..]]),
            tickets: 1,
            max_age: Duration::from_secs(3600),
            keys: None,
            issuers: &issuers,
        };
        let resumption = Resumption::new(&policy, None).expect("there is randomness");
        let sessions = resumption.sessions().expect("resumption is on");
        Self { sessions: Arc::clone(sessions), known }
    }

    /// Opens the bytes as a ticket. Returns whether it was accepted.
    #[must_use]
    pub fn opens(&self, ticket: &[u8]) -> bool {
        self.sessions.open(ticket, NOW).is_ok()
    }

    /// Seals a state of rustls into a ticket; none if it has another layout, or a certificate.
    #[must_use]
    pub fn seal(&self, state: &[u8]) -> Option<Vec<u8>> {
        self.sessions.seal(state, NOW)
    }

    /// Decodes the content of a ticket. `after` follows the times and the ID of the known issuers.
    pub fn decode(&self, whole: &[u8], after: &[u8]) {
        let _declined = self.sessions.restore(whole, NOW);
        let times = [NOW.to_be_bytes(), u64::MAX.to_be_bytes()].concat();
        let content = [&times[..], &[1], &self.known, after].concat();
        let _declined = self.sessions.restore(&content, NOW);
    }
}

/// Reads a file of ticket keys. Returns the number of its keys.
///
/// # Errors
/// The number of faults.
pub fn ticket_keys(file: &[u8]) -> Result<usize, usize> {
    key_file::parse(file).map(|keys| keys.len()).map_err(|faults| faults.len())
}

/// Reads a file of allow rules. Returns the number of its rules.
///
/// # Errors
/// The number of problems.
pub fn allow_rules(file: &str) -> Result<usize, usize> {
    let rules = parse_allow_file(file, Path::new("allow.toml"));
    rules.map(|rules| rules.count()).map_err(|error| error.lines().count())
}

/// Compares a common name with a pattern; none if the pattern is not valid.
#[must_use]
pub fn text_rule(pattern: &str, name: &str) -> Option<bool> {
    let pattern = pattern.parse::<TextPattern>().ok()?;
    Some(text_matches(pattern.as_str(), &folded(name)))
}

/// Compares a URI with a pattern; none if the pattern is not valid.
#[must_use]
pub fn uri_rule(pattern: &str, name: &str) -> Option<bool> {
    let pattern = pattern.parse::<UriPattern>().ok()?;
    Some(uri_matches(pattern.as_str(), name))
}
