//! The authentication of a session: the full handshake that all its resumptions go back to.
//!
//! **Promises.** A resumption never extends it: the age counts from the full handshake, whatever number of
//! resumptions lie between, and never exceeds the validity of the client's certificates.
//!
//! **Not here.** The place of these values in tickets (`tickets/saved_session.rs`), the verification
//! (`certs/verifier.rs`).

use std::sync::Arc;

use super::issuers::Issuers;
use crate::terms::labels::ResumptionOutcome;

/// Difference between the clocks of replicas that is accepted, in seconds. A ticket from a later time was made
/// by a host with a wrong clock, and would live too long.
const MAX_SKEW: u64 = 60;

/// The authentication of a session in a full handshake.
#[derive(Clone, Debug)]
pub(crate) struct Authentication {
    /// The time of the full handshake, in Unix time.
    pub(crate) at: u64,
    /// The last second in which all certificates of the client's path are valid, in Unix time.
    pub(crate) until: u64,
    /// The certificates between the client's own and the CA; none if there are none.
    pub(crate) issuers: Option<Arc<Issuers>>,
}

impl Authentication {
    /// Returns the authentication of a client that sends no certificate.
    pub(crate) const fn anonymous(now: u64) -> Self {
        Self { at: now, until: u64::MAX, issuers: None }
    }

    /// Returns for how many seconds the session may still be resumed: at least 1.
    ///
    /// # Errors
    /// The reason for which it may not be resumed.
    pub(crate) fn remaining(&self, max_age: u64, now: u64) -> Result<u64, ResumptionOutcome> {
        let end = self.at.saturating_add(max_age);
        if now >= self.until {
            return Err(ResumptionOutcome::Expired);
        }
        if now >= end || self.at > now.saturating_add(MAX_SKEW) {
            return Err(ResumptionOutcome::TooOld);
        }
        Ok(end.min(self.until) - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_the_age_or_the_certificate_whichever_is_first() {
        let of = |at, until| Authentication { at, until, issuers: None };
        assert_eq!(of(1000, u64::MAX).remaining(100, 1000), Ok(100));
        assert_eq!(of(1000, u64::MAX).remaining(100, 1099), Ok(1));
        assert_eq!(of(1000, u64::MAX).remaining(100, 1100), Err(ResumptionOutcome::TooOld));
        assert_eq!(of(1000, 1050).remaining(100, 1049), Ok(1));
        assert_eq!(of(1000, 1050).remaining(100, 1050), Err(ResumptionOutcome::Expired));
    }

    #[test]
    fn one_from_the_future_ends_at_once() {
        let at = 1000 + MAX_SKEW;
        let of = |at| Authentication { at, until: u64::MAX, issuers: None };
        assert_eq!(of(at).remaining(100, 1000), Ok(MAX_SKEW + 100));
        assert_eq!(of(at + 1).remaining(100, 1000), Err(ResumptionOutcome::TooOld));
    }
}
