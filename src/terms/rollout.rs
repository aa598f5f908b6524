//! The vocabulary of rollouts of server certificates: groups, outcomes, states, and what decides.
//!
//! **Not here.** The rollouts (`trust/rollout.rs`).

use super::closed_set::closed_set;

closed_set! {
    /// The group of a client in a rollout of a server certificate.
    pub enum RolloutGroup {
        /// It gets the earlier certificate.
        Old => "old",
        /// It gets the new certificate.
        New => "new",
    }
}

closed_set! {
    /// The outcome of a handshake in which the client was to get a certificate.
    pub enum ShownOutcome {
        /// The handshake was completed.
        Completed => "completed",
        /// The client ended it with a fatal alert after the certificate.
        Alert => "alert",
        /// The client closed or reset the connection after the certificate.
        Closed => "closed",
        /// The client was silent after the certificate until the deadline.
        Silent => "silent",
        /// No certificate of the group fits what the client supports.
        Incompatible => "incompatible",
    }
}

impl ShownOutcome {
    /// Returns whether the certificate can be the cause of a failure.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        match self {
            Self::Completed => false,
            Self::Alert | Self::Closed | Self::Silent | Self::Incompatible => true,
        }
    }
}

closed_set! {
    /// The state of a rollout that is not over.
    pub enum RolloutState {
        /// A share of the clients gets the new certificate.
        Observing => "observing",
        /// All clients get the earlier certificate, and the files have the new one.
        RolledBack => "rolled_back",
    }
}

closed_set! {
    /// The result of a rollout.
    pub enum RolloutResult {
        /// All clients get the new certificate.
        Promoted => "promoted",
        /// All clients get the earlier certificate again.
        RolledBack => "rolled_back",
        /// The files have the earlier certificate again.
        Withdrawn => "withdrawn",
        /// The files have another new certificate, which has its own rollout.
        Replaced => "replaced",
        /// The configuration no longer has a rollout.
        Disabled => "disabled",
    }
}

closed_set! {
    /// The cause of a decision.
    pub enum RolloutCause {
        /// The time of observation is over, and the new certificate is not worse.
        NotWorse => "not_worse",
        /// The new certificate is clearly worse.
        Worse => "worse",
        /// An operator decided.
        Operator => "operator",
        /// The earlier certificate has expired.
        EarlierExpired => "earlier_expired",
        /// The files or the configuration have changed.
        Changed => "changed",
    }
}
