//! The certification path from a device's certificate to a CA that is trusted: RFC 5280 section 6.
//!
//! A client sends certificates in any order. Only names and key identifiers are followed first:
//! certificates that do not lead to a trusted CA cost no signature check. Signatures are then checked from the
//! CA downwards, once for each certificate, so that each check uses a key that is already trusted.
//! The resulting path is checked against all extensions of its certificates.
//!
//! **Promises.** Combinations are not searched. At most one signature check succeeds for each certificate, and
//! at most twice the number of CAs that share a name plus [`SPARE_SIGNATURES`] fail. Duplicates, unused
//! certificates and any order are accepted.
//!
//! webpki is not used here: it tries every order of certificates that share a name, compares names
//! by their bytes, cannot parse version 1, supports only name constraints of DNS and IP, and
//! does not check the CA's own extensions.
//!
//! **Not here.** The limits of a chain, CRLs (`trust/certs/verifier.rs`).

use std::collections::HashMap;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::{CertificateError, DistinguishedName, OtherError};
use x509_parser::extensions::NameConstraints;

use super::certificate::{Certificate, VerificationTime};
use super::names::CanonicalName;
use super::signature::{Algorithms, PublicKey};
use super::{Malformed, constraints};

/// Certificates of a path at most. webpki permits 7.
const MAX_PATH: usize = 10;

/// Signature checks that may fail in addition to those for CAs that share a name: while an intermediate CA
/// changes its key, two certificates have its name.
const SPARE_SIGNATURES: usize = 4;

/// A CA that is trusted to issue devices, or CAs that issue devices.
#[derive(Debug)]
pub(crate) struct Anchor {
    der: CertificateDer<'static>,
    subject: CanonicalName,
    encoded_name: DistinguishedName,
    key: PublicKey<'static>,
    key_id: Option<Box<[u8]>>,
    max_path: Option<u32>,
    /// The result of the check that its extKeyUsage permits it to issue clients.
    purpose: Result<(), CertificateError>,
    signs_crls: bool,
    /// It has name constraints.
    is_constrained: bool,
}

impl Anchor {
    /// Makes an anchor of a certificate of `client_ca`, which is parsed from `der`. Returns none if it is
    /// not a CA by the rules of OpenSSL (`X509_check_ca`).
    pub(crate) fn new(
        certificate: &Certificate<'_>,
        der: &CertificateDer<'static>,
    ) -> Option<Self> {
        is_root(certificate).then(|| Self::of(certificate, der))
    }

    /// Makes an anchor of a certificate that is trusted to issue others whatever its extensions state, as
    /// TLS clients trust their roots.
    ///
    /// # Errors
    /// If it cannot be parsed.
    pub(crate) fn of_any(der: &CertificateDer<'static>) -> Result<Self, Malformed> {
        Ok(Self::of(&Certificate::parse(der)?, der))
    }

    fn of(certificate: &Certificate<'_>, der: &CertificateDer<'static>) -> Self {
        Self {
            subject: certificate.subject.clone(),
            encoded_name: certificate.parsed.subject().as_raw().to_vec().into(),
            key: certificate.key.clone().into_owned(),
            key_id: certificate.extensions.own_key_id.map(Box::from),
            max_path: certificate.extensions.basic.and_then(|basic| basic.max_path),
            purpose: certificate.check_purpose(),
            signs_crls: certificate.signs_crls(),
            is_constrained: certificate.extensions.constraints.is_some(),
            der: der.clone(),
        }
    }

    /// Returns the certificate.
    pub(crate) const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Returns its name.
    pub(crate) const fn subject(&self) -> &CanonicalName {
        &self.subject
    }

    /// Returns its name as it is encoded in the certificate.
    pub(crate) const fn encoded_name(&self) -> &DistinguishedName {
        &self.encoded_name
    }

