//! The CRLs of a policy, each verified once, and the status of certificates.
//!
//! **Promises.** A CRL counts for the certificates of the issuer that has its name *and* the key that
//! signed it (RFC 5280 section 6.3.3). Of several CRLs with one scope only the newest counts: by cRLNumber
//! if both have one (section 5.2.3), else by thisUpdate. Signatures are verified with the CAs of the bundle
//! when the CRLs are loaded. The CRL of an intermediate CA, whose key devices send, is verified when
//! that key is first seen in a verified path: once for each key, and with at most [`MAX_KEYS_TRIED`] keys.
//! A status costs one search among sorted serial numbers, whatever the length of the list.
//!
//! By default, as in HAProxy and nginx, every certificate of a path is checked except its anchor, and one
//! whose status no CRL states is refused. A CRL past its nextUpdate stays active: an overdue list still refuses
//! the devices that it revokes, and refusing every device would stop the plant.
//!
//! **Not here.** Parsing CRLs (`x509/crl.rs`), the path of a device (`x509/path.rs`).

mod serials;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_rustls::rustls::CertificateError;
use tokio_rustls::rustls::pki_types::{CertificateRevocationListDer, UnixTime};

use self::serials::Serials;
use super::digest::Digest;
use super::x509::certificate::Certificate;
use super::x509::crl::{self, CrlInfo, CrlScope, Unusable};
use super::x509::names::CanonicalName;
use super::x509::path::Anchor;
use super::x509::signature::{Algorithms, PublicKey, Signed};
use super::x509::{Malformed, Timestamp};
use crate::config::{CrlCheck, CrlRules, ExpiredCrl, UnknownStatus};
use crate::lock::Lock;
use crate::text::Shown;

/// Keys sent by devices with which a CRL is verified at most. An intermediate CA has one key, or two while
/// the key is changed; the bound limits the work that devices can cause.
const MAX_KEYS_TRIED: usize = 16;

/// The CRLs of a policy.
pub(crate) struct Revocation {
    algorithms: &'static Algorithms,
    rules: CrlRules,
    /// By issuer, the newest first.
    issuers: HashMap<CanonicalName, Vec<Arc<Crl>>>,
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocation").finish_non_exhaustive()
    }
}

/// A CRL with its place in a file.
pub(crate) struct Crl {
    pub(crate) file: PathBuf,
    /// The line of the file on which it begins.
    pub(crate) line: usize,
    pub(crate) info: CrlInfo,
    revoked: Serials,
    /// The digest of the key that signed it, once the key is known.
    signer: OnceLock<Digest>,
    unverified: Lock<Unverified>,
}

/// The data for finding the key that signed a CRL.
#[derive(Default)]
struct Unverified {
    /// None once the key is known.
    der: Option<CertificateRevocationListDer<'static>>,
    tried: Vec<Digest>,
    /// Number of keys of devices that were tried.
    from_devices: usize,
}

/// The source of a key with which a CRL is verified.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyFrom {
    Bundle,
    Device,
}

/// A CRL that is not used, or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnusedCrl {
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    issuer: CanonicalName,
    scope: CrlScope,
    /// The issuer as text, for logs.
    pub(crate) issuer_text: String,
    pub(crate) reason: UnusedReason,
}

/// A reason for which a CRL is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnusedReason {
    Unusable(Unusable),
    /// There is a newer CRL of the same issuer, key and scope.
    Superseded {
        file: PathBuf,
        line: usize,
    },
    /// The CA that signed it is not permitted to sign CRLs.
    KeyUsage,
    /// The CAs with that name have other keys.
    OtherKey,
    /// A CA with that name has the key that the CRL names, and the signature is not valid for that key.
    BadSignature,
    /// The signature algorithm is not supported.
    Algorithm,
    /// No CA of the bundle has that name. The CRL waits for a device that sends the CA.
    NoCa,
}

