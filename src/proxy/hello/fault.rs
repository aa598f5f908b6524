//! Faults of a ClientHello, and the alert that answers each.
//!
//! **Promises.** Each fault has the alert that the RFCs require for it.
//!
//! **Not here.** The checks that find a fault (`rules.rs`, `client_hello.rs`, `message.rs`).

use tokio_rustls::rustls::{AlertDescription, PeerIncompatible};

use crate::proxy::handshake::describe;
use crate::terms::labels::LooksLike;

/// A rule of the RFCs that a ClientHello breaks.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum HelloFault {
    #[error("{0} cannot be decoded")]
    Malformed(&'static str),
    #[error("the ClientHello has {0}")]
    Illegal(&'static str),
    #[error("the client sent {0}")]
    Unexpected(&'static str),
    #[error("the first bytes are not a TLS handshake record{looks}", looks = appearance(*.0))]
    NotTls(LooksLike),
    #[error(
        "the first bytes are a PROXY protocol header, and proxy_protocol.accept_from does not have the \
         peer's address"
    )]
    ProxyHeader,
    #[error("a ClientHello of more than {0} bytes")]
    TooLong(usize),
    #[error("a record of more than 16 KiB")]
    Overflow,
    #[error("the server_name is not a valid host name")]
    UnknownName,
    #[error("no route and no certificate has the server_name, and unknown_name is \"refuse\"")]
    NameNotServed,
    #[error(
        "the client fell back to TLS 1.2 (TLS_FALLBACK_SCSV), although TLS 1.3 is accepted here"
    )]
    Fallback,
    #[error("the ClientHello requests a renegotiation of a session that does not exist")]
    Renegotiation,
    #[error("{}", describe::incompatible(.0))]
    Incompatible(PeerIncompatible, AlertDescription),
}

impl HelloFault {
    pub(super) const fn version(what: PeerIncompatible) -> Self {
        Self::Incompatible(what, AlertDescription::ProtocolVersion)
    }

    pub(super) const fn missing(what: PeerIncompatible) -> Self {
        Self::Incompatible(what, AlertDescription::MissingExtension)
    }

    /// Returns the alert for this fault: RFC 8446 section 6.2, RFC 7507 section 3, RFC 5746 section 3.6,
    /// RFC 6066 section 3.
    pub(crate) const fn alert(&self) -> AlertDescription {
        match self {
            Self::Malformed(_) | Self::TooLong(_) => AlertDescription::DecodeError,
            Self::Illegal(_) => AlertDescription::IllegalParameter,
            Self::Unexpected(_) | Self::NotTls(_) | Self::ProxyHeader => {
                AlertDescription::UnexpectedMessage
            }
            Self::Overflow => AlertDescription::RecordOverflow,
            Self::UnknownName | Self::NameNotServed => AlertDescription::UnrecognisedName,
            Self::Fallback => AlertDescription::InappropriateFallback,
            Self::Renegotiation => AlertDescription::HandshakeFailure,
            Self::Incompatible(_, alert) => *alert,
        }
    }
}

/// Returns the protocol that the bytes look like, as a part of a sentence.
const fn appearance(looks_like: LooksLike) -> &'static str {
    match looks_like {
        LooksLike::Http => ", but HTTP",
        LooksLike::Mqtt => ", but MQTT without TLS",
        LooksLike::Modbus => ", but Modbus/TCP without TLS",
        LooksLike::ProxyHeader => ", but a PROXY protocol header",
        LooksLike::Sslv2 => ", but a ClientHello of SSL 2.0",
        LooksLike::Dtls => ", but DTLS, which is for UDP",
        LooksLike::Ssh => ", but SSH",
        LooksLike::Other => "",
    }
}
