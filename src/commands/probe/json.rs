//! The report as JSON.
//!
//! **Promises.** Keys are added to, never renamed. An unknown value is null.
//!
//! **Not here.** The meaning of the keys (docs/probe.md).

use serde_json::{Value, json};

use super::dial::Tried;
use super::printable::milliseconds;
use super::problem::Problem;
use super::report::{
    CertificateReport, ClientAuthReport, HandshakeReport, ProbeReport, ResumptionReport,
    VersionSupport,
};

/// Returns the report as an indented JSON object.
pub(super) fn render(report: &ProbeReport) -> String {
    let versions = report.versions.iter().map(|(version, accepts)| {
        let accepts = match accepts {
            VersionSupport::Yes => json!({ "accepted": true }),
            VersionSupport::No => json!({ "accepted": false }),
            VersionSupport::Unclear(why) => json!({ "accepted": null, "error": why }),
        };
        (version.to_string(), accepts)
    });
    let value = json!({
        "target": report.target,
        "good": report.problems.is_empty(),
        "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
        "name": report.name,
        "sni": report.connected().map(|_| report.sends_name),
        "addresses": report.tried.iter().map(tried).collect::<Vec<_>>(),
        "alpn_offered": report.alpn_offered,
        "handshake": report.handshake.as_ref().map(handshake),
        "goodbye_answered": report.close_answered,
        "client_certificate": client_certificate(&report.client_certificate),
        "certificates": report.certificates.iter().map(certificate).collect::<Vec<_>>(),
        "chain": {
            "length": report.chain_length,
            "name_matches": report.name_matches,
            "verified": report.verified,
            "order": report.order,
        },
        "resumption": resumption(&report.resumption),
        "versions": versions.collect::<serde_json::Map<String, Value>>(),
    });
    format!("{value:#}\n")
}

fn problem(problem: &Problem) -> Value {
    json!({
        "problem": problem.kind.to_string(),
        "says": problem.message,
        "advice": problem.advice,
        "alert": problem.alert,
    })
}

fn tried(tried: &Tried) -> Value {
    let (duration, problem) = match &tried.outcome {
        Ok(duration) => (Some(milliseconds(*duration)), None),
        Err(problem) => (None, Some(problem.kind.to_string())),
    };
    json!({ "address": tried.address.to_string(), "connect_ms": duration, "problem": problem })
}

fn handshake(handshake: &HandshakeReport) -> Value {
    json!({
        "version": handshake.version.to_string(),
        "cipher": handshake.suite,
        "group": handshake.group,
        "alpn": handshake.alpn,
        "handshake_ms": milliseconds(handshake.duration),
        "greeting": handshake.greeting,
    })
}

fn client_certificate(certificate: &ClientAuthReport) -> Value {
    match certificate {
        ClientAuthReport::Unknown => Value::Null,
        ClientAuthReport::NotRequested => json!({ "asked": false }),
        ClientAuthReport::Requested { authorities, sent, accepted } => json!({
            "asked": true,
            "authorities": authorities,
            "shown": sent,
            "accepted": accepted,
        }),
    }
}

fn certificate(certificate: &CertificateReport) -> Value {
    match &certificate.details {
        Ok(details) => json!({
            "subject": details.subject,
            "issuer": details.issuer,
            "names": details.names,
            "key": details.key,
            "serial": details.serial,
            "sha256": details.sha256,
            "not_before": details.not_before.to_string(),
            "not_after": details.not_after.to_string(),
            "days_left": certificate.days_left,
        }),
        Err(why) => json!({ "unreadable": why }),
    }
}

fn resumption(resumption: &ResumptionReport) -> Value {
    match resumption {
        ResumptionReport::NotTried => Value::Null,
        ResumptionReport::NoTicket => json!({ "works": false, "ticket": false }),
        ResumptionReport::Declined => json!({ "works": false, "ticket": true }),
        ResumptionReport::Works(duration) => {
            json!({ "works": true, "ticket": true, "handshake_ms": milliseconds(*duration) })
        }
        ResumptionReport::Failed(why) => json!({ "works": null, "ticket": true, "error": why }),
    }
}