    /// Returns its public key.
    pub(crate) const fn key(&self) -> &PublicKey<'static> {
        &self.key
    }

    /// Returns its subjectKeyIdentifier.
    pub(crate) fn key_id(&self) -> Option<&[u8]> {
        self.key_id.as_deref()
    }

    /// Returns whether its key may sign CRLs: RFC 5280 section 6.3.3 (f).
    pub(crate) const fn signs_crls(&self) -> bool {
        self.signs_crls
    }

    /// Returns whether its extKeyUsage permits it to issue clients.
    pub(crate) const fn is_for_clients(&self) -> bool {
        self.purpose.is_ok()
    }
}

/// Returns whether a certificate of `client_ca` issues others. Version 1 has no extension that states it, so
/// a root of version 1 is a CA.
fn is_root(certificate: &Certificate<'_>) -> bool {
    match (certificate.signs_certificates(), certificate.extensions.basic) {
        (Some(false), _) => false,
        (_, Some(basic)) => basic.ca,
        (Some(true), None) => true,
        (None, None) => certificate.is_old() && certificate.is_self_issued(),
    }
}

/// The trusted CAs by name.
#[derive(Debug, Default)]
pub(crate) struct Anchors {
    by_name: HashMap<CanonicalName, Vec<Arc<Anchor>>>,
    /// The largest number of CAs that share a name.
    most_of_a_name: usize,
}

impl Anchors {
    /// Adds a CA, unless the same certificate was added before.
    pub(crate) fn add(&mut self, anchor: impl Into<Arc<Anchor>>) {
        let anchor = anchor.into();
        let of_its_name = self.by_name.entry(anchor.subject.clone()).or_default();
        if of_its_name.iter().all(|known| known.der != anchor.der) {
            of_its_name.push(anchor);
        }
        self.most_of_a_name = self.most_of_a_name.max(of_its_name.len());
    }

    /// Returns whether a CA has the name of the issuer of a certificate.
    pub(crate) fn has_issuer_of(&self, certificate: &CertificateDer<'_>) -> bool {
        Certificate::parse(certificate).is_ok_and(|parsed| !self.named(&parsed.issuer).is_empty())
    }

    /// Returns the CA with the name and the key of a certificate; of several, one that permits most.
    fn with_key(&self, certificate: &Certificate<'_>) -> Option<&Anchor> {
        let key = certificate.key.digest();
        let named = self.named(&certificate.subject).iter().map(AsRef::as_ref);
        let permits = |anchor: &&Anchor| {
            let depth = anchor.max_path.unwrap_or(u32::MAX);
            (anchor.is_for_clients(), anchor.signs_crls, depth)
        };
        named.filter(|anchor| anchor.key.digest() == key).max_by_key(permits)
    }

    fn named(&self, name: &CanonicalName) -> &[Arc<Anchor>] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }
}

/// A certification path: the device's certificate, the issuer of each, and the CA that issued the last.
#[derive(Debug)]
pub(crate) struct CertificationPath<'a> {
    /// Indexes into the certificates that were sent. The device's own, 0, is first.
    pub(crate) places: Vec<usize>,
    pub(crate) anchor: &'a Anchor,
}

/// Finds the path of the first certificate by names, then by signatures.
///
/// # Errors
/// If there is none: no CA has such a name, or a signature is not valid for its key.
pub(crate) fn find<'a>(
    sent: &[Certificate<'_>],
    anchors: &'a Anchors,
    algorithms: &Algorithms,
    now: UnixTime,
) -> Result<CertificationPath<'a>, CertificateError> {
    let mut search = Search {
        sent,
        anchors,
        algorithms,
        now,
        hops: hops(sent, anchors),
        failures_left: 2 * anchors.most_of_a_name + SPARE_SIGNATURES,
        issuers: sent.iter().map(|_| FoundIssuer::Unknown).collect(),
        failure: CertificateError::UnknownIssuer,
    };
    let path = if search.reach(0) { search.path() } else { None };
    path.ok_or(search.failure)
}

