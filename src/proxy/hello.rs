//! The ClientHello, read before TLS starts.
//!
//! rustls's unbuffered connection does not return the server name, and needs its settings before it sees the
//! ClientHello. So the message is assembled from its records here and checked. rustls then gets the same
//! message in records of the greatest length, however it was split on arrival.
//!
//! **Promises.** A client that sends nothing costs no buffer. A client that sends costs one copy of the part
//! that has arrived, at most `limits.max_hello_bytes`, and at most until the two deadlines. A message that
//! cannot be decoded is refused; it is never treated as a message without a name.
//!
//! **Not here.** The choice of certificate and suite: rustls makes it on the same bytes, and has the alert for
//! it (`handshake.rs`).

mod class;
mod client_hello;
mod client_time;
mod code_set;
pub(crate) mod fault;
mod foreign;
mod groups;
mod listing;
pub(crate) mod message;
mod offer;
mod record_limit;
mod rules;

use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::{CipherSuite, ProtocolVersion, SignatureScheme};

use self::client_hello::{ClientHello, codes, whole16};
pub(crate) use self::client_hello::{kind, version};
use self::fault::HelloFault;
pub(crate) use self::groups::Round;
pub(crate) use self::message::Between;
use self::message::PartialHello;
use self::offer::Offered;
pub(crate) use self::record_limit::RecordLimit;
use self::rules::RequestedName;
use super::handshake_memory::Share;
use super::tls::scratch;
use crate::config::{self, AcceptedVersions};
use crate::sessions::trace::step::HelloStep;
use crate::terms::labels::{OfferedVersion, SuiteKind};
use crate::terms::offer_class::OfferClass;
use crate::trust::provider::{Accepted, Change};

/// Size of a read. An ordinary ClientHello fits in, and few bytes behind it are held with it.
const READ_BYTES: usize = 16 * 1024;

/// Number of signature schemes that are considered. IANA has registered about 50.
const MAX_SCHEMES: usize = 128;

/// ec_point_formats of OpenSSL: uncompressed, and both compressed ones (RFC 8422 section 5.1.2).
const OPENSSL_FORMATS: [u8; 4] = [3, 0, 1, 2];

/// Size in bytes of a list of ALPN protocols above which rustls sees it only if it has to select one.
const LONG_PROTOCOLS: usize = 256;

/// Limits of a ClientHello.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HelloLimits {
    /// The time at which the handshake began.
    pub(crate) since: Instant,
    /// Deadline for the handshake, and so for its first byte.
    pub(crate) deadline: Instant,
    /// Time from the first byte of the ClientHello to its last.
    pub(crate) timeout: Duration,
    /// Size of the message without its header.
    pub(crate) max_bytes: usize,
}

impl HelloLimits {
    /// Returns the limits of a handshake that begins now.
    pub(crate) fn of(timeouts: &config::Timeouts, limits: config::Limits) -> Self {
        let since = Instant::now();
        let (deadline, timeout) = (since + timeouts.handshake, timeouts.hello);
        Self { since, deadline, timeout, max_bytes: limits.max_hello_bytes }
    }

    /// Returns the limits with half of the time for the handshake.
    pub(crate) fn halved(self) -> Self {
        Self { deadline: self.since + self.time() / 2, ..self }
    }

    /// Returns the time for the handshake.
    pub(crate) fn time(self) -> Duration {
        self.deadline - self.since
    }
}

/// A whole ClientHello.
#[derive(Debug)]
pub(crate) struct Hello {
    /// The message with its header.
    pub(crate) message: Vec<u8>,
    /// Bytes that were read behind it.
    pub(crate) behind: Vec<u8>,
    /// The DNS name in the SNI extension, in lower case. A value that is not a DNS name counts as no name.
    pub(crate) server_name: Option<Box<str>>,
    /// The value of the SNI extension if it is not a DNS name, escaped.
    pub(crate) odd_name: Option<Box<str>>,
    /// The highest offered version.
    pub(crate) version: OfferedVersion,
    /// The best kind among the offered suites.
    pub(crate) best_suite: SuiteKind,
    /// An offered suite is accepted in the version that the offer leads to; known once it was compared.
    pub(crate) has_accepted_suite: bool,
    /// The class of the offer; known once it was compared.
    pub(crate) class: OfferClass,
    /// The signature schemes that the client verifies.
    pub(crate) schemes: Vec<SignatureScheme>,
    /// The client prefers ChaCha20 to AES: it has no hardware for AES.
    pub(crate) prefers_chacha20: bool,
    /// The client offers a session to resume: a ticket (RFC 5077) or a PSK (RFC 8446 section 4.2.11).
    pub(crate) offers_resumption: bool,
    /// The client may send early data next.
    pub(crate) early_data: bool,
    /// The longest records that the client accepts.
    pub(crate) record_limit: RecordLimit,
    /// A hash of the groups that the client lists; known once they were compared.
    pub(crate) groups_hash: u64,
    /// The time of the client's clock, in Unix time, if it sends a plausible one.
    pub(crate) client_time: Option<u32>,
    /// The client's TLS is OpenSSL's.
    pub(crate) is_openssl: bool,
}

