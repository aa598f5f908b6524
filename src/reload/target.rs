//! A listener, as a reload changes it.
//!
//! **Not here.** The reload (`reload.rs`).

use std::sync::Arc;

use crate::config::{self, Balance, SourceAddress};
use crate::metrics::ListenerMetrics;
use crate::transparent::{self, NotAllowed};
use crate::trust::snapshot::Current;

/// The parts of a listener that a reload changes.
pub(crate) struct ReloadTarget {
    pub(crate) current: Arc<Current>,
    pub(crate) metrics: Arc<ListenerMetrics>,
}

/// Returns the configuration of a listener, with the source of connections from `before` if the wanted one cannot be used.
/// The rest of it is used all the same.
pub(super) fn usable(
    wanted: config::ListenerConfig,
    before: SourceAddress,
) -> (config::ListenerConfig, Option<NotAllowed>) {
    match wanted.balance.source {
        SourceAddress::Own => (wanted, None),
        SourceAddress::Client => match transparent::check() {
            Ok(()) => (wanted, None),
            Err(error) => {
                let balance = Balance { source: before, ..wanted.balance };
                (config::ListenerConfig { balance, ..wanted }, Some(error))
            }
        },
    }
}
