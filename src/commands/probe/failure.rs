//! The failures of a handshake, from the client's side.
//!
//! **Promises.** Each failure becomes one [`Problem`] with an observation and an advice.
//!
//! **Not here.** The problems of certificates (`verdict.rs`).

use std::io;
use std::time::Duration;

use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, InvalidMessage, PeerIncompatible,
};

use super::printable;
use super::problem::{Problem, ProblemKind, REISSUE};
use crate::proxy::handshake::describe;

/// A failure of a handshake.
#[derive(Debug)]
pub(super) enum Failure {
    /// The handshake did not end within the limit.
    Timeout {
        limit: Duration,
        /// True if the server has sent bytes.
        answered: bool,
    },
    /// The server closed the connection.
    Closed {
        /// True if the server has sent bytes before.
        answered: bool,
    },
    /// The socket failed.
    Io(io::Error),
    /// The server closed the connection right after the handshake, with close_notify or without.
    Ended,
    /// The bytes of the server are not TLS.
    NotTls(Vec<u8>),
    /// The server sends our bytes back.
    Echo,
    Alert(AlertDescription),
    Incompatible(PeerIncompatible),
    /// A message after the ServerHello exceeds the limit of rustls. Only certificates can be that large.
    TooLarge,
    Tls(rustls::Error),
}

/// The state of the client that changes the meaning of a failure.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClientContext {
    /// The server requested a certificate, and the client sent none.
    pub(super) sent_no_certificate: bool,
    /// The client offers TLS 1.2 and 1.3.
    pub(super) offers_all: bool,
}

