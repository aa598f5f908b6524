//! What the ClientHello offers, read before TLS starts.
//!
//! rustls's unbuffered connection does not tell the server name, and by its time the settings have
//! been chosen. So the first message is put together from its records here, checked, and handed on:
//! rustls gets the same message in records of the greatest length, whatever records it came in.
//!
//! **Promises.** A client that sends nothing owns no buffer. One that sends owns one copy of what it has
//! sent of the message, at most `limits.max_hello_bytes`, for at most the two deadlines. A message that
//! cannot be read whole is refused: it is never taken as one without a name.
//!
//! **Not here.** Which certificate, suite and group serve the offer: rustls decides that, on the same
//! bytes, and has the alert for it (`handshake.rs`).

mod client_hello;
pub(crate) mod message;
mod offer;
mod rules;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::{
    AlertDescription, CipherSuite, PeerIncompatible, ProtocolVersion, SignatureScheme,
};

use self::client_hello::{ClientHello, Extensions, codes, whole16};
pub(crate) use self::message::Between;
use self::message::PartialMessage;
use self::offer::Offered;
use self::rules::Name;
use super::handshake_memory::Share;
use super::tls::scratch;
use crate::terms::labels::{OfferedVersion, SuiteKind};

/// How much is read at a time: what an ordinary ClientHello fits in, so that little of what comes
/// behind one is held with it.
const READ_BYTES: usize = 16 * 1024;

/// More signature schemes than this are not looked at. IANA knows some 50.
const MAX_SCHEMES: usize = 128;

/// The bounds on a ClientHello.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Until its first byte has come.
    pub(crate) deadline: Instant,
    /// From its first byte to its last.
    pub(crate) timeout: Duration,
    /// Of the message without its header.
    pub(crate) max_bytes: usize,
}

/// A whole ClientHello.
#[derive(Debug)]
pub(crate) struct Hello {
    /// The message with its header.
    pub(crate) message: Vec<u8>,
    /// What was read behind it.
    pub(crate) behind: Vec<u8>,
    /// The DNS name in the SNI extension, in lower case. What is none counts as no name.
    pub(crate) server_name: Option<Box<str>>,
    /// What the SNI extension has instead of a DNS name, escaped.
    pub(crate) odd_name: Option<Box<str>>,
    /// Where in the message an extension's type stands that rustls would refuse, and another for it.
    pub(crate) disguise: Option<(usize, [u8; 2])>,
    /// The highest version that it offers.
    pub(crate) version: OfferedVersion,
    /// The best kind of suite that it offers.
    pub(crate) best_suite: SuiteKind,
    /// The signature schemes that it verifies.
    pub(crate) schemes: Vec<SignatureScheme>,
    /// Whether it would rather have ChaCha20 than AES: it has no hardware for AES.
    pub(crate) prefers_chacha20: bool,
    /// Whether early data may follow it.
    pub(crate) early_data: bool,
}

