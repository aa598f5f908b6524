//! Failures of a handshake, as labels of the metrics.
//!
//! **Promises.** rustls's enums are non-exhaustive: a value that is unknown here has the label `other`.
//!
//! **Not here.** Descriptions for operators (`describe.rs`), reasons (`handshake.rs`).

use tokio_rustls::rustls::{AlertDescription, PeerIncompatible};

use crate::terms::labels::{Alert, Incompatible};

/// Returns the label of a client's alert. Alerts that devices are known to send have their own label.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum and IANA's registry can grow")]
pub(super) const fn alert(description: AlertDescription) -> Alert {
    use AlertDescription as A;
    match description {
        A::UnknownCA => Alert::UnknownCa,
        A::BadCertificate => Alert::BadCertificate,
        A::CertificateExpired => Alert::CertificateExpired,
        A::CertificateUnknown => Alert::CertificateUnknown,
        A::CertificateRevoked => Alert::CertificateRevoked,
        A::UnsupportedCertificate => Alert::UnsupportedCertificate,
        A::HandshakeFailure => Alert::HandshakeFailure,
        A::ProtocolVersion => Alert::ProtocolVersion,
        A::InsufficientSecurity => Alert::InsufficientSecurity,
        A::IllegalParameter => Alert::IllegalParameter,
        A::DecodeError => Alert::DecodeError,
        A::DecryptError => Alert::DecryptError,
        A::BadRecordMac => Alert::BadRecordMac,
        A::UnexpectedMessage => Alert::UnexpectedMessage,
        A::AccessDenied => Alert::AccessDenied,
        A::UnrecognisedName => Alert::UnrecognizedName,
        A::NoApplicationProtocol => Alert::NoApplicationProtocol,
        A::InternalError => Alert::InternalError,
        A::UserCanceled => Alert::UserCanceled,
        _ => Alert::Other,
    }
}

/// Returns the label of a parameter that the client and this server do not have in common.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum is non-exhaustive")]
pub(super) const fn incompatible(what: &PeerIncompatible) -> Incompatible {
    use PeerIncompatible as P;
    match what {
        P::Tls12NotOffered
        | P::Tls12NotOfferedOrEnabled
        | P::SupportedVersionsExtensionRequired => Incompatible::Version,
        P::NoCipherSuitesInCommon => Incompatible::CipherSuite,
        P::NoKxGroupsInCommon | P::NamedGroupsExtensionRequired | P::KeyShareExtensionRequired => {
            Incompatible::Group
        }
        P::NoSignatureSchemesInCommon | P::SignatureAlgorithmsExtensionRequired => {
            Incompatible::Signature
        }
        _ => Incompatible::Other,
    }
}
