//! Descriptions of handshake failures for operators.
//!
//! **Promises.** Alerts have the names of the RFCs.
//!
//! **Not here.** The reason under which a failure is counted (`handshake.rs`).

use std::borrow::Cow;

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{AlertDescription, CertificateError, OtherError, PeerIncompatible};

use crate::trust::certs::verifier::NOT_ALLOWED;
use crate::trust::x509::Timestamp;
use crate::trust::x509::signature::algorithm_name;

/// Describes a parameter that the client and this server do not have in common.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum is non-exhaustive")]
pub(crate) fn incompatible(what: &PeerIncompatible) -> Cow<'static, str> {
    use PeerIncompatible as P;
    Cow::Borrowed(match what {
        P::Tls12NotOffered => "the client offers no TLS 1.2 or newer",
        P::Tls12NotOfferedOrEnabled => "the client offers no TLS version that is accepted here",
        P::SupportedVersionsExtensionRequired => "the client offers no TLS 1.3",
        P::NoCipherSuitesInCommon => "no cipher suite in common that fits the server certificates",
        P::NoKxGroupsInCommon => "no key-exchange group in common",
        P::NamedGroupsExtensionRequired => "the client offers no key-exchange group",
        P::KeyShareExtensionRequired => "the client offers no key share",
        P::NoSignatureSchemesInCommon => "no signature scheme in common",
        P::SignatureAlgorithmsExtensionRequired => "the client offers no signature scheme",
        P::NoEcPointFormatsInCommon
        | P::EcPointsExtensionRequired
        | P::UncompressedEcPointsRequired => "no format of elliptic-curve points in common",
        P::NullCompressionRequired => "the client requires compression",
        P::ExtendedMasterSecretExtensionRequired => "the client offers no extended master secret",
        P::IncorrectCertificateTypeExtension => "no certificate type in common",
        // rustls's other values are for clients and for QUIC.
        other => return Cow::Owned(format!("nothing in common: {other:?}")),
    })
}

/// Describes the reason for refusing a client's certificate.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum is non-exhaustive")]
pub(super) fn certificate(error: &CertificateError) -> Cow<'static, str> {
    use CertificateError as E;
    let date = |time: &UnixTime| Timestamp::from_unix(time.as_secs());
    Cow::Borrowed(match error {
        E::ExpiredContext { not_after, .. } => {
            return format!("it, or a CA certificate of its chain, expired on {}", date(not_after))
                .into();
        }
        E::NotValidYetContext { not_before, .. } => {
            let date = date(not_before);
            return format!("it, or a CA certificate of its chain, is not valid before {date}")
                .into();
        }
        E::UnknownIssuer => "it does not lead to a CA of client_ca",
        E::BadSignature => "a signature was not made by the key of the CA with the issuer's name",
        E::Revoked => "it, or a CA certificate of its chain, is revoked",
        E::UnknownRevocationStatus => "no CRL covers it, or a CA certificate of its chain",
        _ if *error == NOT_ALLOWED => "it is valid, and no rule of [listener.allow] admits it",
        E::BadEncoding => "it is not well-formed X.509",
        E::UnhandledCriticalExtension => {
            "it, or a CA certificate of its chain, has a critical extension that is not supported"
        }
        E::InvalidPurposeContext { .. } => {
            "its extKeyUsage, or that of a CA certificate of its chain, is not for TLS clients (clientAuth)"
        }
        E::UnsupportedSignatureAlgorithmContext { signature_algorithm_id: id, .. } => {
            let name = algorithm_name(id);
            return format!("the signature algorithm {name} is not supported").into();
        }
        E::UnsupportedSignatureAlgorithmForPublicKeyContext {
            public_key_algorithm_id: id, ..
        } => {
            let name = algorithm_name(id);
            return format!("its signature algorithm is not supported for {name} keys").into();
        }
        E::Other(OtherError(error)) => return error.to_string().into(),
        // rustls's other values are for server certificates.
        other => return other.to_string().into(),
    })
}

/// Returns the name of an alert: RFC 8446 section 6, RFC 5246 section 7.2, RFC 7507, RFC 9849.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum and IANA's registry can grow")]
pub(crate) fn alert(description: AlertDescription) -> Cow<'static, str> {
    use AlertDescription as A;
    Cow::Borrowed(match description {
        A::CloseNotify => "close_notify",
        A::UnexpectedMessage => "unexpected_message",
        A::BadRecordMac => "bad_record_mac",
        A::DecryptionFailed => "decryption_failed",
        A::RecordOverflow => "record_overflow",
        A::DecompressionFailure => "decompression_failure",
        A::HandshakeFailure => "handshake_failure",
        A::NoCertificate => "no_certificate",
        A::BadCertificate => "bad_certificate",
        A::UnsupportedCertificate => "unsupported_certificate",
        A::CertificateRevoked => "certificate_revoked",
        A::CertificateExpired => "certificate_expired",
        A::CertificateUnknown => "certificate_unknown",
        A::IllegalParameter => "illegal_parameter",
        A::UnknownCA => "unknown_ca",
        A::AccessDenied => "access_denied",
        A::DecodeError => "decode_error",
        A::DecryptError => "decrypt_error",
        A::ExportRestriction => "export_restriction",
        A::ProtocolVersion => "protocol_version",
        A::InsufficientSecurity => "insufficient_security",
        A::InternalError => "internal_error",
        A::InappropriateFallback => "inappropriate_fallback",
        A::UserCanceled => "user_canceled",
        A::NoRenegotiation => "no_renegotiation",
        A::MissingExtension => "missing_extension",
        A::UnsupportedExtension => "unsupported_extension",
        A::CertificateUnobtainable => "certificate_unobtainable",
        A::UnrecognisedName => "unrecognized_name",
        A::BadCertificateStatusResponse => "bad_certificate_status_response",
        A::BadCertificateHashValue => "bad_certificate_hash_value",
        A::UnknownPSKIdentity => "unknown_psk_identity",
        A::CertificateRequired => "certificate_required",
        A::NoApplicationProtocol => "no_application_protocol",
        A::EncryptedClientHelloRequired => "ech_required",
        other => return Cow::Owned(u8::from(other).to_string()),
    })
}
