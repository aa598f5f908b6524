//! `POST /trace`: each step of selected connections, as lines of JSON.
//!
//! **Promises.** A trace ends after its time, when its client leaves, and with the drain. Its start and its end are in the
//! log, with the client and the selection. Secrets are sent only to a client that has shown the token, or over the Unix
//! socket.
//!
//! **Not here.** The selection of connections (`sessions/trace.rs`), the steps (`sessions/trace/step.rs`).

use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::{Request, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, interval_at, sleep_until};

use super::Admin;
use super::endpoint::Caller;
use super::query::{TraceQuery, check_listener};
use super::response::{Reply, text, to_json};
use super::stream::stream;
use crate::lifecycle::Shutdown;
use crate::sessions::trace::step::Step;
use crate::sessions::trace::{Counted, Matched, RunningTrace, TracedStep};
use crate::sessions::{Session, Sessions};
use crate::terms::closed_set::closed_set;
use crate::text::{json_line, shortened};
use crate::time::since_epoch;

/// Longest selection in the log, in characters.
const MAX_LOGGED: usize = 256;

/// Time between two looks at the counters of open connections.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Samples after which an empty line is sent if there was no other, so that proxies between do not close the connection.
const SAMPLES_OF_HEARTBEAT: u32 = 15;

/// Steps of one part of the response.
const MAX_STEPS_OF_PART: usize = 64;

/// Bytes of one part, and those of its last step.
const MAX_PART_BYTES: usize = 64 * 1024;

/// Open sessions that are added when a trace begins.
const MAX_OPEN: usize = 256;

const TOO_MANY: &str = "as many traces run as may\n";

const NO_KEYS: &str = "keys=true needs the token of admin.token_file, or a request over the Unix socket of admin.socket\n";

closed_set! {
    /// The end of a trace.
    enum TraceEnd {
        /// Its time has passed.
        Time => "time",
        /// Its client has left.
        Left => "left",
        /// The process has drained.
        Drained => "drained",
    }
}

/// A step with its connection.
#[derive(Serialize)]
struct StepView<'a> {
    connection: u64,
    listener: &'a str,
    peer: String,
    matched: Matched,
    /// Unix time, in seconds and thousandths of them.
    at: f64,
    /// Milliseconds since accept.
    ms: f64,
    #[serde(flatten)]
    step: &'a Step,
}

/// The first and the last line.
#[derive(Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
enum Frame {
    Started {
        trace: u64,
        seconds: u64,
        keys: bool,
        packets: u64,
    },
    /// The bytes of its connections are as many as were asked for. Later ones are missing.
    Truncated {
        trace: u64,
    },
    Ended {
        trace: u64,
        reason: &'static str,
        steps: u64,
        lost: u64,
        lost_packets: u64,
        truncated: bool,
    },
}

/// A trace and its reader.
struct Following {
    trace: RunningTrace,
    sender: Sender<Bytes>,
    shutdown: Shutdown,
    until: Instant,
    steps: u64,
}

/// Logs the start or the end of a trace; one with secrets as a warning, which a filter for less than warnings keeps.
macro_rules! audit {
    ($keys:expr, $($fields:tt)*) => {
        if $keys {
            tracing::warn!(target: "tlsidecar::audit", $($fields)*);
        } else {
            tracing::info!($($fields)*);
        }
    };
}

/// Starts a trace of the connections that the query selects, and answers with their steps.
pub(super) fn start(admin: &Admin, request: &Request<Incoming>, caller: Caller) -> Reply {
    let query = request.uri().query().unwrap_or_default();
    let TraceQuery { filter, seconds, keys, packets } = match TraceQuery::parse(query) {
        Ok(parsed) => parsed,
        Err(refusal) => return text(StatusCode::BAD_REQUEST, refusal),
    };
    if let Err(refusal) = check_listener(&filter, &admin.status) {
        return text(StatusCode::BAD_REQUEST, refusal);
    }
    // With a token, this request has it.
    let is_authenticated = admin.token.is_some() || matches!(caller, Caller::Unix { .. });
    if keys && !is_authenticated {
        return text(StatusCode::FORBIDDEN, NO_KEYS);
    }
    let Some(trace) = admin.sessions.traces.start(filter, keys, packets) else {
        return text(StatusCode::SERVICE_UNAVAILABLE, TOO_MANY);
    };
    let id = trace.id();
    let selection = shortened(query, MAX_LOGGED);
    audit!(keys, trace = id, %caller, selection, seconds, keys, packets, "trace started through the admin port");
    let until = Instant::now() + Duration::from_secs(seconds);
    let (sessions, shutdown) = (Arc::clone(&admin.sessions), admin.shutdown.clone());
    stream(&admin.shutdown, "application/x-ndjson", |sender| async move {
        let started = line(&Frame::Started { trace: id, seconds, keys, packets });
        let mut following = Following { trace, sender, shutdown, until, steps: 0 };
        let end = match following.send(started).await {
            Ok(()) => following.follow(&sessions).await,
            Err(end) => end,
        };
        let Following { mut trace, sender, steps, .. } = following;
        while trace.next_now().is_some() {
            trace.lose(1);
        }
        let (lost, reason) = (trace.lost(), end.as_str());
        audit!(keys, trace = id, %caller, reason, steps, lost, keys, "trace ended");
        // The client may have left.
        let (lost_packets, truncated) = trace.packet_losses();
        let ended = Frame::Ended { trace: id, reason, steps, lost, lost_packets, truncated };
        let _left = sender.send(line(&ended).into()).await;
    })
}