impl fmt::Display for UnusedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unusable(reason) => return reason.fmt(f),
            Self::Superseded { file, line } => {
                return write!(f, "the CRL in line {line} of {} is newer", Shown(file));
            }
            Self::KeyUsage => "the CA's keyUsage does not permit it to sign CRLs (cRLSign)",
            Self::OtherKey => "it was signed with a key that no CA with that name has",
            Self::BadSignature => "its signature is invalid: the file is damaged or forged",
            Self::Algorithm => "its signature algorithm is not supported",
            Self::NoCa => {
                "client_ca has no CA with that name; the CRL will be used once a device sends the \
                 intermediate CA that signed it"
            }
        })
    }
}

impl UnusedCrl {
    /// Returns whether it was meant to replace a CRL: it has the same issuer, and the same scope or file.
    pub(crate) fn is_in_place_of(&self, lost: &Crl) -> bool {
        self.issuer == lost.info.issuer && (self.scope == lost.info.scope || self.file == lost.file)
    }

    /// Returns a sentence for logs, without the file.
    pub(crate) fn sentence(&self) -> String {
        format!("the CRL of {:?} is not used: {}", self.issuer_text, self.reason)
    }
}

impl Crl {
    /// Parses a CRL of `file` that begins on `line`.
    ///
    /// # Errors
    /// If it is not well-formed.
    pub(crate) fn read(
        file: &Path,
        line: usize,
        der: CertificateRevocationListDer<'static>,
    ) -> Result<Self, Malformed> {
        let mut revoked = Serials::with_room_for(der.len() / crl::MIN_ENTRY_BYTES);
        let info = crl::read(&der, |serial| revoked.push(serial))?;
        revoked.sort();
        let unverified = Unverified { der: Some(der), ..Unverified::default() };
        Ok(Self {
            file: file.to_owned(),
            line,
            info,
            revoked,
            signer: OnceLock::new(),
            unverified: Lock::new(unverified),
        })
    }

    /// Checks that the CRL was signed with a key, and verifies the signature if its key is not known yet.
    ///
    /// # Errors
    /// `BadSignature` if the CRL was signed with another key; another error if the algorithm is not
    /// supported.
    fn verify(
        &self,
        key: &PublicKey<'_>,
        from: KeyFrom,
        algorithms: &'static Algorithms,
    ) -> Result<(), CertificateError> {
        let digest = key.digest();
        let known = |signer: &Digest| match *signer == digest {
            true => Ok(()),
            false => Err(CertificateError::BadSignature),
        };
        if let Some(signer) = self.signer.get() {
            return known(signer);
        }
        let mut unverified = self.unverified.lock();
        if let Some(signer) = self.signer.get() {
            return known(signer);
        }
        if unverified.tried.contains(&digest) {
            return Err(CertificateError::BadSignature);
        }
        if from == KeyFrom::Device {
            if unverified.from_devices == MAX_KEYS_TRIED {
                return Err(CertificateError::BadSignature);
            }
            unverified.from_devices += 1;
        }
        let Some(der) = &unverified.der else { return Err(CertificateError::BadSignature) };
        let signed = Signed::parse(der).map_err(|_| CertificateError::BadSignature)?;
        let verified = signed.verify(key, algorithms);
        match verified {
            Ok(()) => {
                *unverified = Unverified::default();
                self.signer.get_or_init(|| digest);
            }
            Err(_) => unverified.tried.push(digest),
        }
        verified
    }

    /// Returns the number of revoked certificates.
    pub(crate) const fn count(&self) -> usize {
        self.revoked.count()
    }

    /// Returns how many revoked certificates both lists have.
    pub(crate) fn shared(&self, other: &Self) -> usize {
        self.revoked.shared(&other.revoked)
    }

    /// Returns whether both lists are for the same certificates: by issuer, scope and, where both are known, the
    /// key that signed them.
    pub(crate) fn is_for_the_same_as(&self, other: &Self) -> bool {
        let signers = self.signer.get().zip(other.signer.get());
        self.has_place_of(&other.info) && signers.is_none_or(|(one, other)| one == other)
    }

