//! What the fuzz targets may touch of the admin port: the query of a request.
//!
//! Built with the feature `fuzz` alone, and no stable interface.
//!
//! **Not here.** The target: `fuzz/`. The rest of a request is hyper's.

use super::query::{Ranking, Wanted};

/// Reads a query of `/sessions` and of `/top`. What is refused is refused without a panic.
pub fn query(text: &str) {
    let _refused = Wanted::parse(text);
    let _refused = Ranking::parse(text);
}