/// Finds the CA of a live session's issuers, which were verified when its handshake was made. Returns it with the
/// intermediates that lead to it. `was` is the CA of that time.
///
/// The client's own certificate is not here. Its names were checked against the constraints of `was`; those of a
/// renewed CA with the same name and key are not checked before the next handshake.
///
/// # Errors
/// If no CA has the name and the key of one of the issuers, or the CA does not permit this path.
pub(crate) fn find_again<'a, 'b>(
    intermediates: &'b [Certificate<'b>],
    was: &Certificate<'_>,
    anchors: &'a Anchors,
    algorithms: &Algorithms,
    now: UnixTime,
) -> Result<(&'b [Certificate<'b>], &'a Anchor), CertificateError> {
    let issuer = intermediates.first().unwrap_or(was);
    let (used, anchor) = match anchors.with_key(issuer) {
        Some(anchor) => (0, anchor),
        None if intermediates.is_empty() => return Err(CertificateError::UnknownIssuer),
        None => {
            let path = find(intermediates, anchors, algorithms, now)?;
            (path.places.len(), path.anchor)
        }
    };
    anchor.purpose.clone()?;
    let used = &intermediates[..used];
    let cas = used.iter().filter(|certificate| !certificate.is_self_issued()).count();
    if anchor.max_path.is_some_and(|max| usize::try_from(max).is_ok_and(|max| cas > max)) {
        return Err(PathError::TooLong.into());
    }
    Ok((used, anchor))
}

/// Returns the number of certificates between each certificate of `sent` and a CA, by names only; none if
/// no CA is reached.
fn hops(sent: &[Certificate<'_>], anchors: &Anchors) -> Vec<Option<usize>> {
    let mut hops: Vec<_> =
        sent.iter().map(|c| (!anchors.named(&c.issuer).is_empty()).then_some(0)).collect();
    for round in 1..sent.len().min(MAX_PATH) {
        let reached = |name: &CanonicalName| {
            let issuers = sent.iter().zip(&hops);
            issuers.into_iter().any(|(c, hops)| *hops == Some(round - 1) && c.subject == *name)
        };
        let more: Vec<_> =
            (0..sent.len()).filter(|&i| hops[i].is_none() && reached(&sent[i].issuer)).collect();
        if more.is_empty() {
            break;
        }
        more.into_iter().for_each(|i| hops[i] = Some(round));
    }
    hops
}

/// The issuer of a certificate, as far as the search has found it.
enum FoundIssuer<'a> {
    Unknown,
    /// The search for it is in progress, or found none.
    None,
    Anchor(&'a Anchor),
    Sent(usize),
}

struct Search<'s, 'a> {
    sent: &'s [Certificate<'s>],
    anchors: &'a Anchors,
    algorithms: &'s Algorithms,
    now: UnixTime,
    hops: Vec<Option<usize>>,
    /// Remaining budget of signature checks that fail.
    failures_left: usize,
    issuers: Vec<FoundIssuer<'a>>,
    failure: CertificateError,
}

