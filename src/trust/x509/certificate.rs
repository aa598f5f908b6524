//! A certificate as a part of a certification path: RFC 5280 section 4.
//!
//! **Promises.** A part that cannot be parsed is an error if it restricts the certificate: an extension that
//! decides its use, a duplicate extension, a part of its name constraints. It is never skipped.
//!
//! **Not here.** The path (`path.rs`), the comparison of names with constraints (`constraints.rs`).

use std::time::Duration;

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{CertificateError, ExtendedKeyPurpose};
use x509_parser::asn1_rs::Any;
use x509_parser::extensions::NameConstraints;
use x509_parser::prelude::{
    ExtendedKeyUsage, FromDer, ParsedExtension, X509Certificate, X509Extension, X509Version,
};

use super::crl::{self, CrlScope};
use super::names::CanonicalName;
use super::signature::{PublicKey, Signed};
use super::{CertInfo, ClientCertInfo, Malformed, Timestamp, malformed};

/// A parsed certificate, with the fields that a certification path needs.
#[derive(Debug)]
pub(crate) struct Certificate<'a> {
    pub(super) parsed: X509Certificate<'a>,
    pub(super) subject: CanonicalName,
    pub(super) issuer: CanonicalName,
    pub(super) key: PublicKey<'a>,
    pub(super) signed: Signed<'a>,
    pub(super) extensions: CertExtensions<'a>,
}

/// The time at which certificates are verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VerificationTime {
    pub(crate) now: UnixTime,
    /// A certificate that has expired is accepted.
    pub(crate) accepts_expired: bool,
}

impl From<UnixTime> for VerificationTime {
    fn from(now: UnixTime) -> Self {
        Self { now, accepts_expired: false }
    }
}

/// The extensions that decide the use of a certificate; version 1 has none.
#[derive(Debug, Default)]
pub(super) struct CertExtensions<'a> {
    /// RFC 5280 section 4.2.1.9.
    pub(super) basic: Option<Basic>,
    /// The bits of RFC 5280 section 4.2.1.3.
    usage: Option<Usage>,
    /// RFC 5280 section 4.2.1.12.
    purposes: Option<Purposes>,
    /// RFC 5280 section 4.2.1.10.
    pub(super) constraints: Option<NameConstraints<'a>>,
    /// RFC 5280 section 4.2.1.2.
    pub(super) own_key_id: Option<&'a [u8]>,
    /// RFC 5280 section 4.2.1.1.
    pub(super) issuer_key_id: Option<&'a [u8]>,
    /// A critical extension that is not processed here.
    unhandled: bool,
}

/// The fields of basicConstraints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Basic {
    pub(super) ca: bool,
    pub(super) max_path: Option<u32>,
}

/// The uses that keyUsage permits.
#[derive(Clone, Copy, Debug)]
struct Usage {
    signs_certificates: bool,
    signs_crls: bool,
    authenticates: bool,
}

/// The purposes that extKeyUsage permits.
#[derive(Debug)]
struct Purposes {
    client_auth: bool,
    all: Vec<ExtendedKeyPurpose>,
}

impl<'a> Certificate<'a> {
    /// Parses a certificate.
    ///
    /// # Errors
    /// If it is not X.509 to its last byte, or an extension that decides its use cannot be parsed.
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, Malformed> {
        let signed = Signed::parse(der)?;
        let (_, parsed) = X509Certificate::from_der(der).map_err(malformed)?;
        if parsed.signature_algorithm != parsed.tbs_certificate.signature {
            return Err(Malformed("it names two signature algorithms".to_owned()));
        }
        if parsed.version() != X509Version::V3 && !parsed.extensions().is_empty() {
            return Err(Malformed("it has extensions, which only version 3 may have".to_owned()));
        }
        let twice = |_| Malformed("it has an extension twice".to_owned());
        parsed.tbs_certificate.extensions_map().map_err(twice)?;
        Ok(Self {
            subject: CanonicalName::of(parsed.subject()),
            issuer: CanonicalName::of(parsed.issuer()),
            key: PublicKey::parse(parsed.tbs_certificate.subject_pki.raw)?,
            extensions: CertExtensions::read(parsed.extensions())?,
            signed,
            parsed,
        })
    }

