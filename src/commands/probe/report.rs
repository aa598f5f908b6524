//! The report of a probe, and its text.
//!
//! **Promises.** Every text of the server in a report is escaped ([`printable`]).
//!
//! **Not here.** The report as JSON (`json.rs`).

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::attempt::Attempt;
use super::client_profile::ClientProfile;
use super::dial::Tried;
use super::failure::ClientContext;
use super::printable::{self, MAX_LISTED, list, milliseconds};
use super::problem::{Problem, ProblemKind};
use super::verdict::{self, Verdict};
use crate::commands::flags::probe::{ProbeArgs, ProbeTarget};
use crate::config::TlsVersion;
use crate::trust::x509::details::{self, Details};

/// The results of a probe.
#[derive(Debug)]
pub(super) struct ProbeReport {
    pub(super) target: String,
    /// The name that the certificate must contain.
    pub(super) name: String,
    /// True if the name is sent as SNI.
    pub(super) sends_name: bool,
    /// The ALPN protocols that are offered.
    pub(super) alpn_offered: Vec<String>,
    pub(super) tried: Vec<Tried>,
    pub(super) handshake: Option<HandshakeReport>,
    /// True if the server answered our close_notify or closed the connection. None if none was sent.
    pub(super) close_answered: Option<bool>,
    pub(super) client_certificate: ClientAuthReport,
    pub(super) certificates: Vec<CertificateReport>,
    /// The number of certificates of the server.
    pub(super) chain_length: usize,
    pub(super) name_matches: Option<bool>,
    pub(super) verified: Option<bool>,
    pub(super) order: Option<String>,
    pub(super) resumption: ResumptionReport,
    pub(super) versions: Vec<(TlsVersion, VersionSupport)>,
    pub(super) problems: Vec<Problem>,
    /// Observations that may be right, and do not count as problems.
    pub(super) notices: Vec<Problem>,
    offers_all: bool,
    /// The lack of an answer is a problem.
    expects_answer: bool,
}

/// The negotiated parameters of the first handshake.
#[derive(Debug)]
pub(super) struct HandshakeReport {
    pub(super) version: TlsVersion,
    pub(super) suite: String,
    pub(super) group: Option<String>,
    /// The ALPN protocol that the server selected.
    pub(super) alpn: Option<String>,
    pub(super) duration: Duration,
    /// The first application data of the server.
    pub(super) greeting: Option<String>,
}

/// The request for a client certificate, and its result.
#[derive(Debug)]
pub(super) enum ClientAuthReport {
    /// The handshake failed before.
    Unknown,
    NotRequested,
    Requested {
        /// The names of the accepted CAs. Empty: the server names none.
        authorities: Vec<String>,
        /// True if a certificate was sent.
        sent: bool,
        /// True if the server accepted the certificate or the lack of one. None if it did not show it.
        accepted: Option<bool>,
    },
}

/// A certificate of the chain, escaped, or the reason why it cannot be read.
#[derive(Debug)]
pub(super) struct CertificateReport {
    pub(super) details: Result<Details, String>,
    pub(super) days_left: Option<i64>,
}

/// The result of the attempt to resume the session.
#[derive(Debug)]
pub(super) enum ResumptionReport {
    NotTried,
    /// The server sent no ticket.
    NoTicket,
    /// The server sent a ticket, and did not accept it.
    Declined,
    Works(Duration),
    Failed(String),
}

/// The support of the server for a TLS version.
#[derive(Debug)]
pub(super) enum VersionSupport {
    Yes,
    No,
    /// The attempt failed for another reason.
    Unclear(String),
}