/// A rule that a ClientHello breaks.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum HelloFault {
    #[error("{0} cannot be decoded")]
    Malformed(&'static str),
    #[error("the ClientHello has {0}")]
    Illegal(&'static str),
    #[error("the client sent {0}")]
    Unexpected(&'static str),
    #[error("the first bytes are not a TLS handshake record")]
    NotTls,
    #[error("a ClientHello of more than {0} bytes")]
    TooLong(usize),
    #[error("a record of more than 16 KiB")]
    Overflow,
    #[error("the server_name cannot be the name of a host")]
    UnknownName,
    #[error("the client fell back to TLS 1.2 (TLS_FALLBACK_SCSV), and TLS 1.3 is accepted here")]
    Fallback,
    #[error("the ClientHello is for a renegotiation, and there is no session")]
    Renegotiation,
    #[error("{}", super::handshake::words::incompatible(.0))]
    Incompatible(PeerIncompatible, AlertDescription),
}

impl HelloFault {
    const fn version(what: PeerIncompatible) -> Self {
        Self::Incompatible(what, AlertDescription::ProtocolVersion)
    }

    const fn missing(what: PeerIncompatible) -> Self {
        Self::Incompatible(what, AlertDescription::MissingExtension)
    }

    /// The alert that the RFCs have for it: RFC 8446 section 6.2, RFC 7507 section 3, RFC 5746
    /// section 3.6, RFC 6066 section 3.
    pub(crate) const fn alert(&self) -> AlertDescription {
        match self {
            Self::Malformed(_) | Self::TooLong(_) => AlertDescription::DecodeError,
            Self::Illegal(_) => AlertDescription::IllegalParameter,
            Self::Unexpected(_) | Self::NotTls => AlertDescription::UnexpectedMessage,
            Self::Overflow => AlertDescription::RecordOverflow,
            Self::UnknownName => AlertDescription::UnrecognisedName,
            Self::Fallback => AlertDescription::InappropriateFallback,
            Self::Renegotiation => AlertDescription::HandshakeFailure,
            Self::Incompatible(_, alert) => *alert,
        }
    }
}

/// Why there is no first message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    /// Nothing came before the handshake's deadline.
    #[error("no byte within the handshake timeout")]
    Silent,
    /// The message was not complete in time.
    #[error("an unfinished ClientHello after {received} bytes")]
    Slow { received: usize },
    /// The client came and left without a byte.
    #[error("closed without a byte")]
    Probe,
    /// The client closed its connection.
    #[error("closed after {received} bytes")]
    Eof { received: usize },
    /// What was read cannot become a ClientHello.
    #[error(transparent)]
    Fault(#[from] HelloFault),
    /// The socket failed.
    #[error(transparent)]
    Io(io::Error),
}

/// Reads until the ClientHello is complete. `carried` was read before it.
///
/// # Errors
/// If it does not come, or is not TLS.
pub(crate) async fn read<Io: AsyncRead + Unpin>(
    io: &mut Io,
    carried: Vec<u8>,
    between: Between,
    limits: Limits,
    memory: &Share,
) -> Result<Hello, HelloError> {
    let mut partial = PartialMessage::new(limits.max_bytes, between);
    let mut until = limits.deadline;
    let mut received = carried.len();
    let mut behind = partial.take(&carried)?.map(|taken| carried[taken..].to_vec());
    drop(carried);
    while behind.is_none() {
        let read = match timeout_at(until, read_some(io, &mut partial)).await {
            Ok(Ok(read)) => read,
            // Load balancers end their checks by a reset, or else by a close.
            Ok(Err(HelloError::Io(error)))
                if received == 0 && error.kind() == io::ErrorKind::ConnectionReset =>
            {
                return Err(HelloError::Probe);
            }
            Ok(Err(error)) => return Err(error),
            Err(_) if received == 0 => return Err(HelloError::Silent),
            Err(_) => return Err(HelloError::Slow { received }),
        };
        match read {
            Read::End if received == 0 => return Err(HelloError::Probe),
            Read::End => return Err(HelloError::Eof { received }),
            Read::Some(bytes) => {
                if received == 0 {
                    until = limits.deadline.min(Instant::now() + limits.timeout);
                }
                received += bytes;
                memory.set(partial.bytes());
            }
            Read::Whole(more) => behind = Some(more),
        }
    }
    Ok(Hello::of(partial.into_message(), behind.unwrap_or_default()))
}

/// What a read brought.
enum Read {
    End,
    /// So many bytes, and the message is not complete.
    Some(usize),
    /// The rest of the message, and this behind it.
    Whole(Vec<u8>),
}

/// Reads once. Nothing is owned until there is something to own.
async fn read_some<Io: AsyncRead + Unpin>(
    io: &mut Io,
    partial: &mut PartialMessage,
) -> Result<Read, HelloError> {
    poll_fn(|cx| {
        scratch::with(|scratch| {
            let mut buffer = ReadBuf::new(&mut scratch.incoming[..READ_BYTES]);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut buffer)).map_err(HelloError::Io)?;
            let read = buffer.filled();
            Poll::Ready(Ok(match partial.take(read)? {
                Some(taken) => Read::Whole(read[taken..].to_vec()),
                None if read.is_empty() => Read::End,
                None => Read::Some(read.len()),
            }))
        })
    })
    .await
}

impl Hello {
    /// Looks at a whole message. What cannot be decoded is [`Self::check`]'s to refuse.
    fn of(message: Vec<u8>, behind: Vec<u8>) -> Self {
        let Offered { version, best_suite } = offer::read(&message);
        let mut hello = Self {
            message: Vec::new(),
            behind,
            server_name: None,
            odd_name: None,
            disguise: None,
            version,
            best_suite,
            schemes: Vec::new(),
            prefers_chacha20: false,
            early_data: false,
        };
        if let Ok(parsed) = ClientHello::parse(&message) {
            hello.look(&parsed);
        }
        hello.message = message;
        hello
    }

    fn look(&mut self, parsed: &ClientHello<'_>) {
        let extensions = &parsed.extensions;
        match rules::server_name(extensions) {
            Ok(Name::Dns(name)) => {
                self.server_name = Some(name.to_lowercase_owned().as_ref().into());
            }
            Ok(Name::Ip(name)) => self.odd_name = Some(escaped(name)),
            Ok(Name::Other(name)) => {
                self.odd_name = Some(escaped(name));
                self.disguise = disguise(extensions);
            }
            Ok(Name::None) | Err(_) => {}
        }
        let schemes = codes(extensions.signature_algorithms.and_then(whole16)).unwrap_or_default();
        let schemes = schemes.iter().take(MAX_SCHEMES).map(|&code| u16::from_be_bytes(code));
        self.schemes = schemes.map(SignatureScheme::from).collect();
        self.prefers_chacha20 = prefers_chacha20(parsed.suites);
        self.early_data = extensions.early_data.is_some();
    }

    /// Returns the version that the ClientHello leads to, where TLS 1.2 is accepted or not.
    ///
    /// # Errors
    /// The first rule of the RFCs that it breaks.
    pub(crate) fn check(&self, tls12_accepted: bool) -> Result<ProtocolVersion, HelloFault> {
        rules::check(&ClientHello::parse(&self.message)?, tls12_accepted)
    }
}

fn disguise(extensions: &Extensions<'_>) -> Option<(usize, [u8; 2])> {
    let unused = extensions.unused_type;
    (unused != [0, 0]).then_some((extensions.server_name_at, unused))
}

fn escaped(name: &[u8]) -> Box<str> {
    name.escape_ascii().to_string().into()
}

/// Whether ChaCha20 stands before AES-GCM among the suites.
fn prefers_chacha20(suites: &[[u8; 2]]) -> bool {
    let suites = suites.iter().take(offer::MAX_SUITES);
    let names = suites.filter_map(|&code| CipherSuite::from(u16::from_be_bytes(code)).as_str());
    let mut known = names.filter(|name| name.contains("CHACHA20") || name.contains("GCM"));
    known.next().is_some_and(|first| first.contains("CHACHA20"))
}