    /// Returns whether it is of version 1 or 2, which have no extensions.
    pub(crate) fn is_old(&self) -> bool {
        self.parsed.version() != X509Version::V3
    }

    /// Returns the public key of its subject.
    pub(crate) const fn key(&self) -> &PublicKey<'a> {
        &self.key
    }

    /// Returns the information about it for logs and metrics.
    pub(crate) fn info(&self) -> CertInfo {
        CertInfo::of(&self.parsed)
    }

    /// Returns the name of its issuer.
    pub(crate) const fn issuer(&self) -> &CanonicalName {
        &self.issuer
    }

    /// Returns the content of its serial number's INTEGER.
    pub(crate) fn serial(&self) -> &[u8] {
        self.parsed.raw_serial()
    }

    /// Returns whether its key may sign CRLs: RFC 5280 section 6.3.3 (f).
    pub(crate) fn signs_crls(&self) -> bool {
        self.extensions.usage.is_none_or(|usage| usage.signs_crls)
    }

    /// Returns whether a CRL of its issuer with this scope covers it.
    pub(crate) fn is_in(&self, scope: &CrlScope) -> bool {
        scope.covers(self.parsed.is_ca(), || self.crl_points())
    }

    /// Returns the names of its CRL distribution points.
    pub(crate) fn crl_points(&self) -> Vec<Vec<u8>> {
        crl::certificate_points(&self.parsed)
    }

    /// Returns the names and the validity of a client's certificate.
    pub(crate) fn client_info(&self) -> ClientCertInfo {
        ClientCertInfo::of(&self.parsed)
    }

    /// Returns the name of its subject.
    pub(crate) const fn subject(&self) -> &CanonicalName {
        &self.subject
    }

    /// Returns the encoded SubjectPublicKeyInfo.
    pub(crate) const fn key_der(&self) -> &'a [u8] {
        self.parsed.tbs_certificate.subject_pki.raw
    }

    /// Returns whether subject and issuer have the same name: RFC 5280 section 6.1, "self-issued".
    pub(super) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Returns whether its extensions state that it is a CA and permit its key to sign certificates.
    pub(super) fn is_ca(&self) -> bool {
        self.extensions.basic.is_some_and(|basic| basic.ca)
            && self.extensions.usage.is_none_or(|usage| usage.signs_certificates)
    }

    /// Returns whether its keyUsage permits signing certificates; none without that extension.
    pub(super) fn signs_certificates(&self) -> Option<bool> {
        self.extensions.usage.map(|usage| usage.signs_certificates)
    }

    /// Checks that its keyUsage, if it has one, permits signing a handshake: RFC 8446 section 4.4.2.2.
    ///
    /// # Errors
    /// `InvalidPurpose`, which nothing else returns.
    pub(super) fn check_usage(&self) -> Result<(), CertificateError> {
        let permits = self.extensions.usage.is_none_or(|usage| usage.authenticates);
        permits.then_some(()).ok_or(CertificateError::InvalidPurpose)
    }

    /// Returns the end of its validity.
    pub(crate) const fn not_after(&self) -> Timestamp {
        Timestamp(self.parsed.tbs_certificate.validity.not_after)
    }

    /// Checks that it is valid at this time.
    pub(super) fn check_validity(&self, at: VerificationTime) -> Result<(), CertificateError> {
        let VerificationTime { now, accepts_expired } = at;
        let validity = self.parsed.validity();
        let unix = |time: Timestamp| {
            let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
            UnixTime::since_unix_epoch(Duration::from_secs(seconds))
        };
        let (not_before, not_after) =
            (unix(Timestamp(validity.not_before)), unix(self.not_after()));
        if now < not_before {
            return Err(CertificateError::NotValidYetContext { time: now, not_before });
        }
        if now > not_after && !accepts_expired {
            return Err(CertificateError::ExpiredContext { time: now, not_after });
        }
        Ok(())
    }

    /// Checks that its extKeyUsage, if it has one, permits clients.
    pub(super) fn check_purpose(&self) -> Result<(), CertificateError> {
        match &self.extensions.purposes {
            Some(purposes) if !purposes.client_auth => {
                Err(CertificateError::InvalidPurposeContext {
                    required: ExtendedKeyPurpose::ClientAuth,
                    presented: purposes.all.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Checks that every critical extension is supported: RFC 5280 section 4.2.
    pub(super) const fn check_extensions(&self) -> Result<(), CertificateError> {
        if self.extensions.unhandled {
            return Err(CertificateError::UnhandledCriticalExtension);
        }
        Ok(())
    }
}

impl<'a> CertExtensions<'a> {
    fn read(all: &[X509Extension<'a>]) -> Result<Self, Malformed> {
        let mut read = Self::default();
        for extension in all {
            read.add(extension)?;
        }
        Ok(read)
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "an extension is unhandled unless it is known here"
    )]
    fn add(&mut self, extension: &X509Extension<'a>) -> Result<(), Malformed> {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(basic) => {
                self.basic = Some(Basic { ca: basic.ca, max_path: basic.path_len_constraint });
            }
            ParsedExtension::KeyUsage(usage) => {
                self.usage = Some(Usage {
                    signs_certificates: usage.key_cert_sign(),
                    signs_crls: usage.crl_sign(),
                    authenticates: usage.digital_signature() || usage.key_agreement(),
                });
            }
            ParsedExtension::ExtendedKeyUsage(usage) => self.purposes = Some(Purposes::of(usage)),
            ParsedExtension::NameConstraints(constraints) => {
                self.constraints = Some(whole(constraints, extension.value)?);
            }
            // Parsed later, when a name is needed.
            ParsedExtension::SubjectAlternativeName(_) => {}
            ParsedExtension::SubjectKeyIdentifier(id) => self.own_key_id = Some(id.0),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.issuer_key_id = id.key_identifier.as_ref().map(|id| id.0);
            }
            ParsedExtension::ParseError { error } if decides(extension) => {
                return Err(Malformed(format!("its extension {}: {error}", extension.oid)));
            }
            // Neither restricts a certificate: a distribution point, and policies when any policy is
            // accepted (RFC 5280 section 6.1.1 (c)).
            ParsedExtension::CRLDistributionPoints(_) | ParsedExtension::CertificatePolicies(_) => {
            }
            _ => self.unhandled |= extension.critical,
        }
        Ok(())
    }
}

impl Purposes {
    fn of(usage: &ExtendedKeyUsage<'_>) -> Self {
        let named = [
            (usage.client_auth, ExtendedKeyPurpose::ClientAuth),
            (usage.server_auth, ExtendedKeyPurpose::ServerAuth),
        ];
        let mut all: Vec<_> =
            named.into_iter().filter_map(|(listed, purpose)| listed.then_some(purpose)).collect();
        let arcs = usage.other.iter().filter_map(|oid| oid.iter());
        all.extend(arcs.map(|arcs| {
            ExtendedKeyPurpose::Other(arcs.map(|a| usize::try_from(a).unwrap_or(0)).collect())
        }));
        Self { client_auth: usage.client_auth, all }
    }
}

/// Returns whether an extension decides the use of a certificate, so that it must not be skipped: those of
/// `2.5.29` for key usage, names, constraints and purposes.
fn decides(extension: &X509Extension<'_>) -> bool {
    let deciding = [15, 17, 19, 30, 37].map(|last| [0x55, 0x1d, last]);
    extension.critical || deciding.iter().any(|oid| extension.oid.as_bytes() == oid)
}

/// Returns name constraints if all of their parts were parsed: x509-parser drops parts that it cannot parse.
fn whole<'a>(
    constraints: &NameConstraints<'a>,
    value: &'a [u8],
) -> Result<NameConstraints<'a>, Malformed> {
    let bad = || Malformed("its name constraints cannot be parsed".to_owned());
    let (behind, sequence) = Any::from_der(value).map_err(|_| bad())?;
    let (mut rest, mut parts) = (sequence.data, 0);
    while !rest.is_empty() {
        (rest, _) = Any::from_der(rest).map_err(|_| bad())?;
        parts += 1;
    }
    let lists = [&constraints.permitted_subtrees, &constraints.excluded_subtrees];
    let understood = lists.into_iter().flatten().count();
    // RFC 5280 section 4.2.1.10: the sequence is never empty.
    if !behind.is_empty() || parts == 0 || parts != understood {
        return Err(bad());
    }
    Ok(constraints.clone())
}
