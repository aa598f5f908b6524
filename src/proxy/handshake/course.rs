//! The course of a handshake: how far it has come, and how long the client has waited for this proxy.
//!
//! **Promises.** The kernel is asked about the client's connection only when a handshake has failed, and only if the answer
//! says more than the stage: a storm of devices that give up before they are answered costs no system call.
//!
//! **Not here.** The deadlines (`handshake.rs`), the queue (`turn.rs`).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::error::{FailedHandshake, HandshakeError};
use crate::proxy::hello::HelloError;
use crate::proxy::record::{FailedOffer, UnfinishedHandshake};
use crate::proxy::socket::diag::TcpState;
use crate::proxy::socket::{StreamEnd, send_with_next, stream_end};
use crate::proxy::tls::{Negotiation, Progress};
use crate::terms::labels::{HandshakeStage, Interruption, RejectionCause};

/// Operations of the kernel on a client's socket.
pub(crate) struct Kernel<Io> {
    state: fn(&Io) -> Option<TcpState>,
    end: fn(&Io) -> Option<StreamEnd>,
    local: fn(&Io) -> Option<SocketAddr>,
    send_with_next: fn(&Io, &[u8]) -> io::Result<usize>,
}

// Not derived: that would require it of the socket.
impl<Io> Copy for Kernel<Io> {}

impl<Io> Clone for Kernel<Io> {
    fn clone(&self) -> Self {
        *self
    }
}

impl Kernel<TcpStream> {
    /// The kernel of a TCP socket.
    pub(crate) const TCP: Self =
        Self { state: TcpState::of, end: |tcp| stream_end(tcp), local, send_with_next };
}

impl<Io> Kernel<Io> {
    /// No kernel: the client is in this process, or is imagined.
    pub(crate) const NONE: Self = Self {
        state: |_| None,
        end: |_| None,
        local: |_| None,
        send_with_next: |_, _| Err(io::ErrorKind::WouldBlock.into()),
    };
}

/// Returns the address that a client has connected to. A dual-stack listener reports IPv4 as ::ffff:192.0.2.1.
fn local(tcp: &TcpStream) -> Option<SocketAddr> {
    let local = tcp.local_addr().ok()?;
    Some(SocketAddr::new(local.ip().to_canonical(), local.port()))
}

impl<Io> Kernel<Io> {
    /// Returns the address that the client has connected to.
    pub(super) fn local(self, io: &Io) -> Option<SocketAddr> {
        (self.local)(io)
    }
}

/// The course of one handshake.
pub(super) struct Course<Io> {
    kernel: Kernel<Io>,
    /// The end of the last ClientHello, and the CPU time up to then. None once its answer was sent.
    unanswered: Option<(Instant, Duration)>,
    waited: Duration,
    unfinished: Option<UnfinishedHandshake>,
    rejection: Option<RejectionCause>,
}

impl<Io> Course<Io> {
    /// Begins with a ClientHello that was complete at `read_at`.
    pub(super) const fn new(kernel: Kernel<Io>, read_at: Instant) -> Self {
        let unanswered = Some((read_at, Duration::ZERO));
        Self { kernel, unanswered, waited: Duration::ZERO, unfinished: None, rejection: None }
    }

    /// A further ClientHello is complete. `crypto` is the CPU time of the handshake up to now.
    pub(super) fn on_hello(&mut self, crypto: Duration) {
        self.unanswered = Some((Instant::now(), crypto));
    }

    /// The next bytes are sent to the client. The first ones after a ClientHello are its answer.
    pub(super) fn on_send(&mut self, crypto: Duration) {
        if let Some((read_at, before)) = self.unanswered.take() {
            self.waited += read_at.elapsed().saturating_sub(crypto.saturating_sub(before));
        }
    }

    /// Returns the time that the client waited for its answers, without the CPU time for them.
    pub(super) const fn waited(&self) -> Duration {
        self.waited
    }

    /// Asks the kernel whether the client has left. A read may not notice it: after a short read, tokio waits for an event,
    /// and none comes if the client had left before its socket was registered.
    pub(super) fn left(&self, io: &Io) -> Option<Interruption> {
        match (self.kernel.end)(io)? {
            // TLS needs the client's answer.
            StreamEnd::Ended => Some(Interruption::Eof),
            StreamEnd::Reset => Some(Interruption::Reset),
        }
    }

    /// The handshake has failed, and its socket is still open.
    pub(super) fn on_failure(&mut self, error: &HandshakeError, io: &Io, crypto: Duration) {
        self.unfinished = error.interruption().map(|how| self.stopped(how, error, io));
        self.on_send(crypto);
    }

    /// The client has rejected the server certificate for this likely cause, if there is one.
    pub(super) const fn on_rejection(&mut self, cause: Option<RejectionCause>) {
        self.rejection = cause;
    }

    fn stopped(&self, how: Interruption, error: &HandshakeError, io: &Io) -> UnfinishedHandshake {
        if self.unanswered.is_some() {
            return UnfinishedHandshake { how, stage: HandshakeStage::Unanswered, tcp: None };
        }
        let tcp = (self.kernel.state)(io);
        // TCP has given up: the connection is closed and has no figures.
        let is_lost = how == Interruption::Timeout && error.is_of_socket();
        let stage = match is_lost || tcp.is_some_and(|tcp| tcp.unacked > 0) {
            true => HandshakeStage::Unacknowledged,
            false => HandshakeStage::Answered,
        };
        UnfinishedHandshake { how, stage, tcp }
    }

    /// Returns the failure of a client with this offer.
    pub(super) fn failed(self, error: HandshakeError, offer: FailedOffer) -> Box<FailedHandshake> {
        let offer = Some(FailedOffer { waited: self.waited, ..offer });
        let Self { unfinished, rejection, .. } = self;
        Box::new(FailedHandshake { error, unfinished, offer, rejection })
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Course<Io> {
    /// Sends the queued records. Behind the client's Finished of TLS 1.3 these are tickets. They may wait for the answer to
    /// data that came with it. Otherwise they are sent at once: their packet acknowledges the Finished, and a device with
    /// Nagle's algorithm sends no data, or no more of it, before.
    ///
    /// # Errors
    /// The socket's.
    pub(super) async fn flush(
        &self,
        negotiation: &mut Negotiation<Io>,
        progress: Progress,
    ) -> io::Result<()> {
        let is_ticket = progress == Progress::Finished && negotiation.state().is_tls13();
        if is_ticket && negotiation.holds_record() {
            negotiation.flush_with_next(self.kernel.send_with_next).await
        } else {
            negotiation.flush().await
        }
    }
}

/// Returns the failure of a client whose first ClientHello was refused or is incomplete.
pub(super) fn failed_hello<Io>(
    error: HelloError,
    io: &Io,
    kernel: Kernel<Io>,
) -> Box<FailedHandshake> {
    let error = HandshakeError::from(error);
    let unfinished = error.interruption().map(|how| {
        let stage = if error.is_silence() { HandshakeStage::Silent } else { HandshakeStage::Hello };
        // Health checks come every few seconds.
        let tcp = if how == Interruption::Timeout { (kernel.state)(io) } else { None };
        UnfinishedHandshake { how, stage, tcp }
    });
    Box::new(FailedHandshake { error, unfinished, offer: None, rejection: None })
}
