//! A client of the admin port: health, drain, and the progress of a drain.
//!
//! **Promises.** A request ends within its timeout ([`REQUEST_TIMEOUT`] by default) and reads at most
//! [`MAX_ANSWER_BYTES`].
//!
//! **Not here.** The admin port itself (`control/admin.rs`), exit codes (`exit.rs`).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::terms::reason::Reason;

/// The time limit for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest answer that is read. `/status` grows with the number of listeners.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// A failed request to the admin port.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    /// The connection failed.
    #[error("cannot connect to the admin port {address}: {cause}")]
    Unreachable {
        /// The admin port.
        address: SocketAddr,
        /// The error of the system.
        cause: io::Error,
    },
    /// The answer is not HTTP, has no end, or is not what the admin port sends.
    #[error("{address} does not answer as an admin port: {cause}")]
    Protocol {
        /// The admin port.
        address: SocketAddr,
        /// The error of the HTTP or JSON parser.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There was no answer in time.
    #[error("the admin port {address} did not answer within {limit:?}")]
    TimedOut {
        /// The admin port.
        address: SocketAddr,
        /// The time limit of the request.
        limit: Duration,
    },
    /// The answer has another status than success.
    #[error("the admin port {address} answered {status}")]
    Refused {
        /// The admin port.
        address: SocketAddr,
        /// The status of the answer.
        status: StatusCode,
    },
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

/// Makes a health check at the admin port `address`. Returns the text of the answer.
///
/// # Errors
/// The check failed, or there was no answer within `limit`.
pub(super) async fn health(
    address: SocketAddr,
    check: Health,
    limit: Duration,
) -> Result<String, AdminError> {
    let path = match check {
        Health::Live => "/livez",
        Health::Started => "/startupz",
        Health::Ready => "/readyz",
    };
    let answer = request(address, Method::GET, path, limit).await?;
    match answer.status {
        StatusCode::OK => Ok(answer.text.trim().to_owned()),
        status => Err(AdminError::Refused { address, status }),
    }
}

/// Starts a drain through the admin port `address`, and returns once it was accepted.
///
/// # Errors
/// The port does not answer, or answers with an error.
pub(super) async fn drain(address: SocketAddr) -> Result<(), AdminError> {
    match request(address, Method::POST, "/drain", REQUEST_TIMEOUT).await?.status {
        StatusCode::ACCEPTED => Ok(()),
        status => Err(AdminError::Refused { address, status }),
    }
}

/// The part of `GET /status` that shows the progress of a drain.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct DrainStatus {
    /// The phase of the process, such as `closing`.
    pub(super) phase: String,
    listeners: Vec<ListenerCounts>,
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

/// Reads the progress of a drain from the admin port at `address`. Returns none while the port is busy with
/// other requests.
///
/// # Errors
/// The port does not answer, or answers with an error.
pub(super) async fn drain_status(address: SocketAddr) -> Result<Option<DrainStatus>, AdminError> {
    let answer = request(address, Method::GET, "/status", REQUEST_TIMEOUT).await?;
    match answer.status {
        StatusCode::OK => {
            let parsed = serde_json::from_str(&answer.text);
            parsed.map(Some).map_err(|cause| AdminError::Protocol { address, cause: cause.into() })
        }
        StatusCode::SERVICE_UNAVAILABLE => Ok(None),
        status => Err(AdminError::Refused { address, status }),
    }
}

struct Answer {
    status: StatusCode,
    text: String,
}

async fn request(
    address: SocketAddr,
    method: Method,
    path: &'static str,
    limit: Duration,
) -> Result<Answer, AdminError> {
    let answered = timeout(limit, exchange(connectable(address), method, path)).await;
    answered.unwrap_or(Err(AdminError::TimedOut { address, limit }))
}

/// Returns the loopback address in place of an address such as `0.0.0.0`, which can be bound and not connected to.
fn connectable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}

async fn exchange(
    address: SocketAddr,
    method: Method,
    path: &'static str,
) -> Result<Answer, AdminError> {
    let unreachable = |cause| AdminError::Unreachable { address, cause };
    let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
    let protocol = |cause: hyper::Error| AdminError::Protocol { address, cause: Box::from(cause) };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.map_err(protocol)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .expect("the parts are constants and an address");
    let answering = async {
        let answer = sender.send_request(request).await.map_err(protocol)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|cause| AdminError::Protocol { address, cause })?;
        Ok(Answer { status, text: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
    };
    // hyper makes progress only while `connection` is polled. It can end after the answer.
    let mut answering = std::pin::pin!(answering);
    tokio::select! {
        answer = &mut answering => return answer,
        ended = connection => ended.map_err(protocol)?,
    }
    answering.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_of_a_drain_is_the_sum_over_the_listeners() {
        let text = r#"{"phase": "closing", "listeners": [
            {"name": "a", "active": 2, "closed": {"ok": 7, "drain_deadline": 3}},
            {"name": "b", "active": 1, "closed": {}}]}"#;
        let status: DrainStatus = serde_json::from_str(text).unwrap();
        assert!(status.has_begun() && !status.is_drained());
        assert_eq!((status.open(), status.forced()), (3, 3));
    }
}