    /// Returns whether it has the issuer and the scope of another one.
    fn has_place_of(&self, info: &CrlInfo) -> bool {
        self.info.issuer == info.issuer && self.info.scope == info.scope
    }

    fn is_newer_than(&self, other: &Self) -> bool {
        let (a, b) = (&self.info, &other.info);
        match (&a.number, &b.number) {
            // Big-endian without leading zeros: the longer number is the greater.
            (Some(x), Some(y)) if x != y => (x.len(), x) > (y.len(), y),
            _ => a.this_update > b.this_update,
        }
    }

    /// Returns a key that sorts the CRLs of one issuer, the newest last.
    fn age(&self) -> impl Ord {
        let number = self.info.number.as_deref().unwrap_or_default();
        (number.len(), number, self.info.this_update)
    }

    /// Returns the status of a certificate that it covers and does not revoke.
    fn freshness(&self, now: UnixTime) -> RevocationStatus {
        // A time before 1970 has passed as well.
        let seconds = |time: Timestamp| u64::try_from(time.timestamp()).unwrap_or(0);
        match self.info.next_update.map(seconds) {
            Some(next_update) if next_update < now.as_secs() => {
                RevocationStatus::Expired(next_update)
            }
            _ => RevocationStatus::Good,
        }
    }

    fn unused(&self, reason: UnusedReason) -> UnusedCrl {
        let CrlInfo { issuer, issuer_text, scope, .. } = &self.info;
        UnusedCrl {
            file: self.file.clone(),
            line: self.line,
            issuer: issuer.clone(),
            scope: scope.clone(),
            issuer_text: issuer_text.clone(),
            reason,
        }
    }
}

impl Revocation {
    /// Verifies CRLs with the CAs of the bundle, and selects those that count. Returns the others as
    /// well, each with the reason.
    pub(crate) fn new(
        crls: impl IntoIterator<Item = Arc<Crl>>,
        cas: &[Arc<Anchor>],
        rules: CrlRules,
        algorithms: &'static Algorithms,
    ) -> (Self, Vec<UnusedCrl>) {
        let mut issuers: HashMap<CanonicalName, Vec<Arc<Crl>>> = HashMap::new();
        let mut unused = Vec::new();
        for crl in crls {
            match find_signer(&crl, cas, algorithms) {
                Ok(()) => {}
                // A device may send another CA with that name.
                Err(reason @ (UnusedReason::NoCa | UnusedReason::OtherKey)) => {
                    unused.push(crl.unused(reason));
                }
                Err(reason) => {
                    unused.push(crl.unused(reason));
                    continue;
                }
            }
            issuers.entry(crl.info.issuer.clone()).or_default().push(crl);
        }
        for crls in issuers.values_mut() {
            keep_newest(crls, &mut unused);
        }
        (Self { algorithms, rules, issuers }, unused)
    }

    /// Returns every CRL that counts or may count later, in no order.
    pub(crate) fn crls(&self) -> impl Iterator<Item = &Arc<Crl>> {
        self.issuers.values().flatten()
    }

    /// Returns whether there is a CRL of a CA of the bundle.
    pub(crate) fn covers(&self, ca: &Anchor) -> bool {
        self.crls_of(ca).next().is_some()
    }

    /// Returns the CRLs that were signed by a CA of the bundle, each of another scope.
    fn crls_of(&self, ca: &Anchor) -> impl Iterator<Item = &Arc<Crl>> {
        let key = ca.key().digest();
        let crls = self.issuers.get(ca.subject()).into_iter().flatten();
        crls.filter(move |crl| crl.signer.get() == Some(&key))
    }

    /// Returns the CRLs of a CA of which `new` has none with the same key and scope.
    pub(crate) fn lost_in(&self, new: &Self, ca: &Anchor) -> Vec<&Arc<Crl>> {
        let still = |crl: &Crl| new.crls_of(ca).any(|other| other.has_place_of(&crl.info));
        self.crls_of(ca).filter(|crl| !still(crl)).collect()
    }

