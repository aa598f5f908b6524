//! What to think of the certificates that a server showed, as a careful device would.
//!
//! **Promises.** What is wrong is one problem each: the name, the validity, the issuer. Times are looked
//! at also where nobody says whom to believe.
//!
//! **Not here.** How the chain was got (`capturing_verifier.rs`).

use std::time::SystemTime;

use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{self, CertificateError, RootCertStore};

use super::client_profile::ClientProfile;
use super::printable;
use super::problem::{ISSUE_ANEW, Problem, ProblemKind};
use crate::time::unix_seconds;
use crate::trust::x509::certificate::Certificate;
use crate::trust::x509::details::{self, Details};
use crate::trust::x509::path::{self, Anchor, Anchors};
use crate::trust::x509::{self, Timestamp};

/// What to think of a chain.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Each certificate, or why it cannot be read.
    pub(super) certificates: Vec<Result<Details, String>>,
    /// Whether the first one has the name that was asked for.
    pub(super) name_matches: Option<bool>,
    /// Whether the chain leads to a CA that is believed; none if nobody said whom to believe.
    pub(super) verified: Option<bool>,
    /// How the certificates hang together; none if there are none.
    pub(super) order: Option<String>,
    pub(super) problems: Vec<Problem>,
}

/// Judges a chain.
pub(super) fn judge(
    chain: &[CertificateDer<'static>],
    profile: &ClientProfile,
    min_days: Option<u32>,
    now: SystemTime,
) -> Verdict {
    let Some(leaf) = chain.first() else {
        return Verdict::default();
    };
    let read = |der| details::details(der).map_err(|error| printable::text(&error.to_string()));
    let mut verdict =
        Verdict { certificates: chain.iter().map(read).collect(), ..Verdict::default() };
    let order = order(chain);
    let mut anchor = None;
    match ParsedCertificate::try_from(leaf) {
        Ok(parsed) => {
            verdict.judge_name(&parsed, &profile.name);
            if let Some(roots) = &profile.roots {
                anchor = match intermediates(chain, profile) {
                    Ok(rest) => verdict.judge_trust(&parsed, &rest, roots, profile, now),
                    Err(error) => {
                        verdict.verified = Some(false);
                        verdict.problems.push(rejected(&error.into()));
                        None
                    }
                };
            }
        }
        Err(error) => {
            verdict.verified = profile.roots.is_some().then_some(false);
            verdict.problems.push(rejected(&error));
        }
    }
    let believed = verdict.verified == Some(true);
    if let (Err(says), false) = (&order, believed) {
        let advice =
            "The file should hold the server's own certificate first, then each one's issuer.";
        verdict.problems.push(Problem::new(ProblemKind::ChainOutOfOrder, says.clone(), advice));
    }
    verdict.order = Some(order.unwrap_or_else(|says| says));
    verdict.judge_times(believed, min_days, now);
    if let Some((ca, details)) = anchor {
        let sent = chain.iter().position(|certificate| certificate == ca);
        verdict.judge_anchor(&details, (sent, believed), min_days, now);
    }
    verdict
}

/// The certificates between the first and a CA of `--ca`, in order. webpki gets these alone: of a heap of
/// certificates that share a name it would try every order, which takes it longer than the probe may.
fn intermediates(
    chain: &[CertificateDer<'static>],
    profile: &ClientProfile,
) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let mut anchors = Anchors::default();
    // A server's own self-signed certificate is trusted as well.
    profile.cas.iter().flat_map(Anchor::of_any).for_each(|anchor| anchors.add(anchor));
    let read = chain.iter().filter_map(|der| Some((der, Certificate::parse(der).ok()?)));
    let (ders, sent): (Vec<_>, Vec<_>) = read.unzip();
    if ders.first() != chain.first().as_ref() {
        return Err(CertificateError::BadEncoding);
    }
    let algorithms = profile.provider.signature_verification_algorithms.all;
    let path = path::find(&sent, &anchors, algorithms, UnixTime::now())?;
    Ok(path.places[1..].iter().map(|&place| ders[place].clone()).collect())
}

impl Verdict {
    fn judge_name(&mut self, leaf: &ParsedCertificate<'_>, name: &ServerName<'static>) {
        let matches = verify_server_name(leaf, name).is_ok();
        self.name_matches = Some(matches);
        if !matches {
            let names = match self.certificates.first() {
                Some(Ok(details)) if !details.names.is_empty() => {
                    let names: Vec<_> = details.names.iter().map(|n| printable::text(n)).collect();
                    format!("it is for {}", printable::list(&names))
                }
                _ => "it has no names (a common name alone does not count)".to_owned(),
            };
            let says = format!("the certificate is not for {}: {names}", name.to_str());
            let advice = "Devices that verify will refuse it. Is this the name that they use (--name)? \
                          Without SNI a server shows its default certificate.";
            self.problems.push(Problem::new(ProblemKind::NameMismatch, says, advice));
        }
    }

    /// Returns the CA that the chain leads to, times aside.
    fn judge_trust<'a>(
        &mut self,
        leaf: &ParsedCertificate<'_>,
        rest: &[CertificateDer<'static>],
        roots: &RootCertStore,
        profile: &'a ClientProfile,
        now: SystemTime,
    ) -> Option<(&'a CertificateDer<'static>, Details)> {
        let algorithms = profile.provider.signature_verification_algorithms.all;
        let verify = |roots: &_, at| {
            verify_server_cert_signed_by_trust_anchor(leaf, roots, rest, at, algorithms)
        };
        let mut at = UnixTime::now();
        let mut outcome = verify(roots, at);
        self.verified = Some(outcome.is_ok());
        // What time alone is wrong with is told by `judge_times`; the rest may be wrong as well.
        if let (Err(error), Some(good)) = (&outcome, self.good_moment())
            && is_of_time(error)
        {
            at = good;
            outcome = verify(roots, at);
        }
        match outcome {
            Ok(()) => {
                let leads_to = |ca: &&CertificateDer<'static>| {
                    let mut alone = RootCertStore::empty();
                    alone.add((*ca).clone()).is_ok() && verify(&alone, at).is_ok()
                };
                best(profile.cas.iter().filter(leads_to), now)
            }
            Err(error) => {
                if !is_of_time(&error) {
                    self.problems.push(rejected(&error));
                }
                None
            }
        }
    }

    /// A moment at which all certificates of the chain are valid.
    fn good_moment(&self) -> Option<UnixTime> {
        let readable = || self.certificates.iter().flatten();
        let from = readable().map(|c| c.not_before).max()?;
        let until = readable().map(|c| c.not_after).min()?;
        let seconds = u64::try_from(from.timestamp()).ok().filter(|_| from < until)?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }

    /// Who sends an old certificate along that nobody needs does no harm: past the first one, times
    /// count unless the chain is believed without it.
    fn judge_times(&mut self, believed: bool, min_days: Option<u32>, now: SystemTime) {
        for (i, details) in self.certificates.iter().enumerate() {
            let Ok(details) = details else { continue };
            let which = if i == 0 {
                "the certificate".to_owned()
            } else {
                format!("certificate {} of the chain", i + 1)
            };
            let problem = of_times(&which, details, min_days, now);
            self.problems.extend(problem.filter(|problem| counts(i, believed, problem.kind)));
        }
    }

    /// A CA is told once, also where it is `sent` along, at its place in the chain.
    fn judge_anchor(
        &mut self,
        ca: &Details,
        (sent, believed): (Option<usize>, bool),
        min_days: Option<u32>,
        now: SystemTime,
    ) {
        let which = format!("the CA of --ca, {},", printable::text(&ca.subject));
        let Some(mut problem) = of_times(&which, ca, min_days, now) else { return };
        if problem.kind != ProblemKind::CertificateExpiresSoon {
            self.verified = Some(false);
            problem.advice = "Devices refuse it that verify as OpenSSL does, and others do not. They \
                              need a CA that is valid now; look at this machine's clock.";
        }
        if !sent.is_some_and(|i| counts(i, believed, problem.kind)) {
            self.problems.push(problem);
        }
    }
}

