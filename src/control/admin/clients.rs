//! Connections to the admin port: how long each may take, and which of them gives way.
//!
//! **Promises.** A probe gets in whatever the others do: past [`Clients::new`]'s limit, the next
//! connection takes the place of one that has not sent a whole request, or else of an idle one, or else
//! of one that does not read its answer, or else of one that waits for its answer to be made, of each kind
//! the oldest. A request whose answer is being made is never cut for another; there are [`MAX_ANSWERS`] of
//! these at a time, probes apart. Slow
//! clients have [`HEAD_TIMEOUT`] for a request's head and [`ANSWER_TIMEOUT`] for its answer, whether they
//! read or not. A connection that is kept is announced [`IDLE_TIMEOUT`] with each answer.
//!
//! **Not here.** What is answered (`admin.rs`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::lock::Lock;

/// How long a client may take for a request's head: from accept, or from its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take, from the request's head to its last byte. A reload goes on without it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request may wait for its turn, before it is refused.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// How many answers are made at a time, or wait for the thread that makes them.
const MAX_ANSWERS: usize = 8;

/// How long a connection may wait for the next request: longer than Prometheus' default interval.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// The same as clients are told it (RFC 2068 section 19.7.1.1), a little less, so that none sends a
/// request in the moment in which we close.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const ANNOUNCED_IDLE: &str = "timeout=70";

/// What is read of a request at the most. Ours have a line and a few headers.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The pause until the next look for a place, where no connection can give way.
const PLACE_PAUSE: Duration = Duration::from_millis(5);

/// The connections to the admin port.
pub(super) struct Clients {
    max: usize,
    places: Arc<Semaphore>,
    /// For requests that are no probes.
    work: Arc<Semaphore>,
    listed: Lock<Listed>,
}

#[derive(Default)]
struct Listed {
    next: u64,
    clients: BTreeMap<u64, Arc<Client>>,
}

/// A connection that has a place.
pub(super) struct Place {
    clients: Arc<Clients>,
    client: Arc<Client>,
    id: u64,
    _permit: OwnedSemaphorePermit,
}

/// The turn of a request whose answer takes a moment to be made.
pub(super) struct Turn {
    work: Arc<Semaphore>,
    client: Arc<Client>,
}

impl Turn {
    /// Waits for it, if not for too long. Until then the connection may have to give way.
    pub(super) async fn work(&self) -> Option<OwnedSemaphorePermit> {
        let turn = timeout(TURN_TIMEOUT, Arc::clone(&self.work).acquire_owned()).await;
        let turn = turn.ok()?.ok()?;
        self.client.is_at(Activity::Answering);
        Some(turn)
    }
}

/// What a connection is at, and since when.
struct Client {
    at: Lock<(Activity, Instant)>,
    gives_way: Notify,
}

/// What a connection is at, in the order in which they give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Activity {
    /// Its first request, or a part of the next one, is on its way.
    Asking,
    /// Its last request is answered.
    Idle,
    /// Its answer is being written.
    Writing,
    /// Its answer waits for its turn to be made.
    Waiting,
    /// Its answer is being made.
    Answering,
}

impl Clients {
    /// Room for `max` connections.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            places: Arc::new(Semaphore::new(max)),
            work: Arc::new(Semaphore::new(MAX_ANSWERS.min(max.saturating_sub(1)).max(1))),
            listed: Lock::default(),
        })
    }

    /// A place for one more. Another gives way for it.
    pub(super) async fn place(self: &Arc<Self>) -> Place {
        loop {
            if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
                return self.list(permit);
            }
            let gone = self.places.acquire();
            if self.one_gives_way() {
                let _gone = gone.await;
            } else {
                sleep(PLACE_PAUSE).await;
            }
        }
    }

    /// Ends a connection that is not having its answer made; false if there is none.
    pub(super) fn one_gives_way(&self) -> bool {
        let mut listed = self.listed();
        let activities = listed.clients.iter().map(|(id, client)| (*client.at(), *id));
        let Some(((activity, _), id)) = activities.min() else { return false };
        if activity == Activity::Answering {
            return false;
        }
        if let Some(client) = listed.clients.remove(&id) {
            client.gives_way.notify_one();
        }
        true
    }

    fn list(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Place {
        let client = Arc::new(Client::new());
        let mut listed = self.listed();
        let id = listed.next;
        listed.next += 1;
        listed.clients.insert(id, Arc::clone(&client));
        drop(listed);
        Place { clients: Arc::clone(self), client, id, _permit: permit }
    }

    fn listed(&self) -> MutexGuard<'_, Listed> {
        self.listed.lock()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.listed().clients.remove(&self.id);
    }
}

impl Place {
    /// Answers requests by `answer` until the client ends, has had its time, or gives way.
    pub(super) async fn serve<Io, F>(self, io: Io, answer: impl Fn(Request<Incoming>, Turn) -> F)
    where
        Io: AsyncRead + AsyncWrite + Unpin,
        F: Future<Output = Response<Full<Bytes>>>,
    {
        let service = service_fn(|request| {
            self.client.is_at(Activity::Waiting);
            let turn =
                Turn { work: Arc::clone(&self.clients.work), client: Arc::clone(&self.client) };
            let answering = answer(request, turn);
            async {
                let mut response = answering.await;
                self.announce(&mut response);
                self.client.is_at(Activity::Writing);
                Ok::<_, Infallible>(response)
            }
        });
        let io = TokioIo::new(Watched { io, client: Arc::clone(&self.client) });
        let served = http1::Builder::new()
            // Its own deadlines would count idleness as slowness.
            .header_read_timeout(None)
            // One that has ended its side after the request waits for the answer.
            .half_close(true)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(io, service);
        tokio::select! {
            biased;
            ended = served => if let Err(error) = ended {
                tracing::debug!(%error, "a client of the admin port failed");
            },
            () = self.client.gives_way.notified() => {
                tracing::debug!("a client of the admin port gave way to another");
            }
            () = self.client.has_had_its_time() => {
                tracing::debug!("a client of the admin port took too long");
            }
        }
    }

