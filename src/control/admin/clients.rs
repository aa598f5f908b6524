//! Connections to the admin port: their deadlines, and their eviction at the limit.
//!
//! **Promises.** A probe is accepted whatever other clients do. At the limit of [`Clients::new`], the next
//! connection evicts one, in this order: one that has not sent a whole request, an idle one, a stream, one that does not
//! read its response, one whose request waits for its turn; of each kind the oldest. A request is never evicted
//! while its response is made. [`MAX_TURNS`] responses are made at a time, not counting those that are answered
//! at once. A slow client has [`HEAD_TIMEOUT`] for the head of a request and [`RESPONSE_TIMEOUT`] for the
//! response, whether it reads or not. Each response announces how long an idle connection is kept.
//!
//! **Not here.** The responses (`admin.rs`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::lock::Lock;

/// Time for the head of a request, from accept or from its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Time from the head of a request to the last byte of its response. A reload continues without its client.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Time that a request waits for its turn before it is refused.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// Responses that are made at a time, or that wait for the thread that makes them.
const MAX_TURNS: usize = 8;

/// Time to the next request. It is longer than Prometheus' default scrape interval.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// The announced idle timeout (RFC 2068 section 19.7.1.1). It is a little shorter than ours, so that no client
/// sends a request while we close.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const ANNOUNCED_IDLE: &str = "timeout=70";

/// Largest head of a request. Real ones have a line and a few headers.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Bytes that the reader of a stream may send at a time. Real ones send none.
const MAX_IGNORED: usize = 64;

/// Pause before the next attempt to evict a connection.
const EVICTION_PAUSE: Duration = Duration::from_millis(5);

/// The connections to the admin port.
pub(super) struct Clients {
    max: usize,
    permits: Arc<Semaphore>,
    /// For requests that are not answered at once.
    turns: Arc<Semaphore>,
    listed: Lock<ListedClients>,
}

#[derive(Default)]
struct ListedClients {
    next: u64,
    clients: BTreeMap<u64, Arc<AdminClient>>,
}

/// The permit of one connection.
pub(super) struct ClientPermit {
    clients: Arc<Clients>,
    client: Arc<AdminClient>,
    id: u64,
    _permit: OwnedSemaphorePermit,
}

/// The turn of a request whose response takes a while to make.
pub(super) struct Turn {
    turns: Arc<Semaphore>,
    client: Arc<AdminClient>,
}

impl Turn {
    /// Waits for the turn; none after a timeout. Until then the connection can be evicted.
    pub(super) async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        let turn = timeout(TURN_TIMEOUT, Arc::clone(&self.turns).acquire_owned()).await;
        let turn = turn.ok()?.ok()?;
        self.client.set_activity(Activity::Answering);
        Some(turn)
    }
}

/// The activity of a connection, and when it began.
struct AdminClient {
    activity: Lock<(Activity, Instant)>,
    evicted: Notify,
}

/// The activity of a connection, in the order of eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Activity {
    /// Its first request, or a part of the next one, is arriving.
    Requesting,
    /// Its last request has been answered.
    Idle,
    /// Its response is a stream that continues. Its client can resume it.
    Streaming,
    /// Its response is being written.
    Writing,
    /// Its request waits for its turn.
    Waiting,
    /// Its response is being made.
    Answering,
}

impl Clients {
    /// Allows `max` connections.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            permits: Arc::new(Semaphore::new(max)),
            turns: Arc::new(Semaphore::new(MAX_TURNS.min(max.saturating_sub(1)).max(1))),
            listed: Lock::default(),
        })
    }

    /// Waits for a permit for one more connection, and evicts another one for it.
    pub(super) async fn permit(self: &Arc<Self>) -> ClientPermit {
        loop {
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                return self.list(permit);
            }
            let returned = self.permits.acquire();
            if self.evict_one() {
                let _returned = returned.await;
            } else {
                sleep(EVICTION_PAUSE).await;
            }
        }
    }

    /// Evicts a connection, and returns false if every response is being made.
    pub(super) fn evict_one(&self) -> bool {
        let mut listed = self.listed();
        let activities = listed.clients.iter().map(|(id, client)| (*client.activity(), *id));
        let Some(((activity, _), id)) = activities.min() else { return false };
        if activity == Activity::Answering {
            return false;
        }
        if let Some(client) = listed.clients.remove(&id) {
            client.evicted.notify_one();
        }
        true
    }

    fn list(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> ClientPermit {
        let client = Arc::new(AdminClient::new());
        let mut listed = self.listed();
        let id = listed.next;
        listed.next += 1;
        listed.clients.insert(id, Arc::clone(&client));
        drop(listed);
        ClientPermit { clients: Arc::clone(self), client, id, _permit: permit }
    }

    fn listed(&self) -> MutexGuard<'_, ListedClients> {
        self.listed.lock()
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        self.clients.listed().clients.remove(&self.id);
    }
}

