//! A client of the admin port: requests over TCP or a Unix socket, health, drain, and the progress of a drain.
//!
//! **Promises.** A request ends within its timeout ([`REQUEST_TIMEOUT`] by default). Whatever answers at the address, no more
//! is read than the head of [`MAX_HEAD_BYTES`], and [`MAX_ANSWER_BYTES`] or lines of [`MAX_LINE_BYTES`]. The token is in no
//! message.
//!
//! **Not here.** The admin port itself (`control/admin.rs`), exit codes (`exit.rs`).

mod lines;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use form_urlencoded::Serializer;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::flags::admin::{AdminArgs, AdminTarget};
use crate::terms::reason::Reason;
use crate::text::for_terminal;
use crate::trust::token::{self, TokenError};

/// The time limit for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest head of an answer that is read: the status, the headers and the trailers.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The longest answer that is read. `/status` grows with the number of listeners.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// The longest line that is read of an answer that continues.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// A failed request to the admin port.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    /// The connection failed.
    #[error("cannot connect to the admin port {address}: {cause}")]
    Unreachable {
        /// The admin port.
        address: AdminTarget,
        /// The error of the system.
        cause: io::Error,
    },
    /// The answer is not HTTP, has no end, or is not what the admin port sends.
    #[error("{address} does not answer as an admin port: {cause}")]
    Protocol {
        /// The admin port.
        address: AdminTarget,
        /// The error of the HTTP or JSON parser.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer, or a part of it, is longer than any of the admin port.
    #[error("{address} does not answer as an admin port: {part} has more than {limit} bytes")]
    TooLong {
        /// The admin port.
        address: AdminTarget,
        /// The part that is too long.
        part: &'static str,
        /// The length to which it is read.
        limit: usize,
    },
    /// There was no answer in time.
    #[error("the admin port {address} did not answer within {limit:?}")]
    TimedOut {
        /// The admin port.
        address: AdminTarget,
        /// The time limit of the request.
        limit: Duration,
    },
    /// The answer has another status than success.
    #[error("the admin port {address} answered {status}{}", detail(text))]
    Refused {
        /// The admin port.
        address: AdminTarget,
        /// The status of the answer.
        status: StatusCode,
        /// The text of the answer.
        text: String,
    },
    /// The token file cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// A health check of the admin port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// The runtime makes progress.
    Live,
    /// The start is complete.
    Started,
    /// The process accepts connections and does not drain.
    Ready,
}

/// Makes a health check at an admin port. Returns the text of the answer.
///
/// # Errors
/// The check failed, or there was no answer within `limit`.
pub(super) async fn health(
    address: &AdminTarget,
    check: Health,
    limit: Duration,
) -> Result<String, AdminError> {
    let path = match check {
        Health::Live => "/livez",
        Health::Started => "/startupz",
        Health::Ready => "/readyz",
    };
    // Health checks need no token.
    let port = AdminPort { address: address.clone(), token: None };
    let answer = port.request(Method::GET, path, limit).await?;
    Ok(port.expect(answer, StatusCode::OK)?.trim().to_owned())
}

/// The admin port of a running process.
pub(super) struct AdminPort {
    address: AdminTarget,
    /// The value of the Authorization header.
    token: Option<HeaderValue>,
}

/// An answer of the admin port.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

/// An answer whose body can still come.
struct Exchange {
    answer: Response<Incoming>,
    /// hyper closes the connection without it.
    sender: SendRequest<Empty<Bytes>>,
}

impl AdminPort {
    /// Returns the admin port that the flags name, with the token of their file.
    ///
    /// # Errors
    /// The token file cannot be used.
    pub(super) fn of(args: &AdminArgs) -> Result<Self, AdminError> {
        let token = args.token_file.as_deref().map(token::token).transpose()?;
        let header = token.map(|token| {
            let text = format!("Bearer {}", *token);
            let mut value = HeaderValue::try_from(text).expect("a token is visible ASCII");
            value.set_sensitive(true);
            value
        });
        Ok(Self { address: args.admin.clone(), token: header })
    }

