//! The check of live sessions against the current policy.
//!
//! **Promises.** A client is refused here if a new handshake would be refused because of its CA, a CRL, an
//! allow rule or its validity. The work for its issuers is done once for all clients that share them; one client costs a search in
//! its issuer's CRL.
//!
//! A session does not keep its client's certificate, so that some changes are left to the next handshake: other name
//! constraints of a renewed CA with the same name and key, which refuse it then; and a new reason to trust a client
//! whose old one was removed, which admits it again (a pinned client whose CA is trusted, a client of a trusted CA that
//! is pinned, a bundle with the root instead of the issuing CA). An overdue CRL closes no session.
//!
//! **Not here.** Stopping the sessions (`sessions/recheck.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_rustls::rustls::CertificateError;
use tokio_rustls::rustls::pki_types::UnixTime;

use super::certs::verifier::ClientVerifier;
use super::identity::Identity;
use super::policy::Policy;
use super::revocation::Subject;
use super::snapshot::Snapshot;
use super::verified_path::{PathSource, VerifiedPath};
use super::x509::certificate::Certificate;
use super::x509::crl::CrlScope;
use super::x509::names::CanonicalName;
use super::x509::path::Anchor;
use crate::terms::reason::Reason;
use crate::time::{since_epoch, unix_seconds};

/// The facts about a live session that decide whether it stays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckedSession<'a> {
    pub(crate) server_name: Option<&'a str>,
    pub(crate) alpn: Option<&'a str>,
    /// None without a certificate.
    pub(crate) client: Option<&'a Identity>,
}

/// The result of a check of the sessions of one policy.
pub(crate) struct PolicyVerdicts<'a> {
    /// The place of the policy's route; none for the listener's own policy.
    pub(crate) route: Option<usize>,
    pub(crate) policy: &'a Policy,
    /// The places of the sessions, to which those of the verdicts are indices.
    pub(crate) sessions: Vec<usize>,
    pub(crate) verdicts: Verdicts,
    pub(crate) took: Duration,
}

impl PolicyVerdicts<'_> {
    /// Returns the place of each session that is refused, and the reason.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (usize, Reason)> {
        self.verdicts.refused.iter().map(|(index, reason)| (self.sessions[*index], *reason))
    }
}

/// The result of a check.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    /// The place of each refused client, and the reason.
    pub(crate) refused: Vec<(usize, Reason)>,
    /// The places of clients that only a handshake would refuse: a CRL about them is overdue.
    pub(crate) overdue: Vec<usize>,
    /// The last second, in Unix time, in which the certificates of all others are valid; none if none of them expires
    /// or expired certificates are accepted.
    pub(crate) valid_until: Option<i64>,
}

/// Checks the sessions of a listener at `now`, each with the policy of the route that its device would get from
/// `snapshot`. Policies for which `is_checked` does not hold refuse none.
pub(crate) fn check_all<'a>(
    snapshot: &'a Snapshot,
    sessions: &[CheckedSession<'_>],
    now: SystemTime,
    is_checked: impl Fn(&Policy) -> bool,
) -> Vec<PolicyVerdicts<'a>> {
    let mut by_policy: Vec<_> = snapshot.policies.iter().map(|_| Vec::new()).collect();
    for (place, session) in sessions.iter().enumerate() {
        let route = snapshot.route(session.server_name, session.alpn.map(str::as_bytes));
        by_policy[snapshot.listener.policy_of(route)].push(place);
    }
    let policies = snapshot.by_route().zip(by_policy).filter(|((_, policy), _)| is_checked(policy));
    policies
        .map(|((route, policy), group)| {
            let start = Instant::now();
            let clients: Vec<_> = group.iter().map(|place| sessions[*place].client).collect();
            let verdicts = check(policy, &clients, now);
            PolicyVerdicts { route, policy, sessions: group, verdicts, took: start.elapsed() }
        })
        .collect()
}

/// Checks clients with `policy` at `now`. A client without a certificate is none.
pub(crate) fn check(policy: &Policy, clients: &[Option<&Identity>], now: SystemTime) -> Verdicts {
    let mut verdicts = Verdicts::default();
    let Some(verifier) = &policy.client_verifier else { return verdicts };
    let mut by_path: HashMap<*const VerifiedPath, Vec<(usize, &Identity)>> = HashMap::new();
    for (place, client) in clients.iter().enumerate() {
        let known = client.and_then(|client| Some((client, client.path.as_ref()?)));
        match known {
            Some((client, path)) => {
                by_path.entry(Arc::as_ptr(path)).or_default().push((place, client));
            }
            None if verifier.is_mandatory() => {
                verdicts.refused.push((place, Reason::ClientNotAllowed));
            }
            None => {}
        }
    }
    for group in by_path.into_values() {
        let Some(path) = group.first().and_then(|(_, client)| client.path.as_ref()) else {
            continue;
        };
        with_issuers(verifier, path, now, |issuers| {
            for (place, client) in group {
                verdicts.add(place, check_client(verifier, &issuers, client, now));
            }
        });
    }
    verdicts
}

/// Returns the last second in which the certificates of a client are valid that `policy` has just verified; none if
/// expired certificates are accepted.
///
/// # Errors
/// If a certificate has expired since it was verified.
pub(crate) fn valid_until(
    policy: &Policy,
    client: &Identity,
    now: SystemTime,
) -> Result<Option<i64>, Reason> {
    let valid_until = client.expires();
    match policy.client_verifier.as_ref().is_none_or(|verifier| verifier.accepts_expired) {
        true => Ok(None),
        false if unix_seconds(now) > valid_until => Err(Reason::Expired),
        false => Ok(Some(valid_until)),
    }
}

