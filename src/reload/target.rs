//! A listener, as a reload changes it.
//!
//! **Not here.** The reload (`reload.rs`).

use std::sync::Arc;

use crate::metrics::ListenerMetrics;
use crate::trust::snapshot::Current;

/// The parts of a listener that a reload changes.
pub(crate) struct ReloadTarget {
    pub(crate) current: Arc<Current>,
    pub(crate) metrics: Arc<ListenerMetrics>,
}