    /// Says until when the connection is kept. Those who ask again and again, as pages in browsers do,
    /// leave places for others: they have to come again.
    fn announce(&self, response: &mut Response<Full<Bytes>>) {
        let headers = response.headers_mut();
        if self.clients.places.available_permits() < self.clients.max / 2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        } else if !headers.contains_key(CONNECTION) {
            headers.insert(KEEP_ALIVE, HeaderValue::from_static(ANNOUNCED_IDLE));
        }
    }
}

impl Client {
    fn new() -> Self {
        Self { at: Lock::new((Activity::Asking, Instant::now())), gives_way: Notify::new() }
    }

    fn at(&self) -> MutexGuard<'_, (Activity, Instant)> {
        self.at.lock()
    }

    fn is_at(&self, activity: Activity) {
        let mut at = self.at();
        // The time for an answer is for its turn, for making and for writing it.
        let in_answer = |activity| activity >= Activity::Writing;
        if in_answer(at.0) && in_answer(activity) {
            at.0 = activity;
        } else if at.0 != activity {
            *at = (activity, Instant::now());
        }
    }

    /// A byte has come.
    fn has_sent(&self) {
        if self.at().0 == Activity::Idle {
            self.is_at(Activity::Asking);
        }
    }

    /// All that was to be written has been.
    fn has_taken(&self) {
        if self.at().0 == Activity::Writing {
            self.is_at(Activity::Idle);
        }
    }

    /// Waits for the deadline of what the connection is at: of the last poll, and so this is polled after
    /// what moves it.
    async fn has_had_its_time(&self) {
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
        let (activity, since) = *self.at();
        since
            + match activity {
                Activity::Asking => HEAD_TIMEOUT,
                Activity::Idle => IDLE_TIMEOUT,
                Activity::Writing | Activity::Waiting | Activity::Answering => ANSWER_TIMEOUT,
            }
    }
}

/// A socket that notes what its connection is at.
struct Watched<Io> {
    io: Io,
    client: Arc<Client>,
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
            self.client.has_sent();
        }
        read
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Watched<Io> {
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

    /// hyper flushes once it has handed over everything.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        if flushed.is_ready() {
            self.client.has_taken();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// A client whose requests are answered by so many bytes.
    async fn client(clients: &Arc<Clients>, bytes: usize) -> (DuplexStream, JoinHandle<()>) {
        let (client, ours) = duplex(1024);
        let answer = move |_, _| std::future::ready(Response::new(Full::from(vec![b'x'; bytes])));
        let place = clients.place().await;
        (client, tokio::spawn(async move { place.serve(ours, answer).await }))
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
    async fn a_client_that_asks_on_and_on_and_reads_nothing_has_its_time() {
        let clients = Clients::new(4);
        let (mut client, served) = client(&clients, 8192).await;
        let asking = async { while client.write_all(REQUEST).await.is_ok() {} };
        let (took, ()) = tokio::join!(ends_after(served), asking);
        assert_eq!(took, ANSWER_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_has_its_time() {
        let clients = Clients::new(4);
        let (mut client, ours) = duplex(1024);
        client.write_all(REQUEST).await.unwrap();
        let place = clients.place().await;
        let served = tokio::spawn(place.serve(ours, async |_, _| std::future::pending().await));
        assert_eq!(ends_after(served).await, ANSWER_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_has_its_time_however_slowly_it_comes() {
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
        assert_eq!(took, HEAD_TIMEOUT, "from its first byte");
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_connection_is_told_for_how_long_and_ends_when_it_is_idle() {
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
    async fn those_that_do_not_ask_give_way_before_the_idle_ones() {
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
        let place = clients.place().await;
        let made = tokio::spawn(place.serve(ours, async |_, turn: Turn| {
            let _turn = turn.work().await;
            std::future::pending().await
        }));
        sleep(Duration::from_millis(1)).await;
        for ends in [silent_served, half_served, idle_served, unread_served] {
            assert!(clients.one_gives_way());
            assert_eq!(ends_after(ends).await, Duration::ZERO);
        }
        assert!(!clients.one_gives_way() && !made.is_finished(), "its answer is being made");
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_one_gets_the_place_of_the_oldest() {
        let clients = Clients::new(2);
        let (_first, first) = client(&clients, 1).await;
        let (_second, second) = client(&clients, 1).await;
        let (_third, third) = client(&clients, 1).await;
        assert_eq!(ends_after(first).await, Duration::ZERO);
        assert_eq!([second, third].map(|served| served.is_finished()), [false; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_ended_its_side_gets_its_whole_answer() {
        let clients = Clients::new(4);
        let (mut client, ours) = duplex(1024);
        let place = clients.place().await;
        let answer = async |_, _| {
            sleep(Duration::from_secs(1)).await;
            Response::new(Full::from(vec![b'x'; 8192]))
        };
        tokio::spawn(async move { place.serve(ours, answer).await });
        client.write_all(REQUEST).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(&[b'x'; 8192]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_gives_its_place_back_at_once() {
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
