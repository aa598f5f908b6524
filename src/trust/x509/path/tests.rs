//! Tests of paths, with generated certificates.
//!
//! **Not here.** The same over a socket: tests/client_auth.rs.

use std::cell::Cell;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, UnixTime,
};

use super::*;

mod names;

thread_local! {
    static CHECKS: Cell<usize> = const { Cell::new(0) };
}

/// An algorithm that counts its uses.
#[derive(Debug)]
struct CountingAlgorithm(&'static dyn SignatureVerificationAlgorithm);

impl SignatureVerificationAlgorithm for CountingAlgorithm {
    fn verify_signature(&self, key: &[u8], m: &[u8], s: &[u8]) -> Result<(), InvalidSignature> {
        CHECKS.set(CHECKS.get() + 1);
        self.0.verify_signature(key, m, s)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }
}

/// A CA, or a forger with the name of one.
struct Ca {
    params: CertificateParams,
    key: KeyPair,
}

type Der = CertificateDer<'static>;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2060, 1, 1);
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Ca {
    fn new(params: CertificateParams) -> Self {
        Self { params, key: KeyPair::generate().unwrap() }
    }

    fn named(name: &str) -> Self {
        Self::new(ca_params(name))
    }

    fn itself(&self) -> Der {
        self.params.clone().self_signed(&self.key).unwrap().der().clone()
    }

    fn issue(&self, params: &CertificateParams) -> Der {
        self.certify(params, &KeyPair::generate().unwrap())
    }

    fn certify(&self, params: &CertificateParams, key: &KeyPair) -> Der {
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).unwrap().der().clone()
    }

    /// Issues the certificate of a CA below this one.
    fn below(&self, ca: &Self) -> Der {
        self.certify(&ca.params, &ca.key)
    }
}

fn anchor(ca: &Der) -> Option<Anchor> {
    Anchor::new(&Certificate::parse(ca).unwrap(), ca)
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000))
}

/// Returns the indexes of the path, and the number of signature checks.
fn verdict(cas: &[Der], sent: &[&Der]) -> (Result<Vec<usize>, CertificateError>, usize) {
    let mut anchors = Anchors::default();
    for ca in cas {
        anchors.add(anchor(ca).expect("it is a CA"));
    }
    let all = default_provider().signature_verification_algorithms.all;
    let counted: Vec<&'static dyn SignatureVerificationAlgorithm> = all
        .iter()
        .map(|&algorithm| &*Box::leak(Box::new(CountingAlgorithm(algorithm))) as _)
        .collect();
    let sent: Vec<_> = sent.iter().map(|der| Certificate::parse(der).unwrap()).collect();
    CHECKS.set(0);
    let path = find(&sent, &anchors, &counted, now());
    let places = path.and_then(|path| path.check(&sent, now().into()).map(|()| path.places));
    (places, CHECKS.get())
}

fn places(cas: &[Der], sent: &[&Der]) -> Vec<usize> {
    verdict(cas, sent).0.unwrap()
}

fn refusal(cas: &[Der], sent: &[&Der]) -> CertificateError {
    verdict(cas, sent).0.unwrap_err()
}

fn is(error: &CertificateError, wanted: PathError) -> bool {
    matches!(error, CertificateError::Other(other) if other.0.downcast_ref() == Some(&wanted))
}

#[test]
fn a_path_is_found_among_duplicates_strays_and_in_any_order() {
    let (root, one, two) = (Ca::named("root"), Ca::named("one"), Ca::named("two"));
    let (one_der, two_der) = (root.below(&one), one.below(&two));
    let leaf = two.issue(&params("device"));
    let stray = Ca::named("stray").itself();
    let ca = root.itself();
    let sent = [&leaf, &one_der, &stray, &ca, &one_der, &two_der, &leaf];
    let (path, checks) = verdict(&[root.itself()], &sent);
    assert_eq!(path.unwrap(), [0, 5, 1]);
    assert_eq!(checks, 3, "one for each certificate of the path");
}

