//! Looks up the names of backends.
//!
//! **Promises.** All connections share one look-up of a name, which is repeated in the background
//! (`proxy/backend/lookup/table.rs`): a connection waits for one only until the name has been resolved once. While
//! look-ups fail, the last addresses are used. A name whose server hangs holds up the devices that want
//! that backend, and no other name. A shortage of threads is a reason of its own, and over when it is
//! over. An address is not looked up.
//!
//! **Not here.** Which of the addresses is dialled (`backend.rs`).

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

/// How long a connection waits for the first look-up of a name to end: past the first retries of
/// resolv.conf(5), of which one comes after 5 s.
const PATIENCE: Duration = Duration::from_secs(12);

/// How long a connection waits for a repeated look-up after the addresses that it had did not answer.
const REPEAT_PATIENCE: Duration = Duration::from_secs(1);

/// What a host leads to.
#[derive(Debug)]
pub(crate) struct Found {
    /// At least one.
    pub(crate) addresses: Arc<[IpAddr]>,
    /// The name, if it was one.
    name: Option<Asked>,
}

/// The addresses of a host, by name or already an address. A name that has never been resolved is waited
/// for: `patience` while its look-ups fail, and longer while the first one goes on.
///
/// # Errors
/// Why there is none.
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
    // Whether that was in time the next wait finds, at once.
    drop(timeout(while_failing, good).await);
    if let Some(shortage) = asked.shortage() {
        return Err(shortage);
    }
    let ended = asked.state.wait_for(|known| known.lookups > 0);
    let addresses = match timeout(at_most.saturating_sub(start.elapsed()), ended).await {
        Ok(Ok(known)) => known.outcome(),
        // The table outlives everybody.
        Ok(Err(_)) | Err(_) => Err(LookupError::Slow(at_most)),
    }?;
    Ok(Found { addresses, name: Some(asked) })
}

impl Found {
    /// The addresses that the name leads to by now, if these are others. They are looked up again if
    /// they have not just been.
    pub(crate) async fn others(self) -> Option<Self> {
        let Self { addresses: before, name } = self;
        let mut name = name?.again();
        let newer = |known: &Known| known.lookups > name.lookups;
        let looked = timeout(REPEAT_PATIENCE, name.state.wait_for(newer)).await;
        let addresses = looked.ok()?.ok()?.addresses.clone()?;
        (addresses != before).then_some(Self { addresses, name: Some(name) })
    }
}

/// Has the names of these backends looked up, for as long as what is returned is kept.
///
/// # Errors
/// If the system has no thread to give; they are looked up all the same once it has.
pub(crate) fn keep<'a>(
    backends: impl Iterator<Item = &'a BackendAddress>,
) -> (Kept, io::Result<()>) {
    let names = backends.filter_map(|backend| match backend {
        BackendAddress::Tcp { host, .. } if host.parse::<IpAddr>().is_err() => Some(host.as_str()),
        BackendAddress::Tcp { .. } | BackendAddress::Unix(_) => None,
    });
    TABLE.keep(names)
}

/// How the names are that are kept.
pub(crate) fn statuses() -> Vec<NameStatus> {
    TABLE.statuses()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_of_this_machine_leads_to_it() {
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
