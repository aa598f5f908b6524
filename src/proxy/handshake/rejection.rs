//! The likely cause for which a device rejects the server certificate, from its alert, its ClientHello and the certificate.
//!
//! OpenSSL has one alert for a clock that is behind and for a wrong name, other stacks one for both directions of a clock, and
//! an expired certificate and a clock that is ahead have the same alert in all: the certificate distinguishes them.
//!
//! **Promises.** An alert that a stack sends for several causes, which nothing else distinguishes, is `unclear`.
//!
//! **Not here.** The alerts (`labels.rs`), the clock in a ClientHello (`hello/client_time.rs`).

use std::time::SystemTime;

use super::error::HandshakeError;
use super::selection::Selection;
use super::{labels, negotiated};
use crate::proxy::hello::Hello;
use crate::proxy::tls::RustlsHandshake;
use crate::terms::labels::{Alert, RejectionCause};
use crate::time::unix_seconds;
use crate::trust::x509::cert_info;

/// The facts that distinguish causes with the same alert. Times are Unix time.
#[derive(Clone, Copy)]
struct Evidence {
    not_before: i64,
    not_after: i64,
    now: i64,
    client_time: Option<i64>,
    /// The certificate has the name that the client has sent; none if it has sent no name.
    has_name: Option<bool>,
    /// The issuer of the certificate is sent, or other clients accept the certificate without it.
    sends_enough: bool,
    /// Other clients accept the certificate.
    is_accepted: bool,
    /// The client's TLS is OpenSSL's, which has different alerts for the two directions of a clock.
    is_openssl: bool,
}

/// Returns the likely cause for which a client rejects the server certificate. None if it has failed in another way.
pub(super) fn cause(
    error: &HandshakeError,
    hello: &Hello,
    selection: &Selection<'_>,
    handshake: &RustlsHandshake,
) -> Option<RejectionCause> {
    let HandshakeError::Alert(description) = error else { return None };
    let alert = labels::alert(*description);
    let name = hello.server_name.as_deref();
    // With the schemes it decides which certificate was sent.
    let cipher = negotiated::cipher(handshake);
    let fits = |key| cipher.is_none_or(|cipher| cipher.goes_with(key));
    let chain = selection.resolver().chain(name, &hello.schemes, fits)?;
    let certificates: Vec<_> =
        chain.certificates.iter().filter_map(|c| cert_info(c).ok()).collect();
    let leaf = certificates.first()?;
    Evidence {
        // An intermediate can expire first.
        not_before: certificates.iter().map(|c| c.not_before.timestamp()).max()?,
        not_after: certificates.iter().map(|c| c.not_after.timestamp()).min()?,
        now: unix_seconds(SystemTime::now()),
        client_time: hello.client_time.map(i64::from),
        has_name: chain.has_name,
        // Devices that accept it alone hold its issuer: no intermediate is missing.
        sends_enough: chain.certificates.len() > 1 || leaf.is_self_issued || chain.is_accepted,
        is_accepted: chain.is_accepted,
        is_openssl: hello.is_openssl,
    }
    .cause(alert)
}

impl Evidence {
    fn cause(&self, alert: Alert) -> Option<RejectionCause> {
        match alert {
            Alert::UnknownCa if self.sends_enough => Some(RejectionCause::UnknownCa),
            Alert::UnknownCa => Some(RejectionCause::IssuerNotSent),
            Alert::CertificateExpired if self.has_expired() => Some(RejectionCause::Expired),
            Alert::CertificateExpired => Some(self.clock()),
            Alert::BadCertificate | Alert::CertificateUnknown => Some(self.unspecified()),
            Alert::CertificateRevoked => Some(RejectionCause::Revoked),
            Alert::UnsupportedCertificate => Some(RejectionCause::Unsupported),
            Alert::HandshakeFailure
            | Alert::ProtocolVersion
            | Alert::InsufficientSecurity
            | Alert::IllegalParameter
            | Alert::DecodeError
            | Alert::DecryptError
            | Alert::BadRecordMac
            | Alert::UnexpectedMessage
            | Alert::AccessDenied
            | Alert::UnrecognizedName
            | Alert::NoApplicationProtocol
            | Alert::InternalError
            | Alert::UserCanceled
            | Alert::Other => None,
        }
    }

    /// Returns the fault of a clock for which a valid certificate is not.
    const fn clock(&self) -> RejectionCause {
        match self.client_time {
            Some(time) if time < self.not_before => RejectionCause::ClockBehind,
            Some(time) if time > self.not_after => RejectionCause::ClockAhead,
            None if self.is_openssl => RejectionCause::ClockAhead,
            // rustls and wolfSSL have one alert for both directions.
            Some(_) | None => RejectionCause::Clock,
        }
    }

