//! The contents of certificates and CRLs.
//!
//! **Promises.** Errors are sentences for operators, not the parser's debug text. Text of a certificate is on
//! one line.
//!
//! **Not here.** The verification of client certificates (`certs/verifier.rs`), the path to a CA
//! (`x509/path.rs`), the details that only `probe` shows (`x509/details.rs`).

pub(crate) mod certificate;
mod constraints;
pub(crate) mod crl;
pub(crate) mod details;
mod known_signatures;
pub(crate) mod names;
pub(crate) mod path;
pub(crate) mod signature;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::SystemTime;

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::error::X509Error;
use x509_parser::nom;
use x509_parser::oid_registry::{
    OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519, OID_X509_SERIALNUMBER,
};
use x509_parser::prelude::{
    ASN1Time, AttributeTypeAndValue, FromDer, GeneralName, ParsedExtension, X509Certificate,
};

use self::names::CanonicalName;
use super::digest::sha256;
use crate::terms::labels::KeyKind;
use crate::text::one_line;
use crate::time::unix_seconds;

/// The reason for which bytes are not valid X.509.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(String);

/// The information about a certificate that is used for its choice, logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertInfo {
    /// Lower-case DNS names of the SAN, with wildcards unchanged; without any, the subject's CN.
    pub(crate) names: Vec<String>,
    /// The subject as text.
    pub(crate) subject_text: String,
    /// The issuer as text.
    pub(crate) issuer_text: String,
    /// The serial number in hexadecimal, as openssl prints it.
    pub(crate) serial: String,
    pub(crate) key: KeyKind,
    /// 1, 2 or 3.
    pub(crate) version: u32,
    /// The encoded SubjectPublicKeyInfo.
    pub(crate) public_key: Vec<u8>,
    /// Subject and issuer have the same name: RFC 5280 section 6.1.
    pub(crate) is_self_issued: bool,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// A time of X.509, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(ASN1Time);

impl Timestamp {
    /// Converts Unix time in seconds. Later times than X.509 can encode become the last one.
    pub(crate) fn from_unix(seconds: u64) -> Self {
        const LAST: i64 = 253_402_300_799;
        let seconds = i64::try_from(seconds).unwrap_or(LAST).min(LAST);
        Self(ASN1Time::from_timestamp(seconds).expect("X.509 can encode the years up to 9999"))
    }

    /// Returns Unix time in seconds, negative before 1970.
    pub(crate) fn timestamp(self) -> i64 {
        self.0.timestamp()
    }

    /// Returns whether a validity that begins at this time has begun at `now`. Both ends of a validity belong
    /// to it: RFC 5280 section 4.1.2.5.
    pub(crate) fn has_begun(self, now: SystemTime) -> bool {
        self.timestamp() <= unix_seconds(now)
    }

    /// Returns whether a validity that ends at this time has ended at `now`, after its second by the same rule.
    pub(crate) fn has_passed(self, now: SystemTime) -> bool {
        self.timestamp() < unix_seconds(now)
    }
}

impl std::fmt::Display for Timestamp {
    /// Writes the time as in RFC 3339, in UTC.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Some certificates have a UTC offset, although RFC 5280 section 4.1.2.5 forbids it.
        let in_utc = ASN1Time::from_timestamp(self.timestamp()).unwrap_or(self.0);
        let time = in_utc.to_datetime();
        let (year, month, day) = time.to_calendar_date();
        let (hour, minute, second) = time.to_hms();
        let month = u8::from(month);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// Parses the information of a certificate.
///
/// # Errors
/// If it is not X.509.
pub(crate) fn cert_info(der: &CertificateDer<'_>) -> Result<CertInfo, Malformed> {
    parse(der).map(|certificate| CertInfo::of(&certificate))
}

impl CertInfo {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let (subject, issuer) = (certificate.subject(), certificate.issuer());
        let mut names: Vec<_> = sans(certificate)
            .filter_map(|name| {
                let GeneralName::DNSName(name) = name else { return None };
                Some(name.to_ascii_lowercase())
            })
            .collect();
        if names.is_empty() {
            let common_names = subject.iter_common_name();
            names.extend(common_names.filter_map(text).map(|name| name.to_ascii_lowercase()));
        }
        Self {
            names,
            subject_text: one_line(&subject.to_string()).into_owned(),
            issuer_text: one_line(&issuer.to_string()).into_owned(),
            serial: serial(certificate.raw_serial()),
            key: key_kind(certificate),
            version: certificate.version().0.saturating_add(1),
            public_key: certificate.public_key().raw.to_vec(),
            is_self_issued: CanonicalName::of(subject) == CanonicalName::of(issuer),
            not_before: Timestamp(certificate.validity().not_before),
            not_after: Timestamp(certificate.validity().not_after),
        }
    }
}

/// The information about a client's certificate.
pub(crate) struct ClientCertInfo {
    /// The URIs of the SAN, then its DNS names, then the subject's common names, all unchanged. Without
    /// any, the subject's serialNumber: IEEE 802.1AR identifies devices by it.
    pub(crate) names: Vec<(NameKind, String)>,
    /// The subject's organizational units, unchanged.
    pub(crate) units: Vec<String>,
    /// The SHA-256 of the encoded SubjectPublicKeyInfo.
    pub(crate) key: [u8; 32],
    pub(crate) not_after: Timestamp,
}

/// The place of a name in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameKind {
    Uri,
    Dns,
    CommonName,
    SerialNumber,
}

/// Parses the information of a client's certificate.
///
/// # Errors
/// If it is not X.509.
pub(crate) fn client_cert_info(der: &CertificateDer<'_>) -> Result<ClientCertInfo, Malformed> {
    Ok(ClientCertInfo::of(&parse(der)?))
}

