//! `tlsidecar probe`: connects as a device would, and says what it sees.
//!
//! Exit codes: 0 good; 1 a problem, or a report that cannot be written; 3 nothing but that a certificate
//! ends within `--min-days`; 2 bad flags (clap), or a name that no certificate can be for; 78 files that
//! cannot be used. With `--live`, `--started` or `--ready` it asks the admin port instead: 0 if it is
//! well, 1 if not.
//!
//! **Promises.** It sends no data, and says goodbye in order. Each step has its time. Whatever a server
//! says comes out escaped and cut to a length.
//!
//! **Not here.** What the flags are (`commands/flags/probe.rs`), and the proxy, with which it shares no more than the
//! reading of files and certificates and the names of alerts.

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
use super::flags;
use super::flags::probe::{Probe, ProbeTarget, ReportFormat};
use crate::config::TlsVersion;

const GOOD: u8 = 0;
const PROBLEM: u8 = 1;
const BAD_FLAGS: u8 = 2;
const EXPIRES_SOON: u8 = 3;
const BAD_FILES: u8 = 78;

/// Does what the flags say, and returns the exit code.
pub async fn run(args: &Probe) -> u8 {
    let Some(target) = &args.target else {
        return health(args).await;
    };
    match probe(args, target).await {
        Ok(report) => {
            let written = flags::print(match args.format {
                ReportFormat::Text => report.to_string(),
                ReportFormat::Json => json::render(&report),
            });
            if let Err(error) = written {
                flags::complain(format_args!("cannot write the report: {error}"));
                return PROBLEM;
            }
            code(&report.problems)
        }
        Err(error) => {
            flags::complain(&error);
            match error {
                ProfileError::Name { .. } => BAD_FLAGS,
                ProfileError::Files(_) | ProfileError::Tls(_) => BAD_FILES,
            }
        }
    }
}

fn code(problems: &[Problem]) -> u8 {
    match problems {
        [] => GOOD,
        all if all.iter().all(|p| p.kind == ProblemKind::CertificateExpiresSoon) => EXPIRES_SOON,
        _ => PROBLEM,
    }
}

async fn health(args: &Probe) -> u8 {
    let what = match (args.started, args.ready) {
        (true, _) => Health::Started,
        (_, true) => Health::Ready,
        _ => Health::Live,
    };
    match admin_client::health(args.admin, what, args.timeout).await {
        Ok(phase) => {
            // The code alone is the answer: a disk that is full is no reason to restart a container.
            let _unread = flags::print(format!("{}\n", printable::text(&phase)));
            GOOD
        }
        Err(error) => {
            flags::complain(&error);
            PROBLEM
        }
    }
}

/// The walk of a probe: files, name, connect, handshake, judgement; then resumption and the other
/// version, each by a connection of its own.
async fn probe(args: &Probe, target: &ProbeTarget) -> Result<ProbeReport, ProfileError> {
    let profile = ClientProfile::load(args, target)?;
    let now = SystemTime::now();
    let mut report = ProbeReport::new(target, &profile, args);
    step("looking up the name", &target.host);
    let addresses = match dial::resolve(target, args.timeout).await {
        Ok(addresses) => addresses,
        Err(problem) => return Ok(report.with(problem)),
    };
    step("connecting to", target);
    let (tried, tcp) = dial::connect(&addresses, args.timeout).await;
    report.tried = tried;
    let (Some(tcp), Some((address, distance))) = (tcp, report.connected()) else {
        report.refused_everywhere();
        return Ok(report);
    };
    step("handshake with", address);
    let (config, verifier) = profile.config(args.tls)?;
    let options = AttemptOptions {
        config: &config,
        verifier: &verifier,
        name: &profile.name,
        patience: args.timeout,
        distance,
    };
    let first = attempt::attempt(&options, tcp).await;
    let verdict = verdict::judge(&first.seen.chain, &profile, args.min_days, now);
    report.take(&first, verdict, now);
    if args.once || first.failure.is_some() {
        return Ok(report);
    }
    if let Some(agreed) = &first.agreed {
        report.versions.push((agreed.version, VersionSupport::Yes));
        step("resuming with", address);
        report.resumption = resumption(&options, address).await;
        if args.tls.is_none() {
            let other = match agreed.version {
                TlsVersion::Tls13 => TlsVersion::Tls12,
                TlsVersion::Tls12 => TlsVersion::Tls13,
            };
            step("offering another version to", address);
            let (config, verifier) = profile.config(Some(other))?;
            let options = AttemptOptions { config: &config, verifier: &verifier, ..options };
            report.versions.push((other, accepts(&options, address).await));
        }
    }
    Ok(report)
}

/// Says what is being done, to a person who waits for it.
fn step(doing: &str, what: impl std::fmt::Display) {
    if io::stderr().is_terminal() {
        flags::complain(format_args!("{doing} {what} …"));
    }
}

/// Another attempt at the address that the first one went to.
async fn again(options: &AttemptOptions<'_>, address: SocketAddr) -> Result<Attempt, Problem> {
    let (mut tried, tcp) = dial::connect(&[address], options.patience).await;
    match (tcp, tried.pop().map(|tried| tried.outcome)) {
        (Some(tcp), _) => Ok(attempt::attempt(options, tcp).await),
        (None, Some(Err(problem))) => Err(problem),
        (None, _) => Err(Problem::new(ProblemKind::Unreachable, "no connection", "")),
    }
}

async fn resumption(options: &AttemptOptions<'_>, address: SocketAddr) -> ResumptionReport {
    if !options.verifier.is_ticketed() {
        return ResumptionReport::NoTicket;
    }
    let attempt = match again(options, address).await {
        Ok(attempt) => attempt,
        Err(problem) => return ResumptionReport::Failed(problem.says),
    };
    match (attempt.failure, attempt.agreed) {
        (Some(failure), _) => ResumptionReport::Failed(said(&failure)),
        (None, Some(agreed)) if agreed.kind == HandshakeKind::Resumed => {
            ResumptionReport::Works(agreed.took)
        }
        (None, _) => ResumptionReport::Declined,
    }
}

async fn accepts(options: &AttemptOptions<'_>, address: SocketAddr) -> VersionSupport {
    match again(options, address).await {
        Ok(Attempt { failure: None, .. }) => VersionSupport::Yes,
        Ok(Attempt { failure: Some(failure), .. }) if failure.is_of_version() => VersionSupport::No,
        Ok(Attempt { failure: Some(failure), .. }) => VersionSupport::Unclear(said(&failure)),
        Err(problem) => VersionSupport::Unclear(problem.says),
    }
}

fn said(failure: &Failure) -> String {
    failure.problem(ClientContext::default()).says
}
