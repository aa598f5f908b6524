//! `tlsidecar probe`: connects as a device would, and reports the result.
//!
//! With `--live`, `--started` or `--ready` it checks the health of a running sidecar through the admin port
//! instead.
//!
//! **Promises.** The probe sends no application data, and closes with close_notify. Each step has a time limit.
//! Text from the server is escaped and limited in length.
//!
//! **Not here.** The flags (`flags/probe.rs`). With the proxy the probe shares only the loading of files and
//! certificates, and the names of alerts.

mod attempt;
mod capturing_verifier;
mod client_profile;
mod dial;
mod failure;
mod json;
mod printable;
pub mod problem;
mod recording_io;
mod report;
mod verdict;

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::time::SystemTime;

use tokio_rustls::rustls::HandshakeKind;

use self::attempt::{Attempt, AttemptOptions};
use self::client_profile::{ClientProfile, ProfileError};
use self::failure::{ClientContext, Failure};
use self::problem::{Problem, ProblemKind};
use self::report::{ProbeReport, ResumptionReport, VersionSupport};
use super::admin_client::{self, Health};
use super::exit::Exit;
use super::flags::probe::{ProbeArgs, ProbeTarget, ReportFormat};
use super::output::{complain, fail, print, print_line};
use crate::config::TlsVersion;
use crate::runtime;

/// Runs the probe or the health check that the flags ask for.
#[must_use]
pub fn run(args: &ProbeArgs) -> Exit {
    let runtime = match runtime::of_a_command() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error, Exit::Failed),
    };
    match &args.target {
        Some(target) => runtime.block_on(report(args, target)),
        None => runtime.block_on(health(args)),
    }
}

async fn report(args: &ProbeArgs, target: &ProbeTarget) -> Exit {
    match probe(args, target).await {
        Ok(report) => {
            let written = print(match args.format {
                ReportFormat::Text => report.to_string(),
                ReportFormat::Json => json::render(&report),
            });
            match written {
                Ok(()) => exit(&report.problems),
                Err(error) => fail(format_args!("cannot write the report: {error}"), Exit::Failed),
            }
        }
        Err(error @ ProfileError::Name { .. }) => fail(error, Exit::BadFlags),
        Err(error @ (ProfileError::Files(_) | ProfileError::Tls(_))) => {
            fail(error, Exit::BadConfiguration)
        }
    }
}

fn exit(problems: &[Problem]) -> Exit {
    match problems {
        [] => Exit::Success,
        all if all.iter().all(|p| p.kind == ProblemKind::CertificateExpiresSoon) => {
            Exit::ExpiresSoon
        }
        _ => Exit::Failed,
    }
}

async fn health(args: &ProbeArgs) -> Exit {
    let check = match (args.started, args.ready) {
        (true, _) => Health::Started,
        (_, true) => Health::Ready,
        _ => Health::Live,
    };
    match admin_client::health(&args.admin, check, args.timeout).await {
        Ok(phase) => {
            print_line(printable::text(&phase));
            Exit::Success
        }
        Err(error) => fail(error, Exit::Failed),
    }
}

/// Makes a probe: files, name, connect, handshake, verdict; then resumption and the other TLS version, with a new
/// connection each.
async fn probe(args: &ProbeArgs, target: &ProbeTarget) -> Result<ProbeReport, ProfileError> {
    let profile = ClientProfile::load(args, target)?;
    let now = SystemTime::now();
    let mut report = ProbeReport::new(target, &profile, args);
    step("looking up", &target.host);
    let addresses = match dial::resolve(target, args.timeout).await {
        Ok(addresses) => addresses,
        Err(problem) => return Ok(report.with(problem)),
    };
    step("connecting to", target);
    let (tried, tcp) = dial::connect(&addresses, args.timeout).await;
    report.tried = tried;
    let (Some(tcp), Some((address, connect))) = (tcp, report.connected()) else {
        report.add_connect_problems();
        return Ok(report);
    };
    step("handshake with", address);
    let (config, verifier) = profile.config(args.tls)?;
    let options = AttemptOptions {
        config: &config,
        verifier: &verifier,
        name: &profile.name,
        limit: args.timeout,
        connect,
    };
    let first = attempt::attempt(&options, tcp).await;
    let verdict = verdict::verify(&first.captured.chain, &profile, args.min_days, now);
    report.add_handshake(&first, verdict, now);
    if args.once || first.failure.is_some() {
        return Ok(report);
    }
    if let Some(negotiated) = &first.negotiated {
        report.versions.push((negotiated.version, VersionSupport::Yes));
        step("resuming with", address);
        report.resumption = resumption(&options, address).await;
        if args.tls.is_none() {
            let other = match negotiated.version {
                TlsVersion::Tls13 => TlsVersion::Tls12,
                TlsVersion::Tls12 => TlsVersion::Tls13,
            };
            let support = other_version(&profile, other, &options, address).await?;
            report.versions.push((other, support));
        }
    }
    Ok(report)
}

/// Returns the support of the server for the version that the first handshake did not have.
async fn other_version(
    profile: &ClientProfile,
    version: TlsVersion,
    options: &AttemptOptions<'_>,
    address: SocketAddr,
) -> Result<VersionSupport, ProfileError> {
    step("offering the other TLS version to", address);
    let (config, verifier) = profile.config(Some(version))?;
    let options = AttemptOptions { config: &config, verifier: &verifier, ..*options };
    Ok(support(&options, address).await)
}

/// Shows the current step if standard error is a terminal.
fn step(action: &str, object: impl std::fmt::Display) {
    if io::stderr().is_terminal() {
        complain(format_args!("{action} {object} …"));
    }
}

/// Makes another attempt at the address of the first one.
async fn again(options: &AttemptOptions<'_>, address: SocketAddr) -> Result<Attempt, Problem> {
    let (mut tried, tcp) = dial::connect(&[address], options.limit).await;
    match (tcp, tried.pop().map(|tried| tried.outcome)) {
        (Some(tcp), _) => Ok(attempt::attempt(options, tcp).await),
        (None, Some(Err(problem))) => Err(problem),
        (None, _) => Err(Problem::new(ProblemKind::Unreachable, "no connection", "")),
    }
}

async fn resumption(options: &AttemptOptions<'_>, address: SocketAddr) -> ResumptionReport {
    if !options.verifier.has_ticket() {
        return ResumptionReport::NoTicket;
    }
    let attempt = match again(options, address).await {
        Ok(attempt) => attempt,
        Err(problem) => return ResumptionReport::Failed(problem.message),
    };
    match (attempt.failure, attempt.negotiated) {
        (Some(failure), _) => ResumptionReport::Failed(message(&failure)),
        (None, Some(negotiated)) if negotiated.kind == HandshakeKind::Resumed => {
            ResumptionReport::Works(negotiated.duration)
        }
        (None, _) => ResumptionReport::Declined,
    }
}

async fn support(options: &AttemptOptions<'_>, address: SocketAddr) -> VersionSupport {
    match again(options, address).await {
        Ok(Attempt { failure: None, .. }) => VersionSupport::Yes,
        Ok(Attempt { failure: Some(failure), .. }) if failure.is_of_version() => VersionSupport::No,
        Ok(Attempt { failure: Some(failure), .. }) => VersionSupport::Unclear(message(&failure)),
        Err(problem) => VersionSupport::Unclear(problem.message),
    }
}

fn message(failure: &Failure) -> String {
    failure.problem(ClientContext::default()).message
}
