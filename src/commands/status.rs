//! `tlsidecar status`: shows the status of a running sidecar.
//!
//! **Not here.** The request (`admin_client.rs`), the status itself (`control/admin/status.rs`).

use std::collections::BTreeMap;

use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use super::admin_client::{AdminError, AdminPort};
use super::exit::Exit;
use super::flags::admin::AdminArgs;
use super::output::{fail, print};
use super::table::{Table, duration};
use crate::runtime;
use crate::text::for_terminal;

const DAY: i64 = 86_400;

/// Days before the end of a certificate from which on the status shows it as a problem.
const SOON: i64 = 14;

/// The part of `GET /status` that is shown.
#[derive(Deserialize)]
struct Status {
    version: String,
    now: i64,
    uptime_seconds: u64,
    phase: String,
    listeners: Vec<Listener>,
    certificates: Vec<Certificate>,
    rollouts: Vec<Rollout>,
    backends: Vec<Backend>,
    reload: Reload,
}

#[derive(Deserialize)]
struct Listener {
    name: String,
    address: String,
    active: i64,
    limit: i64,
    sessions: i64,
    accepted: u64,
    handshakes: u64,
    closed: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Certificate {
    listener: String,
    cert: String,
    not_after: i64,
}

#[derive(Deserialize)]
struct Rollout {
    listener: String,
    route: Option<usize>,
    state: String,
    since: i64,
    decided_by: Option<String>,
    groups: BTreeMap<String, Group>,
}

#[derive(Deserialize)]
struct Group {
    addresses: u64,
    failed_addresses: u64,
}

#[derive(Deserialize)]
struct Backend {
    listener: String,
    backend: String,
    up: Option<bool>,
    #[serde(default)]
    has_replacement: Option<bool>,
}

#[derive(Deserialize)]
struct Reload {
    failing: bool,
    last_success: i64,
    failures: Vec<String>,
    waiting: Vec<String>,
}

/// Shows the status.
#[must_use]
pub fn run(admin: &AdminArgs, json: bool) -> Exit {
    let runtime = match runtime::of_a_command() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error, Exit::Failed),
    };
    match runtime.block_on(shown(admin, json)).map(print) {
        Ok(Ok(())) => Exit::Success,
        Ok(Err(error)) => fail(format_args!("cannot write the status: {error}"), Exit::Failed),
        Err(error) => fail(error, Exit::Failed),
    }
}

async fn shown(admin: &AdminArgs, json: bool) -> Result<String, AdminError> {
    let port = AdminPort::of(admin)?;
    if json {
        return Ok(format!("{}\n", port.json::<Value>(Method::GET, "/status").await?));
    }
    let status: Status = port.json(Method::GET, "/status").await?;
    Ok(text(&status))
}

fn text(status: &Status) -> String {
    let Status { version, phase, .. } = status;
    let (version, phase) = (for_terminal(version), for_terminal(phase));
    let up = duration(status.uptime_seconds);
    let mut text = format!("tlsidecar {version}, {phase} for {up}\n\n");
    text += &listeners(&status.listeners).to_string();
    text += &format!("\n{}", certificates(status));
    if !status.rollouts.is_empty() {
        text += &format!("\n{}", rollouts(status));
    }
    text += &format!("\n{}", backends(&status.backends));
    text + &reload(status)
}

fn listeners(listeners: &[Listener]) -> Table {
    let headings =
        ["LISTENER", "ADDRESS", "SESSIONS", "CONNECTIONS", "ACCEPTED", "HANDSHAKES", "CLOSED"];
    let mut table = Table::new(&headings);
    for listener in listeners {
        // The most frequent reasons first.
        let mut closed: Vec<_> = listener.closed.iter().collect();
        closed.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let closed = closed.iter().take(3).map(|(reason, count)| format!("{reason} {count}"));
        table.add([
            listener.name.clone(),
            listener.address.clone(),
            listener.sessions.to_string(),
            format!("{} of {}", listener.active, listener.limit),
            listener.accepted.to_string(),
            listener.handshakes.to_string(),
            closed.collect::<Vec<_>>().join(", "),
        ]);
    }
    table
}

fn certificates(status: &Status) -> Table {
    let mut table = Table::new(&["CERTIFICATE", "LISTENER", "VALID FOR"]);
    for Certificate { listener, cert, not_after } in &status.certificates {
        let left = not_after.saturating_sub(status.now);
        let valid = match u64::try_from(left) {
            Err(_) => "expired".to_owned(),
            Ok(seconds) if left < SOON * DAY => format!("{}, expires soon", duration(seconds)),
            Ok(seconds) => duration(seconds),
        };
        table.add([cert.clone(), listener.clone(), valid]);
    }
    table
}

fn rollouts(status: &Status) -> Table {
    let headings = ["ROLLOUT", "STATE", "BY", "BEGAN", "OLD FAILED", "NEW FAILED"];
    let mut table = Table::new(&headings);
    for rollout in &status.rollouts {
        let Rollout { listener, route, state, since, decided_by, groups } = rollout;
        let ago = duration(u64::try_from(status.now.saturating_sub(*since)).unwrap_or(0));
        let failed = |group: &str| {
            let group = groups.get(group);
            group.map_or_else(String::new, |g| format!("{} of {}", g.failed_addresses, g.addresses))
        };
        table.add([
            route.map_or_else(|| listener.clone(), |route| format!("{listener} route[{route}]")),
            state.clone(),
            decided_by.clone().unwrap_or_default(),
            format!("{ago} ago"),
            failed("old"),
            failed("new"),
        ]);
    }
    table
}

fn backends(backends: &[Backend]) -> Table {
    let mut table = Table::new(&["BACKEND", "LISTENER", "STATE"]);
    for Backend { listener, backend, up, has_replacement } in backends {
        let state = match (up, has_replacement) {
            (Some(true), _) => "up",
            (Some(false), Some(true)) => "down, another one serves",
            (Some(false), Some(false) | None) => "down",
            (None, _) => "not connected yet",
        };
        table.add([backend.clone(), listener.clone(), state.to_owned()]);
    }
    table
}

fn reload(Status { now, reload, .. }: &Status) -> String {
    let ago = duration(u64::try_from(now.saturating_sub(reload.last_success)).unwrap_or(0));
    let state = if reload.failing { "failing" } else { "good" };
    let mut text = format!("\nReload: {state}; all files were valid {ago} ago\n");
    for line in reload.failures.iter().chain(&reload.waiting) {
        text += &format!("  {}\n", for_terminal(line));
    }
    text
}
