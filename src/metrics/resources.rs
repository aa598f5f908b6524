//! The resources of the process: memory, file descriptors, processor time.
//!
//! **Promises.** The figures of the operating system are those of `process_…` in `GET /metrics`. They are read at most
//! every [`KEPT`], because the kernel lists each descriptor to count them.
//!
//! **Not here.** The metrics (`process.rs`), the output (`control/admin/status.rs`).

use std::time::{Duration, Instant};

use prometheus::core::Collector as _;
use prometheus::process_collector::ProcessCollector;
use serde::Serialize;

use crate::lock::Lock;

/// The time for which figures are kept.
const KEPT: Duration = Duration::from_secs(5);

/// Resources of the process. Its fields are keys of `resources` in `GET /status`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Resources {
    /// Resident memory.
    pub(crate) memory_bytes: u64,
    pub(crate) open_fds: u64,
    pub(crate) max_fds: u64,
    pub(crate) cpu_seconds: u64,
    /// Threads that serve connections.
    pub(crate) workers: u64,
    /// The time that these threads were busy, all together.
    pub(crate) busy_seconds: f64,
    pub(crate) log_lines_dropped: u64,
}

/// Reads the resources that the operating system counts.
pub(super) struct ResourceReader {
    collector: ProcessCollector,
    last: Lock<Option<(Instant, Resources)>>,
}

impl Default for ResourceReader {
    fn default() -> Self {
        Self { collector: ProcessCollector::for_self(), last: Lock::default() }
    }
}

impl ResourceReader {
    /// Returns the current resources, without those that this process counts itself.
    pub(super) fn read(&self) -> Resources {
        let mut last = self.last.lock();
        let known = last.filter(|(at, _)| at.elapsed() < KEPT);
        let (at, resources) = known.unwrap_or_else(|| (Instant::now(), self.collect()));
        *last = Some((at, resources));
        resources
    }

    fn collect(&self) -> Resources {
        let mut found = Resources::default();
        for family in self.collector.collect() {
            let Some(metric) = family.get_metric().first() else { continue };
            match family.name() {
                "process_resident_memory_bytes" => {
                    found.memory_bytes = whole(metric.get_gauge().get_value());
                }
                "process_open_fds" => found.open_fds = whole(metric.get_gauge().get_value()),
                "process_max_fds" => found.max_fds = whole(metric.get_gauge().get_value()),
                "process_cpu_seconds_total" => {
                    found.cpu_seconds = whole(metric.get_counter().get_value());
                }
                _ => {}
            }
        }
        found
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of the kernel, far below 2^53"
)]
const fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_this_process_are_found() {
        let found = ResourceReader::default().read();
        assert!(found.memory_bytes > 1 << 20, "{found:?}");
        assert!(found.open_fds > 2 && found.open_fds < found.max_fds, "{found:?}");
    }
}