#[test]
fn certificates_that_lead_to_no_ca_cost_no_signature_check() {
    let root = Ca::named("root").itself();
    let x = Ca::named("x");
    let heap: Vec<_> = (0..9).map(|_| x.certify(&ca_params("x"), &Ca::named("x").key)).collect();
    let leaf = x.issue(&params("device"));
    let sent: Vec<_> = [&leaf].into_iter().chain(&heap).collect();
    let (path, checks) = verdict(&[root], &sent);
    assert_eq!(path.unwrap_err(), CertificateError::UnknownIssuer);
    assert_eq!(checks, 0);
}

#[test]
fn certificates_that_could_have_issued_each_other_cost_few_checks() {
    // They have the public name of the CA and the names of each other, but not the key of the CA.
    let (ours, forger) = (Ca::named("root").itself(), Ca::named("root"));
    let names = ["a", "b", "c"];
    let heap: Vec<_> = (0..9)
        .map(|i| {
            let issuer = if i % 2 == 0 { "root" } else { names[(i + 1) % 3] };
            let by = Ca { params: ca_params(issuer), key: KeyPair::generate().unwrap() };
            by.issue(&ca_params(names[i % 3]))
        })
        .collect();
    let leaf = Ca { params: ca_params("a"), key: forger.key }.issue(&params("device"));
    let sent: Vec<_> = [&leaf].into_iter().chain(&heap).collect();
    let (path, checks) = verdict(&[ours], &sent);
    assert!(path.is_err());
    assert!(checks <= 2 + SPARE_SIGNATURES, "{checks} checks");
}

#[test]
fn of_cas_that_share_a_name_the_signer_is_found() {
    let generations: Vec<_> = (0..12).map(|_| Ca::named("plant CA")).collect();
    let cas: Vec<_> = generations.iter().map(Ca::itself).collect();
    for (i, ca) in generations.iter().enumerate() {
        let mut device = params("device");
        assert_eq!(places(&cas, &[&ca.issue(&device)]), [0], "of generation {i}, without AKI");
        device.use_authority_key_identifier_extension = true;
        let (path, checks) = verdict(&cas, &[&ca.issue(&device)]);
        assert_eq!((path.unwrap(), checks), (vec![0], 1), "of generation {i}, with AKI");
    }
    let stranger = Ca::named("plant CA").issue(&params("device"));
    assert_eq!(refusal(&cas, &[&stranger]), CertificateError::UnknownIssuer);
}

#[test]
fn of_intermediates_that_share_a_name_the_signer_is_found() {
    let (root, old, new) = (Ca::named("root"), Ca::named("factory"), Ca::named("factory"));
    let (old_der, new_der) = (root.below(&old), root.below(&new));
    let leaf = new.issue(&params("device"));
    assert_eq!(places(&[root.itself()], &[&leaf, &old_der, &new_der]), [0, 2]);
    assert_eq!(places(&[root.itself()], &[&leaf, &new_der, &old_der]), [0, 1]);
}

#[test]
fn of_two_certificates_of_one_intermediate_the_valid_one_is_used() {
    let (root, factory) = (Ca::named("root"), Ca::named("factory"));
    let mut expired = ca_params("factory");
    expired.not_after = date_time_ymd(2021, 1, 1);
    let (old, new) = (root.certify(&expired, &factory.key), root.below(&factory));
    let leaf = factory.issue(&params("device"));
    assert_eq!(places(&[root.itself()], &[&leaf, &old, &new]), [0, 2]);
    let error = refusal(&[root.itself()], &[&leaf, &old]);
    assert!(matches!(error, CertificateError::ExpiredContext { .. }), "{error:?}");
}

#[test]
fn a_cross_certificate_of_an_unknown_root_is_ignored() {
    let (root, unknown, factory) = (Ca::named("root"), Ca::named("unknown"), Ca::named("factory"));
    let (cross, ours) = (unknown.below(&factory), root.below(&factory));
    let leaf = factory.issue(&params("device"));
    assert_eq!(places(&[root.itself()], &[&leaf, &cross, &ours]), [0, 2]);
}

