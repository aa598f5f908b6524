//! Answers of the admin port that continue: their lines, as they come.
//!
//! **Promises.** A longer line than [`MAX_LINE_BYTES`] ends the answer with an error, and so does a port that is silent for
//! [`SILENCE_TIMEOUT`].
//!
//! **Not here.** The content of the lines (`commands/trace.rs`).

use std::ops::ControlFlow;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::{Method, StatusCode};
use tokio::time::timeout;

use super::{AdminError, AdminPort, Exchange, MAX_LINE_BYTES, REQUEST_TIMEOUT};

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
            let whole = timeout(REQUEST_TIMEOUT, self.whole(answer)).await;
            return Err(self.refused(whole.map_err(|_| late(REQUEST_TIMEOUT))??));
        }
        let (mut body, mut rest) = (answer.into_body(), Vec::new());
        loop {
            let frame = timeout(SILENCE_TIMEOUT, body.frame()).await;
            let Some(frame) = frame.map_err(|_| late(SILENCE_TIMEOUT))? else { return Ok(()) };
            let frame = frame.map_err(|cause| self.unreadable(cause))?;
            rest.extend(frame.into_data().unwrap_or_default());
            if self.take_lines(&mut rest, &mut on_line)?.is_break() {
                return Ok(());
            }
        }
    }

    /// Takes the complete lines from the start of a text.
    fn take_lines(
        &self,
        text: &mut Vec<u8>,
        mut on_line: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, AdminError> {
        let mut rest = text.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.check_line(end)?;
            if on_line(&String::from_utf8_lossy(&rest[..end])).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            rest = &rest[end + 1..];
        }
        self.check_line(rest.len())?;
        let taken = text.len() - rest.len();
        text.drain(..taken);
        Ok(ControlFlow::Continue(()))
    }

    fn check_line(&self, bytes: usize) -> Result<(), AdminError> {
        match bytes > MAX_LINE_BYTES {
            true => Err(self.too_long("a line", MAX_LINE_BYTES)),
            false => Ok(()),
        }
    }
}
