//! The part of the admin port that the fuzz targets reach: query strings.
//!
//! Built with the feature `fuzz` only; not a stable interface.
//!
//! **Not here.** The target (`fuzz/`). hyper parses the rest of a request.

use super::query::{
    EventQuery, FactsQuery, SessionQuery, TopQuery, TraceQuery, session_filter, session_id,
};

/// Parses a query of `/sessions`, of `/sessions/facts`, of `/top`, of `/events` and of `/trace`. A mistake is an error, never a panic.
pub fn query(text: &str) {
    let _refused = SessionQuery::parse(text);
    let _refused = FactsQuery::parse(text);
    let _refused = session_filter(text);
    let _refused = session_id("id", text);
    let _refused = TopQuery::parse(text);
    let _refused = EventQuery::parse(text);
    let _refused = TraceQuery::parse(text);
}