#[test]
fn certificates_that_issue_each_other_end_the_search() {
    let (root, a, b) = (Ca::named("root"), Ca::named("a"), Ca::named("b"));
    let (a_by_b, b_by_a, b_by_root) = (b.below(&a), a.below(&b), root.below(&b));
    let leaf = a.issue(&params("device"));
    assert_eq!(places(&[root.itself()], &[&leaf, &a_by_b, &b_by_a, &b_by_root]), [0, 1, 3]);
    let error = refusal(&[root.itself()], &[&leaf, &a_by_b, &b_by_a]);
    assert_eq!(error, CertificateError::UnknownIssuer);
}

#[test]
fn a_certificate_that_is_not_a_ca_issues_nothing() {
    let root = Ca::named("root");
    let mut no_key_usage = ca_params("factory");
    no_key_usage.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    for params_of_it in [params("factory"), no_key_usage] {
        let device = Ca::new(params_of_it);
        let leaf = device.issue(&params("forged"));
        let error = refusal(&[root.itself()], &[&leaf, &root.below(&device)]);
        assert!(is(&error, PathError::NotCa), "{error:?}");
    }
}

#[test]
fn a_certificate_of_the_bundle_is_a_ca_by_its_extensions() {
    let is_anchor = |params| anchor(&Ca::new(params).itself()).is_some();
    assert!(is_anchor(ca_params("ca")));
    let mut usage = ca_params("ca");
    usage.key_usages = vec![KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    assert!(!is_anchor(usage), "keyUsage without keyCertSign");
    let mut without_usage = ca_params("ca");
    without_usage.key_usages = Vec::new();
    assert!(is_anchor(without_usage));
    assert!(!is_anchor(params("device")), "neither extension");
    let mut explicit = params("device");
    explicit.is_ca = IsCa::ExplicitNoCa;
    assert!(!is_anchor(explicit), "cA is false");
    let mut by_usage = params("old ca");
    by_usage.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    assert!(is_anchor(by_usage), "keyCertSign without basicConstraints, as in OpenSSL");
}

#[test]
fn the_path_length_and_purpose_of_a_ca_of_the_bundle_hold() {
    let mut short = ca_params("root");
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let (root, factory) = (Ca::new(short), Ca::named("factory"));
    assert_eq!(places(&[root.itself()], &[&root.issue(&params("device"))]), [0]);
    let leaf = factory.issue(&params("device"));
    let error = refusal(&[root.itself()], &[&leaf, &root.below(&factory)]);
    assert!(is(&error, PathError::TooLong), "{error:?}");

    let mut for_servers = ca_params("root");
    for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let root = Ca::new(for_servers);
    let error = refusal(&[root.itself()], &[&root.issue(&params("device"))]);
    assert!(matches!(error, CertificateError::InvalidPurposeContext { .. }), "{error:?}");
}

#[test]
fn the_path_length_and_purpose_of_an_intermediate_hold() {
    let root = Ca::named("root");
    let mut short = ca_params("one");
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let (one, two) = (Ca::new(short), Ca::named("two"));
    let leaf = two.issue(&params("device"));
    let error = refusal(&[root.itself()], &[&leaf, &one.below(&two), &root.below(&one)]);
    assert!(is(&error, PathError::TooLong), "{error:?}");

    let mut for_servers = ca_params("one");
    for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let one = Ca::new(for_servers);
    let error = refusal(&[root.itself()], &[&one.issue(&params("d")), &root.below(&one)]);
    assert!(matches!(error, CertificateError::InvalidPurposeContext { .. }), "{error:?}");
}

#[test]
fn the_certificate_of_a_ca_is_not_that_of_a_device() {
    let (root, factory) = (Ca::named("root"), Ca::named("factory"));
    let error = refusal(&[root.itself()], &[&root.below(&factory)]);
    assert!(is(&error, PathError::CaAsDevice), "{error:?}");
}

#[test]
fn a_device_with_a_server_certificate_is_refused() {
    let root = Ca::named("root");
    let mut server = params("server");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let error = refusal(&[root.itself()], &[&root.issue(&server)]);
    assert!(matches!(error, CertificateError::InvalidPurposeContext { .. }), "{error:?}");
}

#[test]
fn a_certificate_with_constraints_that_cannot_be_parsed_is_refused() {
    // permittedSubtrees with a base of the unknown kind [9]: x509-parser drops them silently.
    let value = [0x30, 0x07, 0xa0, 0x05, 0x30, 0x03, 0x09, 0x01, 0x00];
    let mut ca = ca_params("root");
    let extension = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], value.to_vec());
    ca.custom_extensions = vec![extension];
    assert!(Certificate::parse(&Ca::new(ca).itself()).is_err());
}

