//! `DELETE /sessions`: ends live sessions.
//!
//! **Promises.** A session ends with the reason `killed` and a close_notify, also before its relay. Each request that
//! ends sessions is a log line.
//!
//! **Not here.** The filters (`query.rs`), the end of a session (`sessions/stop.rs`).

use serde::Serialize;

use super::query::{session_filter, session_id};
use super::response::to_json;
use crate::sessions::Sessions;
use crate::terms::reason::Reason;
use crate::text::shortened;

/// Longest filter in the log, in characters.
const MAX_LOGGED: usize = 256;

/// The result of a request that ends sessions.
#[derive(Serialize)]
struct KillView {
    /// Sessions that this request ordered to stop.
    stopped: usize,
}

/// A refused request to end sessions.
#[derive(Debug)]
pub(super) enum Refusal {
    /// A sentence about the mistake in the request.
    Invalid(String),
    /// No session has this id.
    Unknown(String),
}

/// Ends the session with this id.
///
/// # Errors
/// The id is invalid, or no live session has it.
pub(super) fn one(sessions: &Sessions, id: &str) -> Result<String, Refusal> {
    let id = session_id("id", id).map_err(Refusal::Invalid)?;
    let session = sessions.get(id);
    let session = session.ok_or_else(|| Refusal::Unknown(format!("no session {id}\n")))?;
    let stopped = usize::from(session.stop(Reason::Killed));
    tracing::info!(session = id, stopped, "session ended through the admin port");
    Ok(to_json(&KillView { stopped }))
}

/// Ends the sessions that a query selects, in whatever phase they are.
///
/// # Errors
/// The query has a mistake, or no filter.
pub(super) fn matching(sessions: &Sessions, query: &str) -> Result<String, Refusal> {
    let filter = session_filter(query).map_err(Refusal::Invalid)?;
    let stopped = sessions.stop(|session| filter.selects(&session.seen()), Reason::Killed);
    let filter = shortened(query, MAX_LOGGED);
    tracing::info!(filter, stopped, "sessions ended through the admin port");
    Ok(to_json(&KillView { stopped }))
}
