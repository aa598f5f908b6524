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
mod dial;
mod failure;
mod json;
mod offer;
mod printable;
pub mod problem;
mod report;
mod tap;
mod verdict;
mod witness;

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::HandshakeKind;

use self::attempt::{Attempt, How};
use self::failure::{Client, Failure};
use self::offer::{Offer, OfferError};
use self::problem::{Kind, Problem};
use self::report::{Accepts, Report, Resumption};
use super::admin_client::{self, Health};
use super::flags;
use super::flags::probe::{Format, Probe, Target};
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
                Format::Text => report.to_string(),
                Format::Json => json::render(&report),
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
                OfferError::Name { .. } => BAD_FLAGS,
                OfferError::Files(_) | OfferError::Tls(_) => BAD_FILES,
            }
        }
    }
}

fn code(problems: &[Problem]) -> u8 {
    match problems {
        [] => GOOD,
        all if all.iter().all(|p| p.kind == Kind::CertificateExpiresSoon) => EXPIRES_SOON,
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
async fn probe(args: &Probe, target: &Target) -> Result<Report, OfferError> {
    let offer = Offer::load(args, target)?;
    let now = SystemTime::now();
    let mut report = Report::new(target, &offer, args);
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
    let (config, witness) = offer.config(args.tls)?;
    let how = How {
        config: &config,
        witness: &witness,
        name: &offer.name,
        patience: args.timeout,
        distance,
    };
    let first = attempt::attempt(&how, tcp).await;
    let verdict = verdict::judge(&first.seen.chain, &offer, args.min_days, now);
    report.take(&first, verdict, now);
    if args.once || first.failure.is_some() {
        return Ok(report);
    }
    if let Some(agreed) = &first.agreed {
        report.versions.push((agreed.version, Accepts::Yes));
        step("resuming with", address);
        report.resumption = resumption(&how, address).await;
        if args.tls.is_none() {
            let other = match agreed.version {
                TlsVersion::Tls13 => TlsVersion::Tls12,
                TlsVersion::Tls12 => TlsVersion::Tls13,
            };
            step("offering another version to", address);
            let (config, witness) = offer.config(Some(other))?;
            let how = How { config: &config, witness: &witness, ..how };
            report.versions.push((other, accepts(&how, address).await));
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
async fn again(how: &How<'_>, address: SocketAddr) -> Result<Attempt, Problem> {
    let (mut tried, tcp) = dial::connect(&[address], how.patience).await;
    match (tcp, tried.pop().map(|tried| tried.outcome)) {
        (Some(tcp), _) => Ok(attempt::attempt(how, tcp).await),
        (None, Some(Err(problem))) => Err(problem),
        (None, _) => Err(Problem::new(Kind::Unreachable, "no connection", "")),
    }
}

async fn resumption(how: &How<'_>, address: SocketAddr) -> Resumption {
    if !how.witness.is_ticketed() {
        return Resumption::NoTicket;
    }
    let attempt = match again(how, address).await {
        Ok(attempt) => attempt,
        Err(problem) => return Resumption::Failed(problem.says),
    };
    match (attempt.failure, attempt.agreed) {
        (Some(failure), _) => Resumption::Failed(said(&failure)),
        (None, Some(agreed)) if agreed.kind == HandshakeKind::Resumed => {
            Resumption::Works(agreed.took)
        }
        (None, _) => Resumption::Declined,
    }
}

async fn accepts(how: &How<'_>, address: SocketAddr) -> Accepts {
    match again(how, address).await {
        Ok(Attempt { failure: None, .. }) => Accepts::Yes,
        Ok(Attempt { failure: Some(failure), .. }) if failure.is_of_version() => Accepts::No,
        Ok(Attempt { failure: Some(failure), .. }) => Accepts::Unclear(said(&failure)),
        Err(problem) => Accepts::Unclear(problem.says),
    }
}

fn said(failure: &Failure) -> String {
    failure.problem(Client::default()).says
}

/// A time as people read it.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}
