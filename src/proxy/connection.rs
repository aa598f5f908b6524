//! THE WALK: the life of a connection, from accept to close.
//!
//! ```text
//! accept → admit → (PROXY header) → handshake → authorize → route → connect → relay → close
//! ```
//!
//! A listener can connect before the handshake instead, once the ClientHello has selected the route.
//!
//! **Promises.** Every exit closes the record once, with the reason of the error that ended the walk. Memory that only
//! the first phases need is freed before the relay, which can last for weeks. A client that has sent nothing has no memory
//! for the rest of its handshake: that phase has a box of its own.
//!
//! **Not here.** The phases: each is a module, returns a value or its own error, and neither logs nor counts. Accept
//! and admit are in `listener.rs`; authorize is the client certificate verifier's, during the handshake.

use std::pin::pin;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::admission::{AdmissionRefused, Evicted, IdentityRefused};
use super::backend::{self, BackendStream};
use super::connect::{self, Dialled, Unserved};
use super::handshake::{EstablishedClient, FailedHandshake, Kernel, read_client_hello};
use super::proxy_protocol::{self, ReceiveHeaderError, SendHeaderError};
use super::record::Record;
use super::relay::{self, Bounds, RelayError, Side};
use super::route::Routes;
use super::socket;
use super::tls::TlsStream;
use crate::sessions::stop::Stopped;
use crate::terms::reason::Reason;

/// Serves an accepted connection until it is closed.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn would store each argument twice while the device is connected"
)]
pub(crate) fn serve(
    tcp: TcpStream,
    routes: Arc<Routes>,
    mut record: Box<Record>,
) -> impl Future<Output = ()> {
    async move {
        match walk(tcp, routes, &mut record).await {
            Ok(()) => record.close(Reason::Ok, None),
            Err(mut end) => {
                if let End::Handshake(failed) = &mut end {
                    record.on_failure(failed.take_failure());
                }
                record.close(end.reason(), Some(&end));
            }
        }
    }
}

async fn walk(tcp: TcpStream, routes: Arc<Routes>, record: &mut Record) -> Result<(), End> {
    // The bounds are small and are kept. The routes hold the snapshot, and are released before the relay.
    let bounds = Bounds::of(&routes.snapshot.listener.timeouts);
    let opening = Box::pin(open(tcp, routes, record));
    let (mut client, early, mut backend) = opening.await?;

    let is_ready = backend::either_is_ready;
    let relay = relay::relay(&mut client, &mut backend, early, record.holder(), bounds, is_ready);
    let ended = relay.await;
    match ended.reset {
        Some(Side::Backend) => backend.reset_on_close(),
        Some(Side::Client) => socket::reset_on_close(client.io()),
        None => {}
    }
    drop(backend);
    if ended.closes_client() {
        // Boxed, like the opening: a future has room for its largest phase, which should be the relay.
        Box::pin(client.close()).await;
    }
    Ok(ended.result?)
}

/// Runs the phases before the relay. Returns both ends of the relay, and the plaintext to relay first.
async fn open(
    tcp: TcpStream,
    routes: Arc<Routes>,
    record: &mut Record,
) -> Result<(TlsStream<TcpStream>, Vec<u8>, BackendStream), End> {
    let snapshot = &routes.snapshot;
    let session = Arc::clone(record.session());
    record.started();

    let pending = record.pending();
    let header = proxy_protocol::receive(&tcp, session.peer(), &snapshot.listener);
    let forwarded = session.stop_order().or(pin!(pending.or_evicted(pin!(header)))).await???;
    record.admit(forwarded, snapshot.listener.limits)?;
    let pending = record.pending();
    let (mut client, dialled) = {
        let handshake = pin!(async {
            let (listener, memory, tracer) =
                (&snapshot.listener, pending.memory(), record.tracer());
            let started = read_client_hello(tcp, listener, memory, Kernel::TCP, tracer).await?;
            pending.on_client_hello();
            let started = started.offered_to(|offer| record.on_client_hello(offer));
            let (started, dialled) = connect::before_handshake(&routes, started, record).await?;
            let (source, slots) = (record.source(), pending.slots());
            let (accepted, shown) = Box::pin(started.accept(snapshot, &source, Some(&slots))).await;
            record.on_certificate(shown);
            Ok::<_, End>((accepted?, dialled))
        });
        session.stop_order().or(pin!(pending.or_evicted(handshake))).await???
    };
    client.reported_to(record);

    let connecting = connect_backend(&routes, &mut client, dialled, record);
    let connected = session.stop_order().or(pin!(connecting)).await.map_err(End::Stopped);
    match connected.flatten() {
        Ok(backend) => Ok((client.stream, client.early, backend)),
        Err(end) => {
            client.close_gracefully().await;
            Err(end)
        }
    }
}

