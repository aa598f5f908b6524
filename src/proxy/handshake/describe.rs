//! Descriptions of handshake failures for operators.
//!
//! **Promises.** Alerts have the names of the RFCs.
//!
//! **Not here.** The reason under which a failure is counted (`handshake.rs`), refused certificates (`certificate.rs`).

use std::borrow::Cow;

use tokio_rustls::rustls::{AlertDescription, PeerIncompatible};

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
