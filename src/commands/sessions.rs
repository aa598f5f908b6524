//! `tlsidecar sessions`: shows the live sessions of a running sidecar, or ends some of them.
//!
//! **Promises.** No session is ended without a filter or an id, and none without a confirmation or `--yes`.
//!
//! **Not here.** The requests (`admin_client.rs`), the filters (`control/admin/query.rs`).

use std::io::{self, BufRead, IsTerminal, Write};

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::admin_client::{AdminError, AdminPort, query};
use super::exit::Exit;
use super::flags::sessions::SessionsArgs;
use super::output::{complain, fail, print, print_line};
use super::table::{Table, duration, size};
use crate::runtime;

/// Sessions in one answer, the most that the admin port allows.
const PAGE: usize = 1000;

/// The sessions that match. All keys of the admin port are kept for `--json`.
#[derive(Serialize)]
struct Found {
    matching: usize,
    sessions: Vec<Value>,
}

#[derive(Deserialize)]
struct Page {
    matching: usize,
    next: Option<u64>,
    sessions: Vec<Value>,
}

#[derive(Deserialize)]
struct Ended {
    stopped: usize,
}

/// Shows the sessions that the flags select, or ends them.
#[must_use]
pub fn run(args: &SessionsArgs) -> Exit {
    let runtime = match runtime::of_a_command() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error, Exit::Failed),
    };
    let done = runtime.block_on(async {
        let port = AdminPort::of(&args.admin)?;
        let found = find(&port, args).await?;
        if args.end { end(&port, args, &found).await } else { Ok(show(args, &found)) }
    });
    done.unwrap_or_else(|error| fail(error, Exit::Failed))
}

/// Finds the sessions, page by page. Only the order by age has several pages.
async fn find(port: &AdminPort, args: &SessionsArgs) -> Result<Found, AdminError> {
    // An id is found by its place in the order of age.
    let sort = if args.id.is_some() { "age" } else { args.sort.key() }.to_owned();
    let mut found = Found { matching: 0, sessions: Vec::new() };
    let mut after = args.id.map(|id| id.saturating_sub(1));
    while found.sessions.len() < args.limit {
        let limit = if args.id.is_some() { 1 } else { PAGE.min(args.limit - found.sessions.len()) };
        let mut keys = args.selection.keys();
        keys.extend([("sort", sort.clone()), ("limit", limit.to_string())]);
        keys.extend(after.map(|after| ("after", after.to_string())));
        let page: Page = port.json(Method::GET, &query("/sessions", &keys)).await?;
        // On later pages, the port counts only what follows.
        found.matching = found.matching.max(page.matching);
        after = port.next_page(after, page.next, page.sessions.len())?;
        found.sessions.extend(page.sessions);
        if after.is_none() || args.id.is_some() {
            break;
        }
    }
    if let Some(id) = args.id {
        found.sessions.retain(|session| session["id"] == id);
        found.matching = found.sessions.len();
    }
    Ok(found)
}

fn show(args: &SessionsArgs, found: &Found) -> Exit {
    let output = match args.json {
        true => serde_json::to_string(found).expect("it was read from JSON") + "\n",
        false => table(found),
    };
    match print(output) {
        Ok(()) => Exit::Success,
        Err(error) => fail(format_args!("cannot write the sessions: {error}"), Exit::Failed),
    }
}

fn table(found: &Found) -> String {
    let headings =
        ["ID", "LISTENER", "PEER", "IDENTITY", "TLS", "AGE", "IDLE", "TO BACKEND", "TO CLIENT"];
    let mut table = Table::new(&headings);
    for session in &found.sessions {
        table.add([
            number(session, "id").to_string(),
            text(session, "listener"),
            text(session, "peer"),
            text(session, "identity"),
            text(session, "tls"),
            duration(number(session, "age_seconds")),
            duration(number(session, "idle_seconds")),
            size(number(session, "bytes_to_backend")),
            size(number(session, "bytes_to_client")),
        ]);
    }
    format!("{table}{} of {} session(s)\n", found.sessions.len(), found.matching)
}

/// Ends the sessions that match now.
async fn end(port: &AdminPort, args: &SessionsArgs, found: &Found) -> Result<Exit, AdminError> {
    if found.matching == 0 {
        // Connections in their handshake are not listed. A filter ends them too.
        complain("no established session matches");
    }
    if !args.yes && !confirmed(found) {
        return Ok(Exit::Failed);
    }
    let path = match args.id {
        Some(id) => format!("/sessions/{id}"),
        None => query("/sessions", &args.selection.keys()),
    };
    let ended: Ended = match port.json(Method::DELETE, &path).await {
        Err(AdminError::Refused { status: StatusCode::NOT_FOUND, .. }) if args.id.is_some() => {
            return Ok(fail("the session has ended already", Exit::Failed));
        }
        ended => ended?,
    };
    match args.json {
        true => print_line(format_args!("{{\"stopped\":{}}}", ended.stopped)),
        false => print_line(format_args!("{} session(s) ended", ended.stopped)),
    }
    Ok(Exit::Success)
}

/// Shows the sessions and asks for a confirmation.
fn confirmed(found: &Found) -> bool {
    if !io::stdin().is_terminal() {
        complain("standard input is no terminal: --yes ends the sessions without a confirmation");
        return false;
    }
    complain(table(found).trim_end());
    let _unread = write!(io::stderr(), "End {} session(s)? [y/N] ", found.matching);
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    let confirmed = read.is_ok() && ["y", "yes"].contains(&answer.trim());
    if !confirmed {
        complain("no session was ended");
    }
    confirmed
}

fn number(session: &Value, key: &str) -> u64 {
    session[key].as_u64().unwrap_or(0)
}

fn text(session: &Value, key: &str) -> String {
    session[key].as_str().unwrap_or("-").to_owned()
}
