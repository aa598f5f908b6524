//! The guards of server certificates: the treatment of a renewed certificate that some devices may not accept.
//!
//! **Not here.** The comparison with the current certificate (`trust/certs/guards.rs`).

use crate::value::choices;

/// The treatment of a new certificate by its difference from the current one of the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guards {
    /// The key has another type, curve or size.
    pub key_type: GuardAction,
    /// A certificate of the chain has another issuer.
    pub issuer: GuardAction,
    /// A name is missing.
    pub names: GuardAction,
    /// The notBefore is in the future.
    pub not_yet_valid: GuardAction,
    /// An intermediate CA is missing.
    pub intermediate: GuardAction,
    /// The certificates need more bytes in a handshake.
    pub flight: GuardAction,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            key_type: GuardAction::Warn,
            issuer: GuardAction::Warn,
            names: GuardAction::Warn,
            // Every device with a clock would reject it.
            not_yet_valid: GuardAction::Refuse,
            intermediate: GuardAction::Warn,
            flight: GuardAction::Warn,
        }
    }
}

/// The treatment of a new certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardAction {
    /// It is used.
    Ignore,
    /// It is used, with a warning.
    Warn,
    /// The current one stays, as with an invalid file.
    Refuse,
}

choices!(GuardAction { "ignore" => Ignore, "warn" => Warn, or "refuse" => Refuse });