impl Following {
    /// Sends steps until the trace ends, and returns why it does.
    async fn follow(&mut self, sessions: &Sessions) -> TraceEnd {
        self.add_open(sessions).await;
        let mut samples = interval_at(Instant::now() + SAMPLE_INTERVAL, SAMPLE_INTERVAL);
        let (shutdown, sender) = (self.shutdown.clone(), self.sender.clone());
        let mut drained = std::pin::pin!(shutdown.drained());
        let (mut silent, mut truncated) = (0, false);
        loop {
            let next = tokio::select! {
                biased;
                () = sender.closed() => return TraceEnd::Left,
                // Before the steps: a broad trace always has one.
                () = sleep_until(self.until) => return TraceEnd::Time,
                step = self.trace.next() => step,
                _ = &mut drained => return TraceEnd::Drained,
                _ = samples.tick() => None,
            };
            let part = match next {
                Some(step) => self.part(&step),
                None => {
                    self.trace.sample();
                    silent += 1;
                    let is_truncated = self.trace.packet_losses().1;
                    if is_truncated && !std::mem::replace(&mut truncated, true) {
                        line(&Frame::Truncated { trace: self.trace.id() })
                    } else if silent < SAMPLES_OF_HEARTBEAT {
                        continue;
                    } else {
                        "\n".to_owned()
                    }
                }
            };
            silent = 0;
            if let Err(end) = self.send(part).await {
                return end;
            }
        }
    }

    /// Returns the lines of a step and of those that wait behind it.
    fn part(&mut self, first: &TracedStep) -> String {
        let mut part = step_line(first);
        self.steps += 1;
        for _ in 1..MAX_STEPS_OF_PART {
            if part.len() > MAX_PART_BYTES {
                break;
            }
            let Some(step) = self.trace.next_now() else { break };
            part.push_str(&step_line(&step));
            self.steps += 1;
        }
        part
    }

    /// Sends a part, unless the time of the trace passes first.
    async fn send(&self, part: String) -> Result<(), TraceEnd> {
        tokio::select! {
            biased;
            sent = self.sender.send(part.into()) => sent.map_err(|_| TraceEnd::Left),
            () = sleep_until(self.until) => Err(TraceEnd::Time),
        }
    }

    /// Adds the selected sessions that are open.
    async fn add_open(&self, sessions: &Sessions) {
        let selects = |one: &Session| one.is_established() && self.trace.selects(&one.seen());
        let mut added = 0;
        // Each is added in the turn in which it is found: the trace hears of its end only after that.
        let add = |session: Arc<Session>| {
            if added == MAX_OPEN {
                self.trace.lose(1);
                return;
            }
            added += 1;
            let (facts, step) = (session.facts(), session.connected_step());
            let counts: Arc<dyn Counted> = session;
            self.trace.add(facts, &counts, step);
        };
        sessions.for_matching(selects, add).await;
    }
}

fn step_line(traced: &TracedStep) -> String {
    let TracedStep { facts, matched, at, since, step } = traced;
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 have 41 bits")]
    let at = since_epoch(*at).as_millis() as f64 / 1000.0;
    line(&StepView {
        connection: facts.connection,
        listener: &facts.listener,
        peer: facts.peer.to_string(),
        matched: *matched,
        at,
        // In microseconds.
        ms: (since.as_secs_f64() * 1e6).round() / 1e3,
        step,
    })
}

fn line(value: &impl Serialize) -> String {
    json_line(to_json(value).trim_end()).into_owned() + "\n"
}