/// Checks the client with the current trust, counts its identity, and connects to the backend of its route.
async fn connect_backend(
    routes: &Routes,
    client: &mut EstablishedClient<TcpStream>,
    dialled: Option<Dialled>,
    record: &mut Record,
) -> Result<BackendStream, End> {
    let listener = &routes.snapshot.listener;
    record.expires(routes.check_latest(record.session())?);
    record.admit_identity(listener.limits)?;
    let dialled = connect::after_handshake(routes, client, dialled, record).await?;
    let (mut stream, took) = (dialled.stream, dialled.took);
    let (io, certificate) = (client.stream.io(), client.certificate.as_deref());
    let header =
        proxy_protocol::header(&listener.proxy_protocol, record.session(), io, certificate);
    proxy_protocol::send(header, &mut client.early, &mut stream, record.session()).await?;
    record.connected(took);
    record.replace_sibling(listener.limits);
    Ok(stream)
}

/// An abnormal end of a walk.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    ProxyHeader(#[from] ReceiveHeaderError),
    #[error(transparent)]
    Handshake(#[from] Box<FailedHandshake>),
    #[error(transparent)]
    Admission(#[from] AdmissionRefused),
    #[error(transparent)]
    Identity(#[from] IdentityRefused),
    #[error(transparent)]
    Unserved(#[from] Unserved),
    #[error(transparent)]
    SendHeader(#[from] SendHeaderError),
    #[error(transparent)]
    Relay(#[from] RelayError),
    #[error(transparent)]
    Evicted(#[from] Evicted),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl End {
    /// Returns the stable reason for this end.
    fn reason(&self) -> Reason {
        match self {
            Self::ProxyHeader(error) => error.reason(),
            Self::Handshake(error) => error.reason(),
            Self::Admission(error) => error.reason(),
            Self::Identity(error) => error.reason(),
            Self::Unserved(error) => error.reason(),
            Self::SendHeader(error) => error.reason(),
            Self::Relay(error) => error.reason(),
            Self::Evicted(Evicted) => Reason::ClientEvicted,
            Self::Stopped(Stopped(reason)) => *reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest size of the future of a connection, in bytes: a sixth of the memory of an idle connection. tokio and
    /// the task tracker add 128 bytes, and tokio allocates tasks in steps of 128: with this size a task has 896
    /// bytes.
    const LARGEST_FUTURE: usize = 768;

    /// Largest size of the future of the phases before the relay. It is most of the memory of a client that has not sent
    /// a byte. The allocator has a class of this size.
    const LARGEST_OPENING: usize = 2560;

    /// Returns the size of the future that a function returns. No socket is needed.
    fn returned_size<A, B, C, Returned>(_function: impl Fn(A, B, C) -> Returned) -> usize {
        size_of::<Returned>()
    }

    #[test]
    fn the_future_of_the_phases_before_the_relay_has_not_grown_unnoticed() {
        let size = returned_size(open);
        assert!(size <= LARGEST_OPENING, "{size} bytes");
    }

    #[test]
    fn the_future_of_a_connection_has_not_grown_unnoticed() {
        let size = returned_size(serve);
        assert!(size <= LARGEST_FUTURE, "{size} bytes");
    }
}
