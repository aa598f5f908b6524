//! A refused client certificate: the reason under which it is counted, and its description for operators.
//!
//! **Promises.** A certificate that no rule admits has a reason and an alert that nothing else has.
//!
//! **Not here.** The checks (`trust/certs/verifier.rs`).

use std::fmt;
use std::time::Duration;

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{CertificateError, OtherError};

use crate::terms::reason::Reason;
use crate::trust::certs::verifier::{ChainError, NOT_ALLOWED};
use crate::trust::refused::{Hint, RefusedCertificate};
use crate::trust::x509::Timestamp;
use crate::trust::x509::path::PathError;
use crate::trust::x509::signature::algorithm_name;

/// The cause of a refusal, with the certificate.
#[derive(Debug)]
pub(crate) struct CertificateFault {
    pub(super) cause: CertificateError,
    pub(super) certificate: Option<Box<RefusedCertificate>>,
}

impl CertificateFault {
    /// Returns the reason for this fault.
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum is non-exhaustive")]
    pub(super) fn reason(&self) -> Reason {
        use CertificateError as E;
        match &self.cause {
            E::Expired | E::ExpiredContext { .. } => Reason::ClientCertExpired,
            E::NotValidYet | E::NotValidYetContext { .. } => Reason::ClientCertNotYetValid,
            E::UnknownIssuer => Reason::ClientCertUnknownCa,
            E::Revoked => Reason::ClientCertRevoked,
            E::UnknownRevocationStatus
            | E::ExpiredRevocationList
            | E::ExpiredRevocationListContext { .. } => Reason::ClientCertRevocationUnknown,
            E::BadSignature => Reason::ClientCertBadSignature,
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => Reason::ClientCertWrongUsage,
            cause if *cause == NOT_ALLOWED => Reason::ClientNotAllowed,
            cause => other_reason(cause),
        }
    }

    /// Returns whose certificate it was whose validity begins or ends at this time.
    fn whose(&self, time: Timestamp) -> &'static str {
        match &self.certificate {
            Some(certificate) if certificate.changes_at(time) => "the device's certificate",
            Some(_) => "a CA certificate of its chain",
            None => "it, or a CA certificate of its chain,",
        }
    }

    fn hint(&self) -> Hint {
        self.certificate.as_ref().map_or(Hint::None, |certificate| certificate.hint)
    }
}

/// Returns the reason for an error that is not one of rustls's.
fn other_reason(cause: &CertificateError) -> Reason {
    if let Some(error) = ChainError::within(cause) {
        return match error {
            ChainError::TooManyCertificates { .. } | ChainError::TooManyBytes { .. } => {
                Reason::ClientCertChainTooLarge
            }
            ChainError::RsaKey { .. } => Reason::ClientCertWeakKey,
            ChainError::Version1 | ChainError::Empty => Reason::ClientCertRejected,
        };
    }
    match PathError::within(cause) {
        Some(PathError::CaAsDevice) => Reason::ClientCertWrongUsage,
        Some(PathError::IssuerRsaKey { .. }) => Reason::ClientCertWeakKey,
        Some(PathError::NotCa | PathError::TooLong | PathError::NameNotAllowed) | None => {
            Reason::ClientCertRejected
        }
    }
}

impl fmt::Display for CertificateFault {
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum is non-exhaustive")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use CertificateError as E;
        let date = |time: &UnixTime| Timestamp::from_unix(time.as_secs());
        f.write_str(match &self.cause {
            E::ExpiredContext { time, not_after } => {
                let (date, ago) = (date(not_after), Rounded::between(not_after, time));
                let whose = self.whose(date);
                return write!(f, "{whose} expired on {date}, {ago} ago by this host's clock");
            }
            E::NotValidYetContext { time, not_before } => {
                let (date, left) = (date(not_before), Rounded::between(time, not_before));
                let whose = self.whose(date);
                return write!(f, "{whose} begins on {date}, {left} from now by this host's clock");
            }
            E::UnknownIssuer if self.hint() == Hint::IssuerHasOtherKey => {
                "a CA of client_ca has the name of its issuer and another key: that CA did not issue it"
            }
            E::UnknownIssuer => "it does not lead to a CA of client_ca",
            E::BadSignature if self.hint() == Hint::KeyNotHeld => {
                "the device signed the handshake with another key than that of its certificate"
            }
            E::BadSignature => {
                "a signature in its chain is invalid although the issuer has the named key: it is \
                 damaged or forged"
            }
            E::Revoked => "it, or a CA certificate of its chain, is revoked",
            E::ExpiredRevocationListContext { time, next_update } => {
                let (date, ago) = (date(next_update), Rounded::between(next_update, time));
                return write!(f, "a CRL that covers its chain was due for an update on {date}, {ago} ago");
            }
            E::UnknownRevocationStatus => "no CRL covers it, or a CA certificate of its chain",
            cause if *cause == NOT_ALLOWED => "it is valid, and no rule of [listener.allow] admits it",
            E::BadEncoding => "it is not well-formed X.509",
            E::UnhandledCriticalExtension => {
                "it, or a CA certificate of its chain, has a critical extension that is not supported"
            }
            E::InvalidPurpose => "its keyUsage does not permit it to sign (digitalSignature)",
            E::InvalidPurposeContext { .. } => {
                "its extKeyUsage, or that of a CA certificate of its chain, is not for TLS clients \
                 (clientAuth)"
            }
            E::UnsupportedSignatureAlgorithmContext { signature_algorithm_id: id, .. } => {
                let name = algorithm_name(id);
                return write!(f, "the signature algorithm {name} is not supported");
            }
            E::UnsupportedSignatureAlgorithmForPublicKeyContext {
                public_key_algorithm_id: id,
                ..
            } => {
                let name = algorithm_name(id);
                return write!(f, "its signature algorithm is not supported for {name} keys");
            }
            E::Other(OtherError(error)) => return error.fmt(f),
            // Its other values are for server certificates.
            other => return other.fmt(f),
        })
    }
}

/// A duration in its largest unit of which it has at least two.
struct Rounded(Duration);

impl Rounded {
    fn between(from: &UnixTime, to: &UnixTime) -> Self {
        Self(Duration::from_secs(to.as_secs().saturating_sub(from.as_secs())))
    }
}

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            seconds if seconds < 120 => write!(f, "{seconds} s"),
            seconds if seconds < 2 * 3600 => write!(f, "{} min", seconds / 60),
            seconds if seconds < 48 * 3600 => write!(f, "{} h", seconds / 3600),
            seconds => write!(f, "{} d", seconds / (24 * 3600)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_of_clocks_has_one_unit() {
        let text = |seconds| Rounded(Duration::from_secs(seconds)).to_string();
        let found = [0, 119, 120, 7199, 7200, 172_799, 172_800, 864_000].map(text);
        assert_eq!(found, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d", "10 d"]);
    }
}
