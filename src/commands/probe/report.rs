//! What a probe has found, and how it is told to people.
//!
//! **Promises.** Every text of the server's that stands in a report has been made printable.
//!
//! **Not here.** The same for programs (`json.rs`).

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::attempt::Attempt;
use super::client_profile::ClientProfile;
use super::dial::Tried;
use super::failure::ClientContext;
use super::printable::{self, MOST, list, milliseconds};
use super::problem::{Problem, ProblemKind};
use super::verdict::{self, Verdict};
use crate::commands::flags::probe::{Probe, ProbeTarget};
use crate::config::TlsVersion;
use crate::trust::x509::details::{self, Details};

/// What a probe has found.
#[derive(Debug)]
pub(super) struct ProbeReport {
    pub(super) target: String,
    /// The name that the certificate is compared with, and whether it was sent.
    pub(super) name: String,
    pub(super) sends_name: bool,
    /// What is offered by ALPN.
    pub(super) alpn_offered: Vec<String>,
    pub(super) tried: Vec<Tried>,
    pub(super) session: Option<HandshakeReport>,
    /// Whether the server answered our goodbye; none if it was not said.
    pub(super) goodbye_answered: Option<bool>,
    pub(super) client_certificate: ClientAuthReport,
    pub(super) certificates: Vec<CertificateReport>,
    /// How many certificates there were, shown or not.
    pub(super) chain_length: usize,
    pub(super) name_matches: Option<bool>,
    pub(super) verified: Option<bool>,
    pub(super) order: Option<String>,
    pub(super) resumption: ResumptionReport,
    pub(super) versions: Vec<(TlsVersion, VersionSupport)>,
    pub(super) problems: Vec<Problem>,
    offers_all: bool,
}

/// What the first handshake agreed on.
#[derive(Debug)]
pub(super) struct HandshakeReport {
    pub(super) version: TlsVersion,
    pub(super) suite: String,
    pub(super) group: Option<String>,
    /// What was chosen by ALPN.
    pub(super) alpn: Option<String>,
    pub(super) took: Duration,
    /// What the server said before we have said anything.
    pub(super) greeting: Option<String>,
}

/// What the server wants of clients.
#[derive(Debug)]
pub(super) enum ClientAuthReport {
    /// The handshake did not come so far.
    Unknown,
    NotAsked,
    Asked {
        /// The names of the CAs that it accepts; empty: it does not say.
        authorities: Vec<String>,
        /// Whether one was shown.
        shown: bool,
        /// Whether it was content; none if it did not say.
        content: Option<bool>,
    },
}

/// A certificate of the chain, printable.
#[derive(Debug)]
pub(super) struct CertificateReport {
    pub(super) details: Result<Details, String>,
    pub(super) days_left: Option<i64>,
}

/// Whether a second connection can do with less.
#[derive(Debug)]
pub(super) enum ResumptionReport {
    NotTried,
    /// The server gave nothing to resume with.
    NoTicket,
    /// It gave a ticket, and made a whole handshake all the same.
    Declined,
    Works(Duration),
    Failed(String),
}

/// Whether a version is accepted.
#[derive(Debug)]
pub(super) enum VersionSupport {
    Yes,
    No,
    /// The attempt failed for another cause.
    Unclear(String),
}

impl ProbeReport {
    pub(super) fn new(target: &ProbeTarget, profile: &ClientProfile, args: &Probe) -> Self {
        Self {
            target: target.to_string(),
            name: profile.name.to_str().into_owned(),
            sends_name: profile.sends_name,
            alpn_offered: args.alpn.iter().map(|protocol| printable::text(protocol)).collect(),
            tried: Vec::new(),
            session: None,
            goodbye_answered: None,
            client_certificate: ClientAuthReport::Unknown,
            certificates: Vec::new(),
            chain_length: 0,
            name_matches: None,
            verified: None,
            order: None,
            resumption: ResumptionReport::NotTried,
            versions: Vec::new(),
            problems: Vec::new(),
            offers_all: args.tls.is_none(),
        }
    }

    /// The same with a problem more.
    pub(super) fn with(mut self, problem: Problem) -> Self {
        self.problems.push(problem);
        self
    }

    /// The address that took the connection, and how long that took.
    pub(super) fn connected(&self) -> Option<(SocketAddr, Duration)> {
        let last = self.tried.last()?;
        Some((last.address, *last.outcome.as_ref().ok()?))
    }

