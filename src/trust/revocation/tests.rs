//! Tests with CRLs of every kind, encoded here if no library makes them.
//!
//! **Not here.** The same over a socket: tests/crls.rs.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SerialNumber,
    SigningKey,
};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::*;

/// A DER element of less than 64 KiB.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let length = match content.len() {
        0..=127 => vec![length[1]],
        128..=255 => vec![0x81, length[1]],
        _ => vec![0x82, length[0], length[1]],
    };
    [vec![tag], length, content].concat()
}

const SEQUENCE: u8 = 0x30;
const ECDSA_WITH_SHA256: [u8; 12] =
    [SEQUENCE, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// An extension of id-ce.
fn extension(number: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    der(SEQUENCE, &[&[6, 3, 0x55, 0x1d, number], critical, &der(4, &[value])])
}

fn entry(serial: u8, extensions: &[Vec<u8>]) -> Vec<u8> {
    let date = der(0x17, &[b"250101000000Z"]);
    let extensions = match extensions {
        [] => Vec::new(),
        some => der(SEQUENCE, &some.iter().map(Vec::as_slice).collect::<Vec<_>>()),
    };
    der(SEQUENCE, &[&der(2, &[&[serial]]), &date, &extensions])
}

/// The wished contents of a CRL.
#[derive(Default)]
struct Wish {
    v1: bool,
    entries: Vec<Vec<u8>>,
    extensions: Vec<Vec<u8>>,
}

/// A CA that makes CRLs of every kind.
struct CrlCa {
    params: CertificateParams,
    key: KeyPair,
}

impl CrlCa {
    fn new(usages: Vec<KeyUsagePurpose>) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "devices");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = usages;
        Self { params, key: KeyPair::generate().unwrap() }
    }

    fn certificate(&self) -> CertificateDer<'static> {
        self.params.self_signed(&self.key).unwrap().der().clone()
    }

    fn issues(&self, serial: u8, is_ca: IsCa) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["device".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(vec![serial]));
        params.is_ca = is_ca;
        let issuer = rcgen::Issuer::new(self.params.clone(), &self.key);
        params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone()
    }

    fn crl(&self, wish: &Wish) -> CertificateRevocationListDer<'static> {
        let name = der(0x0c, &[b"devices"]);
        let name = der(SEQUENCE, &[&der(0x31, &[&der(SEQUENCE, &[&[6, 3, 0x55, 4, 3], &name])])]);
        let version: &[u8] = if wish.v1 { &[] } else { &[2, 1, 1] };
        let (this, next) = (der(0x17, &[b"250101000000Z"]), der(0x17, &[b"480101000000Z"]));
        let list = |parts: &[Vec<u8>]| match parts {
            [] => Vec::new(),
            some => der(SEQUENCE, &some.iter().map(Vec::as_slice).collect::<Vec<_>>()),
        };
        let extensions = match &wish.extensions[..] {
            [] => Vec::new(),
            some => der(0xa0, &[&list(some)]),
        };
        let entries = list(&wish.entries);
        let parts = [version, &ECDSA_WITH_SHA256, &name, &this, &next, &entries, &extensions];
        let signed = der(SEQUENCE, &parts);
        let signature = self.key.sign(&signed).unwrap();
        let signature = der(3, &[&[0], &signature]);
        der(SEQUENCE, &[&signed, &ECDSA_WITH_SHA256, &signature]).into()
    }

    /// Returns the status of the certificate with the serial number 7, and the reasons for which CRLs are unused.
    fn status(
        &self,
        wishes: &[Wish],
        leaf: IsCa,
    ) -> (Result<(), CertificateError>, Vec<UnusedReason>) {
        let crls = wishes.iter().map(|wish| self.crl(wish));
        let crls = crls.map(|crl| Arc::new(Crl::read(Path::new("crl"), 1, crl).unwrap()));
        let (certificate, ca) = (self.issues(7, leaf), self.certificate());
        let anchor = Arc::new(Anchor::of_any(&ca).unwrap());
        let algorithms = default_provider().signature_verification_algorithms.all;
        let (revocation, unused) =
            Revocation::new(crls, &[Arc::clone(&anchor)], CrlRules::default(), algorithms);
        let unused = unused.into_iter().map(|unused| unused.reason).collect();
        (
            revocation.check(
                &Certificate::parse(&certificate).unwrap(),
                &[],
                &anchor,
                UnixTime::now(),
            ),
            unused,
        )
    }
}

fn ca() -> CrlCa {
    CrlCa::new(vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign])
}

fn number(number: u8) -> Vec<u8> {
    extension(20, false, &[2, 1, number])
}

const UNKNOWN: Result<(), CertificateError> = Err(CertificateError::UnknownRevocationStatus);
const REVOKED: Result<(), CertificateError> = Err(CertificateError::Revoked);

#[test]
fn a_crl_of_version_1_counts() {
    let crl = |serial| Wish { v1: true, entries: vec![entry(serial, &[])], ..Wish::default() };
    assert_eq!(ca().status(&[crl(7)], IsCa::NoCa), (REVOKED, vec![]));
    assert_eq!(ca().status(&[crl(8)], IsCa::NoCa), (Ok(()), vec![]));
}