impl Failure {
    /// Returns the failure for an error of the handshake and the first bytes of both directions.
    pub(super) fn of(error: io::Error, to_server: &[u8], from_server: &[u8]) -> Self {
        if let Some(failure) = Self::foreign(to_server, from_server) {
            return failure;
        }
        match of_rustls(&error) {
            Some(rustls::Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge))
                if is_server_hello(from_server) =>
            {
                Self::TooLarge
            }
            Some(inner) => Self::of_tls(inner.clone()),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Closed { answered: !from_server.is_empty() }
            }
            None => Self::Io(error),
        }
    }

    /// Returns the failure for an error after the handshake.
    pub(super) fn after(error: &io::Error) -> Self {
        of_rustls(error).map_or(Self::Ended, |inner| Self::of_tls(inner.clone()))
    }

    /// Returns the failure for a handshake that did not end within `limit`.
    pub(super) fn timeout(limit: Duration, to_server: &[u8], from_server: &[u8]) -> Self {
        let timeout = Self::Timeout { limit, answered: !from_server.is_empty() };
        Self::foreign(to_server, from_server).unwrap_or(timeout)
    }

    /// Returns the failure for an error of rustls.
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum is non-exhaustive")]
    fn of_tls(error: rustls::Error) -> Self {
        match error {
            rustls::Error::AlertReceived(alert) => Self::Alert(alert),
            rustls::Error::PeerIncompatible(what) => Self::Incompatible(what),
            other => Self::Tls(other),
        }
    }

    /// Returns a failure if the first bytes of the server are not a TLS record (RFC 8446 section 5.1), or are ours.
    fn foreign(to_server: &[u8], from_server: &[u8]) -> Option<Self> {
        let is_record = match from_server {
            [] => true,
            [kind] => (20..=23).contains(kind),
            [kind, major, ..] => (20..=23).contains(kind) && *major == 3,
        };
        if from_server.len() > 5 && to_server.starts_with(from_server) {
            return Some(Self::Echo);
        }
        (!is_record).then(|| Self::NotTls(from_server.to_vec()))
    }

    /// Returns true if the server does not support the TLS version that was offered.
    pub(super) fn is_of_version(&self) -> bool {
        matches!(
            self,
            Self::Alert(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure)
                | Self::Incompatible(
                    PeerIncompatible::ServerDoesNotSupportTls12Or13
                        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                )
        )
    }

    /// Returns true if the server rejects the client certificate, or the lack of one.
    pub(super) fn is_of_certificate(&self, client: ClientContext) -> bool {
        use AlertDescription as A;
        let Self::Alert(alert) = self else { return false };
        let is_of_certificate = matches!(
            alert,
            A::AccessDenied
                | A::BadCertificate
                | A::CertificateExpired
                | A::CertificateRequired
                | A::CertificateRevoked
                | A::CertificateUnknown
                | A::UnknownCA
                | A::UnsupportedCertificate
        );
        is_of_certificate || *alert == A::HandshakeFailure && client.sent_no_certificate
    }

    /// Returns the failure as a problem.
    pub(super) fn problem(&self, client: ClientContext) -> Problem {
        match self {
            Self::Timeout { limit, answered: false } => Problem::new(
                ProblemKind::HandshakeTimeout,
                format!("connected, but the server sent nothing within {limit:?}"),
                "The server waits for another protocol, hangs, or its backlog is full: a sidecar at \
                 its limit of connections does not accept new ones. If small answers come through, for example \
                 with --tls 1.2 or from a server with a smaller certificate, large packets are dropped on the \
                 path: check the MTU.",
            ),
            Self::Timeout { limit, answered: true } => Problem::new(
                ProblemKind::HandshakeTimeout,
                format!("the handshake started, and did not end within {limit:?}"),
                "The machine is busy, or large packets are dropped on the path: check the MTU.",
            ),
            Self::Closed { answered } => {
                Problem::new(ProblemKind::Closed, closed(*answered), CLOSED)
            }
            Self::Io(error) if error.kind() == io::ErrorKind::ConnectionReset => Problem::new(
                ProblemKind::Reset,
                "the server reset the connection during the handshake",
                CLOSED,
            ),
            Self::Io(error) => {
                Problem::new(ProblemKind::Reset, format!("the connection failed: {error}"), CLOSED)
            }
            Self::Ended => Problem::new(
                ProblemKind::ClosedAfterHandshake,
                "the server closed the connection right after the handshake",
                "Check that the legacy server runs, and that a route matches this name and protocol. \
                 The sidecar's log has the reason.",
            ),
            Self::NotTls(bytes) => not_tls(bytes),
            Self::Echo => Problem::new(
                ProblemKind::NotTls,
                "not TLS: the server sends our bytes back, like an echo server",
                "The port is not a TLS port, perhaps the legacy server's own.",
            ),
            Self::Alert(alert) => self::alert(*alert, client),
            Self::Incompatible(what) => incompatible(what, client),
            Self::Tls(rustls::Error::InvalidCertificate(error))
                if *error != CertificateError::BadSignature =>
            {
                let error = printable::text(&error.to_string());
                Problem::new(
                    ProblemKind::CertificateRejected,
                    format!("the certificate cannot be used in a handshake: {error}"),
                    REISSUE,
                )
            }
            Self::TooLarge => Problem::new(
                ProblemKind::TlsError,
                "the server's certificates are larger than 64 KiB, which TLS libraries reject",
                "Use fewer names in the certificate, or fewer certificates in the server's file.",
            ),
            Self::Tls(error) => Problem::new(
                ProblemKind::TlsError,
                format!("the server's TLS is faulty: {}", printable::text(&error.to_string())),
                "A middlebox on the path may change the bytes, or the server's key may not belong to its \
                 certificate.",
            ),
        }
    }
}

/// Returns true if the bytes start with a ServerHello of a plausible length (RFC 8446 sections 4 and 5.1).
fn is_server_hello(bytes: &[u8]) -> bool {
    matches!(bytes, [22, 3, _, _, _, 2, 0, ..])
}

fn of_rustls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

const CLOSED: &str = "A plain-text server does this after a ClientHello, and so do firewalls, load balancers \
                      without a backend, and servers that reject a client without an alert.";

fn closed(answered: bool) -> &'static str {
    if answered {
        "the server closed the connection during the handshake"
    } else {
        "the server closed the connection after our ClientHello, without an answer"
    }
}

/// Names the protocol of the first bytes, if it is known.
fn not_tls(bytes: &[u8]) -> Problem {
    let looks_like = match bytes {
        [b'H', b'T', b'T', b'P', b'/', ..] => " (HTTP)",
        [b'S', b'S', b'H', b'-', ..] => " (SSH)",
        [b'2', b'2', b'0', ..] => " (SMTP or FTP; the probe does not support STARTTLS)",
        [b'+', b'O', b'K', ..] => " (POP3)",
        [b'*', b' ', b'O', b'K', ..] => " (IMAP)",
        _ => "",
    };
    Problem::new(
        ProblemKind::NotTls,
        format!("not TLS{looks_like}: the server sent \"{}\"", printable::bytes(bytes)),
        "Check that this is the TLS port, and not the legacy server's own.",
    )
}

