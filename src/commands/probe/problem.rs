//! The problems that a probe reports, each with a stable label.
//!
//! **Promises.** Labels are added to, never renamed.
//!
//! **Not here.** Their detection (`dial.rs`, `failure.rs`, `verdict.rs`).

use std::fmt;

/// The advice for an unusable certificate.
pub(super) const REISSUE: &str =
    "Issue the certificate again, as X.509 version 3 and for servers (serverAuth).";

/// A problem.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) kind: ProblemKind,
    /// The observation.
    pub(super) message: String,
    /// The advice.
    pub(super) advice: &'static str,
    /// The name of the alert, if there was one.
    pub(super) alert: Option<String>,
}

impl Problem {
    pub(super) fn new(kind: ProblemKind, message: impl Into<String>, advice: &'static str) -> Self {
        Self { kind, message: message.into(), advice, alert: None }
    }
}

/// The closed set of problems that a probe finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The name does not resolve.
    NameUnresolved,
    /// No program listens on the address.
    Refused,
    /// The connect timed out.
    ConnectTimeout,
    /// The connect failed for another reason.
    Unreachable,
    /// The handshake timed out.
    HandshakeTimeout,
    /// The answer is not TLS.
    NotTls,
    /// The server closed the connection during the handshake.
    Closed,
    /// The server reset the connection, or the connection failed otherwise.
    Reset,
    /// The server closed the connection right after the handshake.
    ClosedAfterHandshake,
    /// The server sent a fatal alert.
    Alert,
    /// The server supports no TLS version, suite or extension that was offered.
    Incompatible,
    /// The server's TLS has another fault.
    TlsError,
    /// The server requested a client certificate, and did not show whether it accepts the one it got, if any.
    ClientCertificateUnanswered,
    /// The server sent no data and did not answer close_notify, and `--expect-answer` is set.
    BackendSilent,
    /// A certificate is past its notAfter.
    CertificateExpired,
    /// A certificate is before its notBefore.
    CertificateNotYetValid,
    /// A certificate ends within `--min-days`.
    CertificateExpiresSoon,
    /// The chain does not lead to a trusted CA.
    UnknownCa,
    /// The certificate does not contain the name.
    NameMismatch,
    /// The chain is out of order, and was not verified otherwise.
    ChainOutOfOrder,
    /// A certificate is invalid for another reason.
    CertificateRejected,
}

impl ProblemKind {
    /// All problems.
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
        Self::BackendSilent,
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
            Self::BackendSilent => "backend_silent",
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
