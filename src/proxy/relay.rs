//! Copies both directions until both have ended.
//!
//! **Promises.**
//! - Bytes are delivered unchanged and in order, whatever the chunks they arrive in.
//! - Half-close is preserved: the end of one direction is passed on, and the other direction continues.
//! - Backpressure: bytes are written before more are read, so a slow reader stops its writer. A connection buffers
//!   at most [`MAX_HELD_BYTES`], and none when idle.
//! - Bytes that a side has sent are delivered even if it no longer takes any. If its stream was cut (by a reset, seen
//!   by a read or a write, or by an end in the middle of a record), the other side gets a reset.
//! - A connection is not closed as idle while the kernel has bytes for it: after SIGCONT, timers are due before the
//!   bytes that arrived meanwhile have been read.
//! - Neither direction starves the other tasks of the thread: it yields after [`ROUNDS`] reads.
//!
//! **Not here.** The steps of one direction (`relay/to_backend.rs`, `relay/to_client.rs`), pauses (`relay/pause.rs`),
//! sockets and their options, TLS itself (`tls.rs`), logs and metrics (`record.rs`).

mod bounds;
mod error;
mod flow;
mod idle_ciphers;
mod pause;
mod read_size;
mod to_backend;
mod to_client;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use self::bounds::Bound;
pub(crate) use self::bounds::Bounds;
pub(crate) use self::error::RelayError;
use self::flow::Flow;
use self::read_size::ReadSize;
use super::socket::Interest;
use super::tls::scratch::{self, MAX_READ_BYTES};
use super::tls::{HELD_BYTES_TRAFFIC, TlsStream};
use super::write_buffer::WriteBuffer;
use crate::sessions::stop::{Order, Stopped};
use crate::sessions::{Session, Sessions};
use crate::terms::labels::Direction;
use crate::terms::reason::Reason;

/// Reads in one direction before the task yields: at most 1 MiB.
const ROUNDS: usize = 4;

/// Most bytes that a connection buffers, 672 KiB, or 568 KiB without records of less than 512 bytes: a partial record,
/// one opened read that the backend has not taken, and one sealed read that the client has not taken.
pub(crate) const MAX_HELD_BYTES: usize =
    HELD_BYTES_TRAFFIC + (HELD_BYTES_TRAFFIC + MAX_READ_BYTES) + SEALED_BYTES;

/// A sealed read. TLS adds at most 29 bytes to each record of at least 63 bytes (`hello/record_limit.rs`), and there may
/// be a key_update.
const SEALED_BYTES: usize = MAX_READ_BYTES + MAX_READ_BYTES.div_ceil(63) * 29 + 1024;

/// Time for tokio to report readiness that the kernel already has, before the kernel is asked again.
const DELIVERY: Duration = Duration::from_millis(50);

/// Deadline of a timer that must not fire.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// End of a relay.
pub(crate) struct Ended {
    pub(crate) result: Result<(), RelayError>,
    /// The side to reset, because the other side's stream ended abnormally.
    pub(crate) reset: Option<Side>,
}

impl Ended {
    /// Returns whether the client's socket is to be closed in an orderly way: it is not to be reset, and not closed
    /// already by the client's reset or silence.
    pub(crate) const fn closes_client(&self) -> bool {
        let is_gone = matches!(self.result, Err(RelayError::Client(_)));
        !is_gone && !matches!(self.reset, Some(Side::Client))
    }
}

/// One of the two sockets of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Backend,
}

/// Relays between a client and a backend until both directions have ended, the session is stopped, or an error
/// occurs. The caller then sends the bytes that are queued for the client (a close_notify or another alert).
///
/// `early` is plaintext that came with the end of the handshake. It goes to the backend first. `is_ready` asks the
/// kernel whether either side is ready for the operation that the relay waits for.
///
/// Not an `async fn`, which would store its arguments a second time: this future is most of the memory of an idle
/// connection.
pub(crate) fn relay<'a, C, B, R>(
    client: &'a mut TlsStream<C>,
    backend: &'a mut B,
    early: Vec<u8>,
    (session, sessions): (&'a Session, &'a Sessions),
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
        awaits_answer: !early.is_empty(),
        unsent: WriteBuffer::new(early),
        to_backend: Flow::Open,
        to_client: Flow::Open,
        backend_cut: None,
        sealed: 0,
        failure: None,
        session,
        sessions,
        turn: None,
        bounds,
        last_progress: Instant::now(),
        moved: Moved::default(),
        ends_at_pause: None,
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
            match relay.session.stop_order().order() {
                Some(Order::Now(stopped)) => {
                    return Poll::Ready(relay.stopped(RelayError::Stopped(stopped)));
                }
                Some(Order::AtPause(reason)) => relay.ends_at_pause = Some(reason),
                None => {}
            }
            relay.poll(cx, timer.as_mut(), &is_ready)
        })
        .await
    }
}

struct Relay<'a, C, B> {
    client: &'a mut TlsStream<C>,
    backend: &'a mut B,
    /// Plaintext not yet written to the backend.
    unsent: WriteBuffer,
    to_backend: Flow,
    to_client: Flow,
    /// Error that cut the backend's stream, if a write has seen it: later reads return EOF (`socket::cut`).
    backend_cut: Option<io::ErrorKind>,
    /// Plaintext bytes in the sealed bytes that the client has not taken yet: at most one read.
    sealed: u32,
    /// First error that did not end both directions. Boxed, because it is rare and large.
    failure: Option<Box<RelayError>>,
    session: &'a Session,
    sessions: &'a Sessions,
    /// Its turn to end, if closes per second are limited.
    turn: Option<Instant>,
    bounds: Bounds,
    /// Time of the last relayed byte, or of a later end of one direction.
    last_progress: Instant,
    moved: Moved,
    /// True if the device sent last.
    awaits_answer: bool,
    /// Reason of an order to end at the next pause.
    ends_at_pause: Option<Reason>,
    reads_from_client: ReadSize,
    reads_from_backend: ReadSize,
}

