//! The requirements on client certificates: CAs, CRLs, allow rules.
//!
//! **Not here.** The verification (`trust/certs/verifier.rs`), the file format (`config/file/client_auth.rs`).

use std::path::PathBuf;

use super::allow::Allow;
use crate::value::choices;

/// The requirements on client certificates, with the files that they are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTrust {
    /// A PEM bundle of CA certificates.
    pub ca: PathBuf,
    /// CRLs in PEM or DER. Empty: revocation is not checked.
    pub crls: Vec<PathBuf>,
    /// The use of the CRLs.
    pub crl_rules: CrlRules,
    /// Accepts certificates of clients past their notAfter.
    pub accept_expired: bool,
    /// Sends clients the names of the CAs.
    pub send_ca_names: bool,
    /// The rules that a verified client must match.
    pub allow: Allow,
}

impl ClientTrust {
    /// Returns the trust in every client of the CAs in this bundle.
    #[must_use]
    pub fn new(ca: PathBuf) -> Self {
        Self {
            ca,
            crls: Vec::new(),
            crl_rules: CrlRules::default(),
            accept_expired: false,
            send_ca_names: false,
            allow: Allow::default(),
        }
    }
}

/// The use of CRLs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrlRules {
    /// The certificates that are checked.
    pub check: CrlCheck,
    /// The treatment of a certificate whose status no CRL states.
    pub unknown: UnknownStatus,
    /// The treatment of a CRL past its nextUpdate.
    pub expired: ExpiredCrl,
}

/// The certificates of a client's chain that are checked with CRLs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CrlCheck {
    /// All of them.
    #[default]
    Chain,
    /// The client's own.
    Leaf,
}

choices!(CrlCheck { "chain" => Chain, or "leaf" => Leaf });

/// The treatment of a certificate whose status no CRL states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownStatus {
    /// It is refused.
    #[default]
    Deny,
    /// It is accepted.
    Allow,
}

choices!(UnknownStatus { "deny" => Deny, or "allow" => Allow });

/// The treatment of a CRL past its nextUpdate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpiredCrl {
    /// It is used, with a warning.
    #[default]
    Warn,
    /// It refuses the certificates that it covers.
    Deny,
}

choices!(ExpiredCrl { "warn" => Warn, or "deny" => Deny });
