//! Name resolution for backends.
//!
//! **Promises.** All connections share the look-ups of a name, which are repeated in the background
//! (`proxy/backend/lookup/table.rs`). A connection waits only until a name has been resolved once. While
//! look-ups fail, the last addresses are used. A look-up that hangs delays the devices of that backend and no
//! others. A shortage of threads has a separate reason, and lasts only as long as the system has no thread. An
//! IP address is not looked up.
//!
//! **Not here.** The choice among the addresses (`backend.rs`).

mod table;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use self::table::{Asked, Known, TABLE};
pub(crate) use self::table::{Kept, LookupError};
use crate::config::BackendAddress;
use crate::metrics::NameStatus;

/// Time that a connection waits for the first look-up of a name. It covers the first retry of resolv.conf(5),
/// after 5 s.
const PATIENCE: Duration = Duration::from_secs(12);

/// Time that a connection waits for another look-up after the known addresses did not answer.
const REPEAT_PATIENCE: Duration = Duration::from_secs(1);

/// The addresses of a host.
#[derive(Debug)]
pub(crate) struct Found {
    /// At least one.
    pub(crate) addresses: Arc<[IpAddr]>,
    /// The name, unless the host was an IP address.
    name: Option<Asked>,
}

/// Returns the addresses of a host, which is a name or an IP address. Waits for a name that has never been
/// resolved: `patience` while its look-ups fail, and longer while the first one is in progress.
///
/// # Errors
/// If there are no addresses.
pub(crate) async fn addresses(host: &str, patience: Duration) -> Result<Found, LookupError> {
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(Found { addresses: Arc::from([address]), name: None }),
        Err(_) => resolved(TABLE.ask(host), patience, PATIENCE).await,
    }
}

async fn resolved(
    mut asked: Asked,
    while_failing: Duration,
    at_most: Duration,
) -> Result<Found, LookupError> {
    let start = Instant::now();
    let good = asked.state.wait_for(|known| known.addresses.is_some());
    // The next wait returns at once if this one was in time.
    drop(timeout(while_failing, good).await);
    if let Some(shortage) = asked.shortage() {
        return Err(shortage);
    }
    let ended = asked.state.wait_for(|known| known.lookups > 0);
    let addresses = match timeout(at_most.saturating_sub(start.elapsed()), ended).await {
        Ok(Ok(known)) => known.outcome(),
        // The table is never dropped, so the channel stays open.
        Ok(Err(_)) | Err(_) => Err(LookupError::Slow(at_most)),
    }?;
    Ok(Found { addresses, name: Some(asked) })
}

impl Found {
    /// Returns the current addresses of the name if they differ. The name is looked up again unless that has just
    /// happened.
    pub(crate) async fn others(self) -> Option<Self> {
        let Self { addresses: before, name } = self;
        let mut name = name?.again();
        let newer = |known: &Known| known.lookups > name.lookups;
        let looked = timeout(REPEAT_PATIENCE, name.state.wait_for(newer)).await;
        let addresses = looked.ok()?.ok()?.addresses.clone()?;
        (addresses != before).then_some(Self { addresses, name: Some(name) })
    }
}

/// Looks up the names of these backends until the returned value is dropped.
///
/// # Errors
/// If the system has no thread to give. The names are looked up once it has.
pub(crate) fn keep<'a>(
    backends: impl Iterator<Item = &'a BackendAddress>,
) -> (Kept, io::Result<()>) {
    let names = backends.filter_map(|backend| match backend {
        BackendAddress::Tcp { host, .. } if host.parse::<IpAddr>().is_err() => Some(host.as_str()),
        BackendAddress::Tcp { .. } | BackendAddress::Unix(_) => None,
    });
    TABLE.keep(names)
}

/// Returns the state of all configured names.
pub(crate) fn statuses() -> Vec<NameStatus> {
    TABLE.statuses()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_resolves_to_loopback() {
        let found = addresses("localhost", PATIENCE).await.unwrap();
        assert!(found.addresses.iter().all(IpAddr::is_loopback) && !found.addresses.is_empty());
    }

    #[tokio::test]
    async fn an_address_is_not_looked_up() {
        for text in ["127.0.0.1", "::1"] {
            let found = addresses(text, PATIENCE).await.unwrap();
            assert_eq!(*found.addresses, [text.parse::<IpAddr>().unwrap()]);
            assert!(found.name.is_none() && found.others().await.is_none());
        }
    }
}
