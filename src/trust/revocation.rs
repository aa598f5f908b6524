//! The CRLs of a listener, each verified once, and whether they revoke a certificate.
//!
//! **Promises.** A CRL counts for the certificates of the issuer that has its name *and* the key that
//! signed it (RFC 5280 section 6.3.3), and of several with one scope the newest: by cRLNumber where both
//! have one (section 5.2.3), else by thisUpdate. Signatures are verified when the CRLs are loaded, by the
//! CAs of the bundle. The CRL of an intermediate CA, whose key comes with the devices, is verified when
//! that key is first seen in a verified path; once for each key, and at most [`MAX_KEYS_TRIED`] keys.
//! A status costs one search among sorted serial numbers, whatever a list's length.
//!
//! As in HAProxy and nginx, every certificate of a path is checked but its anchor, and one whose status
//! no CRL states is refused. A CRL past its nextUpdate stays active: refusing every device because a
//! file was not renewed in the night is no safer, only darker.
//!
//! **Not here.** What a CRL is (`x509/crl.rs`), which path a device has (`certs/clients.rs`).

mod serials;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::CertificateError;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use self::serials::Serials;
use super::digest::sha256;
use super::x509::Malformed;
use super::x509::crl::{self, CrlInfo, SignatureFault, Unusable};
use super::x509::link::Link;
use super::x509::names::CanonicalName;
use super::x509::signature::Algorithms;
use crate::lock::Lock;
use crate::text::Shown;

/// Keys that come with devices and that a CRL is verified with. An intermediate CA has one, or two while
/// it changes it; the bound is for what devices could make us do.
const MAX_KEYS_TRIED: usize = 16;

/// The CRLs of a listener.
pub(crate) struct Revocation {
    algorithms: &'static Algorithms,
    /// By issuer, the newest first.
    issuers: HashMap<CanonicalName, Vec<Arc<Crl>>>,
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocation").finish_non_exhaustive()
    }
}

/// A CRL, and where it came from.
pub(crate) struct Crl {
    pub(crate) file: PathBuf,
    /// The line of the file on which it begins.
    pub(crate) line: usize,
    pub(crate) info: CrlInfo,
    revoked: Serials,
    /// The digest of the key that signed it, once that is known.
    signer: OnceLock<KeyDigest>,
    unverified: Lock<Unverified>,
}

type KeyDigest = [u8; 32];

/// What is needed to find the key that signed a CRL.
#[derive(Default)]
struct Unverified {
    /// None once the key is known.
    der: Option<CertificateRevocationListDer<'static>>,
    tried: Vec<KeyDigest>,
    /// How many keys of devices have been tried.
    from_devices: usize,
}

/// Where a key came from that a CRL is verified with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyFrom {
    Bundle,
    Device,
}

/// A CA of the bundle, as far as it signs CRLs.
pub(crate) struct Issuer {
    pub(crate) subject: CanonicalName,
    pub(crate) key: Vec<u8>,
    pub(crate) key_id: Option<Vec<u8>>,
    pub(crate) signs_crls: bool,
}

/// A CRL that is not used, or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnusedCrl {
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    pub(crate) issuer: CanonicalName,
    /// For people.
    pub(crate) issuer_text: String,
    pub(crate) why: UnusedReason,
}

/// UnusedReason a CRL is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnusedReason {
    Unusable(Unusable),
    /// A newer one of the same issuer, key and scope is there.
    Superseded {
        file: PathBuf,
        line: usize,
    },
    /// The CA whose key signed it may not sign CRLs.
    KeyUsage,
    /// The CAs of that name have other keys.
    OtherKey,
    /// A CA of that name has the key that the CRL names, and the signature is not by that key.
    BadSignature,
    /// It was signed by an algorithm that is not supported.
    Algorithm,
    /// No CA of the bundle has that name: it waits for a device that brings the CA along.
    NoCa,
}

impl fmt::Display for UnusedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unusable(why) => return why.fmt(f),
            Self::Superseded { file, line } => {
                return write!(f, "the one in line {line} of {} is newer", Shown(file));
            }
            Self::KeyUsage => "the CA's keyUsage does not allow it to sign CRLs (cRLSign)",
            Self::OtherKey => "it was signed by another key than those of the CAs with that name",
            Self::BadSignature => "its signature is wrong: the file was damaged or forged",
            Self::Algorithm => "it was signed by an algorithm that is not supported",
            Self::NoCa => {
                "client_ca holds no CA of that name; it will be used once a device sends the \
                 intermediate CA that signed it"
            }
        })
    }
}

