//! What ends a handshake, as labels of the metrics.
//!
//! **Not here.** The same in words (`words.rs`), the reason (`handshake.rs`).

use tokio_rustls::rustls::{AlertDescription, PeerIncompatible};

use crate::terms::labels::{Alert, Incompatible};

/// A client's alert: those are told apart that devices are known to have.
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
        // rustls's list is open, and so is the one of the RFCs.
        _ => Alert::Other,
    }
}

/// What a client and we do not have in common.
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
        // rustls's list is open.
        _ => Incompatible::Other,
    }
}
