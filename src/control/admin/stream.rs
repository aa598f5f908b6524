//! Responses that continue: their parts are made while the client reads.
//!
//! **Promises.** One part waits for the client at a time: a client that does not read holds no more. When the client
//! leaves, `send` fails and `closed` returns.
//!
//! **Not here.** The parts (`events.rs`), the time that a client has to read (`clients.rs`).

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::response::{Reply, with_body};
use crate::lifecycle::{OpenStream, Shutdown};

/// The body of a response whose length is not known.
struct StreamBody {
    parts: Receiver<Bytes>,
    /// The process does not end before the last part has been taken.
    _open: OpenStream,
}

/// Returns a response whose parts a task makes.
pub(super) fn stream<Parts>(
    shutdown: &Shutdown,
    content_type: &'static str,
    make: impl FnOnce(Sender<Bytes>) -> Parts,
) -> Reply
where
    Parts: Future<Output = ()> + Send + 'static,
{
    let (sender, parts) = channel(1);
    let _open = shutdown.streams().token();
    shutdown.streams().spawn(make(sender));
    with_body(StatusCode::OK, StreamBody { parts, _open }, content_type)
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.parts.poll_recv(cx).map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}
