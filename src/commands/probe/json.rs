//! The report as JSON.
//!
//! **Promises.** Keys are added to, never renamed. An unknown value is null.
//!
//! **Not here.** The meaning of the keys (docs/probe.md).

use std::collections::BTreeMap;

use serde::Serialize;

use super::dial::Tried;
use super::printable::milliseconds;
use super::problem::Problem;
use super::report::{
    CertificateReport, ClientAuthReport, HandshakeReport, ProbeReport, ResumptionReport,
    VersionSupport,
};

/// Returns the report as an indented JSON object.
pub(super) fn render(report: &ProbeReport) -> String {
    let json = serde_json::to_string_pretty(&ReportView::of(report));
    json.expect("the keys are strings, and nothing fails to serialize") + "\n"
}

#[derive(Serialize)]
struct ReportView<'a> {
    target: &'a str,
    good: bool,
    problems: Vec<ProblemView<'a>>,
    notices: Vec<ProblemView<'a>>,
    name: &'a str,
    sni: Option<bool>,
    addresses: Vec<AddressView>,
    alpn_offered: &'a [String],
    handshake: Option<HandshakeView<'a>>,
    goodbye_answered: Option<bool>,
    client_certificate: Option<ClientCertificateView<'a>>,
    certificates: Vec<CertificateView<'a>>,
    chain: ChainView<'a>,
    resumption: Option<ResumptionView<'a>>,
    versions: BTreeMap<String, VersionView<'a>>,
}

impl<'a> ReportView<'a> {
    fn of(report: &'a ProbeReport) -> Self {
        let versions = report.versions.iter();
        Self {
            target: &report.target,
            good: report.problems.is_empty(),
            problems: report.problems.iter().map(ProblemView::of).collect(),
            notices: report.notices.iter().map(ProblemView::of).collect(),
            name: &report.name,
            sni: report.connected().map(|_| report.sends_name),
            addresses: report.tried.iter().map(AddressView::of).collect(),
            alpn_offered: &report.alpn_offered,
            handshake: report.handshake.as_ref().map(HandshakeView::of),
            goodbye_answered: report.close_answered,
            client_certificate: ClientCertificateView::of(&report.client_certificate),
            certificates: report.certificates.iter().map(CertificateView::of).collect(),
            chain: ChainView {
                length: report.chain_length,
                name_matches: report.name_matches,
                verified: report.verified,
                order: report.order.as_deref(),
            },
            resumption: ResumptionView::of(&report.resumption),
            versions: versions
                .map(|(v, support)| (v.to_string(), VersionView::of(support)))
                .collect(),
        }
    }
}

#[derive(Serialize)]
struct ProblemView<'a> {
    problem: String,
    says: &'a str,
    advice: &'a str,
    alert: Option<&'a str>,
}

impl<'a> ProblemView<'a> {
    fn of(problem: &'a Problem) -> Self {
        Self {
            problem: problem.kind.to_string(),
            says: &problem.message,
            advice: problem.advice,
            alert: problem.alert.as_deref(),
        }
    }
}

#[derive(Serialize)]
struct AddressView {
    address: String,
    connect_ms: Option<f64>,
    problem: Option<String>,
}

impl AddressView {
    fn of(tried: &Tried) -> Self {
        Self {
            address: tried.address.to_string(),
            connect_ms: tried.outcome.as_ref().ok().map(|duration| milliseconds(*duration)),
            problem: tried.outcome.as_ref().err().map(|problem| problem.kind.to_string()),
        }
    }
}

#[derive(Serialize)]
struct HandshakeView<'a> {
    version: String,
    cipher: &'a str,
    group: Option<&'a str>,
    alpn: Option<&'a str>,
    handshake_ms: f64,
    greeting: Option<&'a str>,
}

impl<'a> HandshakeView<'a> {
    fn of(handshake: &'a HandshakeReport) -> Self {
        Self {
            version: handshake.version.to_string(),
            cipher: &handshake.suite,
            group: handshake.group.as_deref(),
            alpn: handshake.alpn.as_deref(),
            handshake_ms: milliseconds(handshake.duration),
            greeting: handshake.greeting.as_deref(),
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum ClientCertificateView<'a> {
    NotRequested { asked: bool },
    Requested { asked: bool, authorities: &'a [String], shown: bool, accepted: Option<bool> },
}

impl<'a> ClientCertificateView<'a> {
    fn of(certificate: &'a ClientAuthReport) -> Option<Self> {
        match certificate {
            ClientAuthReport::Unknown => None,
            ClientAuthReport::NotRequested => Some(Self::NotRequested { asked: false }),
            ClientAuthReport::Requested { authorities, sent, accepted } => Some(Self::Requested {
                asked: true,
                authorities,
                shown: *sent,
                accepted: *accepted,
            }),
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum CertificateView<'a> {
    Readable {
        subject: &'a str,
        issuer: &'a str,
        names: &'a [String],
        key: &'a str,
        serial: &'a str,
        sha256: &'a str,
        not_before: String,
        not_after: String,
        days_left: Option<i64>,
    },
    Unreadable {
        unreadable: &'a str,
    },
}

impl<'a> CertificateView<'a> {
    fn of(certificate: &'a CertificateReport) -> Self {
        match &certificate.details {
            Ok(details) => Self::Readable {
                subject: &details.subject,
                issuer: &details.issuer,
                names: &details.names,
                key: &details.key,
                serial: &details.serial,
                sha256: &details.sha256,
                not_before: details.not_before.to_string(),
                not_after: details.not_after.to_string(),
                days_left: certificate.days_left,
            },
            Err(reason) => Self::Unreadable { unreadable: reason },
        }
    }
}

#[derive(Serialize)]
struct ChainView<'a> {
    length: usize,
    name_matches: Option<bool>,
    verified: Option<bool>,
    order: Option<&'a str>,
}

#[derive(Serialize)]
struct ResumptionView<'a> {
    works: Option<bool>,
    ticket: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> ResumptionView<'a> {
    fn of(resumption: &'a ResumptionReport) -> Option<Self> {
        let (works, ticket, duration, error) = match resumption {
            ResumptionReport::NotTried => return None,
            ResumptionReport::NoTicket => (Some(false), false, None, None),
            ResumptionReport::Declined => (Some(false), true, None, None),
            ResumptionReport::Works(duration) => (Some(true), true, Some(*duration), None),
            ResumptionReport::Failed(reason) => (None, true, None, Some(reason.as_str())),
        };
        Some(Self { works, ticket, handshake_ms: duration.map(milliseconds), error })
    }
}

#[derive(Serialize)]
struct VersionView<'a> {
    accepted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> VersionView<'a> {
    fn of(support: &'a VersionSupport) -> Self {
        match support {
            VersionSupport::Yes => Self { accepted: Some(true), error: None },
            VersionSupport::No => Self { accepted: Some(false), error: None },
            VersionSupport::Unclear(reason) => Self { accepted: None, error: Some(reason) },
        }
    }
}