    /// Notes why there is no connection at all.
    pub(super) fn refused_everywhere(&mut self) {
        let problems = self.tried.iter().filter_map(|tried| tried.outcome.as_ref().err());
        self.problems.extend(problems.cloned());
    }

    /// Takes what the first handshake has shown.
    pub(super) fn take(&mut self, attempt: &Attempt, verdict: Verdict, now: SystemTime) {
        self.session = attempt.agreed.as_ref().map(|agreed| HandshakeReport {
            version: agreed.version,
            suite: agreed.suite.clone(),
            group: agreed.group.clone(),
            alpn: agreed.alpn.as_deref().map(printable::bytes),
            took: agreed.took,
            greeting: (!attempt.heard.is_empty()).then(|| printable::bytes(&attempt.heard)),
        });
        self.goodbye_answered = attempt.answered;
        let request = attempt.seen.request.as_ref();
        let failure = attempt.failure.as_ref();
        let unshown = request.is_some_and(|request| !request.shown);
        let client = ClientContext { unshown, offers_all: self.offers_all };
        self.client_certificate = match request {
            Some(request) => ClientAuthReport::Asked {
                authorities: request.authorities.iter().map(|der| authority(der)).collect(),
                shown: request.shown,
                content: match failure {
                    Some(failure) if failure.is_of_certificate(client) => Some(false),
                    _ => attempt.content.then_some(true),
                },
            },
            None if attempt.agreed.is_some() => ClientAuthReport::NotAsked,
            None => ClientAuthReport::Unknown,
        };
        self.problems.extend(failure.map(|failure| failure.problem(client)));
        if let (Some(request), None, false) = (request, failure, attempt.content) {
            self.problems.push(unanswered(request.shown));
        }
        self.chain_length = verdict.certificates.len();
        let certificate = |details: Result<Details, String>| CertificateReport {
            days_left: details.as_ref().ok().map(|d| verdict::days_left(d.not_after, now)),
            details: details.map(printable_details),
        };
        self.certificates = verdict.certificates.into_iter().take(MOST).map(certificate).collect();
        self.name_matches = verdict.name_matches;
        self.verified = verdict.verified;
        self.order = verdict.order;
        // What the handshake has failed for is told once.
        let told = self.problems.first().map(|problem| problem.kind);
        self.problems.extend(verdict.problems.into_iter().filter(|p| Some(p.kind) != told));
    }
}

/// A server that is silent about it may refuse every device.
fn unanswered(shown: bool) -> Problem {
    let what = if shown {
        "got one, and did not say whether it will do"
    } else {
        "got none, and did not say whether that will do"
    };
    Problem::new(
        ProblemKind::ClientCertificateUnanswered,
        format!("the server asked for a client certificate, {what}: a device may be refused"),
        "The server's log says whether it let us in. Something on the way may hold its answer up, or \
         it or the legacy server hangs: try a longer --timeout.",
    )
}

fn authority(der: &[u8]) -> String {
    details::name(der).map_or_else(|_| printable::bytes(der), |name| printable::text(&name))
}

fn printable_details(details: Details) -> Details {
    let names = details.names.iter().map(|name| printable::text(name));
    Details {
        subject: printable::text(&details.subject),
        issuer: printable::text(&details.issuer),
        names: names.collect(),
        key: printable::text(&details.key),
        serial: printable::text(&details.serial),
        ..details
    }
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.target)?;
        self.connection(f)?;
        for (i, certificate) in self.certificates.iter().enumerate() {
            writeln!(f, "\ncertificate {} of {}", i + 1, self.chain_length)?;
            certificate.fmt(f)?;
        }
        if self.chain_length > 0 {
            writeln!(f)?;
            self.judgement(f)?;
        }
        match self.problems.len() {
            0 => writeln!(f, "\ngood"),
            1 => writeln!(f, "\n1 problem"),
            n => writeln!(f, "\n{n} problems"),
        }?;
        for Problem { kind, says, advice, .. } in &self.problems {
            writeln!(f, "  {kind}: {says}\n      {advice}")?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, key: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "  {key:<12}{value}")
}

