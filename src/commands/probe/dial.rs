//! The lookup of the name and the connect.
//!
//! **Promises.** The lookup ends within its time limit, and so do all connects together. Each address that was
//! tried is reported, with the result.
//!
//! **Not here.** TLS (`attempt.rs`).

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::printable;
use super::problem::{Problem, ProblemKind};
use crate::commands::flags::probe::ProbeTarget;
use crate::proxy::backend::dial::{DialError, Dialled, first_of};

/// The limit of addresses that are tried.
const MAX_ADDRESSES: usize = 16;

/// An address that was tried.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) address: SocketAddr,
    /// The duration of the connect, or the problem.
    pub(super) outcome: Result<Duration, Problem>,
}

/// Resolves a name.
pub(super) async fn resolve(
    target: &ProbeTarget,
    limit: Duration,
) -> Result<Vec<SocketAddr>, Problem> {
    if let Ok(ip) = target.host.parse::<IpAddr>() {
        return Ok(vec![(ip, target.port).into()]);
    }
    let failed = |why: String| {
        let message = format!("the name {} does not resolve: {why}", target.host);
        let advice = "Check the spelling, and the DNS of this machine.";
        Problem::new(ProblemKind::NameUnresolved, message, advice)
    };
    match timeout(limit, look_up(target)).await {
        Ok(Ok(found)) => {
            let mut addresses = Vec::new();
            for address in found {
                if !addresses.contains(&address) && addresses.len() < MAX_ADDRESSES {
                    addresses.push(address);
                }
            }
            if addresses.is_empty() {
                Err(failed("it has no address".to_owned()))
            } else {
                Ok(addresses)
            }
        }
        Ok(Err(error)) => Err(failed(printable::text(&error.to_string()))),
        Err(_) => Err(failed(format!("no answer within {limit:?}"))),
    }
}

/// Resolves a name on a thread that can be abandoned, because the name server may hang.
async fn look_up(target: &ProbeTarget) -> io::Result<Vec<SocketAddr>> {
    let (found, looked_up) = oneshot::channel();
    let name = (target.host.clone(), target.port);
    thread::Builder::new().name("lookup".to_owned()).spawn(move || {
        // Fails after the time limit, when there is no receiver.
        let _late = found.send(name.to_socket_addrs().map(Iterator::collect));
    })?;
    looked_up.await.map_err(io::Error::other)?
}

/// Dials addresses in turn until one connects. Returns each attempt, and the socket.
pub(super) async fn connect(
    addresses: &[SocketAddr],
    limit: Duration,
) -> (Vec<Tried>, Option<TcpStream>) {
    let mut tried = Vec::new();
    let failed = |address, error| {
        let problem = match error {
            DialError::Io(error) | DialError::Source(error) => problem(address, &error),
            DialError::Timeout(share) => Problem::new(
                ProblemKind::ConnectTimeout,
                format!("{address} did not answer within {share:.1?}"),
                "A firewall may drop the packets, or the machine may be down or have another address.",
            ),
        };
        tried.push(Tried { address, outcome: Err(problem) });
    };
    let dialled = first_of(addresses, None, Instant::now() + limit, failed).await;
    let tcp = dialled.map(|Dialled { tcp, address, took }| {
        tried.push(Tried { address, outcome: Ok(took) });
        // Without it the kernel may delay small messages. It fails on a closed socket, which the handshake reports.
        let _closed = tcp.set_nodelay(true);
        tcp
    });
    (tried, tcp)
}

fn problem(address: SocketAddr, error: &io::Error) -> Problem {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return Problem::new(
            ProblemKind::Refused,
            format!("{address} refuses the connection: no program listens there"),
            "Check that the server runs, and its address and port. A sidecar that drains has closed its port.",
        );
    }
    Problem::new(
        ProblemKind::Unreachable,
        format!("{address} cannot be reached: {error}"),
        "Check the address, the route and the firewall.",
    )
}
