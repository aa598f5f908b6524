//! A connection and its steps, as traces hold them.
//!
//! **Not here.** The kinds of steps (`step.rs`), the connections that a trace selects (`trace.rs`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::step::Step;

/// Counters of a connection.
pub(crate) trait Counted: Send + Sync {
    /// Returns the bytes relayed to the backend and to the client.
    fn counts(&self) -> [u64; 2];
}

/// A selected connection that is open.
pub(super) struct OpenConnection {
    pub(super) facts: Arc<Facts>,
    pub(super) matched: Matched,
    pub(super) counts: Arc<dyn Counted>,
    /// The counts of the last sample.
    pub(super) reported: [u64; 2],
}

/// The reason for which a trace has a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Matched {
    /// Its facts match; an identity was verified.
    Verified,
    /// The names in its certificate match, which was refused.
    Claimed,
    /// It failed before it showed a certificate, and has the address of a device that matches.
    Address,
}

/// The facts of a connection that do not change.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) connection: u64,
    pub(crate) listener: Box<str>,
    pub(crate) peer: SocketAddr,
    pub(crate) opened: Instant,
}

/// A step of a selected connection.
pub(crate) struct TracedStep {
    pub(crate) facts: Arc<Facts>,
    pub(crate) matched: Matched,
    pub(crate) at: SystemTime,
    /// Time since accept.
    pub(crate) since: Duration,
    pub(crate) step: Arc<Step>,
}

/// A step with its time.
#[derive(Clone)]
pub(super) struct KeptStep {
    pub(super) at: SystemTime,
    pub(super) since: Duration,
    pub(super) step: Arc<Step>,
}

impl OpenConnection {
    pub(super) fn new(facts: &Arc<Facts>, matched: Matched, counts: &Arc<dyn Counted>) -> Self {
        let (facts, counts) = (Arc::clone(facts), Arc::clone(counts));
        let reported = counts.counts();
        Self { facts, matched, counts, reported }
    }
}

impl KeptStep {
    pub(super) fn now(facts: &Facts, step: Step) -> Self {
        Self { at: SystemTime::now(), since: facts.opened.elapsed(), step: Arc::new(step) }
    }
}
