//! Parses CRLs: RFC 5280 section 5.
//!
//! **Promises.** A CRL is parsed to its last byte or rejected: nothing that is not understood is skipped.
//! Its entries are passed to the caller one by one, so that a list of a million needs no memory here.
//! A CRL that must not decide the status of a certificate (a delta CRL, an indirect CRL, one with an unknown
//! critical extension) is parsed, with the reason for which it cannot be used.
//!
//! **Not here.** The choice of the CRL for a certificate, the key that signed it (`revocation.rs`).

use std::fmt;

use x509_parser::asn1_rs::{Any, Class, Tag};
use x509_parser::extensions::{
    DistributionPointName, IssuingDistributionPoint, ParsedExtension, X509Extension,
};
use x509_parser::oid_registry::{
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_CRL_NUMBER,
    OID_X509_EXT_DELTA_CRL_INDICATOR, OID_X509_EXT_INVALIDITY_DATE,
    OID_X509_EXT_ISSUER_DISTRIBUTION_POINT, OID_X509_EXT_REASON_CODE,
};
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate, X509Name};
use x509_parser::revocation_list::RevokedCertificate;

use super::names::CanonicalName;
use super::signature::Signed;
use super::{Malformed, Timestamp};
use crate::text::one_line;

/// The CRL reason `removeFromCRL`, RFC 5280 section 5.3.1.
const REMOVE_FROM_CRL: u8 = 8;

/// Bytes of the shortest entry: a SEQUENCE with a serial number of one byte and a UTCTime of 13.
pub(crate) const MIN_ENTRY_BYTES: usize = 2 + 3 + 15;

/// The fields of a CRL other than its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CrlInfo {
    pub(crate) issuer: CanonicalName,
    /// The issuer as text, for logs.
    pub(crate) issuer_text: String,
    /// The authorityKeyIdentifier, if the CRL has one.
    pub(crate) key_id: Option<Vec<u8>>,
    /// cRLNumber, big-endian without leading zeros.
    pub(crate) number: Option<Vec<u8>>,
    pub(crate) this_update: Timestamp,
    pub(crate) next_update: Option<Timestamp>,
    pub(crate) scope: CrlScope,
    /// The reason for which it must not decide the status of a certificate, if there is one.
    pub(crate) unusable: Option<Unusable>,
}

/// The certificates that a CRL covers: RFC 5280 section 5.2.5.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CrlScope {
    /// The encoded extension; empty for a CRL that covers all of its issuer's certificates. A CRL supersedes
    /// another only if both have the same.
    pub(crate) encoded: Vec<u8>,
    only: CrlSubjects,
    /// The CRL covers certificates that name one of these distribution points.
    points: Option<Vec<Vec<u8>>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum CrlSubjects {
    #[default]
    All,
    Users,
    Cas,
}

/// A reason for which a CRL must not decide the status of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    Delta,
    Indirect,
    AttributeCertificates,
    SomeReasons,
    /// The scope is not understood.
    Scope,
    /// A critical extension of the list, by its OID.
    Extension(String),
    /// A critical extension of an entry, by its OID.
    EntryExtension(String),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Delta => "it is a delta CRL, and only complete CRLs are used",
            Self::Indirect => "it is an indirect CRL, which covers certificates of other issuers",
            Self::AttributeCertificates => "it covers only attribute certificates",
            Self::SomeReasons => "it covers only some reasons for revocation",
            Self::Scope => "its issuingDistributionPoint is not understood",
            Self::Extension(oid) => {
                return write!(f, "its critical extension {oid} is not understood");
            }
            Self::EntryExtension(oid) => {
                return write!(f, "an entry's critical extension {oid} is not understood");
            }
        })
    }
}

/// Parses a CRL, and passes the serial number of each certificate that it revokes to `revoked`.
///
/// # Errors
/// If it is not a CRL from its first byte to its last.
pub(crate) fn read(der: &[u8], mut revoked: impl FnMut(&[u8])) -> Result<CrlInfo, Malformed> {
    let signed = Signed::parse(der)?;
    let (i, _version) = optional(list(der, &signed)?, Tag::Integer)?;
    let (i, _algorithm) = content(i, Tag::Sequence)?;
    let (i, issuer) = X509Name::from_der(i).map_err(|_| malformed("its issuer is not a name"))?;
    let (i, this_update) =
        ASN1Time::from_der(i).map_err(|_| malformed("its thisUpdate is not a time"))?;
    let (i, next_update) = next_update(i)?;
    let (i, entries) = optional(i, Tag::Sequence)?;
    let mut info = CrlInfo {
        issuer: CanonicalName::of(&issuer),
        issuer_text: one_line(&issuer.to_string()).into_owned(),
        key_id: None,
        number: None,
        this_update: Timestamp(this_update),
        next_update,
        scope: CrlScope::default(),
        unusable: None,
    };
    read_extensions(i, &mut info)?;
    let mut rest = entries.unwrap_or_default();
    while !rest.is_empty() {
        rest = read_entry(rest, &mut info, &mut revoked)?;
    }
    Ok(info)
}

