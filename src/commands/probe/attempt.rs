//! One handshake, as a device does it, and what comes right after it.
//!
//! In TLS 1.3 a client is done before the server has looked at its certificate: a refusal comes as an
//! alert on the first read. So each attempt listens for a moment, and says goodbye in order, which
//! makes a server that has not spoken yet say what it has to say.
//!
//! **Promises.** The handshake takes no longer than it may. What follows takes at most twice [`LISTEN`];
//! where the way is long, twice eight times what the connect or the handshake took, or what the handshake
//! may. The connect alone does not tell: a proxy takes it, and TLS may end far behind it.
//!
//! **Not here.** What a failure means in words (`failure.rs`).

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

use super::capturing_verifier::{CapturingVerifier, Seen};
use super::failure::Failure;
use super::recording_io::RecordingIo;
use crate::config::TlsVersion;

/// How long a server may take to say something after the handshake, where it owes us a word.
const LISTEN: Duration = Duration::from_millis(500);

/// The same where it owes us nothing: for a greeting of the server behind it.
const GREETING: Duration = Duration::from_millis(250);

/// How much of a greeting is kept.
const HEARD_BYTES: usize = 512;

/// What came of one handshake.
#[derive(Debug)]
pub(super) struct Attempt {
    /// What was agreed on, if the handshake was finished.
    pub(super) agreed: Option<Agreed>,
    /// What the server showed and asked for.
    pub(super) seen: Seen,
    /// Why there is no session, or no longer one.
    pub(super) failure: Option<Failure>,
    /// What came after the handshake, in plaintext.
    pub(super) heard: Vec<u8>,
    /// Whether the server has shown after our last flight that it is content: by a ticket, by data, by
    /// an answer to our goodbye. In TLS 1.2 a finished handshake says so.
    pub(super) content: bool,
    /// Whether our goodbye was answered, if only by an end; none if it was not said.
    pub(super) answered: Option<bool>,
}

/// What a handshake agreed on.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) version: TlsVersion,
    /// The suite's IANA name.
    pub(super) suite: String,
    /// None where TLS 1.2 resumes.
    pub(super) group: Option<String>,
    pub(super) alpn: Option<Vec<u8>>,
    pub(super) kind: HandshakeKind,
    /// From the ClientHello to the server's last flight.
    pub(super) took: Duration,
}

/// How an attempt is made.
pub(super) struct AttemptOptions<'a> {
    pub(super) config: &'a Arc<ClientConfig>,
    pub(super) verifier: &'a CapturingVerifier,
    pub(super) name: &'a ServerName<'static>,
    /// For the handshake.
    pub(super) patience: Duration,
    /// How long the connect took: how far away the server is.
    pub(super) distance: Duration,
}

/// Makes one attempt over a connected socket.
pub(super) async fn attempt(options: &AttemptOptions<'_>, tcp: TcpStream) -> Attempt {
    let connector = TlsConnector::from(Arc::clone(options.config));
    let mut socket = RecordingIo::new(tcp);
    let start = Instant::now();
    // By reference, so that what was heard is there also after a timeout.
    let shaken =
        timeout(options.patience, connector.connect(options.name.clone(), &mut socket)).await;
    let took = start.elapsed();
    let mut attempt = Attempt {
        agreed: None,
        seen: Seen::default(),
        failure: None,
        heard: Vec::new(),
        content: false,
        answered: None,
    };
    match shaken {
        Ok(Ok(mut stream)) => {
            attempt.agreed = agreed(&stream, took);
            follow(options, &mut stream, &mut attempt).await;
        }
        Ok(Err(error)) => attempt.failure = Some(Failure::of(error, &socket.said, &socket.heard)),
        Err(_) => {
            attempt.failure = Some(Failure::silence(options.patience, &socket.said, &socket.heard))
        }
    }
    attempt.seen = options.verifier.take_seen();
    attempt
}

fn agreed<Io>(stream: &TlsStream<Io>, took: Duration) -> Option<Agreed> {
    let state = stream.get_ref().1;
    Some(Agreed {
        version: match state.protocol_version()? {
            ProtocolVersion::TLSv1_3 => TlsVersion::Tls13,
            _ => TlsVersion::Tls12,
        },
        suite: suite(&format!("{:?}", state.negotiated_cipher_suite()?.suite())),
        group: state.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())),
        alpn: state.alpn_protocol().map(<[u8]>::to_vec),
        kind: state.handshake_kind()?,
        took,
    })
}

/// rustls names the suites of TLS 1.3 by a prefix of its own.
fn suite(rustls: &str) -> String {
    rustls.replacen("TLS13_", "TLS_", 1)
}

/// Listens for a moment, then ends in order.
async fn follow(
    options: &AttemptOptions<'_>,
    stream: &mut TlsStream<&mut RecordingIo<TcpStream>>,
    attempt: &mut Attempt,
) {
    let took = attempt.agreed.as_ref().map_or(Duration::ZERO, |agreed| agreed.took);
    let near = (options.distance * 8).min(options.patience);
    let far = (options.distance.max(took) * 8).min(options.patience);
    let is_13 = attempt.agreed.as_ref().is_some_and(|a| a.version == TlsVersion::Tls13);
    attempt.content = !is_13;
    let resumed = attempt.agreed.as_ref().is_some_and(|a| a.kind == HandshakeKind::Resumed);
    let start = Instant::now();
    let owed = is_13 && !resumed && !options.verifier.is_ticketed();
    let mut deadline = start + if owed { far.max(LISTEN) } else { near.max(GREETING) };
    let mut ticketed = !owed;
    let mut buffer = [0; HEARD_BYTES];
    loop {
        tokio::select! {
            read = timeout_at(deadline, stream.read(&mut buffer)) => match read {
                Ok(Ok(0)) => return attempt.failure = Some(Failure::Ended),
                Ok(Ok(read)) => {
                    attempt.content = true;
                    let room = HEARD_BYTES - attempt.heard.len();
                    attempt.heard.extend_from_slice(&buffer[..read.min(room)]);
                    if attempt.heard.len() == HEARD_BYTES {
                        break;
                    }
                    deadline = deadline.min(Instant::now() + GREETING.max(near));
                }
                Ok(Err(error)) => return attempt.failure = Some(Failure::after(&error)),
                Err(_) => break,
            },
            () = options.verifier.ticket.notified(), if !ticketed => {
                ticketed = true;
                attempt.content = true;
                deadline = deadline.min(Instant::now() + GREETING.max(near));
            }
        }
    }
    // Who has nothing to say to a goodbye either is content for all that we know, or is not. After it,
    // an alert alone counts: many servers are careless about how a connection ends.
    let mut speaks = false;
    let goodbye = async {
        stream.shutdown().await?;
        while stream.read(&mut buffer).await? > 0 {
            speaks = true;
        }
        Ok::<_, io::Error>(())
    };
    attempt.answered = Some(true);
    match timeout(far.max(LISTEN), goodbye).await {
        Ok(Ok(())) => attempt.content = true,
        Ok(Err(error)) => {
            let failure = Failure::after(&error);
            attempt.failure = matches!(failure, Failure::Alert(_)).then_some(failure);
        }
        Err(_) => attempt.answered = Some(false),
    }
    attempt.content |= speaks;
}
