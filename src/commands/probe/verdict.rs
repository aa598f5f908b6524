//! The verification of a server's certificates, as a careful device would do it.
//!
//! **Promises.** Each fault is one problem: the name, the validity, the issuer. Dates are checked also without
//! `--ca`.
//!
//! **Not here.** The capture of the chain (`capturing_verifier.rs`).

use std::time::SystemTime;

use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{self, CertificateError, RootCertStore};

use super::client_profile::ClientProfile;
use super::printable;
use super::problem::{Problem, ProblemKind, REISSUE};
use crate::time::unix_seconds;
use crate::trust::x509::certificate::Certificate;
use crate::trust::x509::details::{self, Details};
use crate::trust::x509::path::{self, Anchor, Anchors};
use crate::trust::x509::{self, Timestamp};

/// The result for a chain.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Each certificate, or the reason why it cannot be read.
    pub(super) certificates: Vec<Result<Details, String>>,
    /// True if the server certificate contains the expected name.
    pub(super) name_matches: Option<bool>,
    /// True if the chain leads to a CA of `--ca`. None without `--ca`.
    pub(super) verified: Option<bool>,
    /// The order of the chain, in words. None without certificates.
    pub(super) order: Option<String>,
    pub(super) problems: Vec<Problem>,
}

/// Verifies a chain.
pub(super) fn verify(
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
            verdict.check_name(&parsed, &profile.name);
            if let Some(roots) = &profile.roots {
                anchor = match intermediates(chain, profile) {
                    Ok(rest) => verdict.check_trust(&parsed, &rest, roots, profile, now),
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
    let is_verified = verdict.verified == Some(true);
    if let (Err(message), false) = (&order, is_verified) {
        let advice =
            "The file must have the server certificate first, then the issuer of each one.";
        verdict.problems.push(Problem::new(ProblemKind::ChainOutOfOrder, message.clone(), advice));
    }
    verdict.order = Some(order.unwrap_or_else(|message| message));
    verdict.check_dates(is_verified, min_days, now);
    if let Some((ca, details)) = anchor {
        let sent = chain.iter().position(|certificate| certificate == ca);
        verdict.check_anchor(&details, (sent, is_verified), min_days, now);
    }
    verdict
}

/// Returns the certificates between the first one and a CA of `--ca`, in order. webpki gets only these: among many
/// certificates with the same name it would try every order, which takes longer than the time limit.
fn intermediates(
    chain: &[CertificateDer<'static>],
    profile: &ClientProfile,
) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let mut anchors = Anchors::default();
    // A self-signed server certificate in --ca is trusted too.
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
    fn check_name(&mut self, leaf: &ParsedCertificate<'_>, name: &ServerName<'static>) {
        let matches = verify_server_name(leaf, name).is_ok();
        self.name_matches = Some(matches);
        if !matches {
            let names = match self.certificates.first() {
                Some(Ok(details)) if !details.names.is_empty() => {
                    let names: Vec<_> = details.names.iter().map(|n| printable::text(n)).collect();
                    format!("its names are {}", printable::list(&names))
                }
                _ => "it has no names (the common name does not count)".to_owned(),
            };
            let message = format!("the certificate is not for {}: {names}", name.to_str());
            let advice = "Devices that verify names reject it. Check that devices use this name (--name). \
                          Without SNI a server sends its default certificate.";
            self.problems.push(Problem::new(ProblemKind::NameMismatch, message, advice));
        }
    }

    /// Returns the CA that the chain leads to, whatever its dates.
    fn check_trust<'a>(
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
        // `check_dates` reports the dates. Other faults are found at a time at which all dates are valid.
        if let (Err(error), Some(valid)) = (&outcome, self.valid_time())
            && is_of_time(error)
        {
            at = valid;
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

    /// Returns a time at which all certificates of the chain are valid.
    fn valid_time(&self) -> Option<UnixTime> {
        let readable = || self.certificates.iter().flatten();
        let from = readable().map(|c| c.not_before).max()?;
        let until = readable().map(|c| c.not_after).min()?;
        let seconds = u64::try_from(from.timestamp()).ok().filter(|_| from < until)?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }

    /// Reports invalid dates. An expired certificate that the verified chain does not need is harmless.
    fn check_dates(&mut self, is_verified: bool, min_days: Option<u32>, now: SystemTime) {
        for (i, details) in self.certificates.iter().enumerate() {
            let Ok(details) = details else { continue };
            let which = if i == 0 {
                "the certificate".to_owned()
            } else {
                format!("certificate {} of the chain", i + 1)
            };
            let problem = of_times(&which, details, min_days, now);
            self.problems.extend(problem.filter(|problem| counts(i, is_verified, problem.kind)));
        }
    }

    /// Reports invalid dates of the CA, unless the server sends it and it is reported already. `sent` is its place in
    /// the chain.
    fn check_anchor(
        &mut self,
        ca: &Details,
        (sent, is_verified): (Option<usize>, bool),
        min_days: Option<u32>,
        now: SystemTime,
    ) {
        let which = format!("the CA of --ca, {},", printable::text(&ca.subject));
        let Some(mut problem) = of_times(&which, ca, min_days, now) else { return };
        if problem.kind != ProblemKind::CertificateExpiresSoon {
            self.verified = Some(false);
            problem.advice = "OpenSSL and devices that verify like it reject the chain; others do not. Install a \
                              valid CA on the devices, and check the clock of this machine.";
        }
        if !sent.is_some_and(|i| counts(i, is_verified, problem.kind)) {
            self.problems.push(problem);
        }
    }
}

/// Returns true if a problem with the dates of certificate `i` of the chain is reported.
fn counts(i: usize, is_verified: bool, kind: ProblemKind) -> bool {
    i == 0 || !is_verified || kind == ProblemKind::CertificateExpiresSoon
}

/// Returns the problem with the dates of a certificate.
fn of_times(
    which: &str,
    details: &Details,
    min_days: Option<u32>,
    now: SystemTime,
) -> Option<Problem> {
    let Details { not_before, not_after, .. } = details;
    let days = days_left(*not_after, now);
    let (kind, message, advice) = if not_after.has_passed(now) {
        let message = format!("{which} ended on {not_after}");
        (ProblemKind::CertificateExpired, message, "Renew it, and check the clock of this machine.")
    } else if !not_before.has_begun(now) {
        let message = format!("{which} begins on {not_before}");
        (
            ProblemKind::CertificateNotYetValid,
            message,
            "Check the clock of the CA and of this machine.",
        )
    } else if min_days.is_some_and(|least| days < i64::from(least)) {
        let message = format!("{which} ends on {not_after}, in {days} day(s)");
        (ProblemKind::CertificateExpiresSoon, message, "Renew it.")
    } else {
        return None;
    };
    Some(Problem::new(kind, message, advice))
}

/// Returns the CA that is valid now and for the longest time. A chain leads to several CAs if one was issued again
/// for the same key.
fn best<'a>(
    cas: impl Iterator<Item = &'a CertificateDer<'static>>,
    now: SystemTime,
) -> Option<(&'a CertificateDer<'static>, Details)> {
    let readable = cas.filter_map(|ca| Some((ca, details::details(ca).ok()?)));
    readable.max_by_key(|(_, Details { not_before, not_after, .. })| {
        (not_before.has_begun(now) && !not_after.has_passed(now), *not_after)
    })
}

/// Returns the whole days until a time, negative once it has passed.
pub(super) fn days_left(until: Timestamp, now: SystemTime) -> i64 {
    const DAY: i64 = 24 * 60 * 60;
    (until.timestamp() - unix_seconds(now)).div_euclid(DAY)
}

/// Returns the order of the chain in words, as an error if a certificate did not issue the one before it.
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
        (_, true) => "in order, up to a root that is sent too".to_owned(),
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

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum is non-exhaustive")]
fn rejected(error: &rustls::Error) -> Problem {
    use CertificateError as E;
    match error {
        rustls::Error::InvalidCertificate(E::UnknownIssuer) => Problem::new(
            ProblemKind::UnknownCa,
            "the chain does not lead to a CA of --ca",
            "Check the CA file, that the server sends its intermediates, and whether the CA was created again.",
        ),
        rustls::Error::InvalidCertificate(E::BadSignature) => Problem::new(
            ProblemKind::CertificateRejected,
            "a certificate has an invalid signature, as after a CA was created again under its old name",
            "Install the new CA on the devices, or issue the server certificate with the old one.",
        ),
        other => Problem::new(
            ProblemKind::CertificateRejected,
            format!("the certificate is rejected: {}", printable::text(&other.to_string())),
            REISSUE,
        ),
    }
}