impl Crl {
    /// Reads a CRL that stands in `file` from `line` on.
    ///
    /// # Errors
    /// If it is not well-formed.
    pub(crate) fn read(
        file: &Path,
        line: usize,
        der: CertificateRevocationListDer<'static>,
    ) -> Result<Self, Malformed> {
        let mut revoked = Serials::default();
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

    /// Whether the CRL was signed by a key, verified if it has not been yet.
    fn verify(
        &self,
        key: &[u8],
        from: KeyFrom,
        algorithms: &'static Algorithms,
    ) -> Result<(), SignatureFault> {
        let digest = sha256(key);
        let known = |signer: &KeyDigest| match *signer == digest {
            true => Ok(()),
            false => Err(SignatureFault::Wrong),
        };
        if let Some(signer) = self.signer.get() {
            return known(signer);
        }
        let mut unverified = self.unverified.lock();
        if let Some(signer) = self.signer.get() {
            return known(signer);
        }
        if unverified.tried.contains(&digest) {
            return Err(SignatureFault::Wrong);
        }
        if from == KeyFrom::Device {
            if unverified.from_devices == MAX_KEYS_TRIED {
                return Err(SignatureFault::Wrong);
            }
            unverified.from_devices += 1;
        }
        let Some(der) = &unverified.der else { return Err(SignatureFault::Wrong) };
        let signed = crl::signed(der).map_err(|_| SignatureFault::Wrong)?;
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

    fn is_newer_than(&self, other: &Self) -> bool {
        let (a, b) = (&self.info, &other.info);
        match (&a.number, &b.number) {
            // Big-endian without leading zeros: the longer is the greater.
            (Some(x), Some(y)) if x != y => (x.len(), x) > (y.len(), y),
            _ => a.this_update > b.this_update,
        }
    }

    /// Sorts the CRLs of one issuer, the newest last.
    fn age(&self) -> impl Ord {
        let number = self.info.number.as_deref().unwrap_or_default();
        (number.len(), number, self.info.this_update)
    }

    fn unused(&self, why: UnusedReason) -> UnusedCrl {
        let CrlInfo { issuer, issuer_text, .. } = &self.info;
        UnusedCrl {
            file: self.file.clone(),
            line: self.line,
            issuer: issuer.clone(),
            issuer_text: issuer_text.clone(),
            why,
        }
    }
}

impl Issuer {
    /// A CA of the bundle.
    ///
    /// # Errors
    /// If it is not X.509.
    pub(crate) fn read(ca: &CertificateDer<'_>) -> Result<Self, Malformed> {
        let link = Link::read(ca)?;
        Ok(Self {
            subject: link.subject(),
            key: link.key().to_vec(),
            key_id: link.key_id().map(<[u8]>::to_vec),
            signs_crls: link.signs_crls(),
        })
    }
}

impl Revocation {
    /// Verifies CRLs by the CAs of the bundle, and finds those that count. Returns those that do not as
    /// well, each with the reason.
    pub(crate) fn new(
        crls: impl IntoIterator<Item = Arc<Crl>>,
        cas: &[Issuer],
        algorithms: &'static Algorithms,
    ) -> (Self, Vec<UnusedCrl>) {
        let mut issuers: HashMap<CanonicalName, Vec<Arc<Crl>>> = HashMap::new();
        let mut unused = Vec::new();
        for crl in crls {
            match placed(&crl, cas, algorithms) {
                Ok(()) => {}
                // Another CA with that name may come with a device.
                Err(why @ (UnusedReason::NoCa | UnusedReason::OtherKey)) => {
                    unused.push(crl.unused(why))
                }
                Err(why) => {
                    unused.push(crl.unused(why));
                    continue;
                }
            }
            issuers.entry(crl.info.issuer.clone()).or_default().push(crl);
        }
        for crls in issuers.values_mut() {
            keep_newest(crls, &mut unused);
        }
        (Self { algorithms, issuers }, unused)
    }

    /// Every CRL that counts or may count, in no order.
    pub(crate) fn crls(&self) -> impl Iterator<Item = &Arc<Crl>> {
        self.issuers.values().flatten()
    }

    /// Whether there is a CRL of a CA of the bundle.
    pub(crate) fn covers(&self, ca: &Issuer) -> bool {
        let key = sha256(&ca.key);
        let crls = self.issuers.get(&ca.subject);
        crls.into_iter().flatten().any(|crl| crl.signer.get() == Some(&key))
    }

    /// Checks a path that has been verified: from the device's certificate to the anchor, each issued by
    /// the next. The anchor is not checked. A path of one certificate is that of a pinned device, which
    /// needs no status: it is refused only where a CRL revokes it.
    ///
    /// # Errors
    /// `Revoked` if a CRL revokes any of them, else `UnknownRevocationStatus` if no CRL states the status of
    /// one.
    pub(crate) fn check(&self, path: &[&CertificateDer<'_>]) -> Result<(), CertificateError> {
        let links: Result<Vec<_>, _> =
            path.iter().map(|certificate| Link::read(certificate)).collect();
        let links = links.map_err(|_| CertificateError::BadEncoding)?;
        if let [pinned] = &links[..] {
            return match self.is_listed_by_any(pinned) {
                true => Err(CertificateError::Revoked),
                false => Ok(()),
            };
        }
        let status = |two: &[Link<'_>]| self.status(&two[0], &two[1]);
        let worst = links.windows(2).map(status).max().unwrap_or(RevocationStatus::Good);
        match worst {
            RevocationStatus::Good => Ok(()),
            RevocationStatus::Unknown => Err(CertificateError::UnknownRevocationStatus),
            RevocationStatus::Revoked => Err(CertificateError::Revoked),
        }
    }

    fn status(&self, certificate: &Link<'_>, issuer: &Link<'_>) -> RevocationStatus {
        let mut status = RevocationStatus::Unknown;
        // The newest of a scope alone counts, and they are in that order.
        let mut seen: Vec<&[u8]> = Vec::new();
        for crl in self.issuers.get(&certificate.issuer()).into_iter().flatten() {
            let scope = &crl.info.scope;
            let counts = !seen.contains(&&scope.encoded[..])
                && certificate.is_in(scope)
                && issuer.signs_crls()
                && crl.verify(issuer.key(), KeyFrom::Device, self.algorithms).is_ok();
            if !counts {
                continue;
            }
            if crl.revoked.contains(certificate.serial()) {
                return RevocationStatus::Revoked;
            }
            status = RevocationStatus::Good;
            seen.push(&scope.encoded);
        }
        status
    }

    fn is_listed_by_any(&self, certificate: &Link<'_>) -> bool {
        let mut crls = self.issuers.get(&certificate.issuer()).into_iter().flatten();
        crls.any(|crl| crl.signer.get().is_some() && crl.revoked.contains(certificate.serial()))
    }
}

/// Of a certificate, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RevocationStatus {
    Good,
    Unknown,
    Revoked,
}

/// Finds the CA of the bundle that signed a CRL.
fn placed(crl: &Crl, cas: &[Issuer], algorithms: &'static Algorithms) -> Result<(), UnusedReason> {
    if let Some(unusable) = &crl.info.unusable {
        return Err(UnusedReason::Unusable(unusable.clone()));
    }
    let named = cas.iter().filter(|ca| ca.subject == crl.info.issuer);
    let mut why = UnusedReason::NoCa;
    for ca in named {
        let is_meant = crl.info.key_id.is_some() && crl.info.key_id == ca.key_id;
        why = match crl.verify(&ca.key, KeyFrom::Bundle, algorithms) {
            Ok(()) if ca.signs_crls => return Ok(()),
            Ok(()) => return Err(UnusedReason::KeyUsage),
            Err(SignatureFault::Unsupported) if is_meant => UnusedReason::Algorithm,
            Err(SignatureFault::Wrong) if is_meant => UnusedReason::BadSignature,
            Err(_) if why == UnusedReason::NoCa => UnusedReason::OtherKey,
            Err(_) => why,
        };
    }
    // One of an intermediate CA is known from an earlier load.
    if crl.signer.get().is_some() { Ok(()) } else { Err(why) }
}

/// Sorts the CRLs of one name, the newest first, and drops those that a newer one with the same signer
/// and scope supersedes.
fn keep_newest(crls: &mut Vec<Arc<Crl>>, unused: &mut Vec<UnusedCrl>) {
    let mut newest: BTreeMap<(KeyDigest, Vec<u8>), Arc<Crl>> = BTreeMap::new();
    let mut waiting = Vec::new();
    for crl in crls.drain(..) {
        let Some(signer) = crl.signer.get() else {
            waiting.push(crl);
            continue;
        };
        let place = (*signer, crl.info.scope.encoded.clone());
        let (kept, older) = match newest.remove(&place) {
            Some(other) if other.is_newer_than(&crl) => (other, Some(crl)),
            // Of two that are equally new the last one counts: it has been appended.
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
