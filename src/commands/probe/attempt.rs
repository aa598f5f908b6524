//! A handshake, and the reads right after it.
//!
//! In TLS 1.3 a client completes the handshake before the server has verified its certificate: a rejection comes
//! as an alert on the first read. So each attempt reads for a moment, then sends close_notify, which a server
//! answers that has sent nothing before.
//!
//! **Promises.** The handshake ends within its time limit. The reads after it take at most twice
//! [`READ_TIMEOUT`]; for a distant server, sixteen times the duration of the connect or of the handshake, and at
//! most twice the time limit. The duration of the connect alone is not enough: a proxy may accept it, and the TLS
//! server may be far behind the proxy.
//!
//! **Not here.** The meaning of a failure (`failure.rs`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, HandshakeKind, ProtocolVersion};

use super::capturing_verifier::{Captured, CapturingVerifier};
use super::failure::Failure;
use super::recording_io::RecordingIo;
use crate::config::TlsVersion;

/// The time limit for the first bytes after the handshake if the server must send a ticket, or answer close_notify.
const READ_TIMEOUT: Duration = Duration::from_millis(500);

/// The time limit for a greeting of the legacy server.
const GREETING_TIMEOUT: Duration = Duration::from_millis(250);

/// The limit of bytes of a greeting that are kept.
const GREETING_BYTES: usize = 512;

/// The result of one handshake.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The negotiated parameters, if the handshake succeeded.
    pub(super) negotiated: Option<NegotiatedParameters>,
    /// The certificates and the request of the server.
    pub(super) captured: Captured,
    /// The failure of the handshake, or of the connection after it.
    pub(super) failure: Option<Failure>,
    /// The first application data of the server.
    pub(super) greeting: Vec<u8>,
    /// True if the server has accepted our last flight, shown by a ticket, by data, or by an answer to close_notify. In
    /// TLS 1.2 the completed handshake shows it.
    pub(super) accepted: bool,
    /// True if the server answered our close_notify or closed the connection. None if none was sent.
    pub(super) close_answered: Option<bool>,
}

/// The negotiated parameters of a handshake.
#[derive(Debug)]
pub(super) struct NegotiatedParameters {
    pub(super) version: TlsVersion,
    /// The IANA name of the cipher suite.
    pub(super) suite: String,
    /// None for a resumed TLS 1.2 session.
    pub(super) group: Option<String>,
    pub(super) alpn: Option<Vec<u8>>,
    pub(super) kind: HandshakeKind,
    /// The time from the ClientHello to the last flight of the server.
    pub(super) duration: Duration,
}

/// The parameters of an attempt.
pub(super) struct AttemptOptions<'a> {
    pub(super) config: &'a Arc<ClientConfig>,
    pub(super) verifier: &'a CapturingVerifier,
    pub(super) name: &'a ServerName<'static>,
    /// The time limit of the handshake.
    pub(super) limit: Duration,
    /// The duration of the connect, as a measure of the distance.
    pub(super) connect: Duration,
}

/// Makes a handshake over a connected socket, and reads what follows.
pub(super) async fn attempt(options: &AttemptOptions<'_>, tcp: TcpStream) -> Attempt {
    let connector = TlsConnector::from(Arc::clone(options.config));
    let mut socket = RecordingIo::new(tcp);
    let start = Instant::now();
    // By reference, so that the recorded bytes are available after a timeout.
    let handshake =
        timeout(options.limit, connector.connect(options.name.clone(), &mut socket)).await;
    let duration = start.elapsed();
    let mut attempt = Attempt {
        negotiated: None,
        captured: Captured::default(),
        failure: None,
        greeting: Vec::new(),
        accepted: false,
        close_answered: None,
    };
    match handshake {
        Ok(Ok(mut stream)) => {
            attempt.negotiated = negotiated(&stream, duration);
            follow(options, &mut stream, &mut attempt).await;
        }
        Ok(Err(error)) => {
            attempt.failure = Some(Failure::of(error, &socket.to_server, &socket.from_server));
        }
        Err(_) => {
            attempt.failure =
                Some(Failure::timeout(options.limit, &socket.to_server, &socket.from_server));
        }
    }
    attempt.captured = options.verifier.take_captured();
    attempt
}

