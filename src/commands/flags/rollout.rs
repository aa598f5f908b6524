//! The flags of a decision about a certificate rollout.
//!
//! **Not here.** The request (`commands/reload.rs`).

use clap::Args;

/// A decision about a certificate rollout.
#[derive(Clone, Debug, Args)]
pub struct RolloutArgs {
    /// Send the new certificate to all devices now, instead of a reload.
    #[arg(long, conflicts_with = "rollback")]
    pub promote: bool,
    /// Send the earlier certificate to all devices, instead of a reload.
    #[arg(long)]
    pub rollback: bool,
    /// Decide for this listener only.
    #[arg(long, value_name = "NAME")]
    pub listener: Option<String>,
}

impl RolloutArgs {
    /// Returns the keys and values of the request's query. Without a decision there are none.
    #[must_use]
    pub fn query(&self) -> Vec<(&'static str, String)> {
        let decision = match (self.promote, self.rollback) {
            (true, _) => Some("promote"),
            (false, true) => Some("rollback"),
            (false, false) => None,
        };
        let decision = decision.map(|decision| ("rollout", decision.to_owned()));
        let listener = self.listener.clone().map(|listener| ("listener", listener));
        decision.into_iter().chain(listener).collect()
    }
}