impl ProbeReport {
    fn connection(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Tried { address, outcome } in &self.tried {
            match outcome {
                Ok(took) => line(
                    f,
                    "address",
                    format!("{address}, connected in {} ms", milliseconds(*took)),
                ),
                Err(problem) => line(f, "address", format!("{address}: {}", problem.kind)),
            }?;
        }
        let sent = match (self.sends_name, self.connected()) {
            (true, Some(_)) => "sent as SNI",
            (true, None) => "to be sent as SNI",
            (false, _) => "no SNI sent",
        };
        line(f, "name", format!("{}, {sent}", self.name))?;
        if let Some(session) = &self.session {
            session.write(f, &self.alpn_offered)?;
        }
        match &self.client_certificate {
            ClientAuthReport::Unknown => {}
            ClientAuthReport::NotAsked => line(f, "client cert", "not asked for")?,
            ClientAuthReport::Asked { authorities, shown, content } => {
                let shown = if *shown { "shown" } else { "none shown" };
                let content = match content {
                    Some(true) => "accepted",
                    Some(false) => "refused",
                    None => "the server did not say whether that will do",
                };
                line(f, "client cert", format!("asked for; {shown}, {content}"))?;
                match authorities.as_slice() {
                    [] => line(f, "", "of any CA: the server names none"),
                    some => line(f, "", format!("of these CAs: {}", list(some))),
                }?;
            }
        }
        if self.goodbye_answered == Some(false) {
            let perhaps = "perhaps the legacy server does not answer";
            line(f, "goodbye", format!("no answer to the goodbye: {perhaps}"))?;
        }
        match &self.resumption {
            ResumptionReport::NotTried => {}
            ResumptionReport::NoTicket => line(f, "resumption", "no: the server gives no ticket")?,
            ResumptionReport::Declined => {
                line(f, "resumption", "no: the server gives a ticket, and does not take it")?;
            }
            ResumptionReport::Works(took) => {
                line(f, "resumption", format!("works, in {} ms", milliseconds(*took)))?;
            }
            ResumptionReport::Failed(why) => line(f, "resumption", format!("failed: {why}"))?,
        }
        for (version, accepts) in &self.versions {
            let accepts = match accepts {
                VersionSupport::Yes => "accepted".to_owned(),
                VersionSupport::No => "not accepted".to_owned(),
                VersionSupport::Unclear(why) => format!("unclear: {why}"),
            };
            line(f, &format!("TLS {version}"), accepts)?;
        }
        Ok(())
    }

    fn judgement(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name_matches {
            Some(true) => line(f, "name", format!("the certificate is for {}", self.name))?,
            Some(false) => line(f, "name", format!("the certificate is not for {}", self.name))?,
            None => {}
        }
        let verified = match self.verified {
            Some(true) => "leads to a CA of --ca",
            Some(false) => "does not lead to a CA of --ca now",
            None => "not verified (no --ca)",
        };
        line(f, "chain", format!("{verified}; {}", self.order.as_deref().unwrap_or_default()))
    }
}

impl HandshakeReport {
    fn write(&self, f: &mut fmt::Formatter<'_>, offered: &[String]) -> fmt::Result {
        let Self { version, suite, group, alpn, took, greeting } = self;
        let group = group.as_deref().unwrap_or("no key exchange");
        let took = milliseconds(*took);
        line(f, "handshake", format!("TLS {version}, {suite}, {group}, in {took} ms"))?;
        match (alpn, offered) {
            (Some(alpn), _) => line(f, "ALPN", alpn),
            (None, []) => Ok(()),
            (None, offered) => line(f, "ALPN", format!("none chosen of {}", list(offered))),
        }?;
        match greeting {
            Some(greeting) => line(f, "greeting", format!("\"{greeting}\"")),
            None => Ok(()),
        }
    }
}

impl fmt::Display for CertificateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let details = match &self.details {
            Ok(details) => details,
            Err(why) => return line(f, "unreadable", why),
        };
        line(f, "subject", &details.subject)?;
        line(f, "issuer", &details.issuer)?;
        if !details.names.is_empty() {
            line(f, "names", list(&details.names))?;
        }
        line(f, "key", &details.key)?;
        line(f, "serial", &details.serial)?;
        line(f, "sha256", &details.sha256)?;
        line(f, "valid", format!("{} to {}", details.not_before, details.not_after))?;
        match self.days_left {
            Some(days) if days < 0 => line(f, "", format!("ended {} day(s) ago", -days)),
            Some(days) => line(f, "", format!("{days} day(s) left")),
            None => Ok(()),
        }
    }
}