#[test]
fn an_incomplete_crl_does_not_count_and_is_reported() {
    let list = |extensions| Wish { extensions, ..Wish::default() };
    let scope = |content: &[u8]| vec![extension(28, true, &der(SEQUENCE, &[content]))];
    let cases = [
        (list(vec![extension(27, true, &[2, 1, 1])]), Unusable::Delta),
        (list(scope(&[0x84, 1, 0xff])), Unusable::Indirect),
        (list(scope(&[0x85, 1, 0xff])), Unusable::AttributeCertificates),
        (list(scope(&[0x83, 2, 1, 0x40])), Unusable::SomeReasons),
        (list(scope(&[])), Unusable::Scope),
        (list(vec![extension(99, true, &[5, 0])]), Unusable::Extension("2.5.29.99".to_owned())),
    ];
    for (wish, unusable) in cases {
        let unused = vec![UnusedReason::Unusable(unusable)];
        assert_eq!(ca().status(&[wish], IsCa::NoCa), (UNKNOWN, unused));
    }
    let entries = vec![entry(8, &[extension(29, true, &[SEQUENCE, 0])])];
    let unused = vec![UnusedReason::Unusable(Unusable::EntryExtension("2.5.29.29".to_owned()))];
    let wish = Wish { entries, ..Wish::default() };
    assert_eq!(ca().status(&[wish], IsCa::NoCa), (UNKNOWN, unused));
}

#[test]
fn a_crl_of_devices_only_does_not_cover_cas_and_vice_versa() {
    let about = |tag| Wish {
        extensions: vec![extension(28, true, &der(SEQUENCE, &[&[tag, 1, 0xff]])), number(1)],
        ..Wish::default()
    };
    let (devices, cas) = (0x81, 0x82);
    let a_ca = || IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(ca().status(&[about(devices)], IsCa::NoCa).0, Ok(()));
    assert_eq!(ca().status(&[about(cas)], IsCa::NoCa).0, UNKNOWN);
    assert_eq!(ca().status(&[about(devices)], a_ca()).0, UNKNOWN);
    assert_eq!(ca().status(&[about(cas)], a_ca()).0, Ok(()));
    // Neither supersedes the other.
    assert_eq!(ca().status(&[about(cas), about(devices)], IsCa::NoCa), (Ok(()), vec![]));
}

#[test]
fn an_entry_with_remove_from_crl_does_not_revoke() {
    let because = |reason| vec![entry(7, &[extension(21, false, &[0x0a, 1, reason])])];
    let crl = |reason| Wish { entries: because(reason), ..Wish::default() };
    assert_eq!(ca().status(&[crl(1)], IsCa::NoCa).0, REVOKED);
    assert_eq!(ca().status(&[crl(8)], IsCa::NoCa).0, Ok(()));
}

#[test]
fn a_ca_without_the_key_usage_signs_no_crl() {
    let ca = CrlCa::new(vec![KeyUsagePurpose::KeyCertSign]);
    let wish = || Wish { extensions: vec![number(1)], ..Wish::default() };
    assert_eq!(ca.status(&[wish()], IsCa::NoCa), (UNKNOWN, vec![UnusedReason::KeyUsage]));
}

#[test]
fn the_larger_number_is_newer_at_any_length() {
    let crl = |number: &[u8], serial| Wish {
        extensions: vec![extension(20, false, &der(2, &[number]))],
        entries: vec![entry(serial, &[])],
        ..Wish::default()
    };
    let counted =
        |result: (Result<(), CertificateError>, Vec<UnusedReason>)| (result.0, result.1.len());
    let (small, large) = (|serial| crl(&[0x7f], serial), |serial| crl(&[1, 0], serial));
    assert_eq!(counted(ca().status(&[large(7), small(8)], IsCa::NoCa)), (REVOKED, 1));
    assert_eq!(counted(ca().status(&[small(7), large(8)], IsCa::NoCa)), (Ok(()), 1));
}

#[test]
fn a_truncated_crl_or_one_with_trailing_bytes_is_refused() {
    let whole = ca().crl(&Wish { entries: vec![entry(7, &[]); 3], ..Wish::default() });
    let read = |bytes: &[u8]| Crl::read(Path::new("crl"), 1, bytes.to_vec().into()).is_ok();
    assert!(read(&whole));
    for length in 0..whole.len() {
        assert!(!read(&whole[..length]), "{length} bytes");
    }
    assert!(!read(&[&whole, &[0][..]].concat()));
}

#[test]
fn a_damaged_entry_is_not_skipped() {
    // An entry without a date, and one with the wrong tag.
    let entries = [der(SEQUENCE, &[&[2, 1, 7]]), der(4, &[&[2, 1, 7]])];
    for entry in entries {
        let crl = ca().crl(&Wish { entries: vec![entry], ..Wish::default() });
        assert!(Crl::read(Path::new("crl"), 1, crl).is_err());
    }
}
