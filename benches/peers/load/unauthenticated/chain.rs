//! Chains of certificates that lead to no CA.

use std::sync::OnceLock;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ED25519};
use tokio_rustls::rustls::pki_types::CertificateDer;

/// The scheme by which subjects and issuers of a junk chain are named.
#[derive(Clone, Copy, Debug)]
pub enum Names {
    /// Three generations, each of which may have been issued by any of the next: a search for a path has to
    /// try them all.
    Layers,
    /// All have the same name, and the same issuer.
    Same,
    /// No certificate has issued another.
    Distinct,
}

/// A leaf of `Layers`' first generation, followed by this many CAs, none of them issued by a CA of the run.
pub fn junk(
    leaf: &CertificateDer<'static>,
    names: Names,
    count: usize,
) -> Vec<CertificateDer<'static>> {
    let mut chain = vec![leaf.clone()];
    chain.extend((0..count).map(|n| {
        let (subject, issuer) = match names {
            Names::Layers => (layer(n), layer(n + 1)),
            Names::Same => ("X".to_owned(), "X".to_owned()),
            Names::Distinct => (format!("S{n}"), format!("I{n}")),
        };
        certificate(&subject, &issuer)
    }));
    chain
}

fn layer(n: usize) -> String {
    ["X", "Y", "Z"][n % 3].to_owned()
}

/// A CA certificate whose signature is from another key than its issuer's.
fn certificate(subject: &str, issuer: &str) -> CertificateDer<'static> {
    static KEYS: OnceLock<[KeyPair; 2]> = OnceLock::new();
    let [own, other] = KEYS.get_or_init(|| {
        [(); 2].map(|()| KeyPair::generate_for(&PKCS_ED25519).expect("a key can be made"))
    });
    let issuer = Issuer::new(named(issuer), other);
    let made = named(subject).signed_by(own, &issuer);
    made.expect("a certificate can be made").der().clone()
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("it has no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}
