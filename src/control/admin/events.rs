//! `GET /events`: what happens, as server-sent events.
//!
//! **Promises.** A reader that returns with `Last-Event-ID` misses nothing that is kept, and learns what is lost. The
//! stream ends with the drain. Text that devices chose is a JSON string on one line.
//!
//! **Not here.** The events (`events.rs` of the crate), their selection (`query.rs`).

use std::fmt::Write as _;
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderName;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep_until};

use super::Admin;
use super::query::{EventQuery, check_listener, event_number};
use super::response::{Reply, text, to_json, typed};
use super::stream::stream;
use crate::events::{Event, Happened, Reader};
use crate::lifecycle::Phase;
use crate::text::json_line;
use crate::time::since_epoch;

/// Sent by browsers that connect again (WHATWG HTML, section 9.2.4).
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

const CONTENT_TYPE: &str = "text/event-stream";

/// Time without an event after which a comment is sent, so that proxies between do not close the connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Events of one part of the response.
const MAX_EVENTS_OF_PART: usize = 64;

/// The data of an event. Its number and kind are also in the lines before it.
#[derive(Serialize)]
struct EventView<'a> {
    number: u64,
    kind: &'static str,
    /// Unix time, in seconds and thousandths of them.
    at: f64,
    #[serde(flatten)]
    what: &'a Happened,
}

/// Answers with the events that the query selects, as they happen.
pub(super) fn follow(admin: &Admin, request: &Request<Incoming>) -> Reply {
    let query = EventQuery::parse(request.uri().query().unwrap_or_default());
    // A browser repeats the query when it connects again: the header is newer.
    let header = request.headers().get(LAST_EVENT_ID);
    let header = header.map(|number| event_number("Last-Event-ID", &shown(number.as_bytes())));
    let (query, last) = match query.and_then(|query| Ok((query, header.transpose()?))) {
        Ok(parsed) => parsed,
        Err(refusal) => return text(StatusCode::BAD_REQUEST, refusal),
    };
    if let Err(refusal) = check_listener(&query.filter, &admin.status) {
        return text(StatusCode::BAD_REQUEST, refusal);
    }
    if request.method() == Method::HEAD {
        // No reader: events would be recorded for nobody.
        return typed(StatusCode::OK, "", CONTENT_TYPE);
    }
    let Some(reader) = admin.metrics.events().read(last.or(query.since)) else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "too many readers of events at a time\n");
    };
    let is_drained = admin.shutdown.phase() == Phase::Drained;
    stream(&admin.shutdown, CONTENT_TYPE, |sender| send(reader, query, sender, is_drained))
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Sends events until the reader leaves or the drain has ended.
async fn send(mut reader: Reader, query: EventQuery, sender: Sender<Bytes>, mut is_drained: bool) {
    // The client learns that it is connected, and where it continues if the connection breaks before the first event.
    let mut part = number(&reader) + ": events\n\n";
    let mut heartbeat = Instant::now() + HEARTBEAT;
    loop {
        let events = reader.take(MAX_EVENTS_OF_PART);
        for event in &events {
            if query.includes(&event.what) {
                write(&mut part, event);
            }
            is_drained |= matches!(event.what, Happened::Drain { phase, .. } if phase == Phase::Drained.as_str());
        }
        if !part.is_empty() {
            if sender.send(std::mem::take(&mut part).into()).await.is_err() {
                return;
            }
            heartbeat = Instant::now() + HEARTBEAT;
        }
        if !events.is_empty() {
            continue;
        }
        if is_drained {
            // The client may have asked for other events only.
            let end = number(&reader) + ": drained\n\n";
            let _left = sender.send(end.into()).await;
            return;
        }
        tokio::select! {
            biased;
            () = sender.closed() => return,
            // Before the events, which may all be of no interest to the client.
            () = sleep_until(heartbeat) => part = number(&reader) + ":\n\n",
            () = reader.wait() => {}
        }
    }
}

/// Returns the line with the number after which the reader continues, if it is of this process.
fn number(reader: &Reader) -> String {
    reader.last().map_or_else(String::new, |last| format!("id: {last}\n"))
}

/// Writes an event in the form of WHATWG HTML, section 9.2.6.
fn write(part: &mut String, event: &Event) {
    let Event { number, at, what } = event;
    let kind = what.kind().as_str();
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 have 41 bits")]
    let at = since_epoch(*at).as_millis() as f64 / 1000.0;
    let json = to_json(&EventView { number: *number, kind, at, what });
    let data = json_line(json.trim_end());
    // Writing to a String cannot fail.
    let _infallible = write!(part, "id: {number}\nevent: {kind}\ndata: {data}\n\n");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::mpsc::channel;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::events::Events;

    #[tokio::test(start_paused = true)]
    async fn heartbeats_come_also_while_all_events_are_of_no_interest_and_have_the_last_number() {
        let events = Arc::new(Events::default());
        let reader = events.read(None).unwrap();
        let start = reader.last().unwrap();
        let (sender, mut parts) = channel(1);
        let query = EventQuery::parse("kind=reload").unwrap();
        let sending = tokio::spawn(send(reader, query, sender, false));
        let first = parts.recv().await.unwrap();
        assert_eq!(first, format!("id: {start}\n: events\n\n"));
        for _ in 0..14 {
            sleep(Duration::from_secs(1)).await;
            events.note(Happened::Drain { phase: "draining", connections: 0 });
        }
        let heartbeat = timeout(Duration::from_secs(2), parts.recv()).await.unwrap().unwrap();
        assert_eq!(heartbeat, format!("id: {}\n:\n\n", start + 14));
        drop(parts);
        sending.await.unwrap();
    }
}
