//! What keeps a device from a good connection: each problem with a stable label.
//!
//! **Promises.** Labels are added to, never renamed.
//!
//! **Not here.** Who finds them (`dial.rs`, `failure.rs`, `verdict.rs`).

use std::fmt;

/// What helps against a certificate that cannot be used at all.
pub(super) const ISSUE_ANEW: &str =
    "Issue it anew, as X.509 version 3 and for servers (serverAuth).";

/// One problem.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) kind: ProblemKind,
    /// What was seen.
    pub(super) says: String,
    /// What to look at.
    pub(super) advice: &'static str,
    /// The alert's name, if it was one.
    pub(super) alert: Option<String>,
}

impl Problem {
    pub(super) fn new(kind: ProblemKind, says: impl Into<String>, advice: &'static str) -> Self {
        Self { kind, says: says.into(), advice, alert: None }
    }
}

/// The closed set of problems that a probe finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The name does not lead to an address.
    NameUnresolved,
    /// Nobody listens.
    Refused,
    /// No answer to the connect.
    ConnectTimeout,
    /// Any other failure to connect.
    Unreachable,
    /// Connected, and no end of the handshake.
    HandshakeTimeout,
    /// What answers speaks something else.
    NotTls,
    /// The server closed the connection in the handshake.
    Closed,
    /// The server reset it, or the connection failed otherwise.
    Reset,
    /// The server ended the connection right after the handshake.
    ClosedAfterHandshake,
    /// The server sent a fatal alert.
    Alert,
    /// Nothing in common.
    Incompatible,
    /// Anything else that is wrong with the server's TLS.
    TlsError,
    /// The server asked for a client certificate, and never said whether what it got will do.
    ClientCertificateUnanswered,
    /// A certificate is past its notAfter.
    CertificateExpired,
    /// A certificate is before its notBefore.
    CertificateNotYetValid,
    /// A certificate will be, within the days that were given.
    CertificateExpiresSoon,
    /// The chain does not lead to a CA that is believed.
    UnknownCa,
    /// The certificate does not have the name.
    NameMismatch,
    /// The chain is not in order, and nothing says that it is good all the same.
    ChainOutOfOrder,
    /// A certificate is refused for any other cause.
    CertificateRejected,
}

impl ProblemKind {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::NameUnresolved,
        Self::Refused,
        Self::ConnectTimeout,
        Self::Unreachable,
        Self::HandshakeTimeout,
        Self::NotTls,
        Self::Closed,
        Self::Reset,
        Self::ClosedAfterHandshake,
        Self::Alert,
        Self::Incompatible,
        Self::TlsError,
        Self::ClientCertificateUnanswered,
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::CertificateExpiresSoon,
        Self::UnknownCa,
        Self::NameMismatch,
        Self::ChainOutOfOrder,
        Self::CertificateRejected,
    ];
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NameUnresolved => "name_unresolved",
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::Unreachable => "unreachable",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::NotTls => "not_tls",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::ClosedAfterHandshake => "closed_after_handshake",
            Self::Alert => "alert",
            Self::Incompatible => "incompatible",
            Self::TlsError => "tls_error",
            Self::ClientCertificateUnanswered => "client_certificate_unanswered",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::CertificateExpiresSoon => "certificate_expires_soon",
            Self::UnknownCa => "unknown_ca",
            Self::NameMismatch => "name_mismatch",
            Self::ChainOutOfOrder => "chain_out_of_order",
            Self::CertificateRejected => "certificate_rejected",
        })
    }
}
