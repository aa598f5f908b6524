//! Why a handshake failed, from the client's side, in words.
//!
//! **Promises.** Each failure is one [`ProblemKind`] of problem, says what was seen, and what to look at.
//!
//! **Not here.** What is wrong with certificates (`verdict.rs`).

use std::io;
use std::time::Duration;

use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, InvalidMessage, PeerIncompatible,
};

use super::printable;
use super::problem::{ISSUE_ANEW, Problem, ProblemKind};
use crate::proxy::handshake::words;

/// Why a handshake failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Connected, and no end of the handshake in this time. Whether anything was heard.
    Silence {
        patience: Duration,
        heard: bool,
    },
    /// The server closed the connection. Whether anything was heard before.
    Closed {
        heard: bool,
    },
    /// The socket failed.
    Io(io::Error),
    /// The server ended the connection right after the handshake, in order or not.
    Ended,
    /// What was heard is not TLS.
    NotTls(Vec<u8>),
    /// What was heard is what we have said.
    Echo,
    Alert(AlertDescription),
    Incompatible(PeerIncompatible),
    /// After a ServerHello, a message that is larger than any: no other than the certificates comes near.
    TooLarge,
    Tls(rustls::Error),
}

/// What the client has done, as far as a failure means another thing by it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClientContext {
    /// The server has asked for a certificate and got none.
    pub(super) unshown: bool,
    /// It offers all the versions that it has.
    pub(super) offers_all: bool,
}

impl Failure {
    /// Why the handshake ended with an error, given the first bytes of both directions.
    pub(super) fn of(error: io::Error, said: &[u8], heard: &[u8]) -> Self {
        if let Some(failure) = Self::foreign(said, heard) {
            return failure;
        }
        match of_rustls(&error) {
            Some(rustls::Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge))
                if is_server_hello(heard) =>
            {
                Self::TooLarge
            }
            Some(inner) => Self::of_tls(inner.clone()),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Closed { heard: !heard.is_empty() }
            }
            None => Self::Io(error),
        }
    }

    /// What an error after the handshake is.
    pub(super) fn after(error: &io::Error) -> Self {
        of_rustls(error).map_or(Self::Ended, |inner| Self::of_tls(inner.clone()))
    }

    /// The same where the time was over.
    pub(super) fn silence(patience: Duration, said: &[u8], heard: &[u8]) -> Self {
        let silence = Self::Silence { patience, heard: !heard.is_empty() };
        Self::foreign(said, heard).unwrap_or(silence)
    }

    /// What rustls has found.
    fn of_tls(error: rustls::Error) -> Self {
        match error {
            rustls::Error::AlertReceived(alert) => Self::Alert(alert),
            rustls::Error::PeerIncompatible(what) => Self::Incompatible(what),
            other => Self::Tls(other),
        }
    }

    /// Bytes that are no TLS record (RFC 8446 section 5.1), or our own.
    fn foreign(said: &[u8], heard: &[u8]) -> Option<Self> {
        let is_record = match heard {
            [] => true,
            [kind] => (20..=23).contains(kind),
            [kind, major, ..] => (20..=23).contains(kind) && *major == 3,
        };
        if heard.len() > 5 && said.starts_with(heard) {
            return Some(Self::Echo);
        }
        (!is_record).then(|| Self::NotTls(heard.to_vec()))
    }

    /// Whether it tells that the server does not speak the version that was offered.
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

    /// Whether it tells that the server refuses the client's certificate, or that there was none.
    pub(super) fn is_of_certificate(&self, client: ClientContext) -> bool {
        use AlertDescription as A;
        match self {
            Self::Alert(A::HandshakeFailure) => client.unshown,
            Self::Alert(alert) => matches!(
                alert,
                A::AccessDenied
                    | A::BadCertificate
                    | A::CertificateExpired
                    | A::CertificateRequired
                    | A::CertificateRevoked
                    | A::CertificateUnknown
                    | A::UnknownCA
                    | A::UnsupportedCertificate
            ),
            _ => false,
        }
    }

    /// The failure in words.
    pub(super) fn problem(&self, client: ClientContext) -> Problem {
        match self {
            Self::Silence { patience, heard: false } => Problem::new(
                ProblemKind::HandshakeTimeout,
                format!("connected, but the server said nothing within {patience:?}"),
                "It waits for something else than TLS, hangs, or its backlog is full: a sidecar at \
                 its limit of connections leaves new ones waiting.",
            ),
            Self::Silence { patience, heard: true } => Problem::new(
                ProblemKind::HandshakeTimeout,
                format!("the handshake began, and was not over within {patience:?}"),
                "The machine is busy, or something on the way drops large packets: look at the MTU.",
            ),
            Self::Closed { heard } => Problem::new(ProblemKind::Closed, closed(*heard), CLOSED),
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
                "the server ended the connection right after the handshake",
                "Is the legacy server behind it up, and is there a route for this name and protocol? \
                 The sidecar's log has the reason.",
            ),
            Self::NotTls(heard) => not_tls(heard),
            Self::Echo => Problem::new(
                ProblemKind::NotTls,
                "not TLS: what we say comes back, as from an echo server",
                "This is a plain port, perhaps the legacy server's own.",
            ),
            Self::Alert(alert) => self::alert(*alert, client),
            Self::Incompatible(what) => incompatible(what, client),
            Self::Tls(rustls::Error::InvalidCertificate(error))
                if *error != CertificateError::BadSignature =>
            {
                let says = printable::text(&error.to_string());
                Problem::new(
                    ProblemKind::CertificateRejected,
                    format!("the certificate cannot be used in a handshake: {says}"),
                    ISSUE_ANEW,
                )
            }
            Self::TooLarge => Problem::new(
                ProblemKind::TlsError,
                "the server's certificates are larger than 64 KiB, which TLS libraries refuse",
                "Fewer names in the certificate, or fewer certificates in the server's file.",
            ),
            Self::Tls(error) => Problem::new(
                ProblemKind::TlsError,
                format!("the server's TLS is at fault: {}", printable::text(&error.to_string())),
                "Something on the way may change the bytes; or the server's TLS is faulty, or its key \
                 does not belong to its certificate.",
            ),
        }
    }
}

