//! THE WALK: one connection's life, from accept to close.
//!
//! ```text
//! accept → admit → handshake → authorize → route → connect → relay → close
//! ```
//!
//! **Promises.** Every way out closes the record once, with the reason of the error that ended the
//! walk. What only the first phases need is freed before the relay, which lasts for weeks.
//!
//! **Not here.** How a phase does its work: each is a module, returns a value or its own error, and
//! neither logs nor counts. Accept and admit are `listener.rs`'s; authorize is the verifier's, in
//! the handshake.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use super::admission::Evicted;
use super::backend::{self, BackendStream, ConnectError};
use super::handshake::{self, EstablishedClient, HandshakeError};
use super::record::Record;
use super::relay::{self, Bounds, RelayError, Side};
use super::route::{self, NoRoute};
use super::socket;
use super::tls::TlsStream;
use crate::config;
use crate::sessions::stop::Stopped;
use crate::terms::reason::Reason;
use crate::trust::snapshot::Snapshot;

/// Serves an accepted socket to its end.
#[expect(
    clippy::manual_async_fn,
    reason = "it would keep each argument twice for as long as the device is connected"
)]
pub(crate) fn serve(
    tcp: TcpStream,
    snapshot: Arc<Snapshot>,
    mut record: Box<Record>,
) -> impl Future<Output = ()> {
    async move {
        match walk(tcp, snapshot, &mut record).await {
            Ok(()) => record.close(Reason::Ok, None),
            Err(end) => record.close(end.reason(), Some(&end)),
        }
    }
}

async fn walk(tcp: TcpStream, snapshot: Arc<Snapshot>, record: &mut Record) -> Result<(), End> {
    // The bounds are small and are kept. The snapshot is large and is released before the relay.
    let bounds = Bounds::of(&snapshot.listener.timeouts);
    let session = Arc::clone(record.session());
    let opening = Box::pin(open(tcp, snapshot, record));
    let (mut client, early, mut backend) = session.stop_order().or(opening).await??;

    let is_ready = backend::either_is_ready;
    let relay = relay::relay(&mut client, &mut backend, early, &session, bounds, is_ready);
    let ended = relay.await;

    match ended.reset {
        Some(Side::Backend) => backend.reset_on_close(),
        Some(Side::Client) => socket::reset_on_close(client.io()),
        None => {}
    }
    drop(backend);
    if ended.reset != Some(Side::Client) {
        // Boxed, like the opening: a future has room for its largest phase, which should be the relay.
        Box::pin(client.close()).await;
    }
    Ok(ended.result?)
}

/// From the accepted socket to both ends of a relay, and what is to be relayed first.
async fn open(
    tcp: TcpStream,
    snapshot: Arc<Snapshot>,
    record: &mut Record,
) -> Result<(TlsStream<TcpStream>, Vec<u8>, BackendStream), End> {
    let listener = &snapshot.listener;
    record.started();

    let newcomer = record.newcomer();
    // Pinned, so that the future has room for it once.
    let mut client = {
        let handshake = pin!(async {
            let started = handshake::read_client_hello(tcp, listener, newcomer.memory()).await?;
            newcomer.heard();
            record.on_client_hello(&started.offer());
            let mut accepted = started.accept(&snapshot).await;
            if let Err(error) = &mut accepted {
                record.refused(error.detail(), error.take_identity());
            }
            accepted
        });
        newcomer.or_evicted(handshake).await??
    };
    record.on_handshake(client.negotiated.take(), client.identity.take(), client.crypto);

    match connect_backend(listener, &client, record).await {
        Ok(backend) => Ok((client.stream, client.early, backend)),
        Err(end) => {
            client.close_gracefully().await;
            Err(end)
        }
    }
}

/// Chooses the backend and dials it.
async fn connect_backend(
    listener: &config::ListenerConfig,
    client: &EstablishedClient<TcpStream>,
    record: &mut Record,
) -> Result<BackendStream, End> {
    let address = route::pick(listener, client.server_name.as_deref(), client.alpn.as_deref())?;
    record.routed(address);

    let dialled = Instant::now();
    let backend = backend::connect(address, listener.timeouts.connect, listener.tcp).await?;
    record.connected(dialled.elapsed());
    Ok(backend)
}

/// Why a walk ended, other than in order.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Route(#[from] NoRoute),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Relay(#[from] RelayError),
    #[error(transparent)]
    Evicted(#[from] Evicted),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl End {
    /// The stable reason for this end.
    fn reason(&self) -> Reason {
        match self {
            Self::Handshake(error) => error.reason(),
            Self::Route(error) => error.reason(),
            Self::Connect(error) => error.reason(),
            Self::Relay(error) => error.reason(),
            Self::Evicted(Evicted) => Reason::ClientEvicted,
            Self::Stopped(Stopped(reason)) => *reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How large the future may be that a connection keeps for as long as its device is connected: a
    /// sixth of what an idle one costs. tokio and the tracker add 128 bytes, and tokio makes tasks
    /// in steps of 128: up to here a task has 1,024 bytes, beyond it 1,152. It is 856 bytes in a
    /// release build, and 888 in one for tests.
    const LARGEST_FUTURE: usize = 896;

    /// The size of what `serve` returns; no socket is needed for that.
    fn returned_size<A, B, C, Returned>(_serve: impl Fn(A, B, C) -> Returned) -> usize {
        size_of::<Returned>()
    }

    #[test]
    fn the_future_of_a_connection_has_not_grown_unnoticed() {
        let size = returned_size(serve);
        assert!(size <= LARGEST_FUTURE, "{size} bytes");
    }
}
