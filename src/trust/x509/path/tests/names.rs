//! Tests of name constraints, of a CA of the bundle and of an intermediate.
//!
//! **Not here.** The comparison of one name with one constraint (`x509/constraints.rs`).

use rcgen::{CertificateParams, DnType, GeneralSubtree, NameConstraints, SanType};

use super::{Ca, Der, PathError, ca_params, is, params, verdict};

/// Returns chains with constraints, of the CA of the bundle and of an intermediate.
fn constrained(permitted: Vec<GeneralSubtree>, excluded: Vec<GeneralSubtree>) -> [TestChain; 2] {
    let mut constrained = ca_params("constrained");
    constrained.name_constraints =
        Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded });
    let (root, anchor) = (Ca::named("root"), Ca::new(constrained.clone()));
    let intermediate = Ca::new(constrained);
    let below = root.below(&intermediate);
    [
        TestChain { cas: vec![anchor.itself()], rest: Vec::new(), issuer: anchor },
        TestChain { cas: vec![root.itself()], rest: vec![below], issuer: intermediate },
    ]
}

struct TestChain {
    cas: Vec<Der>,
    rest: Vec<Der>,
    issuer: Ca,
}

impl TestChain {
    fn admits(&self, device: &CertificateParams) -> bool {
        let leaf = self.issuer.issue(device);
        let sent: Vec<_> = [&leaf].into_iter().chain(&self.rest).collect();
        match verdict(&self.cas, &sent).0 {
            Ok(_) => true,
            Err(error) if is(&error, PathError::NameNotAllowed) => false,
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn with_san(name: &str, san: SanType) -> CertificateParams {
    let mut params = params(name);
    params.subject_alt_names = vec![san];
    params
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

#[test]
fn permitted_dns_names_apply_to_sans_or_without_any_to_the_common_name() {
    for chain in constrained(vec![GeneralSubtree::DnsName("plant-a.example".into())], vec![]) {
        assert!(chain.admits(&with_san("x", dns("pump.plant-a.example"))));
        assert!(!chain.admits(&with_san("x", dns("pump.plant-b.example"))));
        assert!(chain.admits(&params("pump.plant-a.example")));
        assert!(!chain.admits(&params("pump.plant-b.example")), "the CN is the identity");
        assert!(chain.admits(&params("pump 7")), "it is not a DNS name");
        assert!(!chain.admits(&with_san("x.plant-b.example", uri("urn:pump"))));
    }
}

#[test]
fn excluded_dns_names_apply_to_sans_or_without_any_to_the_common_name() {
    for chain in constrained(vec![], vec![GeneralSubtree::DnsName("plant-b.example".into())]) {
        assert!(chain.admits(&params("pump.plant-a.example")));
        assert!(!chain.admits(&params("pump.plant-b.example")));
        assert!(!chain.admits(&with_san("x", dns("pump.PLANT-b.example"))));
    }
}

#[test]
fn constraints_on_directory_names_apply_to_the_subject() {
    let mut base = rcgen::DistinguishedName::new();
    base.push(DnType::OrganizationName, "Plant A");
    let in_plant = |organization: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, "pump");
        params
    };
    for chain in constrained(vec![GeneralSubtree::DirectoryName(base)], vec![]) {
        assert!(chain.admits(&in_plant("PLANT  a")));
        assert!(!chain.admits(&in_plant("Plant B")));
    }
}

#[test]
fn a_self_issued_intermediate_is_exempt_and_its_devices_are_not() {
    let mut root = ca_params("root");
    root.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("plant-a.example".into())],
        excluded_subtrees: vec![],
    });
    let root = Ca::new(root);
    let mut renewed = ca_params("root");
    renewed.subject_alt_names = vec![dns("ca.example")];
    let renewed = Ca::new(renewed);
    let rest = vec![root.below(&renewed)];
    let chain = TestChain { cas: vec![root.itself()], rest, issuer: renewed };
    assert!(chain.admits(&with_san("x", dns("pump.plant-a.example"))));
    assert!(!chain.admits(&with_san("x", dns("pump.plant-b.example"))));
}