impl ProbeReport {
    pub(super) fn new(target: &ProbeTarget, profile: &ClientProfile, args: &ProbeArgs) -> Self {
        Self {
            target: target.to_string(),
            name: profile.name.to_str().into_owned(),
            sends_name: profile.sends_name,
            alpn_offered: args.alpn.iter().map(|protocol| printable::text(protocol)).collect(),
            tried: Vec::new(),
            handshake: None,
            close_answered: None,
            client_certificate: ClientAuthReport::Unknown,
            certificates: Vec::new(),
            chain_length: 0,
            name_matches: None,
            verified: None,
            order: None,
            resumption: ResumptionReport::NotTried,
            versions: Vec::new(),
            problems: Vec::new(),
            notices: Vec::new(),
            offers_all: args.tls.is_none(),
            expects_answer: args.expect_answer,
        }
    }

    /// Returns the report with another problem.
    pub(super) fn with(mut self, problem: Problem) -> Self {
        self.problems.push(problem);
        self
    }

    /// Returns the address that accepted the connection, and the duration of the connect.
    pub(super) fn connected(&self) -> Option<(SocketAddr, Duration)> {
        let last = self.tried.last()?;
        Some((last.address, *last.outcome.as_ref().ok()?))
    }

    /// Adds the problem of each address, because none accepted the connection.
    pub(super) fn add_connect_problems(&mut self) {
        let problems = self.tried.iter().filter_map(|tried| tried.outcome.as_ref().err());
        self.problems.extend(problems.cloned());
    }

    /// Adds the results of the first handshake.
    pub(super) fn add_handshake(&mut self, attempt: &Attempt, verdict: Verdict, now: SystemTime) {
        self.handshake = attempt.negotiated.as_ref().map(|negotiated| HandshakeReport {
            version: negotiated.version,
            suite: negotiated.suite.clone(),
            group: negotiated.group.clone(),
            alpn: negotiated.alpn.as_deref().map(printable::bytes),
            duration: negotiated.duration,
            greeting: (!attempt.greeting.is_empty()).then(|| printable::bytes(&attempt.greeting)),
        });
        self.close_answered = attempt.close_answered;
        self.check_answer(attempt);
        let request = attempt.captured.request.as_ref();
        let failure = attempt.failure.as_ref();
        let sent_no_certificate = request.is_some_and(|request| !request.sent);
        let client = ClientContext { sent_no_certificate, offers_all: self.offers_all };
        self.client_certificate = ClientAuthReport::of(attempt, client);
        self.problems.extend(failure.map(|failure| failure.problem(client)));
        if let (Some(request), None, false) = (request, failure, attempt.accepted) {
            self.problems.push(unanswered(request.sent));
        }
        self.chain_length = verdict.certificates.len();
        let certificate = |details: Result<Details, String>| CertificateReport {
            days_left: details.as_ref().ok().map(|d| verdict::days_left(d.not_after, now)),
            details: details.map(printable_details),
        };
        self.certificates =
            verdict.certificates.into_iter().take(MAX_LISTED).map(certificate).collect();
        self.name_matches = verdict.name_matches;
        self.verified = verdict.verified;
        self.order = verdict.order;
        // A problem of the handshake is not reported again as a problem of the chain.
        let reported = self.problems.first().map(|problem| problem.kind);
        self.problems.extend(verdict.problems.into_iter().filter(|p| Some(p.kind) != reported));
    }
}

/// The observation that a server behind the TLS gave no sign of life.
fn silent() -> Problem {
    Problem::new(
        ProblemKind::BackendSilent,
        "after the handshake the server sent no data, and it did not answer our close_notify",
        "Behind a sidecar the legacy server hangs, its backlog is full, or it keeps connections whose client has ended \
         its stream. Look at tlsidecar_sessions_by_silence and at the server itself.",
    )
}