    /// Checks a verified path: a device's certificate, its intermediates from its issuer upwards, each issued by
    /// the next, the last by `anchor`, which is not checked.
    ///
    /// # Errors
    /// `Revoked` if a CRL revokes a certificate, else, as far as the rules deny it, that a CRL has expired or
    /// that no CRL states the status of a certificate.
    pub(crate) fn check(
        &self,
        leaf: &dyn Subject,
        intermediates: &[Certificate<'_>],
        anchor: &Anchor,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let issuers = intermediates.iter().map(CrlSigner::from).chain([CrlSigner::from(anchor)]);
        let checked = match self.rules.check {
            CrlCheck::Chain => 1 + intermediates.len(),
            CrlCheck::Leaf => 1,
        };
        let path = [leaf].into_iter().chain(intermediates.iter().map(|one| one as &dyn Subject));
        let pairs = path.zip(issuers).take(checked);
        let worst = pairs.map(|(own, issuer)| self.status(own, issuer, now)).max();
        match (worst.unwrap_or(RevocationStatus::Good), self.rules.unknown) {
            (RevocationStatus::Good, _) | (RevocationStatus::Unknown, UnknownStatus::Allow) => {
                Ok(())
            }
            (RevocationStatus::Unknown, UnknownStatus::Deny) => {
                Err(CertificateError::UnknownRevocationStatus)
            }
            (RevocationStatus::Expired(next_update), _) => {
                let next_update = UnixTime::since_unix_epoch(Duration::from_secs(next_update));
                Err(CertificateError::ExpiredRevocationListContext { time: now, next_update })
            }
            (RevocationStatus::Revoked, _) => Err(CertificateError::Revoked),
        }
    }

    /// Checks the certificate of a pinned device. It needs no status: it is refused only if a CRL revokes it.
    ///
    /// # Errors
    /// `Revoked`.
    pub(crate) fn check_pinned(&self, pinned: &dyn Subject) -> Result<(), CertificateError> {
        match self.is_listed_by_any(pinned) {
            true => Err(CertificateError::Revoked),
            false => Ok(()),
        }
    }

    fn status(
        &self,
        certificate: &dyn Subject,
        issuer: CrlSigner<'_>,
        now: UnixTime,
    ) -> RevocationStatus {
        let mut status = RevocationStatus::Unknown;
        // Only the newest of each scope counts, and the CRLs are sorted by age.
        let mut seen: Vec<&[u8]> = Vec::new();
        for crl in self.issuers.get(certificate.issuer()).into_iter().flatten() {
            let scope = &crl.info.scope;
            let counts = !seen.contains(&&scope.encoded[..])
                && certificate.is_in(scope)
                && issuer.may_sign
                && crl.verify(issuer.key, KeyFrom::Device, self.algorithms).is_ok();
            if !counts {
                continue;
            }
            if crl.revoked.contains(certificate.serial()) {
                return RevocationStatus::Revoked;
            }
            let of_this = match self.rules.expired {
                ExpiredCrl::Deny => crl.freshness(now),
                ExpiredCrl::Warn => RevocationStatus::Good,
            };
            // Unknown until now, or the worst of all CRLs that cover it.
            status = if seen.is_empty() { of_this } else { status.max(of_this) };
            seen.push(&scope.encoded);
        }
        status
    }

    fn is_listed_by_any(&self, certificate: &dyn Subject) -> bool {
        let mut crls = self.issuers.get(certificate.issuer()).into_iter().flatten();
        crls.any(|crl| crl.signer.get().is_some() && crl.revoked.contains(certificate.serial()))
    }
}

/// A certificate whose status is looked up: parsed, or the facts that a live session keeps of it.
pub(crate) trait Subject {
    /// Returns the name of its issuer.
    fn issuer(&self) -> &CanonicalName;
    /// Returns the content of its serial number's INTEGER.
    fn serial(&self) -> &[u8];
    /// Returns whether a CRL of its issuer with this scope covers it.
    fn is_in(&self, scope: &CrlScope) -> bool;
}

impl Subject for Certificate<'_> {
    fn issuer(&self) -> &CanonicalName {
        self.issuer()
    }

