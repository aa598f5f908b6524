//! `tlsidecar`, without a command: runs a proxy until it is stopped.
//!
//! **Promises.** Signals are handled from before the first socket is bound. The log is written completely
//! before the process ends. A failed start is reported on standard error whatever the log filter is. No
//! key is loaded before core dumps are disabled.
//!
//! **Not here.** Binding and wiring (`app.rs`), the flags (`flags.rs`), the phases of a stop (`lifecycle.rs`).

use std::time::Duration;

use super::exit::Exit;
use super::flags::run::RunArgs;
use super::output::{complain, fail};
use crate::app::{self, App, StartError};
use crate::config::file::ConfigSource;
use crate::config::{Config, ProcessConfig};
use crate::control::sockets::ActivatedSockets;
use crate::control::systemd::Systemd;
use crate::control::{confine, core_dumps};
use crate::lifecycle::Drained;
use crate::lifecycle::signals::{Request, Signals};
use crate::logging;
use crate::runtime::{self, RuntimeError};

/// The time that tasks get to stop at the end of the process.
const TASKS_TIMEOUT: Duration = Duration::from_millis(100);

/// Runs a proxy on the configuration of the flags.
#[must_use]
pub fn run(args: &RunArgs) -> Exit {
    match args.configuration(None) {
        Ok((config, source)) => {
            // Before the second thread, because it applies to one thread and those that it starts.
            let confinement = confine::files_of(&config, source.as_ref());
            run_proxy(config, source, |_| confinement.log())
        }
        Err(error) => fail(error, Exit::BadConfiguration),
    }
}

/// Runs a proxy on `config` until it is stopped; calls `started` once it accepts connections.
pub(super) fn run_proxy(
    config: Config,
    source: Option<ConfigSource>,
    started: impl FnOnce(&App),
) -> Exit {
    // This changes the environment, so it comes before the second thread.
    let passed = ActivatedSockets::take();
    let runtime = match runtime::of_a_proxy() {
        Ok(runtime) => runtime,
        Err(error @ RuntimeError::Workers { .. }) => return fail(error, Exit::BadFlags),
        Err(error) => return fail(error, Exit::Failed),
    };
    let _written_at_the_end = logging::start(config.log.format, &config.log.filter);
    forbid_core_dumps(config.process);
    let exit = runtime.block_on(async {
        // Before anything else, so that a SIGTERM during the start neither kills the process nor gets lost.
        let signals = Signals::install()
            .map_err(|cause| StartError::System { what: "handle signals", cause })?;
        let passed = passed.map_err(|error| StartError::Activation(vec![error]))?;
        let app = app::start_on(config, source, passed)?;
        started(&app);
        let systemd = Systemd::ready(app.listeners.len(), &app.shutdown);
        let shutdown = app.shutdown.clone();
        let exit = until_stopped(app, signals, &systemd).await;
        shutdown.end_streams().await;
        systemd.flush().await;
        Ok(exit)
    });
    runtime.shutdown_timeout(TASKS_TIMEOUT);
    exit.unwrap_or_else(|error| report_start_error(&error))
}

fn forbid_core_dumps(process: ProcessConfig) {
    if process.dumpable {
        tracing::warn!(
            "process.dumpable is set: core dumps and other processes of this user can read the private keys"
        );
    } else if let Err(error) = core_dumps::forbid() {
        tracing::warn!(%error, "cannot disable core dumps");
    }
}

fn report_start_error(error: &StartError) -> Exit {
    for line in error.lines() {
        if tracing::enabled!(tracing::Level::ERROR) {
            tracing::error!("{line}");
        } else {
            // The log filter does not apply: without the reason nobody could fix the start.
            complain(line);
        }
    }
    match error {
        StartError::Material(_) | StartError::Activation(_) => Exit::BadConfiguration,
        StartError::Bind { .. }
        | StartError::BindUnix { .. }
        | StartError::Source { .. }
        | StartError::System { .. } => Exit::Failed,
    }
}

/// Handles signals until the process was asked to stop and its drain is complete. A drain by `POST /drain`
/// leaves the process running: Kubernetes would restart a sidecar that exits before its Pod.
async fn until_stopped(app: App, mut signals: Signals, systemd: &Systemd) -> Exit {
    let App { shutdown, reload, .. } = app;
    let mut drained = std::pin::pin!(shutdown.drained());
    let mut outcome = None;
    let mut stopping = false;
    loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::Reload => {
                    let (reload, systemd) = (reload.clone(), systemd.clone());
                    tokio::spawn(async move { systemd.reload(&reload).await });
                }
                // The second request to stop ends the drain.
                Request::Stop if stopping => shutdown.force(),
                Request::Stop => {
                    stopping = true;
                    systemd.stopping();
                    shutdown.drain();
                }
            },
            drained = &mut drained, if outcome.is_none() => outcome = Some(drained),
        }
        match outcome {
            Some(Drained::Clean) if stopping => {
                tracing::info!("stopped");
                return Exit::Success;
            }
            Some(Drained::Forced(connections)) if stopping => {
                tracing::warn!(
                    connections,
                    "stopped; connections were forced at the deadline of the drain"
                );
                return Exit::Failed;
            }
            _ => {}
        }
    }
}
