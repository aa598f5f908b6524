//! From a name to a connected socket, as a device gets there.
//!
//! **Promises.** The look-up takes no longer than it may, and nor do all the addresses together; each
//! that was tried is told, with what came of it.
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

/// How many addresses of a name are tried.
const MAX_ADDRESSES: usize = 16;

/// An address that was tried.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) address: SocketAddr,
    /// How long the connect took, or why there is none.
    pub(super) outcome: Result<Duration, Problem>,
}

/// What a name leads to.
///
/// # Errors
/// Why it leads nowhere.
pub(super) async fn resolve(
    target: &ProbeTarget,
    patience: Duration,
) -> Result<Vec<SocketAddr>, Problem> {
    if let Ok(ip) = target.host.parse::<IpAddr>() {
        return Ok(vec![(ip, target.port).into()]);
    }
    let failed = |why: String| {
        let says = format!("the name {} does not resolve: {why}", target.host);
        Problem::new(
            ProblemKind::NameUnresolved,
            says,
            "Is it spelled right? Does this machine's DNS know it?",
        )
    };
    match timeout(patience, look_up(target)).await {
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
        Err(_) => Err(failed(format!("no answer within {patience:?}"))),
    }
}

/// Looks a name up on a thread that is not waited for: its name server may hang.
async fn look_up(target: &ProbeTarget) -> io::Result<Vec<SocketAddr>> {
    let (found, looked_up) = oneshot::channel();
    let name = (target.host.clone(), target.port);
    thread::Builder::new().name("lookup".to_owned()).spawn(move || {
        // It fails once nobody waits any more.
        let _late = found.send(name.to_socket_addrs().map(Iterator::collect));
    })?;
    looked_up.await.map_err(io::Error::other)?
}

/// Tries addresses one after the other until one takes the connection.
pub(super) async fn connect(
    addresses: &[SocketAddr],
    patience: Duration,
) -> (Vec<Tried>, Option<TcpStream>) {
    let deadline = Instant::now() + patience;
    let mut tried = Vec::new();
    for (i, &address) in addresses.iter().enumerate() {
        // What is left is shared by those that are left, so that one that is silent takes not all.
        let left = u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        let start = Instant::now();
        let outcome = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => {
                // Without it our own kernel may hold small messages back. It fails on a socket that is
                // gone, which the handshake finds as well.
                let _gone = tcp.set_nodelay(true);
                tried.push(Tried { address, outcome: Ok(start.elapsed()) });
                return (tried, Some(tcp));
            }
            Ok(Err(error)) => problem(address, &error),
            Err(_) => Problem::new(
                ProblemKind::ConnectTimeout,
                format!("{address} did not answer within {share:.1?}"),
                "A firewall may drop the packets, or the machine is down or has another address.",
            ),
        };
        tried.push(Tried { address, outcome: Err(outcome) });
    }
    (tried, None)
}

fn problem(address: SocketAddr, error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Problem::new(
            ProblemKind::Refused,
            format!("{address} refuses the connection: nobody listens there"),
            "Is it running, and on this address and port? A sidecar that drains has closed its port.",
        ),
        _ => Problem::new(
            ProblemKind::Unreachable,
            format!("there is no way to {address}: {error}"),
            "Look at the address, the route and the firewall.",
        ),
    }
}
