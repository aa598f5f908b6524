//! The inputs of the matrix: what a device sends, and the files that it is verified with.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::slice;

use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, CrlScope, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair,
    KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType, SerialNumber,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::ca::{Ca, Der, POINT, ca, device, named, pem, years};

/// An input.
pub(super) struct Input {
    pub(super) name: &'static str,
    /// The bundle of CAs, in PEM.
    pub(super) cas: String,
    /// The file of CRLs.
    pub(super) crls: Option<Vec<u8>>,
    /// Sent by the device; empty: no certificate.
    pub(super) chain: Vec<Der>,
    pub(super) key: PrivateKeyDer<'static>,
}

fn input(name: &'static str, cas: &[Der], chain: Vec<Der>, key: &KeyPair) -> Input {
    let cas = cas.iter().map(|ca| pem("CERTIFICATE", ca)).collect();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    Input { name, cas, crls: None, chain, key }
}

impl Input {
    /// Adds CRLs in DER, as one file in PEM.
    fn crls(self, crls: &[Vec<u8>]) -> Self {
        let text: String = crls.iter().map(|crl| pem("X509 CRL", crl)).collect();
        self.crl_file(text.into())
    }

    fn crl_file(mut self, content: Vec<u8>) -> Self {
        self.crls = Some(content);
        self
    }
}

/// Returns all inputs. `dir` is a directory for the files of openssl.
pub(super) fn all(dir: &Path) -> Vec<Input> {
    [own(), keys(dir), encodings(), pinned(), chains(), restricted(), crls(), crl_files()]
        .into_iter()
        .flatten()
        .collect()
}

fn with(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = device(7);
    change(&mut params);
    params
}

fn extension(critical: bool) -> CustomExtension {
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(critical);
    extension
}