    /// Returns the cause of an alert that stacks send for several.
    fn unspecified(&self) -> RejectionCause {
        match (self.client_time, self.has_name) {
            (Some(time), _) if time < self.not_before => RejectionCause::ClockBehind,
            _ if self.has_expired() => RejectionCause::Expired,
            (Some(time), _) if time > self.not_after => RejectionCause::ClockAhead,
            (_, Some(false)) => RejectionCause::Name,
            // Its other alerts name a missing CA and a clock that is ahead. A weak key or signature has the same one, but
            // then no client accepts the certificate.
            (None, Some(true)) if self.is_openssl && self.is_accepted => {
                RejectionCause::ClockBehind
            }
            (_, Some(true) | None) => RejectionCause::Unclear,
        }
    }

    const fn has_expired(&self) -> bool {
        self.now > self.not_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device with OpenSSL that sends a name of a valid certificate with its issuer.
    const OPENSSL: Evidence = Evidence {
        not_before: 1000,
        not_after: 3000,
        now: 2000,
        client_time: None,
        has_name: Some(true),
        sends_enough: true,
        is_accepted: true,
        is_openssl: true,
    };

    fn cause(evidence: Evidence, alert: Alert) -> &'static str {
        evidence.cause(alert).map_or("none", RejectionCause::as_str)
    }

    #[test]
    fn an_alert_with_one_cause_needs_no_evidence() {
        assert_eq!(cause(OPENSSL, Alert::UnknownCa), "unknown_ca");
        assert_eq!(cause(OPENSSL, Alert::CertificateRevoked), "revoked");
        assert_eq!(cause(OPENSSL, Alert::UnsupportedCertificate), "unsupported");
        assert_eq!(cause(OPENSSL, Alert::DecodeError), "none");
    }

    #[test]
    fn the_certificate_distinguishes_causes_with_one_alert() {
        assert_eq!(cause(OPENSSL, Alert::CertificateExpired), "clock_ahead");
        assert_eq!(cause(OPENSSL, Alert::BadCertificate), "clock_behind");
        let expired = Evidence { now: 3001, ..OPENSSL };
        assert_eq!(cause(expired, Alert::CertificateExpired), "expired");
        assert_eq!(cause(expired, Alert::BadCertificate), "expired");
        let other_name = Evidence { has_name: Some(false), ..OPENSSL };
        assert_eq!(cause(other_name, Alert::BadCertificate), "name");
        let alone = Evidence { sends_enough: false, ..OPENSSL };
        assert_eq!(cause(alone, Alert::UnknownCa), "issuer_not_sent");
    }

    #[test]
    fn the_clock_of_a_device_decides() {
        let at = |time| Evidence { client_time: Some(time), ..OPENSSL };
        assert_eq!(cause(at(999), Alert::CertificateUnknown), "clock_behind");
        assert_eq!(cause(at(3001), Alert::CertificateUnknown), "clock_ahead");
        assert_eq!(cause(at(2000), Alert::CertificateUnknown), "unclear");
        let both = Evidence { now: 3001, ..at(999) };
        assert_eq!(cause(both, Alert::BadCertificate), "clock_behind");
    }

    #[test]
    fn one_alert_of_a_stack_that_has_one_for_several_causes_is_unclear() {
        let go = Evidence { is_openssl: false, ..OPENSSL };
        assert_eq!(cause(go, Alert::BadCertificate), "unclear");
        let without_name = Evidence { has_name: None, ..OPENSSL };
        assert_eq!(cause(without_name, Alert::BadCertificate), "unclear");
        let weak = Evidence { is_accepted: false, ..OPENSSL };
        assert_eq!(cause(weak, Alert::BadCertificate), "unclear");
    }

    #[test]
    fn a_stack_with_one_alert_for_both_directions_of_a_clock_has_a_wrong_clock() {
        let wolfssl = Evidence { is_openssl: false, ..OPENSSL };
        assert_eq!(cause(wolfssl, Alert::CertificateExpired), "clock");
        let expired = Evidence { now: 3001, ..wolfssl };
        assert_eq!(cause(expired, Alert::CertificateExpired), "expired");
        let at = |time| Evidence { client_time: Some(time), ..wolfssl };
        assert_eq!(cause(at(999), Alert::CertificateExpired), "clock_behind");
        assert_eq!(cause(at(3001), Alert::CertificateExpired), "clock_ahead");
    }
}
