//! Name resolution for backends.
//!
//! **Promises.** All connections share one look-up of a name, which is repeated in the background
//! (`lookup/table.rs`). A connection waits for a look-up only until the name has been resolved once. While look-ups
//! fail, the last addresses are used. A name server that hangs delays only connections to that name. If no thread
//! can be started for a look-up, the error is [`LookupError::NoThread`], until one can.
//!
//! **Not here.** The connect to the addresses (`backend/dial.rs`).

mod table;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

pub(crate) use self::table::{KeptNames, LookupError};
use self::table::{NameHandle, NameState, TABLE};
use crate::config::{BackendAddress, BackendList};
use crate::metrics::NameStatus;

/// Longest wait of a connection for the first look-up of a name. It covers two attempts of the resolver, 5 s each by
/// default (resolv.conf(5)).
pub(super) const PATIENCE: Duration = Duration::from_secs(12);

/// Longest wait for a repeated look-up, after no known address answered.
const REPEAT_PATIENCE: Duration = Duration::from_secs(1);

/// The addresses of a name.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// At least one.
    pub(crate) addresses: Arc<[IpAddr]>,
    name: NameHandle,
}

/// Returns the addresses of a name. Waits for a name that has never been resolved: `while_failing` while its look-ups
/// fail, and up to `at_most` while the first one is in progress.
///
/// # Errors
/// If there is no address.
pub(crate) async fn addresses(
    name: &str,
    while_failing: Duration,
    at_most: Duration,
) -> Result<Resolved, LookupError> {
    resolved(TABLE.ask(name), while_failing, at_most).await
}

async fn resolved(
    mut asked: NameHandle,
    while_failing: Duration,
    at_most: Duration,
) -> Result<Resolved, LookupError> {
    let start = Instant::now();
    let good = asked.state.wait_for(|known| known.addresses.is_some());
    // If it was in time, the next wait completes at once.
    drop(timeout(while_failing, good).await);
    if let Some(shortage) = asked.shortage() {
        return Err(shortage);
    }
    let ended = asked.state.wait_for(|known| known.lookups > 0);
    let addresses = match timeout(at_most.saturating_sub(start.elapsed()), ended).await {
        Ok(Ok(known)) => known.outcome(),
        // The sender is in a static table.
        Ok(Err(_)) | Err(_) => Err(LookupError::Slow(at_most)),
    }?;
    Ok(Resolved { addresses, name: asked })
}

impl Resolved {
    /// Returns the present addresses of the name if they differ. Looks the name up again, unless a look-up has just
    /// ended.
    pub(crate) async fn others(self) -> Option<Self> {
        let Self { addresses: before, name } = self;
        let mut name = name.again();
        let newer = |known: &NameState| known.lookups > name.lookups;
        let looked = timeout(REPEAT_PATIENCE, name.state.wait_for(newer)).await;
        let addresses = looked.ok()?.ok()?.addresses.clone()?;
        (addresses != before).then_some(Self { addresses, name })
    }
}

/// Keeps the names of these backends resolved until the returned value is dropped.
///
/// # Errors
/// If no thread can be started. The names are still looked up once one can.
pub(crate) fn keep<'a>(
    backends: impl Iterator<Item = &'a BackendList>,
) -> (KeptNames, io::Result<()>) {
    let addresses = backends.flat_map(BackendList::addresses);
    let names = addresses.filter_map(|address| match address {
        BackendAddress::Tcp { host, .. } if host.parse::<IpAddr>().is_err() => Some(host.as_str()),
        BackendAddress::Tcp { .. } | BackendAddress::Unix(_) => None,
    });
    TABLE.keep(names)
}

/// Returns the state of each kept name.
pub(crate) fn statuses() -> Vec<NameStatus> {
    TABLE.statuses()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_name_of_this_machine_resolves_to_loopback() {
        let found = addresses("localhost", PATIENCE, PATIENCE).await.unwrap();
        assert!(found.addresses.iter().all(IpAddr::is_loopback) && !found.addresses.is_empty());
    }
}
