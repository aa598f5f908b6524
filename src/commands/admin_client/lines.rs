//! Answers of the admin port that continue: their lines, as they come.
//!
//! **Promises.** A line has at most [`MAX_LINE_BYTES`], and a port that is silent for [`SILENCE_TIMEOUT`] is an error.
//!
//! **Not here.** The content of the lines (`commands/trace.rs`).

use std::ops::ControlFlow;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::{Method, StatusCode};
use tokio::time::timeout;

use super::{AdminError, AdminPort, Exchange, REQUEST_TIMEOUT};

/// The longest line that is read.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Time without a byte after which the port is gone: four of its heartbeats.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

impl AdminPort {
    /// Sends a request, and calls `on_line` for each line of its answer, until that ends or `on_line` does.
    ///
    /// # Errors
    /// The port does not answer, answers with an error, or falls silent.
    pub(in crate::commands) async fn follow(
        &self,
        method: Method,
        path: &str,
        mut on_line: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(), AdminError> {
        let late = |limit| AdminError::TimedOut { address: self.address.clone(), limit };
        let sent = timeout(REQUEST_TIMEOUT, self.send(method, path)).await;
        let Exchange { answer, sender: _kept } = sent.map_err(|_| late(REQUEST_TIMEOUT))??;
        if answer.status() != StatusCode::OK {
            return Err(self.refused(self.whole(answer).await?));
        }
        let (mut body, mut rest) = (answer.into_body(), Vec::new());
        loop {
            let frame = timeout(SILENCE_TIMEOUT, body.frame()).await;
            let Some(frame) = frame.map_err(|_| late(SILENCE_TIMEOUT))? else { return Ok(()) };
            let frame = frame.map_err(|cause| self.protocol(cause))?;
            rest.extend(frame.into_data().unwrap_or_default());
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if on_line(&String::from_utf8_lossy(&line[..end])).is_break() {
                    return Ok(());
                }
            }
            if rest.len() > MAX_LINE_BYTES {
                return Err(self.protocol("a line is too long"));
            }
        }
    }
}