    fn serial(&self) -> &[u8] {
        self.serial()
    }

    fn is_in(&self, scope: &CrlScope) -> bool {
        self.is_in(scope)
    }
}

/// The issuer of a certificate as a signer of CRLs.
#[derive(Clone, Copy)]
struct CrlSigner<'a> {
    key: &'a PublicKey<'a>,
    /// Its keyUsage permits it to sign CRLs.
    may_sign: bool,
}

impl<'a> From<&'a Certificate<'a>> for CrlSigner<'a> {
    fn from(certificate: &'a Certificate<'a>) -> Self {
        Self { key: certificate.key(), may_sign: certificate.signs_crls() }
    }
}

impl<'a> From<&'a Anchor> for CrlSigner<'a> {
    fn from(anchor: &'a Anchor) -> Self {
        Self { key: anchor.key(), may_sign: anchor.signs_crls() }
    }
}

/// The status of a certificate, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RevocationStatus {
    Good,
    Unknown,
    /// The CRL was due for an update at this time, in Unix time.
    Expired(u64),
    Revoked,
}

/// Finds the CA of the bundle that signed a CRL.
fn find_signer(
    crl: &Crl,
    cas: &[Arc<Anchor>],
    algorithms: &'static Algorithms,
) -> Result<(), UnusedReason> {
    if let Some(unusable) = &crl.info.unusable {
        return Err(UnusedReason::Unusable(unusable.clone()));
    }
    let named = cas.iter().filter(|ca| *ca.subject() == crl.info.issuer);
    let mut reason = UnusedReason::NoCa;
    for ca in named {
        let is_meant = crl.info.key_id.is_some() && crl.info.key_id.as_deref() == ca.key_id();
        reason = match crl.verify(ca.key(), KeyFrom::Bundle, algorithms) {
            Ok(()) if ca.signs_crls() => return Ok(()),
            Ok(()) => return Err(UnusedReason::KeyUsage),
            Err(CertificateError::BadSignature) if is_meant => UnusedReason::BadSignature,
            Err(_) if is_meant => UnusedReason::Algorithm,
            Err(_) if reason == UnusedReason::NoCa => UnusedReason::OtherKey,
            Err(_) => reason,
        };
    }
    // The key of an intermediate CA is known from an earlier load.
    if crl.signer.get().is_some() { Ok(()) } else { Err(reason) }
}

/// Sorts the CRLs of one name, the newest first, and drops those that a newer one with the same signer
/// and scope supersedes.
fn keep_newest(crls: &mut Vec<Arc<Crl>>, unused: &mut Vec<UnusedCrl>) {
    let mut newest: BTreeMap<(Digest, Vec<u8>), Arc<Crl>> = BTreeMap::new();
    let mut waiting = Vec::new();
    for crl in crls.drain(..) {
        let Some(signer) = crl.signer.get() else {
            waiting.push(crl);
            continue;
        };
        let place = (*signer, crl.info.scope.encoded.clone());
        let (kept, older) = match newest.remove(&place) {
            Some(other) if other.is_newer_than(&crl) => (other, Some(crl)),
            // Of two that are equally new the last one counts: it was appended to the file.
            Some(other) => (crl, Some(other)),
            None => (crl, None),
        };
        if let Some(older) = older {
            let (file, line) = (kept.file.clone(), kept.line);
            unused.push(older.unused(UnusedReason::Superseded { file, line }));
        }
        newest.insert(place, kept);
    }
    crls.extend(newest.into_values().chain(waiting.into_iter().rev()));
    crls.sort_by(|a, b| b.age().cmp(&a.age()));
}