/// Whether what is wrong with the times of a certificate of the chain is told.
fn counts(i: usize, believed: bool, kind: ProblemKind) -> bool {
    i == 0 || !believed || kind == ProblemKind::CertificateExpiresSoon
}

/// What is wrong with the times of a certificate.
fn of_times(
    which: &str,
    details: &Details,
    min_days: Option<u32>,
    now: SystemTime,
) -> Option<Problem> {
    let Details { not_before, not_after, .. } = details;
    let days = days_left(*not_after, now);
    let (kind, says, advice) = if not_after.has_passed(now) {
        let says = format!("{which} ended on {not_after}");
        (ProblemKind::CertificateExpired, says, "Renew it, and look at this machine's clock.")
    } else if !not_before.has_begun(now) {
        let says = format!("{which} begins on {not_before}");
        (ProblemKind::CertificateNotYetValid, says, "The clock of the CA or of this machine.")
    } else if min_days.is_some_and(|least| days < i64::from(least)) {
        let says = format!("{which} ends on {not_after}, in {days} day(s)");
        (ProblemKind::CertificateExpiresSoon, says, "Renew it.")
    } else {
        return None;
    };
    Some(Problem::new(kind, says, advice))
}

/// Of several CAs that a chain leads to, as where one was made anew for its key: one that is valid
/// now, for as long as can be.
fn best<'a>(
    cas: impl Iterator<Item = &'a CertificateDer<'static>>,
    now: SystemTime,
) -> Option<(&'a CertificateDer<'static>, Details)> {
    let readable = cas.filter_map(|ca| Some((ca, details::details(ca).ok()?)));
    readable.max_by_key(|(_, Details { not_before, not_after, .. })| {
        (not_before.has_begun(now) && !not_after.has_passed(now), *not_after)
    })
}

