//! The life of the process: flags, configuration, log, runtime, signals, exit code.
//!
//! Exit codes: 0 stopped in order; 1 could not start, or the drain had to force connections; 2 bad
//! flags (clap), or a variable of the environment that makes no sense; 78 bad configuration (`EX_CONFIG` of sysexits.h). `tlsidecar probe` has 3 as well
//! (`commands/probe.rs`).
//!
//! **Promises.** Signals are obeyed from before the first socket is bound. The log is written to its
//! end before the process ends. A start that fails says so on standard error whatever the log's filter
//! is, and an output that nobody reads changes no exit code. No key is loaded before core dumps are off.
//!
//! **Not here.** Binding and wiring (`app.rs`), what the flags are (`commands/flags.rs`), the pace of a stop
//! (`lifecycle.rs`).

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tlsidecar::app::{self, App, StartError};
use tlsidecar::commands::admin_client::{self, DrainOutcome as Followed};
use tlsidecar::commands::flags::{self, Cli, Command, Run};
use tlsidecar::commands::pages;
use tlsidecar::commands::{demo, probe};
use tlsidecar::config::Config;
use tlsidecar::config::file::{self, Source};
use tlsidecar::control::core_dumps;
use tlsidecar::control::sockets::Passed;
use tlsidecar::control::systemd::Systemd;
use tlsidecar::lifecycle::Drained;
use tlsidecar::lifecycle::signals::{Request, Signals};
use tlsidecar::logging;
use tlsidecar::runtime::{self, RuntimeError};
use tlsidecar::text::Shown;

/// It gives back what a burst has taken (docs/performance.md); `.cargo/config.toml` has its settings.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const FAILED: u8 = 1;
/// As clap has it.
const BAD_FLAGS: u8 = 2;
const BAD_CONFIGURATION: u8 = 78;

/// How long a task that does not stop may hold up the end of the process.
const LAST_TASKS: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let cli = Cli::read();
    if cli.command.is_some() {
        // A run looks at its configuration first. It is refused only by a kernel that has no such limit.
        let _refused = core_dumps::forbid();
    }
    let done = match cli.command {
        None => return run(&cli.run),
        Some(Command::Check { config }) => return check(&config),
        Some(Command::Demo(args)) if !args.renew => return run_demo(&args),
        Some(Command::Demo(args)) => demo::renew(&args.dir).map_err(Box::from),
        Some(Command::Probe(args)) => return run_probe(&args),
        Some(Command::Drain { admin, wait, timeout }) => return drain(admin, wait, timeout),
        Some(Command::Completions { shell }) => pages::completions(shell).map_err(Box::from),
        Some(Command::Man { dir }) => pages::man(dir.as_deref()).map_err(Box::from),
    };
    done.map_or_else(|error| failed(&*error, FAILED), |()| ExitCode::SUCCESS)
}

fn run(args: &Run) -> ExitCode {
    match args.configuration() {
        Ok((config, source)) => live(config, source, |_| {}),
        Err(error) => failed(&error, BAD_CONFIGURATION),
    }
}

fn run_demo(args: &flags::DemoArgs) -> ExitCode {
    match demo::prepare(args) {
        Ok((config, demo)) => live(config, None, |app| demo.start(app)),
        Err(error) => failed(&error, FAILED),
    }
}

fn check(path: &Path) -> ExitCode {
    let config = match file::load(path) {
        Ok(config) => config,
        Err(error) => return failed(&error, BAD_CONFIGURATION),
    };
    match app::check(&config) {
        Ok(checked) => {
            for warning in checked.warnings {
                say(&format!("warning: {warning}"));
            }
            for file in checked.files {
                say(&file);
            }
            let listeners = config.listeners.len();
            say(&format!("{}: good, {listeners} listener(s)", Shown(path)));
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error, BAD_CONFIGURATION),
    }
}

fn run_probe(args: &flags::probe::Probe) -> ExitCode {
    match runtime::of_a_command() {
        Ok(runtime) => ExitCode::from(runtime.block_on(probe::run(args))),
        Err(error) => failed(&error, FAILED),
    }
}

