//! `tlsidecar events`: follows the events of a running sidecar, also over its restarts.
//!
//! **Promises.** After a lost connection, the events continue behind the last one; if the sidecar no longer has them, a line
//! reports that. Text of devices is escaped.
//!
//! **Not here.** The request (`admin_client.rs`), the parts of its answer (`events/stream.rs`), the form of an event for
//! people (`events/text.rs`).

mod stream;
mod text;

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::time::sleep;

use self::stream::{Block, EventStream};
use super::admin_client::{AdminError, AdminPort, query};
use super::exit::Exit;
use super::flags::check::OutputFormat;
use super::flags::events::EventsArgs;
use super::output::{complain, fail, print_next};
use super::stop::stop_signal;
use crate::runtime;
use crate::text::json_line;

/// Time between two attempts to connect.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The state of the connection to the admin port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Not connected yet.
    New,
    Connected,
    Lost,
    /// The process has drained. It ends, and another one may follow.
    Drained,
}

/// The output of the command.
struct Events {
    output: OutputFormat,
    link: Link,
    /// The connection has reported the end of the drain.
    is_drained: bool,
    /// The number of the last event that was written.
    last: Option<u64>,
    /// The error of the output; none if its reader has left.
    ended: Option<Option<io::Error>>,
}

/// Shows the events that the flags select, until a signal or the end of `--for`.
#[must_use]
pub fn run(args: &EventsArgs) -> Exit {
    let runtime = match runtime::of_a_command() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error, Exit::Failed),
    };
    let mut events = Events {
        output: args.output,
        link: Link::New,
        is_drained: false,
        last: args.since,
        ended: None,
    };
    runtime.block_on(async {
        let stopped = match stop_signal() {
            Ok(stopped) => stopped,
            Err(error) => return fail(error, Exit::Failed),
        };
        let exit = tokio::select! {
            biased;
            () = stopped => Exit::Success,
            () = end(args.time) => events.at_end(),
            followed = events.follow(args) => match followed {
                Ok(exit) => exit,
                Err(error) => fail(error, Exit::Failed),
            },
        };
        if let Some(last) = events.last {
            complain(format_args!("--since {last} continues"));
        }
        exit
    })
}

async fn end(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

impl Events {
    /// Shows events until the output fails, and connects again whenever the connection is lost.
    ///
    /// # Errors
    /// The first connection failed, or the admin port refuses the request.
    async fn follow(&mut self, args: &EventsArgs) -> Result<Exit, AdminError> {
        loop {
            let mut stream = EventStream::default();
            self.is_drained = false;
            // The token is read again: it may have been replaced.
            let port = AdminPort::of(&args.admin)?;
            let path = path(args, self.last);
            let followed = port.follow(Method::GET, &path, |line| match stream.line(line) {
                Some(block) => self.block(&block),
                None => ControlFlow::Continue(()),
            });
            let followed = followed.await;
            match self.ended.take() {
                Some(Some(error)) => {
                    return Ok(fail(format_args!("cannot write: {error}"), Exit::Failed));
                }
                Some(None) => return Ok(Exit::Success),
                None => {}
            }
            match followed {
                Ok(()) if self.is_drained => self.drained(),
                Ok(()) => self.lost("it has ended without a drain"),
                Err(error) if self.link == Link::New || is_final(&error) => return Err(error),
                Err(error) => self.lost(error),
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// Shows a part of the stream.
    fn block(&mut self, Block { number, data, is_drained }: &Block) -> ControlFlow<()> {
        // Data that is not JSON is of a later version.
        let event = data.as_ref().and_then(|data| serde_json::from_str::<Value>(data).ok());
        let is_of_drain = event.as_ref().is_none_or(|event| event["kind"] == "drain");
        self.is_drained |= is_drained
            | event
                .as_ref()
                .is_some_and(|event| event["kind"] == "drain" && event["phase"] == "drained");
        if self.link == Link::Lost {
            complain("connected again");
        }
        // A process that has drained still answers.
        if self.link != Link::Drained || !is_of_drain {
            self.link = Link::Connected;
        }
        let shown = match (&event, data) {
            (Some(event), Some(data)) => self.show(event, data),
            (None, _) | (_, None) => Ok(ControlFlow::Continue(())),
        };
        match shown {
            Ok(ControlFlow::Continue(())) => {
                self.last = number.or(self.last);
                return ControlFlow::Continue(());
            }
            Ok(ControlFlow::Break(())) => self.ended = Some(None),
            Err(error) => self.ended = Some(Some(error)),
        }
        ControlFlow::Break(())
    }

    fn show(&self, event: &Value, data: &str) -> io::Result<ControlFlow<()>> {
        match self.output {
            OutputFormat::Json => print_next(format!("{}\n", json_line(data))),
            OutputFormat::Text => print_next(text::line(event) + "\n"),
        }
    }

    /// Reports the end of the stream after a drain.
    fn drained(&mut self) {
        if self.link != Link::Drained {
            complain("the process has drained; waiting for another one");
            self.link = Link::Drained;
        }
    }

    fn lost(&mut self, error: impl fmt::Display) {
        if matches!(self.link, Link::New | Link::Connected) {
            complain(format_args!("connection lost, trying again: {error}"));
            self.link = Link::Lost;
        }
    }

    /// Returns the exit code at the end of `--for`.
    fn at_end(&self) -> Exit {
        match self.link {
            Link::Connected | Link::Drained => Exit::Success,
            Link::New | Link::Lost => fail("the admin port does not answer", Exit::Failed),
        }
    }
}

/// Returns whether another attempt would fail as well. 503: there are as many readers as may be.
fn is_final(error: &AdminError) -> bool {
    match error {
        AdminError::Refused { status, .. } => *status != StatusCode::SERVICE_UNAVAILABLE,
        AdminError::Token(_) | AdminError::TooLong { .. } => true,
        AdminError::Unreachable { .. }
        | AdminError::Protocol { .. }
        | AdminError::TimedOut { .. } => false,
    }
}

/// Returns the request for the events after the number `last`.
fn path(args: &EventsArgs, last: Option<u64>) -> String {
    let mut keys = args.selection.keys();
    if !args.kinds.is_empty() {
        keys.push(("kind", args.kinds.join(",")));
    }
    keys.extend(last.map(|last| ("since", last.to_string())));
    query("/events", &keys)
}
