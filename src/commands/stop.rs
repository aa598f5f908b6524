//! The signals that end a command which follows a running sidecar.
//!
//! **Not here.** The signals of the proxy (`lifecycle/signals.rs`).

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Returns a future that completes at SIGINT or SIGTERM.
///
/// # Errors
/// The signals cannot be caught.
pub(super) fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