/// Whether what was heard begins with a ServerHello whose length can be: RFC 8446 sections 4 and 5.1.
fn is_server_hello(heard: &[u8]) -> bool {
    matches!(heard, [22, 3, _, _, _, 2, 0, ..])
}

fn of_rustls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

const CLOSED: &str = "A plain server does this upon a ClientHello; so do firewalls, a load balancer \
                      without a backend, and a server that refuses without saying so by an alert.";

fn closed(heard: bool) -> &'static str {
    if heard {
        "the server closed the connection in the middle of the handshake"
    } else {
        "the server closed the connection upon our ClientHello, without a word"
    }
}

/// Beginnings that tell what speaks there. 4 is the type of a packet of MQTT.
fn not_tls(heard: &[u8]) -> Problem {
    let looks_like = match heard {
        [b'H', b'T', b'T', b'P', b'/', ..] => " (HTTP)",
        [b'S', b'S', b'H', b'-', ..] => " (SSH)",
        [b'2', b'2', b'0', ..] => " (SMTP or FTP, which may offer STARTTLS; a probe does not)",
        [b'+', b'O', b'K', ..] => " (POP3)",
        [b'*', b' ', b'O', b'K', ..] => " (IMAP)",
        _ => "",
    };
    Problem::new(
        ProblemKind::NotTls,
        format!("not TLS{looks_like}: the server said \"{}\"", printable::bytes(heard)),
        "Is this the port for TLS, and not the legacy server's own?",
    )
}