impl ClientPermit {
    /// Answers requests through `answer` until the client closes, exceeds a deadline, or is evicted.
    pub(super) async fn serve<Io, F, B>(self, io: Io, answer: impl Fn(Request<Incoming>, Turn) -> F)
    where
        Io: AsyncRead + AsyncWrite + Unpin,
        F: Future<Output = Response<B>>,
        B: Body<Data = Bytes, Error = Infallible> + 'static,
    {
        let service = service_fn(|request| {
            self.client.set_activity(Activity::Waiting);
            let turn =
                Turn { turns: Arc::clone(&self.clients.turns), client: Arc::clone(&self.client) };
            let answering = answer(request, turn);
            async {
                let mut response = answering.await;
                // Only a stream has no known length.
                let is_stream = response.body().size_hint().exact().is_none();
                self.announce(&mut response, is_stream);
                self.client.set_activity(match is_stream {
                    true => Activity::Streaming,
                    false => Activity::Writing,
                });
                Ok::<_, Infallible>(response)
            }
        });
        let io = TokioIo::new(Watched { io, client: Arc::clone(&self.client) });
        let served = http1::Builder::new()
            // hyper's deadline also covers the wait for the next request.
            .header_read_timeout(None)
            // A client that shuts down its side after the request still gets the response.
            .half_close(true)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(io, service);
        tokio::select! {
            biased;
            ended = served => if let Err(error) = ended {
                tracing::debug!(%error, "admin connection failed");
            },
            () = self.client.evicted.notified() => {
                tracing::debug!("admin connection evicted for another");
            }
            () = self.client.timed_out() => {
                tracing::debug!("admin connection timed out");
            }
        }
    }

    /// Announces how long the connection is kept. While fewer than half of the permits are free, it is closed:
    /// pages in browsers request again and again, and must leave permits for others. After a stream it is closed.
    fn announce<B>(&self, response: &mut Response<B>, is_stream: bool) {
        let headers = response.headers_mut();
        if is_stream || self.clients.permits.available_permits() < self.clients.max / 2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        } else if !headers.contains_key(CONNECTION) {
            headers.insert(KEEP_ALIVE, HeaderValue::from_static(ANNOUNCED_IDLE));
        }
    }
}

impl AdminClient {
    fn new() -> Self {
        Self { activity: Lock::new((Activity::Requesting, Instant::now())), evicted: Notify::new() }
    }

    fn activity(&self) -> MutexGuard<'_, (Activity, Instant)> {
        self.activity.lock()
    }

    fn set_activity(&self, activity: Activity) {
        let mut current = self.activity();
        // One timeout covers the turn, and making and writing the response.
        let in_response = |activity| activity >= Activity::Writing;
        if in_response(current.0) && in_response(activity) {
            current.0 = activity;
        } else if current.0 != activity {
            *current = (activity, Instant::now());
        }
    }

    /// Notes a byte from the client.
    fn on_read(&self) {
        if self.activity().0 == Activity::Idle {
            self.set_activity(Activity::Requesting);
        }
    }

    /// Notes that everything has been written.
    fn on_flushed(&self) {
        let mut current = self.activity();
        match current.0 {
            Activity::Writing => *current = (Activity::Idle, Instant::now()),
            // The next part has the whole time again.
            Activity::Streaming => current.1 = Instant::now(),
            Activity::Requesting | Activity::Idle | Activity::Waiting | Activity::Answering => {}
        }
    }

    /// Waits for the deadline of the current activity. It is polled after the connection, which moves the deadline.
    async fn timed_out(&self) {
        let mut timer = pin!(sleep_until(self.deadline()));
        poll_fn(|cx| {
            let deadline = self.deadline();
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            timer.as_mut().poll(cx)
        })
        .await;
    }

    fn deadline(&self) -> Instant {
        let (activity, since) = *self.activity();
        since
            + match activity {
                Activity::Requesting => HEAD_TIMEOUT,
                Activity::Idle => IDLE_TIMEOUT,
                Activity::Streaming
                | Activity::Writing
                | Activity::Waiting
                | Activity::Answering => RESPONSE_TIMEOUT,
            }
    }
}

/// A socket that reports the activity of its connection.
struct Watched<Io> {
    io: Io,
    client: Arc<AdminClient>,
}

impl<Io: AsyncRead + Unpin> AsyncRead for Watched<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.client.on_read();
        }
        read
    }
}

