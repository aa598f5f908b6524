//! Connects a client to the backend of its route, before or after its handshake.
//!
//! **Promises.** A client whose backend cannot be connected before the handshake is closed with an alert, and without
//! cryptography. A client whose ClientHello is refused reaches no backend.
//!
//! **Not here.** The choice of an address (`backend/pool.rs`), the PROXY protocol header, which is sent after the handshake
//! in either case (`proxy_protocol.rs`).

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::backend::{BackendStream, ConnectBounds, ConnectError};
use super::handshake::{EstablishedClient, StartedHandshake};
use super::record::Record;
use super::route::{NoRoute, Routes};
use super::socket::{self, StreamEnd};
use crate::config::ConnectTime;
use crate::terms::reason::Reason;

/// A connected backend.
pub(crate) struct Dialled {
    pub(crate) stream: BackendStream,
    /// The time that the connect took.
    pub(crate) took: Duration,
}

/// No backend is connected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unserved {
    #[error(transparent)]
    Route(#[from] NoRoute),
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl Unserved {
    /// Returns the stable reason for this error.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Route(error) => error.reason(),
            Self::Connect(error) => error.reason(),
        }
    }
}

/// Connects to the backend of a client whose ClientHello was read, if its listener connects before the handshake.
///
/// # Errors
/// No backend could be connected. The client's connection is closed.
pub(crate) async fn before_handshake(
    routes: &Routes,
    started: StartedHandshake<TcpStream>,
    record: &mut Record,
) -> Result<(StartedHandshake<TcpStream>, Option<Dialled>), Unserved> {
    let snapshot = &routes.snapshot;
    let route = match snapshot.listener.balance.connect {
        ConnectTime::AfterHandshake => return Ok((started, None)),
        ConnectTime::BeforeHandshake => started.route(snapshot),
    };
    // The handshake sends the alert for a ClientHello that is refused.
    let Ok(route) = route else { return Ok((started, None)) };
    let has_left = || socket::stream_end(started.io()).map(|_| Reason::ClientAbandoned);
    match dial(routes, route, record, has_left).await {
        Ok(dialled) => Ok((started, Some(dialled))),
        Err(unserved) => {
            started.refuse_unserved().await;
            Err(unserved)
        }
    }
}

/// Connects to the backend of a client after its handshake, unless it was `dialled` before.
///
/// # Errors
/// No backend could be connected.
pub(crate) async fn after_handshake(
    routes: &Routes,
    client: &EstablishedClient<TcpStream>,
    dialled: Option<Dialled>,
    record: &mut Record,
) -> Result<Dialled, Unserved> {
    if let Some(dialled) = dialled {
        return Ok(dialled);
    }
    // A client that has ended its stream may have sent a report before.
    let is_reset = || socket::stream_end(client.stream.io()) == Some(StreamEnd::Reset);
    dial(routes, client.route, record, || is_reset().then_some(Reason::ClientReset)).await
}

/// Connects to the backend of a route. `has_left` returns a reason if the client has left meanwhile.
async fn dial(
    routes: &Routes,
    route: Option<usize>,
    record: &mut Record,
    has_left: impl Fn() -> Option<Reason>,
) -> Result<Dialled, Unserved> {
    let server_name = record.session().server_name.get().map(AsRef::as_ref);
    let pool = routes.backend(route, server_name);
    let pool = pool.inspect_err(|NoRoute(cause)| record.on_no_route(*cause))?;
    record.on_route();
    let start = Instant::now();
    let client = record.session().peer().ip();
    let bounds = ConnectBounds::of(&routes.snapshot.listener, Some(client));
    // Boxed: a client that has sent nothing yet would have room for it.
    let (used, connected) = Box::pin(pool.connect(bounds, has_left)).await;
    record.on_backend(used, connected.is_ok());
    Ok(Dialled { stream: connected?, took: start.elapsed() })
}