fn incompatible(what: &PeerIncompatible, client: ClientContext) -> Problem {
    use PeerIncompatible as P;
    let says = match what {
        P::ServerDoesNotSupportTls12Or13 => {
            "the server speaks neither TLS 1.2 nor 1.3, but something older".to_owned()
        }
        P::ServerTlsVersionIsDisabledByOurConfig => {
            "the server chose a TLS version that was not offered".to_owned()
        }
        P::ExtendedMasterSecretExtensionRequired => {
            "the server does not do the extended master secret (RFC 7627)".to_owned()
        }
        // rustls's list is open.
        other => format!("nothing in common: {other:?}"),
    };
    let advice = if client.offers_all {
        "Update the server's TLS."
    } else {
        "Update the server's TLS, or offer another version with --tls."
    };
    Problem::new(ProblemKind::Incompatible, says, advice)
}

fn alert(alert: AlertDescription, client: ClientContext) -> Problem {
    let name = words::alert(alert);
    let (means, advice) = meaning(alert, client);
    let says = format!("the server sent the fatal alert {name}: {means}");
    let problem = Problem::new(ProblemKind::Alert, says, advice);
    Problem { alert: Some(name.into_owned()), ..problem }
}

/// What an alert of a server means to a client (RFC 8446 section 6.2, RFC 5246 section 7.2.2), and what
/// to do.
fn meaning(alert: AlertDescription, client: ClientContext) -> (&'static str, &'static str) {
    use AlertDescription as A;
    const SHOW: &str = "Show one with --cert and --key.";
    match alert {
        A::CertificateRequired => ("it requires a client certificate, and none was shown", SHOW),
        A::HandshakeFailure | A::BadCertificate if client.unshown => {
            ("it asked for a client certificate and none was shown: it seems to be required", SHOW)
        }
        A::HandshakeFailure | A::InsufficientSecurity => (
            "no cipher suite, group or signature scheme in common that it accepts",
            "The server's log says which. It may only speak what is no longer safe, or have no certificate that fits.",
        ),
        A::ProtocolVersion if client.offers_all => (
            "it is older than TLS 1.2: it accepts neither 1.2 nor 1.3",
            "Update the server's TLS. TLS 1.1 and older are no longer safe, and are not offered.",
        ),
        A::ProtocolVersion => (
            "it does not accept the TLS version that was offered",
            "Offer another with --tls, or look at the server's lowest and highest version.",
        ),
        A::UnknownCA => (
            "it does not know the CA of the client certificate",
            "Add the device's CA to the server's client_ca, or let the device send its intermediates.",
        ),
        A::CertificateExpired => (
            "the client certificate is not valid now",
            "Renew the device's certificate, and look at both clocks.",
        ),
        A::CertificateRevoked => ("the client certificate is revoked", "Give the device another."),
        A::BadCertificate | A::CertificateUnknown | A::UnsupportedCertificate => (
            "it does not accept the client certificate",
            "The server's log says why: a bad signature, a wrong purpose, no CRL from its issuer.",
        ),
        A::AccessDenied => (
            "the client certificate is good, but not let in",
            "Look at the rules for who may come in.",
        ),
        A::UnrecognisedName => (
            "it has no certificate for the name that was asked for",
            "Ask for another with --name, or add the name to the server.",
        ),
        A::NoApplicationProtocol => (
            "it speaks none of the protocols that were offered by ALPN",
            "Offer others with --alpn, or none.",
        ),
        A::InternalError => ("something failed on its side", "The server's log says what."),
        A::CloseNotify | A::UserCanceled => {
            ("it wants no connection now", "It may be stopping. The server's log says why.")
        }
        A::UnexpectedMessage
        | A::BadRecordMac
        | A::RecordOverflow
        | A::IllegalParameter
        | A::DecodeError
        | A::DecryptError => (
            "it does not understand what was said, or something on the way changed it",
            "Look for middleboxes on the way, and at the server's log. What answers may not be TLS.",
        ),
        _ => ("see RFC 8446 section 6.2", "The server's log says why."),
    }
}