impl<'a> Search<'_, 'a> {
    /// Returns whether the certificate at this index has a path. If so, `issuers` has the path.
    fn reach(&mut self, at: usize) -> bool {
        match self.issuers[at] {
            FoundIssuer::Unknown => {}
            FoundIssuer::None => return false,
            FoundIssuer::Anchor(_) | FoundIssuer::Sent(_) => return true,
        }
        self.issuers[at] = FoundIssuer::None;
        for anchor in self.anchors_of(at) {
            if self.is_signed_by(at, &anchor.key, anchor.key_id.as_deref()) {
                self.issuers[at] = FoundIssuer::Anchor(anchor);
                return true;
            }
        }
        for issuer in self.issuers_of(at) {
            // From the CA downwards: a check with a key that is not trusted proves nothing.
            let signer = &self.sent[issuer];
            let key_id = signer.extensions.own_key_id;
            if self.reach(issuer) && self.is_signed_by(at, &signer.key, key_id) {
                self.issuers[at] = FoundIssuer::Sent(issuer);
                return true;
            }
        }
        false
    }

    /// Returns the CAs with the name of a certificate's issuer, the most likely first. The key identifier is
    /// only a hint (RFC 5280 section 4.2.1.1): renewed CAs can have another one.
    fn anchors_of(&self, at: usize) -> Vec<&'a Anchor> {
        let certificate = &self.sent[at];
        let named = self.anchors.named(&certificate.issuer);
        let mut anchors: Vec<_> = named.iter().map(|anchor| &**anchor).collect();
        anchors.sort_by_key(|anchor| {
            (
                is_other(certificate.extensions.issuer_key_id, anchor.key_id.as_deref()),
                !anchor.is_for_clients(),
            )
        });
        anchors
    }

    /// Returns the certificates of `sent` with the name of a certificate's issuer, the most likely first.
    fn issuers_of(&self, at: usize) -> Vec<usize> {
        let certificate = &self.sent[at];
        let mut issuers: Vec<_> = (0..self.sent.len())
            .filter(|&i| self.hops[i].is_some() && self.sent[i].subject == certificate.issuer)
            .filter(|&i| i != at)
            .collect();
        issuers.sort_by_key(|&i| {
            let issuer = &self.sent[i];
            (
                is_other(certificate.extensions.issuer_key_id, issuer.extensions.own_key_id),
                !issuer.is_ca(),
                issuer.check_validity(self.now.into()).is_err(),
                self.hops[i],
            )
        });
        issuers
    }

    /// Returns whether a certificate was signed with this key of a CA with the name of its issuer. If not, and
    /// unless both state the same key identifier, another CA with that name has signed it: its issuer is unknown.
    fn is_signed_by(&mut self, at: usize, key: &PublicKey<'_>, key_id: Option<&[u8]>) -> bool {
        if self.failures_left == 0 {
            return false;
        }
        let certificate = &self.sent[at];
        let failure =
            match (key.odd_rsa_bits(), certificate.signed.verify_once(key, self.algorithms)) {
                (_, Ok(())) => return true,
                (Some(bits), Err(_)) => PathError::IssuerRsaKey { bits }.into(),
                (None, Err(CertificateError::BadSignature)) => {
                    let wanted = certificate.extensions.issuer_key_id;
                    match wanted.is_some() && wanted == key_id {
                        true => CertificateError::BadSignature,
                        false => CertificateError::UnknownIssuer,
                    }
                }
                (None, Err(error)) => error,
            };
        self.failures_left -= 1;
        self.failure = failure;
        false
    }

    /// Returns the path of the first certificate, which [`Self::reach`] found.
    fn path(&self) -> Option<CertificationPath<'a>> {
        let mut places = vec![0];
        loop {
            match self.issuers[*places.last()?] {
                FoundIssuer::Sent(issuer) => places.push(issuer),
                FoundIssuer::Anchor(anchor) => return Some(CertificationPath { places, anchor }),
                FoundIssuer::Unknown | FoundIssuer::None => return None,
            }
        }
    }
}

/// Returns whether both key identifiers are known and differ.
fn is_other(wanted: Option<&[u8]>, found: Option<&[u8]>) -> bool {
    wanted.zip(found).is_some_and(|(wanted, found)| wanted != found)
}

/// A reason to reject a path for which rustls has no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("an intermediate certificate is not a CA, by its basicConstraints or keyUsage")]
    NotCa,
    #[error("more CAs are below one of its CAs than the pathLenConstraint of that CA permits")]
    TooLong,
    #[error("the name constraints of one of its CAs do not permit its names")]
    NameNotAllowed,
    #[error("it is the certificate of a CA, not of a device")]
    CaAsDevice,
    #[error("the RSA key of its issuer has {bits} bits, and 2048 to 8192 are accepted")]
    IssuerRsaKey { bits: usize },
}

