//! The clock of sessions, in four bytes.
//!
//! **Not here.** Its uses: the budgets of a session (`record_layer.rs`), the size of its records (`size.rs`).

use std::sync::LazyLock;

use tokio::time::Instant;

/// Returns the milliseconds since the first call. They wrap after 49 days; only differences are used.
#[expect(
    clippy::cast_possible_truncation,
    reason = "only differences are used, which wrap correctly"
)]
pub(super) fn clock() -> u32 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_millis() as u32
}