/// Directions in which a byte was relayed since `last_progress` was set.
#[derive(Default)]
struct Moved {
    to_backend: bool,
    to_client: bool,
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
        let (unsent, queued) = (self.unsent.rest().len(), self.client.queued());
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
        let moved = std::mem::take(&mut self.moved);
        let to_backend = moved.to_backend || unsent != self.unsent.rest().len();
        let to_client = moved.to_client || queued != self.client.queued();
        if to_backend || to_client {
            self.last_progress = now;
            // Before the first answer, only messages of TLS can be queued for the client.
            let to_client = moved.to_client || to_client && self.has_answered();
            self.progressed(now, to_backend, to_client);
        } else if flows != (self.to_backend, self.to_client) {
            // However long the silence before: the other side gets its full time to answer the end.
            self.last_progress = now;
        }
        // Also without progress: a partial record grows before a byte of it is relayed.
        self.session.set_buffered(self.held(), &self.sessions.budget);
        self.poll_bounds(cx, timer, now, is_ready).map(|error| self.stopped(error))
    }

    /// Returns true if a byte of the backend was relayed.
    fn has_answered(&self) -> bool {
        self.session.last_byte(Direction::ToClient).is_some()
    }

    /// Records in the session that bytes moved in these directions.
    fn progressed(&self, now: Instant, to_backend: bool, to_client: bool) {
        let now = now.into_std();
        if to_backend {
            self.session.on_activity(Direction::ToBackend, now);
        }
        if to_client {
            self.session.on_activity(Direction::ToClient, now);
        }
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

    /// Completes when a bound is reached. Drops the ciphers of an idle session.
    fn poll_bounds(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        mut now: Instant,
        is_ready: &impl Fn((&C, Interest), (&B, Interest)) -> bool,
    ) -> Poll<RelayError> {
        loop {
            let mut wake = self.drop_idle_ciphers(now);
            if let Some((mut deadline, bound)) = self.next_bound() {
                if now >= deadline {
                    deadline = if bound.is_silence() && self.can_go_on(is_ready) {
                        now + DELIVERY
                    } else if let Some(turn) = self.wait_for_turn(bound, now) {
                        turn
                    } else {
                        return Poll::Ready(bound.error());
                    };
                }
                wake = Some(wake.map_or(deadline, |idle| idle.min(deadline)));
            }
            let Some(deadline) = wake else {
                return Poll::Pending;
            };
            // Bytes move the deadline, not the timer. A timer that fires before the deadline wakes the task early
            // once, which is cheaper than to reset it for every read.
            if now < timer.deadline() && timer.deadline() <= deadline {
                return Poll::Pending;
            }
            timer.as_mut().reset(deadline);
            ready!(timer.as_mut().poll(cx));
            now = Instant::now();
        }
    }

    /// Returns true if a socket is ready for an operation that the relay waits for, and tokio has not reported it
    /// yet.
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

    /// Next bound and its deadline, if no byte is relayed before.
    fn next_bound(&self) -> Option<(Instant, Bound)> {
        let half_closed = self.to_backend != Flow::Open || self.to_client != Flow::Open;
        let half_close = self.bounds.half_close.filter(|_| half_closed);
        let after = |quiet: Duration| self.last_progress + quiet;
        let mut next = self.bounds.idle.map(|quiet| (after(quiet), Bound::Idle(quiet)));
        // One after the other: this runs at each wake-up, and most relays have one bound.
        let mut add = |bound: Option<(Instant, Bound)>| {
            if let Some(bound) = bound
                && next.is_none_or(|(deadline, _)| bound.0 <= deadline)
            {
                next = Some(bound);
            }
        };
        add(half_close.map(|quiet| (after(quiet), Bound::HalfClose(quiet))));
        add(self.bounds.too_old.map(|deadline| (deadline, Bound::MaxAge)));
        add(self.next_pause());
        next
    }

    /// Both directions have ended.
    fn finished(&mut self) -> Ended {
        Ended { result: self.failure.take().map_or(Ok(()), |error| Err(*error)), reset: None }
    }

    /// Ends a relay that could have continued.
    fn stopped(&mut self, error: RelayError) -> Ended {
        if let RelayError::Paused(reason) | RelayError::Stopped(Stopped(reason)) = error {
            // The relay itself gives the order for the maximum age, and at a pause.
            self.session.stop(reason);
        }
        if self.to_client == Flow::Open {
            self.client.queue_close_notify();
        }
        // Bytes of the client's stream are lost. The backend must not take the part for the whole.
        let is_truncated = !self.unsent.is_empty() || self.client.partial() > 0;
        let reset = is_truncated.then_some(Side::Backend);
        Ended { result: Err(error), reset }
    }

    /// Ends the relay after one side's stream was cut. The other side must not take the part for the whole.
    fn cut(&mut self, error: RelayError) -> Ended {
        let reset = match &error {
            RelayError::Client(_) | RelayError::MidRecord => Some(Side::Backend),
            RelayError::Tls(error) => {
                self.client.queue_alert(error);
                Some(Side::Backend)
            }
            // The end of the backend's stream is missing. A close_notify would mean that it is complete.
            RelayError::Backend(_) | RelayError::Seal(_) => Some(Side::Client),
            RelayError::Truncated
            | RelayError::Idle(_)
            | RelayError::HalfClosed(_)
            | RelayError::Paused(_)
            | RelayError::Stopped(_) => None,
        };
        Ended { result: Err(error), reset }
    }
}

#[cfg(test)]
mod tests;