    /// Starts a drain, and returns once it was accepted.
    ///
    /// # Errors
    /// The port does not answer, or answers with an error.
    pub(super) async fn drain(&self) -> Result<(), AdminError> {
        let answer = self.request(Method::POST, "/drain", REQUEST_TIMEOUT).await?;
        self.expect(answer, StatusCode::ACCEPTED).map(|_| ())
    }

    /// Requests a path, and returns its JSON.
    ///
    /// # Errors
    /// The port does not answer, or answers with an error or with other JSON.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, AdminError> {
        let answer = self.request(method, path, REQUEST_TIMEOUT).await?;
        self.parse(&self.expect(answer, StatusCode::OK)?)
    }

    /// Reads the progress of a drain. Returns none while the port is busy with other requests.
    ///
    /// # Errors
    /// The port does not answer, or answers with an error.
    pub(super) async fn drain_status(&self) -> Result<Option<DrainStatus>, AdminError> {
        let answer = self.request(Method::GET, "/status", REQUEST_TIMEOUT).await?;
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            return Ok(None);
        }
        self.parse(&self.expect(answer, StatusCode::OK)?).map(Some)
    }

    /// Sends a request, and returns its answer, whatever its status is.
    ///
    /// # Errors
    /// The port does not answer within `limit`.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        limit: Duration,
    ) -> Result<Answer, AdminError> {
        let answered = timeout(limit, self.connect_and_send(method, path)).await;
        let late = || AdminError::TimedOut { address: self.address.clone(), limit };
        answered.unwrap_or_else(|_| Err(late()))
    }

    /// Returns the text of an answer with this status.
    fn expect(
        &self,
        Answer { status, text }: Answer,
        ok: StatusCode,
    ) -> Result<String, AdminError> {
        match status == ok {
            true => Ok(text),
            false => Err(self.refused(Answer { status, text })),
        }
    }

    /// Returns the error for an answer with an unexpected status.
    pub(super) fn refused(&self, Answer { status, text }: Answer) -> AdminError {
        AdminError::Refused { address: self.address.clone(), status, text }
    }

    fn parse<T: DeserializeOwned>(&self, text: &str) -> Result<T, AdminError> {
        serde_json::from_str(text).map_err(|cause| self.protocol(cause))
    }

    async fn connect_and_send(&self, method: Method, path: &str) -> Result<Answer, AdminError> {
        let Exchange { answer, sender: _kept } = self.send(method, path).await?;
        self.whole(answer).await
    }

    /// Reads a whole answer.
    async fn whole(&self, answer: Response<Incoming>) -> Result<Answer, AdminError> {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|cause| match cause.is::<LengthLimitError>() {
            true => self.too_long("the answer", MAX_ANSWER_BYTES),
            false => self.protocol(cause),
        })?;
        Ok(Answer { status, text: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
    }

    /// Connects and sends a request, and returns the head of its answer.
    async fn send(&self, method: Method, path: &str) -> Result<Exchange, AdminError> {
        let address = || self.address.clone();
        let unreachable = |cause| AdminError::Unreachable { address: address(), cause };
        match &self.address {
            AdminTarget::Tcp(tcp) => {
                let stream = TcpStream::connect(connectable(*tcp)).await.map_err(unreachable)?;
                self.exchange(stream, method, path).await
            }
            AdminTarget::Unix(path_of_socket) => {
                let stream = UnixStream::connect(path_of_socket).await.map_err(unreachable)?;
                self.exchange(stream, method, path).await
            }
        }
    }

    fn protocol(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AdminError {
        AdminError::Protocol { address: self.address.clone(), cause: cause.into() }
    }

    fn too_long(&self, part: &'static str, limit: usize) -> AdminError {
        AdminError::TooLong { address: self.address.clone(), part, limit }
    }

    /// Returns the error for an answer that hyper cannot read.
    fn unreadable(&self, cause: hyper::Error) -> AdminError {
        match cause.is_parse_too_large() {
            true => self.too_long("the head of the answer", MAX_HEAD_BYTES),
            false => self.protocol(cause),
        }
    }

    /// Returns the value of `after` for the page that follows one of `count` items, if there is one.
    ///
    /// # Errors
    /// The pages have no end.
    pub(super) fn next_page(
        &self,
        after: Option<u64>,
        next: Option<u64>,
        count: usize,
    ) -> Result<Option<u64>, AdminError> {
        match next {
            Some(_) if next <= after || count == 0 => {
                Err(self.protocol("its pages of sessions have no end"))
            }
            next => Ok(next),
        }
    }

    async fn exchange<Io: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        io: Io,
        method: Method,
        path: &str,
    ) -> Result<Exchange, AdminError> {
        let unreadable = |cause: hyper::Error| self.unreadable(cause);
        let mut http = http1::Builder::new();
        let connecting = http.max_header_size(MAX_HEAD_BYTES).handshake(TokioIo::new(io));
        let (mut sender, connection) = connecting.await.map_err(unreadable)?;
        // hyper makes progress only while it is polled. The answer has its errors.
        tokio::spawn(connection);
        let host = match &self.address {
            AdminTarget::Tcp(address) => address.to_string(),
            AdminTarget::Unix(_) => "localhost".to_owned(),
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Empty::<Bytes>::new());
        let request = request.expect("the parts are constants, an address and an encoded query");
        let answer = sender.send_request(request).await.map_err(unreadable)?;
        Ok(Exchange { answer, sender })
    }
}

