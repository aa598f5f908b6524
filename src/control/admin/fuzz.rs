//! The part of the admin port that the fuzz targets reach: query strings.
//!
//! Built with the feature `fuzz` only; not a stable interface.
//!
//! **Not here.** The target (`fuzz/`). hyper parses the rest of a request.

use super::query::{SessionFilter, SessionQuery, TopQuery, session_id};

/// Parses a query of `/sessions` and of `/top`. A mistake is an error, never a panic.
pub fn query(text: &str) {
    let _refused = SessionQuery::parse(text);
    let _refused = SessionFilter::parse(text);
    let _refused = session_id("id", text);
    let _refused = TopQuery::parse(text);
}
