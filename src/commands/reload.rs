//! `tlsidecar reload`: reloads the files of a running sidecar, or decides about a certificate rollout.
//!
//! **Not here.** The request (`admin_client.rs`), the reload itself (`reload.rs`).

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Serialize;

use super::admin_client::{AdminError, AdminPort, Answer, query};
use super::exit::Exit;
use super::flags::admin::AdminArgs;
use super::flags::rollout::RolloutArgs;
use super::output::{fail, print_line};
use crate::runtime;
use crate::text::one_line;

/// The time limit. A CRL with a million entries takes seconds.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// The result of a reload or of a decision.
#[derive(Serialize)]
struct Reloaded<'a> {
    outcome: &'a str,
    /// The causes of a failure, and the changes that need a restart; or the rollouts that were decided.
    messages: Vec<&'a str>,
}

/// Reloads or decides, and prints the result. Fails if a file could not be loaded, or if there is no rollout.
#[must_use]
pub fn run(admin: &AdminArgs, rollout: &RolloutArgs, json: bool) -> Exit {
    let runtime = match runtime::of_a_command() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error, Exit::Failed),
    };
    match runtime.block_on(reload(admin, rollout)) {
        Ok(answer) => {
            report(&answer.text, json);
            if answer.status == StatusCode::OK { Exit::Success } else { Exit::Failed }
        }
        Err(error) => fail(error, Exit::Failed),
    }
}

async fn reload(admin: &AdminArgs, rollout: &RolloutArgs) -> Result<Answer, AdminError> {
    let port = AdminPort::of(admin)?;
    let decision = rollout.query();
    let path = if decision.is_empty() { "/reload".to_owned() } else { query("/reload", &decision) };
    let answer = port.request(Method::POST, &path, RELOAD_TIMEOUT).await?;
    match answer.status {
        // The body is the result.
        StatusCode::OK | StatusCode::INTERNAL_SERVER_ERROR => Ok(answer),
        _ => Err(port.refused(answer)),
    }
}

fn report(text: &str, json: bool) {
    let mut lines = text.lines();
    let reloaded =
        Reloaded { outcome: lines.next().unwrap_or_default(), messages: lines.collect() };
    if json {
        print_line(serde_json::to_string(&reloaded).expect("it is text"));
    } else {
        text.lines().for_each(|line| print_line(one_line(line)));
    }
}