/// Properties of the device's own certificate.
fn own() -> Vec<Input> {
    let (root, key) = (Ca::named("plant"), KeyPair::generate().unwrap());
    let of = |name, params: &CertificateParams| {
        input(name, &[root.root()], vec![root.issue(params, &key)], &key)
    };
    use ExtendedKeyUsagePurpose as Purpose;
    let purposes = |list: &[Purpose]| with(|p| p.extended_key_usages = list.to_vec());
    vec![
        of("a valid certificate", &device(7)),
        of("expired", &years(device(7), 2020, 2021)),
        of("not valid yet", &years(device(7), 2050, 2051)),
        of("extKeyUsage: serverAuth only", &purposes(&[Purpose::ServerAuth])),
        of(
            "extKeyUsage: serverAuth and clientAuth",
            &purposes(&[Purpose::ServerAuth, Purpose::ClientAuth]),
        ),
        of("extKeyUsage: anyExtendedKeyUsage only", &purposes(&[Purpose::Any])),
        of("no extKeyUsage", &purposes(&[])),
        of(
            "keyUsage without digitalSignature",
            &with(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
        ),
        of(
            "a CA's certificate as the device's",
            &with(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        of("an unknown critical extension", &with(|p| p.custom_extensions = vec![extension(true)])),
        of(
            "an unknown extension that is not critical",
            &with(|p| p.custom_extensions = vec![extension(false)]),
        ),
        of(
            "an empty subject, and a SAN",
            &with(|p| {
                p.distinguished_name = DistinguishedName::new();
                p.subject_alt_names = vec![SanType::DnsName("pump-7".try_into().unwrap())];
            }),
        ),
        of("a serial number of 0", &with(|p| p.serial_number = Some(SerialNumber::from(0)))),
        of(
            "a subject of 20 KB",
            &with(|p| {
                p.distinguished_name.push(DnType::OrganizationalUnitName, "x".repeat(20_000));
            }),
        ),
        of(
            "a certificate of 70 KB",
            &with(|p| {
                p.distinguished_name.push(DnType::OrganizationalUnitName, "x".repeat(70_000));
            }),
        ),
        input("no certificate", &[root.root()], Vec::new(), &key),
    ]
}

/// Keys and signature algorithms.
fn keys(dir: &Path) -> Vec<Input> {
    let root = Ca::named("plant");
    let of =
        |name, key: KeyPair| input(name, &[root.root()], vec![root.issue(&device(7), &key)], &key);
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let (weak, sha1) =
        (openssl(dir, &root, "rsa:1024", "-sha256"), openssl(dir, &root, "rsa:2048", "-sha1"));
    let key = KeyPair::generate().unwrap();
    let other = KeyPair::generate().unwrap();
    vec![
        of("an RSA key of 2048 bits", rsa),
        of("an ECDSA key on P-384", KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()),
        of("an Ed25519 key", KeyPair::generate_for(&PKCS_ED25519).unwrap()),
        // The device's library takes no such key, and no server verifies its signature before the chain.
        input("an RSA key of 1024 bits", &[root.root()], vec![weak.0], &key),
        Input { key: sha1.1, ..input("signed with SHA-1", &[root.root()], vec![sha1.0], &key) },
        input(
            "the key of another certificate",
            &[root.root()],
            vec![root.issue(&device(7), &key)],
            &other,
        ),
    ]
}

/// Returns a certificate that openssl made with this kind of key and this digest, and its key.
fn openssl(dir: &Path, root: &Ca, key: &str, digest: &str) -> (Der, PrivateKeyDer<'static>) {
    let run = |line: &str| {
        let made = Command::new("openssl").args(line.split(' ')).current_dir(dir).output().unwrap();
        assert!(made.status.success(), "{line}: {}", String::from_utf8_lossy(&made.stderr));
    };
    fs::write(dir.join("ca.key"), root.key.serialize_pem()).unwrap();
    fs::write(dir.join("ca.crt"), pem("CERTIFICATE", &root.root())).unwrap();
    fs::write(dir.join("ext"), "extendedKeyUsage = clientAuth\n").unwrap();
    run(&format!("req -new -newkey {key} -nodes -subj /CN=device -keyout d.key -out d.csr"));
    run(&format!(
        "x509 -req -in d.csr -CA ca.crt -CAkey ca.key -days 9 {digest} -extfile ext -out d.crt"
    ));
    let der = CertificateDer::from_pem_file(dir.join("d.crt")).unwrap();
    (der, PrivateKeyDer::from_pem_file(dir.join("d.key")).unwrap())
}

/// Encodings that are not valid.
fn encodings() -> Vec<Input> {
    let (root, key) = (Ca::named("plant"), KeyPair::generate().unwrap());
    let good = root.issue(&device(7), &key);
    let of = |name, der: Vec<u8>| input(name, &[root.root()], vec![der.into()], &key);
    let mut damaged = good.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let twice = with(|p| p.custom_extensions = vec![extension(false), extension(false)]);
    vec![
        of("a damaged signature", damaged),
        of("a certificate that is cut", good[..good.len() - 9].to_vec()),
        of("bytes after the certificate", [&good[..], &[0, 0, 0]].concat()),
        of("an extension that occurs twice", root.issue(&twice, &key).to_vec()),
        of("random bytes", vec![0x5a; 700]),
    ]
}

/// Certificates that are in the bundle themselves, and certificates of unknown CAs.
fn pinned() -> Vec<Input> {
    let (root, key) = (Ca::named("plant"), KeyPair::generate().unwrap());
    let own_key = KeyPair::generate().unwrap();
    let itself = |params: CertificateParams| params.self_signed(&own_key).unwrap().der().clone();
    let (own, expired) = (itself(device(7)), itself(years(device(7), 2020, 2021)));
    let issued = root.issue(&device(7), &key);
    let not_ca = Ca::new(named("plant"));
    let namesake = Ca::named("plant");
    let mut without_id = device(7);
    without_id.use_authority_key_identifier_extension = false;
    let old = Ca::new(years(ca("plant"), 2020, 2021));
    let stranger = Ca::named("stranger").issue(&device(7), &key);
    vec![
        input("a CA that is not in the bundle", &[root.root()], vec![stranger], &key),
        input(
            "a CA with the name of ours and another key",
            &[root.root()],
            vec![namesake.issue(&device(7), &key)],
            &key,
        ),
        input(
            "the same without authorityKeyIdentifier",
            &[root.root()],
            vec![namesake.issue(&without_id, &key)],
            &key,
        ),
        input(
            "two CAs with one name in the bundle",
            &[root.root(), namesake.root()],
            vec![namesake.issue(&without_id, &key)],
            &key,
        ),
        input("self-signed, not in the bundle", &[root.root()], vec![own.clone()], &own_key),
        input("self-signed, in the bundle", &[root.root(), own.clone()], vec![own], &own_key),
        input(
            "self-signed, in the bundle, expired",
            &[root.root(), expired.clone()],
            vec![expired],
            &own_key,
        ),
        input("in the bundle without its CA", slice::from_ref(&issued), vec![issued.clone()], &key),
        input(
            "issued by a certificate of the bundle that is no CA",
            &[not_ca.root()],
            vec![not_ca.issue(&device(7), &key)],
            &key,
        ),
        input(
            "an expired CA in the bundle",
            &[old.root()],
            vec![old.issue(&device(7), &key)],
            &key,
        ),
    ]
}

/// Chains in every order and shape.
fn chains() -> Vec<Input> {
    let (root, factory, line) = (Ca::named("plant"), Ca::named("factory"), Ca::named("line"));
    let (key, other) = (KeyPair::generate().unwrap(), Ca::named("other"));
    let (below, lower) = (root.below(&factory), factory.below(&line));
    let leaf = factory.issue(&device(7), &key);
    let low = line.issue(&device(7), &key);
    let of = |name, chain: Vec<Der>| input(name, &[root.root()], chain, &key);
    let expired =
        Ca { params: years(ca("factory"), 2020, 2021), key: KeyPair::generate().unwrap() };
    let stray = other.root();
    let looped = {
        let (a, b) = (Ca::named("a"), Ca::named("b"));
        vec![a.issue(&device(7), &key), b.below(&a), a.below(&b)]
    };
    let long: Vec<_> = (0..9).map(|n| Ca::named(&format!("ca {n}"))).collect();
    let mut deep = vec![long[8].issue(&device(7), &key)];
    deep.extend((1..9).rev().map(|n| long[n - 1].below(&long[n])));
    deep.push(root.below(&long[0]));
    vec![
        of("one intermediate CA", vec![leaf.clone(), below.clone()]),
        of("two intermediate CAs", vec![low.clone(), lower.clone(), below.clone()]),
        of("two intermediate CAs, not in order", vec![low, below.clone(), lower]),
        of("the root is sent too", vec![leaf.clone(), below.clone(), root.root()]),
        of("an unrelated certificate between", vec![leaf.clone(), stray, below.clone()]),
        of("the intermediate CA twice", vec![leaf.clone(), below.clone(), below.clone()]),
        of(
            "bytes that are no certificate behind",
            vec![leaf.clone(), below.clone(), vec![0x30, 0].into()],
        ),
        of("the intermediate CA is missing", vec![leaf.clone()]),
        input(
            "the same, but it is in the bundle",
            &[root.root(), below.clone()],
            vec![leaf.clone()],
            &key,
        ),
        input(
            "only the intermediate CA is in the bundle",
            slice::from_ref(&below),
            vec![leaf.clone(), below.clone()],
            &key,
        ),
        of(
            "an expired intermediate CA",
            vec![expired.issue(&device(7), &key), root.below(&expired)],
        ),
        of("certificates that issued each other", looped),
        of("nine intermediate CAs", deep),
    ]
}

/// Returns an input with the certificate of a CA below `root`, and a device's below that.
fn under(name: &'static str, root: &Ca, factory: &Ca, device: &CertificateParams) -> Input {
    let key = KeyPair::generate().unwrap();
    let chain = vec![factory.issue(device, &key), root.below(factory)];
    input(name, &[root.root()], chain, &key)
}

/// Returns an intermediate CA with other parameters than usual.
fn changed(change: impl FnOnce(&mut CertificateParams)) -> Ca {
    let mut params = ca("factory");
    change(&mut params);
    Ca::new(params)
}

/// CAs whose extensions restrict them.
fn restricted() -> Vec<Input> {
    let (root, key) = (Ca::named("plant"), KeyPair::generate().unwrap());
    let mut short = ca("plant");
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let for_servers = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let mut server_root = ca("plant");
    for_servers(&mut server_root);
    let server_root = Ca::new(server_root);
    let not_ca = |is_ca| {
        changed(|params| {
            params.is_ca = is_ca;
            params.key_usages.clear();
        })
    };
    let unsigning = changed(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    let device = device(7);
    vec![
        under("an intermediate that is no CA", &root, &not_ca(IsCa::ExplicitNoCa), &device),
        under("an intermediate without basicConstraints", &root, &not_ca(IsCa::NoCa), &device),
        under("an intermediate CA without keyCertSign", &root, &unsigning, &device),
        under("an intermediate CA for serverAuth only", &root, &changed(for_servers), &device),
        input(
            "a root for serverAuth only",
            &[server_root.root()],
            vec![server_root.issue(&device, &key)],
            &key,
        ),
        under(
            "a pathLenConstraint of 0 above an intermediate CA",
            &Ca::new(short),
            &Ca::named("factory"),
            &device,
        ),
    ]
    .into_iter()
    .chain(constrained(&root))
    .collect()
}

/// Intermediate CAs with name constraints.
fn constrained(root: &Ca) -> Vec<Input> {
    let subtrees = |names: &[&str]| {
        names.iter().map(|name| GeneralSubtree::DnsName((*name).to_owned())).collect()
    };
    let of = |name, permitted: &[&str], excluded: &[&str], dns: &str| {
        let constraints = NameConstraints {
            permitted_subtrees: subtrees(permitted),
            excluded_subtrees: subtrees(excluded),
        };
        let factory = changed(|params| params.name_constraints = Some(constraints));
        let dns = SanType::DnsName(dns.try_into().unwrap());
        under(name, root, &factory, &with(|params| params.subject_alt_names = vec![dns]))
    };
    let plant: &[&str] = &["plant.example"];
    vec![
        of("a DNS name that name constraints permit", plant, &[], "a.plant.example"),
        of("a DNS name that they do not permit", plant, &[], "a.other.example"),
        of("a DNS name that they exclude", &[], plant, "a.plant.example"),
    ]
}

/// CRLs, and the certificates that they cover.
fn crls() -> Vec<Input> {
    let (root, factory, key) =
        (Ca::named("plant"), Ca::named("factory"), KeyPair::generate().unwrap());
    let (other, namesake) = (Ca::named("other"), Ca::named("plant"));
    let direct =
        |name, serial| input(name, &[root.root()], vec![root.issue(&device(serial), &key)], &key);
    let mut numbered = ca("factory");
    numbered.serial_number = Some(SerialNumber::from(9));
    let factory = Ca { params: numbered, ..factory };
    let chain = |name, serial| {
        input(
            name,
            &[root.root()],
            vec![factory.issue(&device(serial), &key), root.below(&factory)],
            &key,
        )
    };
    let (none, lists) = (root.crl(1, &[]), root.crl(1, &[7]));
    let scoped = |scope, revoked: &[u64]| root.crl_of((2024, 2060), 1, revoked, Some(scope));
    let pointing = |name| {
        let point = CrlDistributionPoint { uris: vec![POINT.to_owned()] };
        let params = with(|p| p.crl_distribution_points = vec![point]);
        input(name, &[root.root()], vec![root.issue(&params, &key)], &key)
    };
    let mut unsigning = ca("plant");
    unsigning.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let unsigning = Ca::new(unsigning);
    // rcgen signs no CRL for such a CA.
    let same_key = KeyPair::from_pem(&unsigning.key.serialize_pem()).unwrap();
    let signing = Ca { params: ca("plant"), key: same_key };
    vec![
        direct("a CRL that does not list it", 7).crls(slice::from_ref(&none)),
        direct("a CRL that lists it", 7).crls(slice::from_ref(&lists)),
        direct("a CRL past its nextUpdate", 7).crls(&[root.crl_of((2024, 2025), 1, &[], None)]),
        direct("the same, and it lists the certificate", 7).crls(&[root.crl_of(
            (2024, 2025),
            1,
            &[7],
            None,
        )]),
        direct("a CRL from the future", 7).crls(&[root.crl_of((2050, 2060), 1, &[], None)]),
        direct("a CRL of another CA only", 7).crls(&[other.crl(1, &[])]),
        direct("a CRL signed by a namesake of the CA", 7).crls(&[namesake.crl(1, &[])]),
        direct("a valid CRL, and a forged one that lists it", 7)
            .crls(&[none.clone(), namesake.crl(2, &[7])]),
        direct("an old CRL, then a new one that lists it", 7)
            .crls(&[none.clone(), root.crl(2, &[7])]),
        direct("a new CRL that lists it, then an old one", 7)
            .crls(&[root.crl(2, &[7]), none.clone()]),
        direct("an old CRL that lists it, then a new one", 7).crls(&[lists, root.crl(2, &[])]),
        pointing("a CRL for devices that lists it").crls(&[scoped(CrlScope::UserCertsOnly, &[7])]),
        pointing("a CRL for CAs only").crls(&[scoped(CrlScope::CaCertsOnly, &[])]),
        direct("a CRL for a distribution point that it does not name", 7)
            .crls(&[scoped(CrlScope::UserCertsOnly, &[])]),
        input(
            "a CA without cRLSign",
            &[unsigning.root()],
            vec![unsigning.issue(&device(7), &key)],
            &key,
        )
        .crls(&[signing.crl(1, &[])]),
        chain("CRLs of the root and of the intermediate CA", 7)
            .crls(&[none.clone(), factory.crl(1, &[])]),
        chain("the same, the second lists the device", 7)
            .crls(&[none.clone(), factory.crl(1, &[7])]),
        chain("the same, the first lists the intermediate CA", 7)
            .crls(&[root.crl(1, &[9]), factory.crl(1, &[])]),
        chain("only the CRL of the root", 7).crls(&[none]),
        chain("only the CRL of the intermediate CA", 7).crls(&[factory.crl(1, &[])]),
    ]
}

/// Files of CRLs that are not valid, or not PEM.
fn crl_files() -> Vec<Input> {
    let (root, key) = (Ca::named("plant"), KeyPair::generate().unwrap());
    let of = |name| input(name, &[root.root()], vec![root.issue(&device(7), &key)], &key);
    let crl = root.crl(1, &[8]);
    let mut damaged = crl.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let cut = &crl[..crl.len() - 9];
    vec![
        of("a CRL in DER").crl_file(crl.clone()),
        of("an empty file of CRLs").crl_file(Vec::new()),
        of("a certificate instead of a CRL").crl_file(pem("CERTIFICATE", &root.root()).into()),
        of("a CRL that is cut").crls(&[cut.to_vec()]),
        of("a CRL with a damaged signature").crls(&[damaged]),
        of("a CRL without the end of its PEM").crl_file(pem("X509 CRL", &crl)[..200].into()),
    ]
}
