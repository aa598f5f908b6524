//! Asks the admin port of a running sidecar, from the command line: how it is, and to drain.
//!
//! **Promises.** No request takes longer than [`PATIENCE`], or than it is given, and no answer more
//! memory than [`MAX_ANSWER_BYTES`].
//!
//! **Not here.** Who answers (`admin.rs`), and exit codes (`main.rs`).

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer that is read. The metrics of a process with many listeners are the longest.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// How many looks may pass until a drain that was accepted can be seen.
const LOOKS_UNTIL_BEGUN: u32 = 50;

/// The pause between two looks at a drain.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Why a running sidecar could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody answers there.
    #[error("cannot reach the admin port {address}: {cause}")]
    Unreachable {
        /// The address that was tried.
        address: SocketAddr,
        /// What the system says.
        cause: io::Error,
    },
    /// What answers there does not speak HTTP, or answers without an end.
    #[error("{address} did not answer as an admin port: {cause}")]
    Protocol {
        /// The address that was tried.
        address: SocketAddr,
        /// What HTTP says.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It does not answer in time.
    #[error("the admin port {address} did not answer within {patience:?}")]
    Silent {
        /// The address that was tried.
        address: SocketAddr,
        /// For how long.
        patience: Duration,
    },
    /// What answers there will not do what was asked.
    #[error("{address} answered {status}")]
    Refused {
        /// The address that was tried.
        address: SocketAddr,
        /// The status of the answer.
        status: StatusCode,
    },
}

/// What the admin port can be asked about how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Does the process turn?
    Live,
    /// Is the start over?
    Started,
    /// Is it ready for connections?
    Ready,
}

/// Asks the sidecar whose admin port is `address` how it is; returns the phase if it is well.
///
/// # Errors
/// If it is not, or does not answer within `patience`.
pub async fn health(
    address: SocketAddr,
    what: Health,
    patience: Duration,
) -> Result<String, AskError> {
    let path = match what {
        Health::Live => "/livez",
        Health::Started => "/startupz",
        Health::Ready => "/readyz",
    };
    let answer = ask(address, Method::GET, path, patience).await?;
    match answer.status {
        StatusCode::OK => Ok(answer.text.trim().to_owned()),
        status => Err(AskError::Refused { address, status }),
    }
}

/// Asks the sidecar whose admin port is `address` to drain, and returns as soon as it has begun.
///
/// # Errors
/// If it does not.
pub async fn drain(address: SocketAddr) -> Result<(), AskError> {
    match ask(address, Method::POST, "/drain", PATIENCE).await?.status {
        StatusCode::ACCEPTED => Ok(()),
        status => Err(AskError::Refused { address, status }),
    }
}

/// How far a drain is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `draining`, `closing` or `drained`.
    pub phase: String,
    /// Connections that are open.
    pub open: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} connection(s) left", self.phase, self.open)
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainOutcome {
    /// So many connections had to be forced.
    Forced(u64),
    /// The process ended before it could be asked again.
    Gone,
}

/// Follows a drain that [`drain`] has begun until it is over, and tells of every change.
///
/// # Errors
/// If what answers there is no longer that sidecar.
pub async fn follow(
    address: SocketAddr,
    mut tell: impl FnMut(&Progress),
) -> Result<DrainOutcome, AskError> {
    let mut told = None;
    let mut begun = false;
    let mut failed = false;
    let mut looks = 0;
    loop {
        looks += 1;
        let answers = (
            ask(address, Method::GET, "/readyz", PATIENCE).await,
            ask(address, Method::GET, "/metrics", PATIENCE).await,
        );
        let (phase, metrics) = match answers {
            (Ok(phase), Ok(metrics)) => (phase.text.trim().to_owned(), metrics.text),
            // It may have ended in the middle of its answer; then the next look finds nobody.
            (Err(AskError::Protocol { .. }), _) | (_, Err(AskError::Protocol { .. }))
                if !failed =>
            {
                failed = true;
                continue;
            }
            (Err(AskError::Unreachable { .. }), _) | (_, Err(AskError::Unreachable { .. })) => {
                return Ok(DrainOutcome::Gone);
            }
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        failed = false;
        begun |= ["draining", "closing", "drained"].contains(&phase.as_str());
        let forced = sum(&metrics, "tlsidecar_connections_closed_total{", "drain_deadline");
        match phase.as_str() {
            "drained" => return Ok(DrainOutcome::Forced(forced)),
            // Another process by now.
            "starting" | "running" if begun || looks > LOOKS_UNTIL_BEGUN => {
                return Ok(DrainOutcome::Gone);
            }
            _ => {}
        }
        let now = Progress { phase, open: sum(&metrics, "tlsidecar_connections_active{", "") };
        if begun && told.as_ref() != Some(&now) {
            tell(&now);
            told = Some(now);
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// The sum of a metric over the children whose labels hold `label`.
fn sum(metrics: &str, name: &str, label: &str) -> u64 {
    let children = metrics.lines().filter(|line| line.starts_with(name) && line.contains(label));
    children.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

struct Answer {
    status: StatusCode,
    text: String,
}

async fn ask(
    address: SocketAddr,
    method: Method,
    path: &'static str,
    patience: Duration,
) -> Result<Answer, AskError> {
    let asked = timeout(patience, exchange(reachable(address), method, path));
    asked.await.unwrap_or(Err(AskError::Silent { address, patience }))
}

/// Whoever listens on all addresses is reached by loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

async fn exchange(
    address: SocketAddr,
    method: Method,
    path: &'static str,
) -> Result<Answer, AskError> {
    let unreachable = |cause| AskError::Unreachable { address, cause };
    let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
    let protocol = |cause: hyper::Error| AskError::Protocol { address, cause: Box::from(cause) };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.map_err(protocol)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .expect("the parts are constants and an address");
    let asking = async {
        let answer = sender.send_request(request).await.map_err(protocol)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|cause| AskError::Protocol { address, cause })?;
        Ok(Answer { status, text: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
    };
    // The connection has to be driven, and ends only after the answer: its own end is of no interest.
    let mut asking = std::pin::pin!(asking);
    tokio::select! {
        answer = &mut asking => return answer,
        ended = connection => ended.map_err(protocol)?,
    }
    asking.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_over_the_children_with_the_label_alone() {
        let text =
            "a{x=\"1\",reason=\"ok\"} 2\na{x=\"2\",reason=\"ok\"} 3\na{reason=\"bad\"} 7\nab 9\n";
        assert_eq!([sum(text, "a{", "ok"), sum(text, "a{", ""), sum(text, "b{", "")], [5, 12, 0]);
    }
}