/// Returns a path with a query of these keys and values.
pub(super) fn query(path: &str, keys: &[(&str, String)]) -> String {
    let start = format!("{path}?");
    let end = start.len();
    Serializer::for_suffix(start, end).extend_pairs(keys).finish()
}

/// Returns the first line of an answer, to follow its status.
fn detail(text: &str) -> String {
    match text.lines().next() {
        Some(line) if !line.is_empty() => format!(": {}", for_terminal(line)),
        _ => String::new(),
    }
}

/// The part of `GET /status` that shows the progress of a drain.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct DrainStatus {
    /// The phase of the process, such as `closing`.
    pub(super) phase: String,
    /// Absent in the status of an earlier version.
    #[serde(default)]
    drain: DrainCounts,
    listeners: Vec<ListenerCounts>,
}

/// The drain in `GET /status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct DrainCounts {
    waiting: u64,
}

/// The connections of a listener in `GET /status`.
#[derive(Clone, Debug, Deserialize)]
struct ListenerCounts {
    active: u64,
    /// By reason; reasons with a count of 0 are absent.
    closed: HashMap<String, u64>,
}

impl DrainStatus {
    /// Returns true from the start of the drain on.
    pub(super) fn has_begun(&self) -> bool {
        ["draining", "closing", "drained"].contains(&self.phase.as_str())
    }

    /// Returns true once all connections are closed.
    pub(super) fn is_drained(&self) -> bool {
        self.phase == "drained"
    }

    /// Returns the number of sessions that are closed as soon as they are idle.
    pub(super) const fn waiting(&self) -> u64 {
        self.drain.waiting
    }

    /// Returns the number of open connections.
    pub(super) fn open(&self) -> u64 {
        self.listeners.iter().map(|listener| listener.active).sum()
    }

    /// Returns the number of connections that were forced at the deadline of the drain.
    pub(super) fn forced(&self) -> u64 {
        let reason = Reason::DrainDeadline.to_string();
        self.listeners.iter().filter_map(|listener| listener.closed.get(&reason)).sum()
    }
}

/// Returns the loopback address in place of an address such as `0.0.0.0`, which can be bound and not connected to.
fn connectable(address: SocketAddr) -> SocketAddr {
    // "[::]" accepts IPv4 too, and is "0.0.0.0" without IPv6 (`proxy/socket.rs`).
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
    if address.ip().is_unspecified() { loopback } else { address }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_of_a_drain_is_the_sum_over_the_listeners() {
        let text = r#"{"phase": "closing", "drain": {"waiting": 2}, "listeners": [
            {"name": "a", "active": 2, "closed": {"ok": 7, "drain_deadline": 3}},
            {"name": "b", "active": 1, "closed": {}}]}"#;
        let status: DrainStatus = serde_json::from_str(text).unwrap();
        assert!(status.has_begun() && !status.is_drained());
        assert_eq!((status.open(), status.forced(), status.waiting()), (3, 3, 2));
    }
}
