//! `tlsidecar drain`: starts a drain of a running sidecar and, with `--wait`, waits for its end.
//!
//! **Not here.** The requests to the admin port (`admin_client.rs`), the drain itself (`lifecycle.rs`).

use std::fmt;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::admin_client::{AdminError, AdminPort, DrainStatus};
use super::exit::Exit;
use super::flags::admin::AdminArgs;
use super::output::{fail, print_line};
use crate::runtime;

/// The interval at which the progress of a drain is read.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Polls within which a drain that was accepted must have begun.
const POLLS_UNTIL_BEGUN: u32 = 50;

/// Starts a drain of a running sidecar. With `wait`, prints its progress until it
/// ends, or until `limit`.
#[must_use]
pub fn run(admin: &AdminArgs, wait: bool, limit: Option<Duration>) -> Exit {
    match runtime::of_a_command() {
        Ok(runtime) => {
            let done = runtime.block_on(drain(admin, wait, limit));
            done.unwrap_or_else(|error| fail(error, Exit::Failed))
        }
        Err(error) => fail(error, Exit::Failed),
    }
}

async fn drain(admin: &AdminArgs, wait: bool, limit: Option<Duration>) -> Result<Exit, AdminError> {
    let admin = AdminPort::of(admin)?;
    admin.drain().await?;
    if !wait {
        return Ok(Exit::Success);
    }
    let following = follow(&admin);
    let outcome = match limit {
        Some(limit) => timeout(limit, following).await,
        None => Ok(following.await),
    };
    let Ok(outcome) = outcome else {
        print_line("the drain did not end in time; it continues");
        return Ok(Exit::Failed);
    };
    let outcome = outcome?;
    print_line(outcome);
    Ok(match outcome {
        DrainOutcome::Drained { forced: 0 } | DrainOutcome::Gone => Exit::Success,
        DrainOutcome::Drained { .. } => Exit::Failed,
    })
}

/// The end of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DrainOutcome {
    /// All connections are closed; `forced` of them were forced at the deadline.
    Drained { forced: u64 },
    /// The process ended before the next poll.
    Gone,
}

impl fmt::Display for DrainOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drained { forced: 0 } => f.write_str("drained"),
            Self::Drained { forced } => {
                write!(f, "drained; {forced} connection(s) were forced")
            }
            Self::Gone => f.write_str("the process has ended"),
        }
    }
}

/// Returns a line about the connections that are left.
fn progress(status: &DrainStatus) -> String {
    let line = format!("{}: {} connection(s) left", status.phase, status.open());
    match status.waiting() {
        0 => line,
        busy => format!("{line}, {busy} of them busy"),
    }
}

/// Polls a drain that was accepted until it ends, and prints each change.
///
/// # Errors
/// The admin port answers with an error, or another program answers.
async fn follow(admin: &AdminPort) -> Result<DrainOutcome, AdminError> {
    let mut printed = None;
    let mut begun = false;
    let mut failed = false;
    let mut polls = 0;
    loop {
        polls += 1;
        let answer = admin.drain_status().await;
        // The process may have ended in the middle of its answer. Then the next poll finds no listener.
        if matches!(answer, Err(AdminError::Protocol { .. })) && !failed {
            failed = true;
            continue;
        }
        failed = false;
        let status = match answer {
            Ok(status) => status,
            Err(AdminError::Unreachable { .. }) => return Ok(DrainOutcome::Gone),
            Err(error) => return Err(error),
        };
        // None: the admin port is busy with other requests.
        if let Some(status) = status {
            begun |= status.has_begun();
            if status.is_drained() {
                return Ok(DrainOutcome::Drained { forced: status.forced() });
            }
            // A process that does not drain is another one, which has taken the address.
            if !status.has_begun() && (begun || polls > POLLS_UNTIL_BEGUN) {
                return Ok(DrainOutcome::Gone);
            }
            let line = progress(&status);
            if begun && printed.as_ref() != Some(&line) {
                print_line(&line);
                printed = Some(line);
            }
        }
        sleep(POLL_INTERVAL).await;
    }
}