impl PathError {
    /// Returns the error that a rustls error contains, if it is a `PathError`.
    pub(crate) fn within(error: &CertificateError) -> Option<Self> {
        let CertificateError::Other(OtherError(error)) = error else { return None };
        error.downcast_ref().copied()
    }
}

impl From<PathError> for CertificateError {
    fn from(error: PathError) -> Self {
        Self::Other(OtherError(Arc::new(error)))
    }
}

impl CertificationPath<'_> {
    /// Checks the certificates of the path at this time: validity, purpose, critical extensions, path length and
    /// name constraints. The CA is checked as well, except for its validity: devices must not be refused
    /// because their CA expired during the night.
    ///
    /// # Errors
    /// The first check that fails, from the device's certificate upwards.
    pub(crate) fn check(
        &self,
        sent: &[Certificate<'_>],
        at: VerificationTime,
    ) -> Result<(), CertificateError> {
        let path: Vec<_> = self.places.iter().map(|&place| &sent[place]).collect();
        for certificate in &path {
            certificate.check_validity(at)?;
            certificate.check_purpose()?;
            certificate.check_extensions()?;
        }
        self.anchor.purpose.clone()?;
        let (leaf, intermediates) =
            path.split_first().expect("a path begins with the device's certificate");
        if leaf.extensions.basic.is_some_and(|basic| basic.ca) {
            return Err(PathError::CaAsDevice.into());
        }
        leaf.check_usage()?;
        if !intermediates.iter().all(|certificate| certificate.is_ca()) {
            return Err(PathError::NotCa.into());
        }
        for (i, ca) in intermediates.iter().enumerate() {
            let extensions = &ca.extensions;
            check_length(extensions.basic.and_then(|basic| basic.max_path), &path[..=i])?;
            check_names(extensions.constraints.as_ref(), &path[..=i])?;
        }
        check_length(self.anchor.max_path, &path)?;
        if self.anchor.is_constrained {
            let anchor = Certificate::parse(&self.anchor.der);
            let anchor = anchor.map_err(|_| CertificateError::BadEncoding)?;
            check_names(anchor.extensions.constraints.as_ref(), &path)?;
        }
        Ok(())
    }
}

/// Checks the number of CAs below a CA. `below` begins with the device's certificate.
fn check_length(max_path: Option<u32>, below: &[&Certificate<'_>]) -> Result<(), CertificateError> {
    // Self-issued certificates and the last one do not count: RFC 5280 section 4.2.1.9.
    let cas = below[1..].iter().filter(|certificate| !certificate.is_self_issued()).count();
    match max_path.map(usize::try_from) {
        Some(Ok(max)) if cas > max => Err(PathError::TooLong.into()),
        _ => Ok(()),
    }
}

/// Checks the names of the certificates below a CA. `below` begins with the device's certificate.
fn check_names(
    constraints: Option<&NameConstraints<'_>>,
    below: &[&Certificate<'_>],
) -> Result<(), CertificateError> {
    let Some(names) = constraints else { return Ok(()) };
    for (i, certificate) in below.iter().enumerate() {
        // RFC 5280 section 6.1.3, (b) and (c).
        let is_leaf = i == 0;
        let exempt = !is_leaf && certificate.is_self_issued();
        if !exempt && !constraints::are_kept(names, certificate, is_leaf) {
            return Err(PathError::NameNotAllowed.into());
        }
    }
    Ok(())
}

/// Checks the certificate of a pinned device at this time.
///
/// # Errors
/// If it is not valid, or not for clients.
pub(crate) fn check_pinned(
    certificate: &Certificate<'_>,
    at: VerificationTime,
) -> Result<(), CertificateError> {
    certificate.check_validity(at)?;
    certificate.check_purpose()?;
    let is_ca = certificate.extensions.basic.is_some_and(|basic| basic.ca);
    if is_ca && certificate.check_usage().is_err() {
        return Err(PathError::CaAsDevice.into());
    }
    certificate.check_usage()
}

#[cfg(test)]
mod tests;