impl Verdicts {
    /// Adds the result for the client at this place.
    fn add(&mut self, place: usize, result: Result<StayingClient, Reason>) {
        match result {
            Ok(StayingClient { valid_until, is_overdue }) => {
                let earlier = self.valid_until.unwrap_or(i64::MAX).min(valid_until);
                self.valid_until = (earlier < i64::MAX).then_some(earlier);
                self.overdue.extend(is_overdue.then_some(place));
            }
            Err(reason) => self.refused.push((place, reason)),
        }
    }
}

/// A client whose session stays.
#[derive(Clone, Copy)]
struct StayingClient {
    /// The last second in which its certificates are valid.
    valid_until: i64,
    /// A handshake would refuse it, because a CRL is overdue.
    is_overdue: bool,
}

/// Checks a client with these issuers.
fn check_client(
    verifier: &ClientVerifier,
    issuers: &CurrentIssuers<'_>,
    client: &Identity,
    now: SystemTime,
) -> Result<StayingClient, Reason> {
    let valid_until = match verifier.accepts_expired {
        true => i64::MAX,
        false => client.not_after.min(issuers.valid_until()),
    };
    if unix_seconds(now) > valid_until {
        return Err(Reason::Expired);
    }
    let is_overdue = match issuers.check(verifier, client, unix_time(now)) {
        Ok(()) => false,
        // An overdue list closes no live session: the time at which that is noticed would be arbitrary.
        Err(CertificateError::ExpiredRevocationListContext { .. }) => true,
        Err(error) => return Err(reason(&error)),
    };
    let accepted = StayingClient { valid_until, is_overdue };
    if verifier.allow.admits(client) { Ok(accepted) } else { Err(Reason::ClientNotAllowed) }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum is non-exhaustive")]
fn reason(error: &CertificateError) -> Reason {
    match error {
        CertificateError::Revoked => Reason::Revoked,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Reason::Expired,
        // An unknown CA, an unknown status, and so on.
        _ => Reason::ClientNotAllowed,
    }
}

/// Finds the issuers of some clients in the current trust, and calls `check` with the result.
fn with_issuers(
    verifier: &ClientVerifier,
    path: &VerifiedPath,
    now: SystemTime,
    check: impl FnOnce(CurrentIssuers<'_>),
) {
    let refused = CurrentIssuers::Refused;
    let (anchor, issuers) = match &path.source {
        PathSource::Ca { anchor, issuers } => (anchor, issuers),
        PathSource::Pinned(own) => {
            let own = verifier.trusted.pinned(own);
            return match own.and_then(|own| Certificate::parse(own).ok()) {
                Some(own) => check(CurrentIssuers::Pinned(&own)),
                None => check(refused(CertificateError::UnknownIssuer)),
            };
        }
    };
    let ders = issuers.iter().flat_map(|issuers| &issuers.ders);
    let parsed = ders.map(|der| Certificate::parse(der)).collect::<Result<Vec<_>, _>>();
    // They were parsed in the handshake.
    let (Ok(certificates), Ok(was)) = (parsed, Certificate::parse(anchor)) else {
        return check(refused(CertificateError::BadEncoding));
    };
    match verifier.trusted.find_again(&certificates, &was, unix_time(now)) {
        Ok((intermediates, anchor)) => {
            let name = certificates.first().unwrap_or(&was).subject();
            let points = &path.crl_points;
            check(CurrentIssuers::Known { name, points, intermediates, anchor });
        }
        Err(error) => check(refused(error)),
    }
}

fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(since_epoch(time))
}

/// The issuers of some clients in the current trust.
enum CurrentIssuers<'a> {
    Known {
        /// The name of the clients' issuer.
        name: &'a CanonicalName,
        /// The distribution points in the clients' certificates.
        points: &'a [Vec<u8>],
        intermediates: &'a [Certificate<'a>],
        anchor: &'a Anchor,
    },
    Pinned(&'a Certificate<'a>),
    Refused(CertificateError),
}

impl CurrentIssuers<'_> {
    /// Returns the last second in which the intermediates that are used now are valid.
    fn valid_until(&self) -> i64 {
        match self {
            Self::Known { intermediates, .. } => {
                let ends = intermediates.iter().map(|one| one.not_after().timestamp());
                ends.min().unwrap_or(i64::MAX)
            }
            Self::Pinned(_) | Self::Refused(_) => i64::MAX,
        }
    }

    /// Checks the status of a client that has these issuers.
    fn check(
        &self,
        verifier: &ClientVerifier,
        client: &Identity,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        match (self, &verifier.revocation) {
            (Self::Refused(error), _) => Err(error.clone()),
            (_, None) => Ok(()),
            (Self::Known { name, points, intermediates, anchor }, Some(revocation)) => {
                let leaf = LiveClient { name, serial: client.serial.as_bytes(), points };
                revocation.check(&leaf, intermediates, anchor, now)
            }
            (Self::Pinned(own), Some(revocation)) => revocation.check_pinned(*own),
        }
    }
}

/// The facts of a live session's client that decide its status.
struct LiveClient<'a> {
    name: &'a CanonicalName,
    serial: &'a [u8],
    points: &'a [Vec<u8>],
}

impl Subject for LiveClient<'_> {
    fn issuer(&self) -> &CanonicalName {
        self.name
    }

    fn serial(&self) -> &[u8] {
        self.serial
    }

    fn is_in(&self, scope: &CrlScope) -> bool {
        // The certificate of a CA is accepted only from a pinned device.
        scope.covers(false, || self.points.to_vec())
    }
}