impl CrlScope {
    /// Returns whether the CRL covers a certificate of its issuer, which is a CA's or not and names some
    /// distribution points.
    pub(crate) fn covers(&self, is_ca: bool, named: impl FnOnce() -> Vec<Vec<u8>>) -> bool {
        let kind = match self.only {
            CrlSubjects::All => true,
            CrlSubjects::Users => !is_ca,
            CrlSubjects::Cas => is_ca,
        };
        let points = self.points.as_ref();
        kind && points.is_none_or(|points| named().iter().any(|point| points.contains(point)))
    }
}

/// Returns the content of the tbsCertList, checked to be of a known version and to name the algorithm of the
/// signature. `signed` is the same CRL.
fn list<'a>(der: &'a [u8], signed: &Signed<'_>) -> Result<&'a [u8], Malformed> {
    let (_, outer) = content(der, Tag::Sequence)?;
    let (rest, list) = content(outer, Tag::Sequence)?;
    content(rest, Tag::Sequence)?;
    let (inner, version) = optional(list, Tag::Integer)?;
    // Absent or 0: version 1, which openssl's smallest configuration makes. 1: version 2.
    if !matches!(version, None | Some([0 | 1])) {
        return Err(malformed("its version is not one of a CRL"));
    }
    // RFC 5280 section 5.1.1.2.
    if content(inner, Tag::Sequence)?.1 != signed.algorithm() {
        return Err(malformed("it names two different signature algorithms"));
    }
    Ok(list)
}

fn next_update(i: &[u8]) -> Result<(&[u8], Option<Timestamp>), Malformed> {
    let is_time = |tag| matches!(tag, Tag::UtcTime | Tag::GeneralizedTime);
    if i.is_empty() || !is_time(any(i)?.1.tag()) {
        return Ok((i, None));
    }
    let (i, time) = ASN1Time::from_der(i).map_err(|_| malformed("its nextUpdate is not a time"))?;
    Ok((i, Some(Timestamp(time))))
}

fn read_extensions(rest: &[u8], info: &mut CrlInfo) -> Result<(), Malformed> {
    if rest.is_empty() {
        return Ok(());
    }
    let (after, wrapper) = any(rest)?;
    if !after.is_empty() || (wrapper.class(), wrapper.tag()) != (Class::ContextSpecific, Tag(0)) {
        return Err(malformed("its list of entries or its extensions are not well-formed"));
    }
    let (after, mut extensions) = content(wrapper.data, Tag::Sequence)?;
    if !after.is_empty() {
        return Err(malformed("bytes follow its extensions"));
    }
    while !extensions.is_empty() {
        let (after, extension) = X509Extension::from_der(extensions)
            .map_err(|_| malformed("an extension is not well-formed"))?;
        read_extension(&extension, info)?;
        extensions = after;
    }
    Ok(())
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "extensions that are not critical need not be known"
)]
fn read_extension(extension: &X509Extension<'_>, info: &mut CrlInfo) -> Result<(), Malformed> {
    let oid = &extension.oid;
    match extension.parsed_extension() {
        ParsedExtension::CRLNumber(number) => info.number = Some(number.to_bytes_be()),
        ParsedExtension::AuthorityKeyIdentifier(key) => {
            info.key_id = key.key_identifier.as_ref().map(|id| id.0.to_vec());
        }
        ParsedExtension::IssuingDistributionPoint(point) => {
            extension.value.clone_into(&mut info.scope.encoded);
            read_scope(point, info);
        }
        _ if *oid == OID_X509_EXT_DELTA_CRL_INDICATOR => info.unusable = Some(Unusable::Delta),
        _ if *oid == OID_X509_EXT_ISSUER_DISTRIBUTION_POINT => {
            info.unusable = Some(Unusable::Scope);
        }
        _ if *oid == OID_X509_EXT_CRL_NUMBER => {
            return Err(malformed("its cRLNumber is not a number"));
        }
        // Without it, the signer is found by trying the keys.
        _ if *oid == OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER => {}
        _ if extension.critical => {
            let unknown = Unusable::Extension(oid.to_id_string());
            info.unusable.get_or_insert(unknown);
        }
        _ => {}
    }
    Ok(())
}

