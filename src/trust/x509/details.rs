//! The details of a certificate that `probe` shows, and that guards compare.
//!
//! **Promises.** Text is returned as it is in the certificate. The caller escapes it before it writes it to a
//! terminal.
//!
//! **Not here.** The fields that decide anything (`x509.rs`).

use std::net::{Ipv4Addr, Ipv6Addr};

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use super::{Malformed, Timestamp, fingerprint, hexadecimal, malformed, parse, sans, serial};

/// The details of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Details {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    /// The names of the SAN: DNS names, IP addresses, URIs and mail addresses.
    pub(crate) names: Vec<String>,
    /// For example `ECDSA P-256` or `RSA 2048`.
    pub(crate) key: String,
    /// The serial number in hexadecimal, as openssl prints it.
    pub(crate) serial: String,
    /// The fingerprint of the whole certificate, in hexadecimal with colons, as openssl prints it.
    pub(crate) sha256: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// Parses the details of a certificate.
///
/// # Errors
/// If it is not X.509.
pub(crate) fn details(der: &CertificateDer<'_>) -> Result<Details, Malformed> {
    let certificate = parse(der)?;
    Ok(Details {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        names: names(&certificate),
        key: key(certificate.public_key()),
        serial: serial(certificate.raw_serial()),
        sha256: fingerprint(der, ":"),
        not_before: Timestamp(certificate.validity().not_before),
        not_after: Timestamp(certificate.validity().not_after),
    })
}

/// Returns the ID of the issuer's key in hexadecimal, if the certificate states it: RFC 5280 section 4.2.1.1.
pub(crate) fn issuer_key_id(der: &CertificateDer<'_>) -> Option<String> {
    let certificate = parse(der).ok()?;
    let id = certificate.iter_extensions().find_map(|extension| {
        let parsed = extension.parsed_extension();
        let ParsedExtension::AuthorityKeyIdentifier(id) = parsed else { return None };
        id.key_identifier.as_ref()
    });
    id.map(|id| hexadecimal(id.0, ""))
}

/// Returns an encoded name as text, for example one of the CA names in a request for a certificate.
///
/// # Errors
/// If it is not a name.
pub(crate) fn name(der: &[u8]) -> Result<String, Malformed> {
    match X509Name::from_der(der) {
        Ok((_, name)) => Ok(name.to_string()),
        Err(error) => Err(malformed(error)),
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => {
            Some((*text).to_owned())
        }
        GeneralName::IPAddress(bytes) => ip(bytes),
        GeneralName::OtherName(..)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    };
    sans(certificate).filter_map(name).collect()
}

fn ip(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).to_string());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|b| Ipv6Addr::from(b).to_string())).ok()
}

fn key(key: &SubjectPublicKeyInfo<'_>) -> String {
    let oid = key.algorithm.algorithm.to_id_string();
    let curve = || key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
        Ok(PublicKey::EC(_)) => match curve().map(|oid| oid.to_id_string()).as_deref() {
            Some("1.2.840.10045.3.1.7") => "ECDSA P-256".to_owned(),
            Some("1.3.132.0.34") => "ECDSA P-384".to_owned(),
            Some("1.3.132.0.35") => "ECDSA P-521".to_owned(),
            Some(other) => format!("ECDSA on the curve {other}"),
            None => "ECDSA".to_owned(),
        },
        _ => match oid.as_str() {
            "1.3.101.112" => "Ed25519".to_owned(),
            "1.3.101.113" => "Ed448".to_owned(),
            _ => format!("of the kind {oid}"),
        },
    }
}