impl ClientCertInfo {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let subject = certificate.subject();
        let sans: Vec<_> = sans(certificate).collect();
        let uris = sans.iter().filter_map(|name| {
            let GeneralName::URI(uri) = name else { return None };
            Some((NameKind::Uri, (*uri).to_owned()))
        });
        let dns = sans.iter().filter_map(|name| {
            let GeneralName::DNSName(dns) = name else { return None };
            Some((NameKind::Dns, (*dns).to_owned()))
        });
        let common_names = subject.iter_common_name().filter_map(text);
        let common_names = common_names.map(|name| (NameKind::CommonName, name));
        let mut names: Vec<_> = uris.chain(dns).chain(common_names).collect();
        if names.iter().all(|(_, name)| name.is_empty()) {
            let serial_numbers = subject.iter_by_oid(&OID_X509_SERIALNUMBER).filter_map(text);
            names.extend(serial_numbers.map(|name| (NameKind::SerialNumber, name)));
        }
        Self {
            names,
            units: subject.iter_organizational_unit().filter_map(text).collect(),
            key: sha256(certificate.public_key().raw),
            not_after: Timestamp(certificate.validity().not_after),
        }
    }
}

/// Returns the text of an attribute of a name.
fn text(part: &AttributeTypeAndValue<'_>) -> Option<String> {
    names::text(part.attr_value()).map(Cow::into_owned)
}

fn sans<'a>(certificate: &'a X509Certificate<'a>) -> impl Iterator<Item = &'a GeneralName<'a>> {
    let extensions = certificate.iter_extensions();
    let sans = extensions.filter_map(|extension| {
        let parsed = extension.parsed_extension();
        let ParsedExtension::SubjectAlternativeName(san) = parsed else { return None };
        Some(&san.general_names)
    });
    sans.flatten()
}

/// Returns the kind of the certificate's key: RFC 3279 section 2.3, RFC 8410 section 3.
fn key_kind(certificate: &X509Certificate<'_>) -> KeyKind {
    let algorithm = &certificate.public_key().algorithm.algorithm;
    match () {
        () if *algorithm == OID_PKCS1_RSAENCRYPTION => KeyKind::Rsa,
        () if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY => KeyKind::Ecdsa,
        () if *algorithm == OID_SIG_ED25519 => KeyKind::Ed25519,
        () => KeyKind::Other,
    }
}

/// Returns whether `issuer` issued `certificate`: by name and, if the algorithm is known, by signature.
///
/// # Errors
/// If one of them is not X.509.
pub(crate) fn is_issued_by(
    certificate: &CertificateDer<'_>,
    issuer: &CertificateDer<'_>,
) -> Result<bool, Malformed> {
    let (certificate, issuer) = (parse(certificate)?, parse(issuer)?);
    if CanonicalName::of(certificate.issuer()) != CanonicalName::of(issuer.subject()) {
        return Ok(false);
    }
    Ok(match certificate.verify_signature(Some(issuer.public_key())) {
        Ok(()) | Err(X509Error::SignatureUnsupportedAlgorithm) => true,
        Err(_) => false,
    })
}

/// Returns the SHA-256 of a whole certificate in hexadecimal, with `between` between the bytes.
pub(crate) fn fingerprint(der: &CertificateDer<'_>, between: &str) -> String {
    hexadecimal(&sha256(der), between)
}

/// Formats a serial number without the zero byte that DER puts before a number whose first bit is set.
pub(super) fn serial(bytes: &[u8]) -> String {
    match bytes {
        [0, rest @ ..] if !rest.is_empty() => hexadecimal(rest, ""),
        _ => hexadecimal(bytes, ""),
    }
}

fn hexadecimal(bytes: &[u8], between: &str) -> String {
    let mut digits = String::with_capacity(bytes.len() * (2 + between.len()));
    for (place, byte) in bytes.iter().enumerate() {
        let before = if place == 0 { "" } else { between };
        // Writing to a string cannot fail.
        let _written = write!(digits, "{before}{byte:02X}");
    }
    digits
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Malformed> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(Malformed("bytes follow the end of the certificate".to_owned())),
        Err(error) => Err(malformed(error)),
    }
}

/// Describes a parser's error for operators: its own text is made for programmers.
fn malformed(error: nom::Err<X509Error>) -> Malformed {
    #[expect(clippy::wildcard_enum_match_arm, reason = "x509-parser describes its other errors")]
    let text = match error {
        nom::Err::Incomplete(_) => "it is truncated".to_owned(),
        nom::Err::Error(error) | nom::Err::Failure(error) => match error {
            X509Error::Der(_) | X509Error::NomError(_) | X509Error::Generic => {
                "its DER is truncated or damaged".to_owned()
            }
            other => other.to_string(),
        },
    };
    Malformed(text)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_timestamp_is_printed_as_in_rfc_3339() {
        let time = Timestamp(ASN1Time::from_timestamp(1_830_297_600).unwrap());
        assert_eq!(time.to_string(), "2028-01-01T00:00:00Z");
    }

    #[test]
    fn a_validity_holds_in_its_first_and_in_its_last_second() {
        let time = Timestamp(ASN1Time::from_timestamp(1_000).unwrap());
        let at = |milliseconds| UNIX_EPOCH + Duration::from_millis(milliseconds);
        let begun = [999_999, 1_000_000, 1_000_999].map(|now| time.has_begun(at(now)));
        assert_eq!(begun, [false, true, true]);
        let passed = [1_000_000, 1_000_999, 1_001_000].map(|now| time.has_passed(at(now)));
        assert_eq!(passed, [false, false, true]);
    }
}