/// The problem of a server that may reject the client after the reads of the probe.
fn unanswered(sent: bool) -> Problem {
    let certificate = if sent {
        "got one, and did not show whether it accepts it"
    } else {
        "got none, and did not show whether it accepts that"
    };
    Problem::new(
        ProblemKind::ClientCertificateUnanswered,
        format!("the server requested a client certificate, {certificate}: it may reject devices"),
        "Read the server's log, and try a longer --timeout: something on the path may delay the answer, or the \
         server or the legacy server may hang.",
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

impl ProbeReport {
    /// Adds a notice, or with `--expect-answer` a problem, if nothing shows that a server is behind the TLS.
    fn check_answer(&mut self, attempt: &Attempt) {
        let is_silent = attempt.close_answered == Some(false) && attempt.greeting.is_empty();
        match is_silent.then(silent) {
            Some(problem) if self.expects_answer => self.problems.push(problem),
            notice => self.notices.extend(notice),
        }
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
            self.verdict(f)?;
        }
        match self.problems.len() {
            0 => writeln!(f, "\ngood"),
            1 => writeln!(f, "\n1 problem"),
            n => writeln!(f, "\n{n} problems"),
        }?;
        for Problem { kind, message, advice, .. } in &self.problems {
            writeln!(f, "  {kind}: {message}\n      {advice}")?;
        }
        for Problem { kind, message, advice, .. } in &self.notices {
            writeln!(f, "notice\n  {kind}: {message}\n      {advice}")?;
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
                Ok(duration) => line(
                    f,
                    "address",
                    format!("{address}, connected in {} ms", milliseconds(*duration)),
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
        if let Some(handshake) = &self.handshake {
            handshake.write(f, &self.alpn_offered)?;
        }
        self.client_certificate.write(f)?;
        if self.close_answered == Some(false) {
            line(
                f,
                "close",
                "no answer to close_notify: perhaps the legacy server does not answer",
            )?;
        }
        self.resumption.write(f)?;
        for (version, support) in &self.versions {
            line(f, &format!("TLS {version}"), support)?;
        }
        Ok(())
    }

    fn verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        let Self { version, suite, group, alpn, duration, greeting } = self;
        let group = group.as_deref().unwrap_or("no key exchange");
        let duration = milliseconds(*duration);
        line(f, "handshake", format!("TLS {version}, {suite}, {group}, in {duration} ms"))?;
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

impl ClientAuthReport {
    fn of(attempt: &Attempt, client: ClientContext) -> Self {
        match &attempt.captured.request {
            Some(request) => Self::Requested {
                authorities: request.authorities.iter().map(|der| authority(der)).collect(),
                sent: request.sent,
                accepted: match &attempt.failure {
                    Some(failure) if failure.is_of_certificate(client) => Some(false),
                    _ => attempt.accepted.then_some(true),
                },
            },
            None if attempt.negotiated.is_some() => Self::NotRequested,
            None => Self::Unknown,
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (authorities, sent, accepted) = match self {
            Self::Unknown => return Ok(()),
            Self::NotRequested => return line(f, "client cert", "not asked for"),
            Self::Requested { authorities, sent, accepted } => (authorities, *sent, *accepted),
        };
        let sent = if sent { "shown" } else { "none shown" };
        let accepted = match accepted {
            Some(true) => "accepted",
            Some(false) => "refused",
            None => "the server did not show whether it accepts that",
        };
        line(f, "client cert", format!("asked for; {sent}, {accepted}"))?;
        match authorities.as_slice() {
            [] => line(f, "", "of any CA: the server names none"),
            some => line(f, "", format!("of these CAs: {}", list(some))),
        }
    }
}

impl ResumptionReport {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::NotTried => return Ok(()),
            Self::NoTicket => "no: the server sends no ticket",
            Self::Declined => "no: the server sends a ticket, and does not accept it",
            Self::Works(duration) => &format!("works, in {} ms", milliseconds(*duration)),
            Self::Failed(why) => &format!("failed: {why}"),
        };
        line(f, "resumption", text)
    }
}

impl fmt::Display for VersionSupport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("accepted"),
            Self::No => f.write_str("not accepted"),
            Self::Unclear(why) => write!(f, "unclear: {why}"),
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