/// Begins a drain, and follows it if that is asked for.
fn drain(admin: SocketAddr, wait: bool, limit: Option<Duration>) -> ExitCode {
    let drained = async {
        admin_client::drain(admin).await?;
        if !wait {
            return Ok::<_, Box<dyn Error>>(ExitCode::SUCCESS);
        }
        let following = admin_client::follow(admin, |now| say(&now.to_string()));
        let followed = match limit {
            Some(limit) => tokio::time::timeout(limit, following).await,
            None => Ok(following.await),
        };
        let (told, code) = match followed {
            Ok(ended) => match ended? {
                Followed::Forced(0) => ("drained".to_owned(), 0),
                Followed::Forced(n) => {
                    (format!("drained; {n} connection(s) had to be forced"), FAILED)
                }
                Followed::Gone => ("the process has ended".to_owned(), 0),
            },
            Err(_) => ("not drained in time; the drain goes on".to_owned(), FAILED),
        };
        say(&told);
        Ok(ExitCode::from(code))
    };
    match runtime::of_a_command() {
        Ok(runtime) => runtime.block_on(drained).unwrap_or_else(|error| failed(&*error, FAILED)),
        Err(error) => failed(&error, FAILED),
    }
}

/// Prints a line. A reader that has gone, or a full disk, is no reason to stop: the exit code answers too.
fn say(line: &str) {
    let _unread = flags::print(format!("{line}\n"));
}

/// Runs a proxy until it is told to stop; `started` is called when it accepts.
fn live(config: Config, source: Option<Source>, started: impl FnOnce(&App)) -> ExitCode {
    // Before there is a second thread: it changes the environment.
    let passed = Passed::take();
    let runtime = match runtime::of_a_proxy() {
        Ok(runtime) => runtime,
        Err(error @ RuntimeError::Workers { .. }) => return failed(&error, BAD_FLAGS),
        Err(error) => return failed(&error, FAILED),
    };
    let _written_at_the_end = logging::start(config.log.format, &config.log.filter);
    if config.process.dumpable {
        tracing::warn!(
            "process.dumpable: core files and other processes of this user get the keys"
        );
    } else if let Err(error) = core_dumps::forbid() {
        tracing::warn!(%error, "cannot forbid core dumps");
    }
    let code = runtime.block_on(async {
        // Before anything else: a SIGTERM during the start must not kill, nor be lost.
        let signals = Signals::install()
            .map_err(|cause| StartError::System { what: "handle signals", cause })?;
        let passed = passed.map_err(|error| StartError::Passed(vec![error]))?;
        let app = app::start_on(config, source, passed)?;
        started(&app);
        let systemd = Systemd::ready(app.listeners.len(), &app.shutdown);
        let code = until_stopped(app, signals, &systemd).await;
        systemd.told_everything().await;
        Ok(code)
    });
    runtime.shutdown_timeout(LAST_TASKS);
    code.unwrap_or_else(|error: StartError| {
        for line in error.lines() {
            if tracing::enabled!(tracing::Level::ERROR) {
                tracing::error!("{line}");
            } else {
                // The filter is not about this: without a reason nobody could mend it.
                flags::complain(&line);
            }
        }
        ExitCode::from(match error {
            StartError::Material(_) | StartError::Passed(_) => BAD_CONFIGURATION,
            StartError::Bind { .. } | StartError::System { .. } => FAILED,
        })
    })
}

/// Obeys signals until the process has been told to end and its drain is over. A drain that was
/// asked for by `POST /drain` leaves the process running: in Kubernetes a sidecar that ends before
/// its Pod is started again.
async fn until_stopped(app: App, mut signals: Signals, systemd: &Systemd) -> ExitCode {
    let App { shutdown, reload, .. } = app;
    let mut drained = std::pin::pin!(shutdown.drained());
    let mut outcome = None;
    let mut told_to_end = false;
    loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::Reload => {
                    let (reload, systemd) = (reload.clone(), systemd.clone());
                    tokio::spawn(async move { systemd.reload(&reload).await });
                }
                // The second one means it.
                Request::Stop if told_to_end => shutdown.force(),
                Request::Stop => {
                    told_to_end = true;
                    systemd.stopping();
                    shutdown.drain();
                }
            },
            drained = &mut drained, if outcome.is_none() => outcome = Some(drained),
        }
        match outcome {
            Some(Drained::Clean) if told_to_end => {
                tracing::info!("stopped");
                return ExitCode::SUCCESS;
            }
            Some(Drained::Forced(connections)) if told_to_end => {
                tracing::warn!(connections, "stopped; the drain had to force connections");
                return ExitCode::from(FAILED);
            }
            _ => {}
        }
    }
}

fn failed(error: &dyn Error, code: u8) -> ExitCode {
    flags::complain(error);
    ExitCode::from(code)
}