fn read_scope(point: &IssuingDistributionPoint<'_>, info: &mut CrlInfo) {
    let scope = &mut info.scope;
    scope.only = match (point.only_contains_user_certs, point.only_contains_ca_certs) {
        (false, false) => CrlSubjects::All,
        (true, false) => CrlSubjects::Users,
        (false, true) => CrlSubjects::Cas,
        (true, true) => {
            info.unusable = Some(Unusable::Scope);
            return;
        }
    };
    match &point.distribution_point {
        Some(DistributionPointName::FullName(names)) => {
            scope.points = Some(names.iter().filter_map(point_name).collect());
        }
        Some(DistributionPointName::NameRelativeToCRLIssuer(_)) => {
            info.unusable = Some(Unusable::Scope);
        }
        None => {}
    }
    let unusable = match () {
        () if point.indirect_crl => Unusable::Indirect,
        () if point.only_contains_attribute_certs => Unusable::AttributeCertificates,
        () if point.only_some_reasons.is_some() => Unusable::SomeReasons,
        // RFC 5280 section 5.2.5: it is never empty, so its fields were skipped.
        () if point.distribution_point.is_none() && scope.only == CrlSubjects::All => {
            Unusable::Scope
        }
        () => return,
    };
    info.unusable = Some(unusable);
}

/// Returns the bytes of a distribution point for comparison; none for the other forms of a name.
#[expect(clippy::wildcard_enum_match_arm, reason = "no CA uses the other forms")]
fn point_name(name: &GeneralName<'_>) -> Option<Vec<u8>> {
    match name {
        GeneralName::URI(uri) => Some(uri.as_bytes().to_vec()),
        GeneralName::DirectoryName(name) => Some(name.as_raw().to_vec()),
        _ => None,
    }
}

/// Returns the names of the CRL distribution points in a certificate: RFC 5280 section 4.2.1.13.
pub(super) fn certificate_points(certificate: &X509Certificate<'_>) -> Vec<Vec<u8>> {
    let extensions = certificate.iter_extensions();
    let points = extensions.filter_map(|extension| {
        let parsed = extension.parsed_extension();
        let ParsedExtension::CRLDistributionPoints(points) = parsed else { return None };
        Some(&points.points)
    });
    let names = points.flatten().filter_map(|point| match &point.distribution_point {
        Some(DistributionPointName::FullName(names)) => Some(names),
        Some(DistributionPointName::NameRelativeToCRLIssuer(_)) | None => None,
    });
    names.flatten().filter_map(point_name).collect()
}

/// Parses the entry at the start of `i`, and returns the bytes after it.
fn read_entry<'a>(
    i: &'a [u8],
    info: &mut CrlInfo,
    revoked: &mut impl FnMut(&[u8]),
) -> Result<&'a [u8], Malformed> {
    let (rest, entry) = content(i, Tag::Sequence)?;
    let (after, serial) = content(entry, Tag::Integer)?;
    let (after, _date) = any(after)?;
    if serial.is_empty() {
        return Err(malformed("an entry's serial number is empty"));
    }
    if after.is_empty() {
        revoked(serial);
        return Ok(rest);
    }
    let (_, whole) = RevokedCertificate::from_der(i)
        .map_err(|_| malformed("an entry's extensions are not well-formed"))?;
    for extension in whole.extensions() {
        let known = extension.oid == OID_X509_EXT_REASON_CODE
            || extension.oid == OID_X509_EXT_INVALIDITY_DATE;
        if extension.critical && !known {
            let unknown = Unusable::EntryExtension(extension.oid.to_id_string());
            info.unusable.get_or_insert(unknown);
        }
    }
    // removeFromCRL withdraws an entry of an earlier list. OpenSSL applies it in complete CRLs as well.
    if whole.reason_code().is_none_or(|(_, reason)| reason.0 != REMOVE_FROM_CRL) {
        revoked(serial);
    }
    Ok(rest)
}

fn any(i: &[u8]) -> Result<(&[u8], Any<'_>), Malformed> {
    Any::from_der(i).map_err(|_| malformed("its DER is cut short or damaged"))
}

/// Returns the bytes after the element at the start of `i`, and the content of the element.
fn content(i: &[u8], tag: Tag) -> Result<(&[u8], &[u8]), Malformed> {
    let (rest, element) = any(i)?;
    if (element.class(), element.tag()) != (Class::Universal, tag) {
        return Err(malformed("its DER does not have the structure of a CRL"));
    }
    Ok((rest, element.data))
}

/// Does the same for an optional element.
fn optional(i: &[u8], tag: Tag) -> Result<(&[u8], Option<&[u8]>), Malformed> {
    match i.first() {
        Some(_) if any(i)?.1.tag() == tag && any(i)?.1.class() == Class::Universal => {
            content(i, tag).map(|(rest, content)| (rest, Some(content)))
        }
        _ => Ok((i, None)),
    }
}

fn malformed(what: &str) -> Malformed {
    Malformed(what.to_owned())
}
