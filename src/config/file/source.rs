//! The check of the address from which backends are connected.
//!
//! **Not here.** Whether the process may use addresses of devices (`transparent.rs`).

use std::ops::Range;

use super::problem::Problems;
use crate::config::{BackendAddress, BackendList, ListenerConfig, SourceAddress};

/// Adds a problem if `source` is the client's address and a backend has none: the path of a Unix socket.
pub(super) fn check_source(
    listener: &ListenerConfig,
    place: Option<Range<usize>>,
    key: &str,
    problems: &mut Problems<'_>,
) {
    let is_path = |backend: &&BackendAddress| matches!(backend, BackendAddress::Unix(_));
    let path = listener.backends().flat_map(BackendList::addresses).find(is_path);
    if let (SourceAddress::Client, Some(place), Some(path)) = (listener.balance.source, place, path)
    {
        let message = format!("found \"client\", but the backend \"{path}\" is no address of TCP");
        problems.at(place, &format!("{key}.balance.source"), &message);
    }
}
