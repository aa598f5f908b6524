//! What the ClientHello offers, read before TLS starts.
//!
//! rustls's unbuffered connection does not tell the server name, and by its time the settings have
//! been chosen. So the first message is read here, looked at with rustls's `Acceptor`, and handed
//! on unchanged.
//!
//! **Promises.** A client that says nothing owns no buffer. One that speaks owns at most
//! [`MAX_HELLO_BYTES`], for at most the two deadlines.
//!
//! **Not here.** Whether the offer is good enough: rustls decides that, on the same bytes, and has
//! the alert for it (`handshake.rs`).

mod offer;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::{CipherSuite, SignatureScheme};

use self::offer::Offered;
use super::tls::scratch::{self, HANDSHAKE_READ_BYTES};
use crate::ops::metrics::{OfferedVersion, SuiteKind};

/// A ClientHello with the usual extensions and a post-quantum key share has 1.5 to 2 KiB; with a
/// large session ticket in it, a few more. rustls itself stops at 64 KiB.
const MAX_HELLO_BYTES: usize = 64 * 1024;

/// The first message of a client, complete or beyond repair.
#[derive(Debug)]
pub(crate) struct Hello {
    /// Everything that was read.
    pub(crate) bytes: Vec<u8>,
    /// The name in the SNI extension, a syntactically valid DNS name. An IP address there counts
    /// as none (RFC 6066 section 3 forbids it; small stacks send it).
    pub(crate) server_name: Option<Box<str>>,
    /// The highest version that it offers.
    pub(crate) version: OfferedVersion,
    /// The best kind of suite that it offers.
    pub(crate) best_suite: SuiteKind,
    /// The signature schemes that it verifies.
    pub(crate) schemes: Vec<SignatureScheme>,
    /// Whether it would rather have ChaCha20 than AES: it has no hardware for AES.
    pub(crate) prefers_chacha20: bool,
    /// The highest version that a client of before TLS 1.3 speaks: `[3, 3]` is TLS 1.2. RFC 8446
    /// section 4.1.2.
    pub(crate) legacy_version: Option<[u8; 2]>,
}

impl Hello {
    const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            server_name: None,
            version: OfferedVersion::Unknown,
            best_suite: SuiteKind::Other,
            schemes: Vec::new(),
            prefers_chacha20: false,
            legacy_version: None,
        }
    }
}

/// Why there is no first message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    /// Nothing was said before the handshake's deadline.
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
    /// What was read is not TLS.
    #[error("the first bytes are not a TLS handshake record")]
    NotTls,
    /// The message has no end.
    #[error("a ClientHello of more than {MAX_HELLO_BYTES} bytes")]
    TooLong,
    /// The socket failed.
    #[error(transparent)]
    Io(io::Error),
}

/// Reads until the ClientHello is complete: before `deadline`, and within `timeout` of its first
/// byte.
///
/// # Errors
/// If it does not come, or is not TLS.
pub(crate) async fn read<Io: AsyncRead + Unpin>(
    io: &mut Io,
    deadline: Instant,
    timeout: Duration,
) -> Result<Hello, HelloError> {
    let mut hello = Hello::new();
    let mut acceptor = Acceptor::default();
    let mut until = deadline;
    loop {
        let before = hello.bytes.len();
        let read = match timeout_at(until, read_some(io, &mut hello.bytes)).await {
            Ok(Ok(read)) => read,
            // Load balancers end their checks by a reset, or else by a close.
            Ok(Err(error)) if before == 0 && error.kind() == io::ErrorKind::ConnectionReset => 0,
            Ok(Err(error)) => return Err(HelloError::Io(error)),
            Err(_) if before == 0 => return Err(HelloError::Silent),
            Err(_) => return Err(HelloError::Slow { received: before }),
        };
        if read == 0 && before == 0 {
            return Err(HelloError::Probe);
        }
        if read == 0 {
            return Err(HelloError::Eof { received: before });
        }
        if before == 0 {
            until = deadline.min(Instant::now() + timeout);
        }
        if !starts_like_tls(&hello.bytes) {
            return Err(HelloError::NotTls);
        }
        if look(&mut acceptor, before, &mut hello) {
            // Behind the headers of the record and of the message.
            hello.legacy_version = hello.bytes.get(9..11).map(|v| [v[0], v[1]]);
            let Offered { version, best_suite } = offer::read(&hello.bytes);
            (hello.version, hello.best_suite) = (version, best_suite);
            return Ok(hello);
        }
        if hello.bytes.len() > MAX_HELLO_BYTES {
            return Err(HelloError::TooLong);
        }
    }
}

/// Reads once. Nothing is owned until there is something to own.
async fn read_some<Io: AsyncRead + Unpin>(io: &mut Io, bytes: &mut Vec<u8>) -> io::Result<usize> {
    poll_fn(|cx| {
        scratch::with(|scratch| {
            let mut buffer = ReadBuf::new(&mut scratch.incoming[..HANDSHAKE_READ_BYTES]);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut buffer))?;
            bytes.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    })
    .await
}

/// A handshake record of some TLS version: RFC 8446 section 5.1.
fn starts_like_tls(bytes: &[u8]) -> bool {
    bytes[0] == 22 && bytes.get(1).is_none_or(|&major| major == 3)
}

/// Whether there is nothing more to wait for: the message is complete, or rustls will refuse it.
fn look(acceptor: &mut Acceptor, new_from: usize, hello: &mut Hello) -> bool {
    // As much as the acceptor takes before it has to be asked.
    for mut chunk in hello.bytes[new_from..].chunks(4096) {
        while !chunk.is_empty() {
            if acceptor.read_tls(&mut chunk).is_err() {
                return true;
            }
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let offered = accepted.client_hello();
                hello.server_name = offered.server_name().map(Box::from);
                hello.schemes = offered.signature_schemes().to_vec();
                hello.prefers_chacha20 = prefers_chacha20(offered.cipher_suites());
                return true;
            }
            Err(_) => return true,
        }
    }
    false
}

/// Whether ChaCha20 stands before AES-GCM among the suites.
fn prefers_chacha20(suites: &[CipherSuite]) -> bool {
    let names = suites.iter().filter_map(CipherSuite::as_str);
    let mut known = names.filter(|name| name.contains("CHACHA20") || name.contains("GCM"));
    known.next().is_some_and(|first| first.contains("CHACHA20"))
}