fn incompatible(what: &PeerIncompatible, client: ClientContext) -> Problem {
    use PeerIncompatible as P;
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum is non-exhaustive")]
    let message = match what {
        P::ServerDoesNotSupportTls12Or13 => {
            "the server supports neither TLS 1.2 nor 1.3, but an older version".to_owned()
        }
        P::ServerTlsVersionIsDisabledByOurConfig => {
            "the server chose a TLS version that was not offered".to_owned()
        }
        P::ExtendedMasterSecretExtensionRequired => {
            "the server does not support the extended master secret (RFC 7627)".to_owned()
        }
        other => format!("the server is incompatible: {other:?}"),
    };
    let advice = if client.offers_all {
        "Update the server's TLS."
    } else {
        "Update the server's TLS, or offer another version with --tls."
    };
    Problem::new(ProblemKind::Incompatible, message, advice)
}

fn alert(alert: AlertDescription, client: ClientContext) -> Problem {
    let name = describe::alert(alert);
    let (meaning, advice) = meaning(alert, client);
    let message = format!("the server sent the fatal alert {name}: {meaning}");
    let problem = Problem::new(ProblemKind::Alert, message, advice);
    Problem { alert: Some(name.into_owned()), ..problem }
}

/// Returns the meaning of a server's alert for a client (RFC 8446 section 6.2, RFC 5246 section 7.2.2), and the
/// advice.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum and IANA's registry can grow")]
fn meaning(alert: AlertDescription, client: ClientContext) -> (&'static str, &'static str) {
    use AlertDescription as A;
    const SEND: &str = "Send one with --cert and --key.";
    match alert {
        A::CertificateRequired => ("it requires a client certificate, and none was sent", SEND),
        A::HandshakeFailure | A::BadCertificate if client.sent_no_certificate => {
            ("it requested a client certificate, none was sent, and it seems to be required", SEND)
        }
        A::HandshakeFailure | A::InsufficientSecurity => (
            "it accepts no cipher suite, group or signature scheme that was offered",
            "Read the server's log. The server may support only insecure algorithms, or have no certificate for those that were offered.",
        ),
        A::ProtocolVersion if client.offers_all => (
            "it accepts neither TLS 1.2 nor 1.3",
            "Update the server's TLS. TLS 1.1 and older are insecure, and the probe does not offer them.",
        ),
        A::ProtocolVersion => (
            "it does not accept the TLS version that was offered",
            "Offer another one with --tls, or check the lowest and highest version of the server.",
        ),
        A::UnknownCA => (
            "it does not know the CA of the client certificate",
            "Add the device's CA to the server's client_ca, or let the device send its intermediates.",
        ),
        A::CertificateExpired => (
            "the client certificate is not valid now",
            "Renew the device's certificate, and check both clocks.",
        ),
        A::CertificateRevoked => {
            ("the client certificate is revoked", "Issue another certificate for the device.")
        }
        A::BadCertificate | A::CertificateUnknown | A::UnsupportedCertificate => (
            "it does not accept the client certificate",
            "Read the server's log: a bad signature, a wrong purpose, or no CRL of the issuer.",
        ),
        A::AccessDenied => (
            "the client certificate is valid, but not allowed",
            "Check the access rules of the server.",
        ),
        A::UnrecognisedName => (
            "it has no certificate for the name in the SNI",
            "Send another name with --name, or add the name to the server.",
        ),
        A::NoApplicationProtocol => (
            "it supports none of the ALPN protocols that were offered",
            "Offer others with --alpn, or none.",
        ),
        A::InternalError => ("an internal error", "Read the server's log."),
        A::CloseNotify | A::UserCanceled => {
            ("it closes the connection", "The server may be stopping. Read its log.")
        }
        A::UnexpectedMessage
        | A::BadRecordMac
        | A::RecordOverflow
        | A::IllegalParameter
        | A::DecodeError
        | A::DecryptError => (
            "it does not understand our messages, or they were changed on the path",
            "Check for middleboxes on the path, and read the server's log. The server may not be a TLS server.",
        ),
        _ => ("see RFC 8446 section 6.2", "Read the server's log."),
    }
}