#[test]
fn a_certificate_with_an_unknown_critical_extension_is_refused() {
    let root = Ca::named("root");
    let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 3, 9, 9], vec![5, 0]);
    let mut device = params("device");
    device.custom_extensions = vec![extension.clone()];
    assert_eq!(places(&[root.itself()], &[&root.issue(&device)]), [0]);
    extension.set_criticality(true);
    device.custom_extensions = vec![extension];
    let error = refusal(&[root.itself()], &[&root.issue(&device)]);
    assert_eq!(error, CertificateError::UnhandledCriticalExtension);
}

#[test]
fn critical_policies_are_accepted_because_any_policy_is() {
    let root = Ca::named("root");
    // CertificatePolicies of 1.2.3.4.
    let value = vec![0x30, 7, 0x30, 5, 6, 3, 0x2a, 3, 4];
    let mut extension = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 32], value);
    extension.set_criticality(true);
    let mut device = params("device");
    device.custom_extensions = vec![extension];
    assert_eq!(places(&[root.itself()], &[&root.issue(&device)]), [0]);
}

#[test]
fn a_certificate_with_a_duplicate_extension_or_trailing_bytes_cannot_be_parsed() {
    let root = Ca::named("root");
    let extension = rcgen::CustomExtension::from_oid_content(&[1, 3, 9, 9], vec![5, 0]);
    let mut device = params("device");
    device.custom_extensions = vec![extension.clone(), extension];
    assert!(Certificate::parse(&root.issue(&device)).is_err());
    let longer = [&root.itself()[..], &[0]].concat();
    assert!(Certificate::parse(&longer).is_err());
}

#[test]
fn rustls_agrees_on_ordinary_chains() {
    use std::sync::Arc;
    use tokio_rustls::rustls::RootCertStore;
    use tokio_rustls::rustls::server::WebPkiClientVerifier;

    let (root, one) = (Ca::named("root"), Ca::named("one"));
    let mut expired = params("device");
    expired.not_after = date_time_ymd(2021, 1, 1);
    let mut future = params("device");
    future.not_before = date_time_ymd(2059, 1, 1);
    let mut server = params("device");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut client = params("device");
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let of_one = root.below(&one);
    let mut forged = root.issue(&params("device")).to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let chains = [
        vec![root.issue(&params("device"))],
        vec![root.issue(&client)],
        vec![root.issue(&expired)],
        vec![root.issue(&future)],
        vec![root.issue(&server)],
        vec![one.issue(&params("device"))],
        vec![one.issue(&params("device")), of_one.clone()],
        vec![of_one],
        vec![Ca::named("root").issue(&params("device"))],
        vec![forged.into()],
    ];
    let mut roots = RootCertStore::empty();
    roots.add(root.itself()).unwrap();
    let provider = Arc::new(default_provider());
    let rustls = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let rustls = rustls.build().unwrap();
    for (i, chain) in chains.iter().enumerate() {
        let theirs = rustls.verify_client_cert(&chain[0], &chain[1..], now());
        let ours = verdict(&[root.itself()], &chain.iter().collect::<Vec<_>>()).0;
        assert_eq!(ours.is_ok(), theirs.is_ok(), "chain {i}: {ours:?}, {theirs:?}");
    }
}
