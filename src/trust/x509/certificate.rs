//! A certificate as a part of a certification path: RFC 5280 section 4.
//!
//! **Promises.** What cannot be read is refused, not skipped: an extension that decides what the
//! certificate may do, an extension that is there twice, a part of its name constraints.
//!
//! **Not here.** Which path it is part of (`path.rs`), which names it may have (`constraints.rs`).

use std::time::Duration;

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{CertificateError, ExtendedKeyPurpose};
use x509_parser::asn1_rs::Any;
use x509_parser::extensions::NameConstraints;
use x509_parser::prelude::{
    ExtendedKeyUsage, FromDer, ParsedExtension, X509Certificate, X509Extension, X509Version,
};

use super::crl::CrlScope;
use super::names::CanonicalName;
use super::signature::{PublicKey, Signed};
use super::{CertInfo, Malformed, Timestamp, malformed};

/// A certificate, with what a certification path needs of it.
#[derive(Debug)]
pub(crate) struct Certificate<'a> {
    pub(super) parsed: X509Certificate<'a>,
    pub(super) subject: CanonicalName,
    pub(super) issuer: CanonicalName,
    pub(super) key: PublicKey<'a>,
    pub(super) signed: Signed<'a>,
    pub(super) extensions: CertExtensions<'a>,
}

/// The extensions that decide what a certificate may do; none of version 1 has any.
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

/// What basicConstraints has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Basic {
    pub(super) ca: bool,
    pub(super) max_path: Option<u32>,
}

/// What keyUsage allows.
#[derive(Clone, Copy, Debug)]
struct Usage {
    signs_certificates: bool,
    signs_crls: bool,
    authenticates: bool,
}

/// What extKeyUsage allows.
#[derive(Debug)]
struct Purposes {
    client_auth: bool,
    all: Vec<ExtendedKeyPurpose>,
}

impl<'a> Certificate<'a> {
    /// Reads a certificate.
    ///
    /// # Errors
    /// If it is not X.509 to its last byte, or an extension that decides what it may do cannot be
    /// read.
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, Malformed> {
        let signed = Signed::parse(der)?;
        let (_, parsed) = X509Certificate::from_der(der).map_err(malformed)?;
        if parsed.signature_algorithm != parsed.tbs_certificate.signature {
            return Err(Malformed("it names two signature algorithms".to_owned()));
        }
        if parsed.version() != X509Version::V3 && !parsed.extensions().is_empty() {
            return Err(Malformed("it has extensions, which only version 3 has".to_owned()));
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

    /// Whether it is of version 1 or 2, which have no extensions.
    pub(crate) fn is_old(&self) -> bool {
        self.parsed.version() != X509Version::V3
    }

    /// The public key of its subject.
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
        scope.covers(&self.parsed)
    }

    /// Returns the encoded SubjectPublicKeyInfo.
    pub(crate) const fn key_der(&self) -> &'a [u8] {
        self.parsed.tbs_certificate.subject_pki.raw
    }

    /// Whether subject and issuer have the same name: RFC 5280 section 6.1, "self-issued".
    pub(super) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether it says that it is a CA, and its key is not kept from signing certificates.
    pub(super) fn is_ca(&self) -> bool {
        self.extensions.basic.is_some_and(|basic| basic.ca)
            && self.extensions.usage.is_none_or(|usage| usage.signs_certificates)
    }

    /// Whether its keyUsage says that its key signs certificates.
    pub(super) fn signs_certificates(&self) -> Option<bool> {
        self.extensions.usage.map(|usage| usage.signs_certificates)
    }

    /// Whether its keyUsage lets its key sign a handshake: RFC 8446 section 4.4.2.3.
    pub(super) fn may_authenticate(&self) -> bool {
        self.extensions.usage.is_none_or(|usage| usage.authenticates)
    }

    /// Checks that it is valid at this time.
    pub(super) fn check_validity(&self, now: UnixTime) -> Result<(), CertificateError> {
        let validity = self.parsed.validity();
        let unix = |moment: Timestamp| {
            let seconds = u64::try_from(moment.timestamp()).unwrap_or(0);
            UnixTime::since_unix_epoch(Duration::from_secs(seconds))
        };
        let (not_before, not_after) =
            (unix(Timestamp(validity.not_before)), unix(Timestamp(validity.not_after)));
        if now < not_before {
            return Err(CertificateError::NotValidYetContext { time: now, not_before });
        }
        if now > not_after {
            return Err(CertificateError::ExpiredContext { time: now, not_after });
        }
        Ok(())
    }

    /// Checks that its extKeyUsage does not keep it from clients: it, or what it has issued, is one.
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

    /// Checks that every critical extension has been processed: RFC 5280 section 4.2.
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
            // Read where a name is needed.
            ParsedExtension::SubjectAlternativeName(_) => {}
            ParsedExtension::SubjectKeyIdentifier(id) => self.own_key_id = Some(id.0),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.issuer_key_id = id.key_identifier.as_ref().map(|id| id.0);
            }
            ParsedExtension::ParseError { error } if decides(extension) => {
                return Err(Malformed(format!("its extension {}: {error}", extension.oid)));
            }
            // Neither narrows what a certificate may do: a distribution point, and policies where any of
            // them will do (RFC 5280 section 6.1.1 (c)).
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

/// Whether an extension decides what a certificate may do, so that it must not be skipped: those of
/// `2.5.29` for key usage, names, constraints and purposes.
fn decides(extension: &X509Extension<'_>) -> bool {
    let deciding = [15, 17, 19, 30, 37].map(|last| [0x55, 0x1d, last]);
    extension.critical || deciding.iter().any(|oid| extension.oid.as_bytes() == oid)
}

/// Name constraints of which every part was understood: x509-parser drops what it cannot read.
fn whole<'a>(
    constraints: &NameConstraints<'a>,
    value: &'a [u8],
) -> Result<NameConstraints<'a>, Malformed> {
    let bad = || Malformed("its name constraints cannot be read".to_owned());
    let (behind, sequence) = Any::from_der(value).map_err(|_| bad())?;
    let (mut rest, mut parts) = (sequence.data, 0);
    while !rest.is_empty() {
        (rest, _) = Any::from_der(rest).map_err(|_| bad())?;
        parts += 1;
    }
    let lists = [&constraints.permitted_subtrees, &constraints.excluded_subtrees];
    let understood = lists.into_iter().flatten().count();
    // RFC 5280 section 4.2.1.10: it is no empty sequence.
    if !behind.is_empty() || parts == 0 || parts != understood {
        return Err(bad());
    }
    Ok(constraints.clone())
}