fn negotiated<Io>(stream: &TlsStream<Io>, duration: Duration) -> Option<NegotiatedParameters> {
    let state = stream.get_ref().1;
    Some(NegotiatedParameters {
        version: if state.protocol_version()? == ProtocolVersion::TLSv1_3 {
            TlsVersion::Tls13
        } else {
            TlsVersion::Tls12
        },
        suite: suite(&format!("{:?}", state.negotiated_cipher_suite()?.suite())),
        group: state.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())),
        alpn: state.alpn_protocol().map(<[u8]>::to_vec),
        kind: state.handshake_kind()?,
        duration,
    })
}

/// Returns the IANA name of a suite. rustls has another prefix for those of TLS 1.3.
fn suite(rustls: &str) -> String {
    rustls.replacen("TLS13_", "TLS_", 1)
}

/// Reads for a moment, then closes with close_notify.
async fn follow(
    options: &AttemptOptions<'_>,
    stream: &mut TlsStream<&mut RecordingIo<TcpStream>>,
    attempt: &mut Attempt,
) {
    let duration = attempt.negotiated.as_ref().map_or(Duration::ZERO, |n| n.duration);
    let far = (options.connect.max(duration) * 8).min(options.limit).max(READ_TIMEOUT);
    if let Err(failure) = read_greeting(options, stream, attempt, far).await {
        attempt.failure = Some(failure);
        return;
    }
    close(stream, attempt, far).await;
}

/// Reads the greeting, and the ticket if the server must send one: for at most `far` until the first of them, and for
/// a shorter time after it.
async fn read_greeting(
    options: &AttemptOptions<'_>,
    stream: &mut TlsStream<&mut RecordingIo<TcpStream>>,
    attempt: &mut Attempt,
    far: Duration,
) -> Result<(), Failure> {
    let near = (options.connect * 8).min(options.limit).max(GREETING_TIMEOUT);
    let is_13 = attempt.negotiated.as_ref().is_some_and(|n| n.version == TlsVersion::Tls13);
    let resumed = attempt.negotiated.as_ref().is_some_and(|n| n.kind == HandshakeKind::Resumed);
    attempt.accepted = !is_13;
    let mut has_ticket = !is_13 || resumed || options.verifier.has_ticket();
    let mut deadline = Instant::now() + if has_ticket { near } else { far };
    let mut buffer = [0; GREETING_BYTES];
    loop {
        tokio::select! {
            read = timeout_at(deadline, stream.read(&mut buffer)) => match read {
                Ok(Ok(0)) => return Err(Failure::Ended),
                Ok(Ok(read)) => {
                    attempt.accepted = true;
                    let room = GREETING_BYTES - attempt.greeting.len();
                    attempt.greeting.extend_from_slice(&buffer[..read.min(room)]);
                    if attempt.greeting.len() == GREETING_BYTES {
                        return Ok(());
                    }
                    deadline = deadline.min(Instant::now() + near);
                }
                Ok(Err(error)) => return Err(Failure::after(&error)),
                Err(_) => return Ok(()),
            },
            () = options.verifier.ticket.notified(), if !has_ticket => {
                has_ticket = true;
                attempt.accepted = true;
                deadline = deadline.min(Instant::now() + near);
            }
        }
    }
}

/// Closes with close_notify, and reads until the server closes.
async fn close(
    stream: &mut TlsStream<&mut RecordingIo<TcpStream>>,
    attempt: &mut Attempt,
    limit: Duration,
) {
    let mut has_data = false;
    let mut buffer = [0; GREETING_BYTES];
    let close = async {
        stream.shutdown().await?;
        while stream.read(&mut buffer).await? > 0 {
            has_data = true;
        }
        Ok::<_, io::Error>(())
    };
    attempt.close_answered = Some(true);
    match timeout(limit, close).await {
        Ok(Ok(())) => attempt.accepted = true,
        // After close_notify only an alert counts as a failure: many servers close connections carelessly.
        Ok(Err(error)) => {
            let failure = Failure::after(&error);
            attempt.failure = matches!(failure, Failure::Alert(_)).then_some(failure);
        }
        Err(_) => attempt.close_answered = Some(false),
    }
    attempt.accepted |= has_data;
}