impl<Io: AsyncRead + Unpin> Watched<Io> {
    /// Returns whether the reader of a stream has closed its side, and wakes the task when it does. hyper does not read
    /// while it answers.
    fn has_left(&mut self, cx: &mut Context<'_>) -> bool {
        if self.client.activity().0 != Activity::Streaming {
            return false;
        }
        // What it sends is ignored: the connection is closed after the stream.
        let mut ignored = [0; MAX_IGNORED];
        let mut ignored = ReadBuf::new(&mut ignored);
        while ignored.remaining() > 0 {
            let before = ignored.filled().len();
            match Pin::new(&mut self.io).poll_read(cx, &mut ignored) {
                Poll::Pending => return false,
                Poll::Ready(Ok(())) if ignored.filled().len() > before => {}
                Poll::Ready(Ok(()) | Err(_)) => return true,
            }
        }
        true
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// hyper flushes once it has written a whole response, and after each part of a stream.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_left(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        if flushed.is_ready() {
            self.client.on_flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// Serves a client whose requests are answered with so many bytes.
    async fn client(clients: &Arc<Clients>, bytes: usize) -> (DuplexStream, JoinHandle<()>) {
        let (client, ours) = duplex(1024);
        let answer = move |_, _| std::future::ready(Response::new(Full::from(vec![b'x'; bytes])));
        let permit = clients.permit().await;
        (client, tokio::spawn(async move { permit.serve(ours, answer).await }))
    }

    /// Makes a response that never comes.
    async fn never() -> Response<Full<Bytes>> {
        std::future::pending().await
    }

    async fn ask(client: &mut DuplexStream) -> String {
        client.write_all(REQUEST).await.unwrap();
        let mut answer = [0; 512];
        let read = client.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    }

    async fn ends_after(client: JoinHandle<()>) -> Duration {
        let start = Instant::now();
        client.await.unwrap();
        Duration::from_secs(start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_requests_and_reads_nothing_times_out() {
        let clients = Clients::new(4);
        let (mut client, served) = client(&clients, 8192).await;
        let asking = async { while client.write_all(REQUEST).await.is_ok() {} };
        let (took, ()) = tokio::join!(ends_after(served), asking);
        assert_eq!(took, RESPONSE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_does_not_come_times_out() {
        let clients = Clients::new(4);
        let (mut client, ours) = duplex(1024);
        client.write_all(REQUEST).await.unwrap();
        let permit = clients.permit().await;
        let served = tokio::spawn(permit.serve(ours, async |_, _| never().await));
        assert_eq!(ends_after(served).await, RESPONSE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_request_times_out() {
        let clients = Clients::new(4);
        let (_silent, served) = client(&clients, 1).await;
        assert_eq!(ends_after(served).await, HEAD_TIMEOUT);
        let (mut slow, served) = client(&clients, 1).await;
        ask(&mut slow).await;
        sleep(HEAD_TIMEOUT * 2).await;
        let dripping = async {
            while slow.write_all(b"G").await.is_ok() {
                sleep(Duration::from_millis(300)).await;
            }
        };
        let (took, ()) = tokio::join!(ends_after(served), dripping);
        assert_eq!(took, HEAD_TIMEOUT, "counted from its first byte");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_kept_as_long_as_announced() {
        let clients = Clients::new(4);
        let (mut kept, served) = client(&clients, 1).await;
        for _ in 0..20 {
            assert!(ask(&mut kept).await.contains("keep-alive: timeout=70\r\n"));
            sleep(IDLE_TIMEOUT - Duration::from_secs(1)).await;
        }
        ask(&mut kept).await;
        assert_eq!(ends_after(served).await, IDLE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connections_are_evicted_before_idle_ones() {
        let clients = Clients::new(5);
        let (mut idle, idle_served) = client(&clients, 1).await;
        ask(&mut idle).await;
        let (mut unread, unread_served) = client(&clients, 8192).await;
        unread.write_all(REQUEST).await.unwrap();
        let (_silent, silent_served) = client(&clients, 1).await;
        let (mut half, half_served) = client(&clients, 1).await;
        half.write_all(b"GET / HT").await.unwrap();
        let (mut asked, ours) = duplex(1024);
        asked.write_all(REQUEST).await.unwrap();
        let permit = clients.permit().await;
        let made = tokio::spawn(permit.serve(ours, async |_, turn: Turn| {
            let _turn = turn.wait().await;
            never().await
        }));
        sleep(Duration::from_millis(1)).await;
        for ends in [silent_served, half_served, idle_served, unread_served] {
            assert!(clients.evict_one());
            assert_eq!(ends_after(ends).await, Duration::ZERO);
        }
        assert!(!clients.evict_one() && !made.is_finished(), "its response is being made");
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_connection_is_evicted() {
        let clients = Clients::new(2);
        let (_first, first) = client(&clients, 1).await;
        let (_second, second) = client(&clients, 1).await;
        let (_third, third) = client(&clients, 1).await;
        assert_eq!(ends_after(first).await, Duration::ZERO);
        assert_eq!([second, third].map(|served| served.is_finished()), [false; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_ended_its_side_gets_its_whole_response() {
        let clients = Clients::new(4);
        let (mut client, ours) = duplex(1024);
        let permit = clients.permit().await;
        let answer = async |_, _| {
            sleep(Duration::from_secs(1)).await;
            Response::new(Full::from(vec![b'x'; 8192]))
        };
        tokio::spawn(async move { permit.serve(ours, answer).await });
        client.write_all(REQUEST).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(&[b'x'; 8192]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_returns_its_permit_at_once() {
        let clients = Clients::new(1);
        let (silent, served) = client(&clients, 1).await;
        drop(silent);
        assert_eq!(ends_after(served).await, Duration::ZERO);
        let (mut kept, served) = client(&clients, 1).await;
        ask(&mut kept).await;
        drop(kept);
        assert_eq!(ends_after(served).await, Duration::ZERO);
        assert!(clients.listed().clients.is_empty());
    }
}