/// Whole days until a moment, negative once it has passed.
pub(super) fn days_left(until: Timestamp, now: SystemTime) -> i64 {
    const DAY: i64 = 24 * 60 * 60;
    (until.timestamp() - unix_seconds(now)).div_euclid(DAY)
}

/// How the certificates hang together: an error if one did not issue the one before it.
fn order(chain: &[CertificateDer<'_>]) -> Result<String, String> {
    for (i, two) in chain.windows(2).enumerate() {
        match x509::is_issued_by(&two[0], &two[1]) {
            Ok(true) => {}
            Ok(false) => {
                return Err(format!("certificate {} did not issue certificate {}", i + 2, i + 1));
            }
            Err(_) => return Err(format!("certificate {} or {} cannot be read", i + 1, i + 2)),
        }
    }
    let ends_in_itself =
        chain.last().is_some_and(|last| matches!(x509::is_issued_by(last, last), Ok(true)));
    Ok(match (chain.len(), ends_in_itself) {
        (1, true) => "self-signed".to_owned(),
        (1, false) => "one certificate, its issuer is not sent".to_owned(),
        (_, true) => "in order, up to a root that is sent along".to_owned(),
        (_, false) => "in order, up to a CA that is not sent".to_owned(),
    })
}

fn is_of_time(error: &rustls::Error) -> bool {
    use CertificateError as E;
    matches!(
        error,
        rustls::Error::InvalidCertificate(
            E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. }
        )
    )
}

fn rejected(error: &rustls::Error) -> Problem {
    use CertificateError as E;
    match error {
        rustls::Error::InvalidCertificate(E::UnknownIssuer) => Problem::new(
            ProblemKind::UnknownCa,
            "the chain does not lead to a CA of --ca",
            "Is it the CA's file? Does the server send its intermediates? Was the CA made anew?",
        ),
        rustls::Error::InvalidCertificate(E::BadSignature) => Problem::new(
            ProblemKind::CertificateRejected,
            "a certificate's signature is not its issuer's, as of a CA that was made anew under its old name",
            "Give devices the new CA, or the server a certificate of the old one.",
        ),
        other => Problem::new(
            ProblemKind::CertificateRejected,
            format!("the certificate is refused: {}", printable::text(&other.to_string())),
            ISSUE_ANEW,
        ),
    }
}
