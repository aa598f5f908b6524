//! Copies both directions until both have ended.
//!
//! **Promises.**
//! - Bytes arrive unchanged, in order, whatever the chunks they came in.
//! - Half-close is kept: a side that ends its stream still gets the other's, and the other learns
//!   of the end. Neither direction's end cuts the other short.
//! - A reader that is slower than its writer stops the writer: what is read is first handed over
//!   before more is read. A connection holds at most [`MAX_HELD_BYTES`], and none when idle.
//! - One side's failure to take bytes does not lose what it has sent: that is still delivered. But
//!   if its stream was cut it ends by a reset, whether a read or a write has noticed, or it has ended
//!   in the middle of a record.
//! - A connection is not closed for its silence while the kernel has bytes for us: after the process
//!   was stopped, its timers are due before it has seen what came meanwhile.
//! - Neither direction starves the rest of the thread: after [`ROUNDS`] reads it yields.
//!
//! **Not here.** Sockets and their options, TLS itself (`tls.rs`), logs and metrics (`record.rs`).

mod bounds;
mod error;
mod flow;
mod read_size;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

pub(crate) use self::bounds::Bounds;
pub(crate) use self::error::RelayError;
use self::flow::Flow;
use self::read_size::ReadSize;
use super::socket::{self, Interest};
use super::tls::scratch::{self, MAX_READ_BYTES, Scratch};
use super::tls::{HELD_BYTES_TRAFFIC, ReceiveError, Received, SendError, TlsStream};
use super::write_buffer::WriteBuffer;
use crate::sessions::Session;
use crate::sessions::stop::Stopped;
use crate::terms::labels::Direction;
use crate::terms::reason::Reason;

/// Reads in one direction before the thread may do something else: at most 1 MiB.
const ROUNDS: usize = 4;

/// What a connection may hold at most, 553 KiB: what makes no whole record yet, one opened read that
/// the backend does not take, one sealed read that the client does not take.
pub(crate) const MAX_HELD_BYTES: usize =
    HELD_BYTES_TRAFFIC + (HELD_BYTES_TRAFFIC + MAX_READ_BYTES) + SEALED_BYTES;

/// A sealed read: TLS adds 29 bytes at most to each 16 KiB, and there may be a key_update.
const SEALED_BYTES: usize = MAX_READ_BYTES + 1024;

/// How long tokio may take to deliver what the kernel has for us, before we look again.
const DELIVERY: Duration = Duration::from_millis(50);

/// Stands for "never" where a timer wants an instant.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How a relay ended.
pub(crate) struct Ended {
    pub(crate) result: Result<(), RelayError>,
    /// The side that must be told by a reset that its stream was cut, since the other's was.
    pub(crate) reset: Option<Side>,
}

/// One of a connection's two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Backend,
}

/// Relays between a client and a backend until both directions have ended or something else ends
/// them. What is then queued for the client (a close_notify, an alert) is the caller's to send.
///
/// `early` was opened together with the end of the handshake and goes to the backend first.
/// `is_ready` asks the kernel whether either side is ready for what the relay waits for.
///
/// Not an `async fn`, which would keep its arguments beside what it makes of them: this future is
/// most of what an idle device costs.
pub(crate) fn relay<'a, C, B, R>(
    client: &'a mut TlsStream<C>,
    backend: &'a mut B,
    early: Vec<u8>,
    session: &'a Session,
    bounds: Bounds,
    is_ready: R,
) -> impl Future<Output = Ended>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
    R: Fn((&C, Interest), (&B, Interest)) -> bool,
{
    let mut relay = Relay {
        client,
        backend,
        unsent: WriteBuffer::new(early),
        to_backend: Flow::Open,
        to_client: Flow::Open,
        backend_cut: None,
        sealed: 0,
        failure: None,
        session,
        bounds,
        last_progress: Instant::now(),
        moved: false,
        reads_from_client: ReadSize::default(),
        reads_from_backend: ReadSize::default(),
    };
    async move {
        let mut timer = pin!(sleep_until(Instant::now() + NEVER));
        let mut registered = false;
        poll_fn(|cx| {
            // Once: registering takes a lock, and a task keeps its waker.
            if !std::mem::replace(&mut registered, true) {
                relay.session.stop_order().register(cx.waker());
            }
            // First, so that the reason is never an error that the stop itself has caused.
            if let Some(stopped) = relay.session.stop_order().given() {
                return Poll::Ready(relay.stopped(RelayError::Stopped(stopped)));
            }
            relay.poll(cx, timer.as_mut(), &is_ready)
        })
        .await
    }
}