/// Reason for a missing or refused ClientHello.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    /// No byte arrived before the handshake's deadline.
    #[error("no byte within the handshake timeout")]
    Silent,
    /// The message was not complete in time.
    #[error("an incomplete ClientHello after {received} bytes")]
    Slow { received: usize },
    /// The client closed the connection without sending a byte.
    #[error("closed without a byte")]
    Probe,
    /// The client closed the connection.
    #[error("closed after {received} bytes")]
    Eof { received: usize },
    /// The bytes are not a valid ClientHello.
    #[error(transparent)]
    Fault(#[from] HelloFault),
    /// The socket failed.
    #[error(transparent)]
    Io(io::Error),
}

/// Reads until the ClientHello is complete. `carried` has its first bytes, if some were read before.
///
/// # Errors
/// If it does not arrive, or is not valid.
pub(crate) async fn read<Io: AsyncRead + Unpin>(
    io: &mut Io,
    carried: Vec<u8>,
    between: Between,
    limits: HelloLimits,
    memory: &Share,
) -> Result<Hello, HelloError> {
    // A client that has answered nothing to a HelloRetryRequest has sent bytes before.
    let nothing_came = |received| between == Between::Nothing && received == 0;
    let mut partial = PartialHello::new(limits.max_bytes, between);
    let mut until = limits.deadline;
    let mut received = carried.len();
    let mut behind = partial.take(&carried)?.map(|taken| carried[taken..].to_vec());
    drop(carried);
    while behind.is_none() {
        let read = match timeout_at(until, read_some(io, &mut partial)).await {
            Ok(Ok(read)) => read,
            // Load balancers end their health checks by a reset or by a close.
            Ok(Err(HelloError::Io(error)))
                if nothing_came(received) && error.kind() == io::ErrorKind::ConnectionReset =>
            {
                return Err(HelloError::Probe);
            }
            Ok(Err(error)) => return Err(error),
            Err(_) if nothing_came(received) => return Err(HelloError::Silent),
            Err(_) => return Err(HelloError::Slow { received }),
        };
        match read {
            Read::End if nothing_came(received) => return Err(HelloError::Probe),
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

/// Result of a read.
enum Read {
    End,
    /// This many bytes. The message is not complete.
    Some(usize),
    /// The rest of the message, and these bytes behind it.
    Whole(Vec<u8>),
}

/// Reads once. No memory is allocated before bytes have arrived.
async fn read_some<Io: AsyncRead + Unpin>(
    io: &mut Io,
    partial: &mut PartialHello,
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
    /// Reads the offer of a complete message. [`Self::check`] refuses a message that cannot be decoded.
    fn of(message: Vec<u8>, behind: Vec<u8>) -> Self {
        let Offered { version, best_suite } = offer::read(&message);
        let mut hello = Self {
            message: Vec::new(),
            behind,
            server_name: None,
            odd_name: None,
            version,
            best_suite,
            has_accepted_suite: false,
            class: OfferClass::default(),
            schemes: Vec::new(),
            prefers_chacha20: false,
            offers_resumption: false,
            early_data: false,
            record_limit: RecordLimit::default(),
            groups_hash: 0,
            client_time: None,
            is_openssl: false,
        };
        if let Ok(parsed) = ClientHello::parse(&message) {
            hello.read_offer(&parsed);
        }
        hello.message = message;
        hello
    }

    fn read_offer(&mut self, parsed: &ClientHello<'_>) {
        let extensions = &parsed.extensions;
        match rules::server_name(extensions) {
            Ok(RequestedName::Dns(name)) => {
                let mut name = Box::<str>::from(name.as_ref());
                name.make_ascii_lowercase();
                self.server_name = Some(name);
            }
            Ok(RequestedName::Ip(name) | RequestedName::Other(name)) => {
                self.odd_name = Some(escaped(name));
            }
            Ok(RequestedName::None) | Err(_) => {}
        }
        let schemes = codes(extensions.signature_algorithms.and_then(whole16)).unwrap_or_default();
        let schemes = schemes.iter().take(MAX_SCHEMES).map(|&code| u16::from_be_bytes(code));
        self.schemes = schemes.map(SignatureScheme::from).collect();
        self.prefers_chacha20 = prefers_chacha20(parsed.suites);
        // An empty ticket asks for a new one: RFC 5077 section 3.2.
        let has_ticket = extensions.session_ticket.is_some_and(|ticket| !ticket.is_empty());
        self.offers_resumption = has_ticket || extensions.pre_shared_key.is_some();
        self.early_data = extensions.early_data.is_some();
        self.record_limit = RecordLimit::of(extensions);
        self.client_time = client_time::of(parsed, self.version, SystemTime::now());
        // Others with this extension (mbedTLS, wolfSSL, GnuTLS) list one format.
        self.is_openssl = extensions.has_encrypt_then_mac
            && extensions.ec_point_formats.is_some_and(|formats| formats == OPENSSL_FORMATS);
    }

    /// Returns the offer by names, for a trace.
    pub(crate) fn listing(&self) -> HelloStep {
        let sni = self.server_name.as_ref().or(self.odd_name.as_ref());
        HelloStep { sni: sni.map(ToString::to_string), ..listing::listing(&self.message) }
    }

    /// Returns the first of these ALPN protocols that the client offers, which rustls will select. None if there is
    /// none, or if the message cannot be decoded.
    pub(crate) fn select<'a>(&self, protocols: &'a [Vec<u8>]) -> Option<&'a [u8]> {
        if protocols.is_empty() {
            return None;
        }
        let hello = ClientHello::parse(&self.message).ok()?;
        rules::first_offered(hello.extensions.alpn?, protocols)
    }

    /// Checks the ClientHello and compares the offer with what is accepted in the version that it leads to, and with our
    /// `protocols`. Returns that version, and the changes of the message for rustls.
    ///
    /// # Errors
    /// The first rule of the RFCs that the message breaks.
    pub(crate) fn compare(
        &mut self,
        versions: AcceptedVersions,
        accepted: &Accepted,
        protocols: &[Vec<u8>],
        round: Round,
    ) -> Result<(ProtocolVersion, Vec<Change>), HelloFault> {
        let hello = ClientHello::parse(&self.message)?;
        let version = rules::check(&hello, versions)?;
        self.has_accepted_suite = accepted.has_suite_of(version, hello.suites);
        self.class = class::of(&hello);
        let extensions = &hello.extensions;
        self.groups_hash = hash(extensions.supported_groups);
        // Each extension that is hidden has one of its own. There are always enough.
        let mut unused = extensions.unused_types();
        let mut changes = groups::changes(extensions, accepted, version, round, &mut unused);
        if self.odd_name.is_some()
            && let Some(unused) = unused.next()
        {
            changes.push(Change { at: extensions.server_name_at, bytes: unused });
        }
        // rustls allocates memory for each protocol, also where it has none to select.
        let is_long = extensions.alpn.is_some_and(|alpn| alpn.len() > LONG_PROTOCOLS);
        if is_long
            && protocols.is_empty()
            && let Some(unused) = unused.next()
        {
            changes.push(Change { at: extensions.alpn_at, bytes: unused });
        }
        Ok((version, changes))
    }

    /// Returns the version that the ClientHello leads to, of the accepted ones.
    ///
    /// # Errors
    /// The first rule of the RFCs that the message breaks.
    pub(crate) fn check(&self, accepted: AcceptedVersions) -> Result<ProtocolVersion, HelloFault> {
        rules::check(&ClientHello::parse(&self.message)?, accepted)
    }
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn escaped(name: &[u8]) -> Box<str> {
    name.escape_ascii().to_string().into()
}

/// Returns whether the suites list ChaCha20 before AES-GCM.
fn prefers_chacha20(suites: &[[u8; 2]]) -> bool {
    let suites = suites.iter().take(offer::MAX_SUITES);
    let names = suites.filter_map(|&code| CipherSuite::from(u16::from_be_bytes(code)).as_str());
    let mut known = names.filter(|name| name.contains("CHACHA20") || name.contains("GCM"));
    known.next().is_some_and(|first| first.contains("CHACHA20"))
}