struct Relay<'a, C, B> {
    client: &'a mut TlsStream<C>,
    backend: &'a mut B,
    /// Plaintext that the backend would not take yet.
    unsent: WriteBuffer,
    to_backend: Flow,
    to_client: Flow,
    /// What cut the backend's stream, if a write has found that out: a read finds a mere end then.
    backend_cut: Option<io::ErrorKind>,
    /// How much plaintext is in what the client has not taken yet: one read at the most.
    sealed: u32,
    /// The first thing that went wrong without ending both directions. Boxed: it is rare, and large.
    failure: Option<Box<RelayError>>,
    session: &'a Session,
    bounds: Bounds,
    /// When the last byte moved, or a side ended its stream after that.
    last_progress: Instant,
    /// Whether a byte has moved since `last_progress` was set.
    moved: bool,
    reads_from_client: ReadSize,
    reads_from_backend: ReadSize,
}

impl<C, B> Relay<'_, C, B>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        timer: Pin<&mut Sleep>,
        is_ready: &impl Fn((&C, Interest), (&B, Interest)) -> bool,
    ) -> Poll<Ended> {
        let queued = self.queued();
        let flows = (self.to_backend, self.to_client);
        let polled = scratch::with(|scratch| {
            self.poll_to_backend(cx, scratch)?;
            self.poll_to_client(cx, scratch)
        });
        if let Err(error) = polled {
            return Poll::Ready(self.cut(error));
        }
        if self.to_backend.is_over() && self.to_client.is_over() {
            return Poll::Ready(self.finished());
        }
        debug_assert!(self.held() <= MAX_HELD_BYTES, "{} bytes are held", self.held());
        let now = Instant::now();
        if std::mem::take(&mut self.moved) || queued != self.queued() {
            self.last_progress = now;
            self.session.on_activity(now.into_std());
            self.session.set_buffered(self.held());
        } else if flows != (self.to_backend, self.to_client) {
            // However long it was silent before: the other side has yet to answer the end.
            self.last_progress = now;
        }
        self.poll_bounds(cx, timer, now, is_ready).map(|error| self.stopped(error))
    }

    fn relayed(&self, direction: Direction, bytes: usize) {
        self.session.relayed(direction, bytes as u64);
    }

    fn held(&self) -> usize {
        self.queued() + self.client.partial()
    }

    fn queued(&self) -> usize {
        self.unsent.rest().len() + self.client.queued()
    }

    /// Moves bytes towards the backend until one of the sockets has to be waited for.
    fn poll_to_backend(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), RelayError> {
        for _ in 0..ROUNDS {
            match self.to_backend {
                Flow::Done => return Ok(()),
                Flow::Open | Flow::Ending => match self.poll_flush_to_backend(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Err(error)) => self.backend_takes_no_more(error),
                    Poll::Ready(Ok(())) if self.to_backend == Flow::Ending => {
                        // It fails if the backend has gone: then it needs no telling.
                        if Pin::new(&mut *self.backend).poll_shutdown(cx).is_pending() {
                            return Ok(());
                        }
                        self.to_backend = Flow::Done;
                    }
                    Poll::Ready(Ok(())) => match self.poll_client(cx, scratch) {
                        Poll::Pending => return Ok(()),
                        Poll::Ready(received) => self.received(received, cx, scratch)?,
                    },
                },
                Flow::Discarding => match self.poll_client(cx, scratch) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(Received::Some)) => {}
                    Poll::Ready(_) => self.to_backend = Flow::Done,
                },
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Writes what the backend had not taken, and counts what it takes.
    fn poll_flush_to_backend(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let before = self.unsent.rest().len();
        let flushed = self.unsent.poll_flush(self.backend, cx);
        self.relayed(Direction::ToBackend, before - self.unsent.rest().len());
        flushed
    }

    /// Takes what the client sent one step further.
    fn received(
        &mut self,
        received: Result<Received, ReceiveError>,
        cx: &mut Context<'_>,
        scratch: &Scratch,
    ) -> Result<(), RelayError> {
        match received {
            Ok(Received::Some) => {
                self.moved = true;
                let pushed = self.unsent.push(self.backend, cx, scratch.plain());
                self.reads_from_client.learn(scratch.plain.len(), self.unsent.is_empty());
                let taken = scratch.plain.len() - self.unsent.rest().len();
                self.relayed(Direction::ToBackend, taken);
                if let Err(error) = pushed {
                    self.backend_takes_no_more(error);
                }
            }
            Ok(Received::Closed) => self.to_backend = Flow::Ending,
            Ok(Received::Truncated) => {
                self.failure.get_or_insert_with(|| RelayError::Truncated.into());
                self.to_backend = Flow::Ending;
            }
            // After the whole answer, with its end: a client that closes with our close_notify
            // unread sends a reset, and has lost nothing by it.
            Err(ReceiveError::Io(_)) if self.to_client == Flow::Done => {
                self.failure.get_or_insert_with(|| RelayError::Truncated.into());
                self.to_backend = Flow::Ending;
            }
            Err(ReceiveError::Io(error)) => return Err(RelayError::Client(error)),
            Err(ReceiveError::MidRecord) => {
                // A client that has refused the answer before is known by that.
                return Err(self.failure.take().map_or(RelayError::MidRecord, |error| *error));
            }
            Err(ReceiveError::Tls(error)) => return Err(RelayError::Tls(error)),
        }
        Ok(())
    }

    /// Moves bytes towards the client until one of the sockets has to be waited for.
    fn poll_to_client(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), RelayError> {
        for _ in 0..ROUNDS {
            match self.to_client {
                Flow::Done => return Ok(()),
                Flow::Open => match self.client.poll_flush(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Err(error)) => self.client_takes_no_more(error),
                    Poll::Ready(Ok(())) => {
                        self.count_sealed();
                        match self.poll_backend(cx, scratch) {
                            Poll::Pending => return Ok(()),
                            Poll::Ready(Err(error)) => return Err(RelayError::Backend(error)),
                            Poll::Ready(Ok(read)) => {
                                let plain = &scratch.incoming[..read];
                                self.answered(plain, cx, &mut scratch.sealed)?;
                            }
                        }
                    }
                },
                Flow::Ending => match self.client.poll_shutdown(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) => self.to_client = Flow::Done,
                    Poll::Ready(Err(error)) => self.client_takes_no_more(error),
                },
                Flow::Discarding => match self.poll_backend(cx, scratch) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => self.to_client = Flow::Done,
                },
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Takes what the backend sent one step further.
    fn answered(
        &mut self,
        plain: &[u8],
        cx: &mut Context<'_>,
        sealed: &mut Vec<Vec<u8>>,
    ) -> Result<(), RelayError> {
        if plain.is_empty() {
            if let Some(cut) = self.backend_cut {
                return Err(RelayError::Backend(cut.into()));
            }
            self.client.queue_close_notify();
            self.to_client = Flow::Ending;
            return Ok(());
        }
        self.moved = true;
        match self.client.send(cx, plain, sealed) {
            Ok(()) => {
                self.reads_from_backend.learn(plain.len(), self.client.queued() == 0);
                self.sealed = u32::try_from(plain.len()).unwrap_or(u32::MAX);
                Ok(())
            }
            Err(SendError::Io(error)) => {
                self.client_takes_no_more(error);
                Ok(())
            }
            Err(SendError::Seal(error)) => Err(RelayError::Seal(error)),
        }
    }

    /// Counts what the client has taken whole. Before the next read from the backend, and so always
    /// when there was one.
    fn count_sealed(&mut self) {
        let sealed = std::mem::take(&mut self.sealed);
        if sealed > 0 {
            self.relayed(Direction::ToClient, sealed as usize);
        }
    }

    /// The backend refuses bytes. What it has said may still be unread: a server that refuses a
    /// request answers, closes, and resets whatever else comes.
    fn backend_takes_no_more(&mut self, error: io::Error) {
        self.backend_cut = socket::cut(&error);
        self.failure.get_or_insert_with(|| RelayError::Backend(error).into());
        self.unsent = WriteBuffer::default();
        self.to_backend = Flow::Discarding;
    }

    /// The client refuses bytes. What it has said may still be unread: a device that reports and
    /// goes to sleep resets the answer.
    fn client_takes_no_more(&mut self, error: io::Error) {
        self.failure.get_or_insert_with(|| RelayError::Client(error).into());
        self.client.discard_queued();
        self.to_client = Flow::Discarding;
    }

    /// Reads once from the client: the scratch has what was opened.
    fn poll_client(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Poll<Result<Received, ReceiveError>> {
        self.client.poll_receive(cx, scratch, self.reads_from_client.bytes())
    }

    /// Reads once from the backend into `scratch.incoming`; 0 is the end.
    fn poll_backend(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Poll<io::Result<usize>> {
        let room = &mut scratch.incoming[..self.reads_from_backend.bytes()];
        let mut buffer = ReadBuf::new(room);
        ready!(Pin::new(&mut *self.backend).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Completes when one of the bounds is reached.
    fn poll_bounds(
        &self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        mut now: Instant,
        is_ready: &impl Fn((&C, Interest), (&B, Interest)) -> bool,
    ) -> Poll<RelayError> {
        loop {
            let Some((mut deadline, error)) = self.next_bound() else {
                return Poll::Pending;
            };
            if now >= deadline {
                if !error.is_silence() || !self.can_go_on(is_ready) {
                    return Poll::Ready(error);
                }
                deadline = now + DELIVERY;
            }
            // Bytes only move the deadline on. A timer that is due before it can stay as it is: it
            // wakes us early once, instead of being moved for every read.
            if now < timer.deadline() && timer.deadline() <= deadline {
                return Poll::Pending;
            }
            timer.as_mut().reset(deadline);
            ready!(timer.as_mut().poll(cx));
            now = Instant::now();
        }
    }

    /// Whether the kernel has what the relay waits for, and tokio has yet to report it.
    fn can_go_on(&self, is_ready: &impl Fn((&C, Interest), (&B, Interest)) -> bool) -> bool {
        let (to_backend, to_client) = (self.to_backend, self.to_client);
        let backend_is_stuck = to_backend != Flow::Discarding && !self.unsent.is_empty();
        let client_is_stuck = to_client != Flow::Discarding && self.client.queued() > 0;
        let client =
            Interest { read: to_backend.is_read() && !backend_is_stuck, write: client_is_stuck };
        let backend =
            Interest { read: to_client.is_read() && !client_is_stuck, write: backend_is_stuck };
        is_ready((self.client.io(), client), (self.backend, backend))
    }

    /// What ends the relay next, if no byte moves until then.
    fn next_bound(&self) -> Option<(Instant, RelayError)> {
        let half_closed = self.to_backend != Flow::Open || self.to_client != Flow::Open;
        let half_close = self.bounds.half_close.filter(|_| half_closed);
        let after = |quiet: Duration| self.last_progress + quiet;
        let bounds = [
            self.bounds
                .too_old
                .map(|deadline| (deadline, RelayError::Stopped(Stopped(Reason::MaxAge)))),
            half_close.map(|quiet| (after(quiet), RelayError::HalfClosed(quiet))),
            self.bounds.idle.map(|quiet| (after(quiet), RelayError::Idle(quiet))),
        ];
        bounds.into_iter().flatten().min_by_key(|(deadline, _)| *deadline)
    }

    /// Both directions have ended.
    fn finished(&mut self) -> Ended {
        Ended { result: self.failure.take().map_or(Ok(()), |error| Err(*error)), reset: None }
    }

    /// Ends a relay that could have continued.
    fn stopped(&mut self, error: RelayError) -> Ended {
        if let RelayError::Stopped(Stopped(reason)) = error {
            // The relay itself gives the order for the maximum age.
            self.session.stop(reason);
        }
        if self.to_client == Flow::Open {
            self.client.queue_close_notify();
        }
        // What the backend has not got of the client's stream is lost: its part is no whole.
        let is_part = !self.unsent.is_empty() || self.client.partial() > 0;
        let reset = is_part.then_some(Side::Backend);
        Ended { result: Err(error), reset }
    }

    /// One side's stream was cut. The other must not take its part for the whole.
    fn cut(&mut self, error: RelayError) -> Ended {
        let reset = match &error {
            RelayError::Client(_) | RelayError::MidRecord => Some(Side::Backend),
            RelayError::Tls(error) => {
                self.client.queue_alert(error);
                Some(Side::Backend)
            }
            // What the backend said last is missing. A close_notify would tell the client that it
            // is not.
            RelayError::Backend(_) | RelayError::Seal(_) => Some(Side::Client),
            RelayError::Truncated
            | RelayError::Idle(_)
            | RelayError::HalfClosed(_)
            | RelayError::Stopped(_) => None,
        };
        Ended { result: Err(error), reset }
    }
}

#[cfg(test)]
mod tests;
