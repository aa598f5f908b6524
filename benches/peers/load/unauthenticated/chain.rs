//! Certificate chains without a trusted root.

use std::sync::OnceLock;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ED25519};
use tokio_rustls::rustls::pki_types::CertificateDer;

/// Naming scheme of the subjects and issuers of a junk chain.
#[derive(Clone, Copy, Debug)]
pub enum Names {
    /// Three generations. By name, each certificate can be issued by any of the next generation, so that a search
    /// for a path has to try them all.
    Layers,
    /// One name for all subjects and issuers.
    Same,
    /// Distinct names without a match.
    Distinct,
}

/// Returns a leaf of the first generation, then `count` CA certificates, none issued by a trusted CA.
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

/// Returns a CA certificate whose signature was made by a key that none of its issuers has.
fn certificate(subject: &str, issuer: &str) -> CertificateDer<'static> {
    static KEYS: OnceLock<[KeyPair; 2]> = OnceLock::new();
    let [own, other] = KEYS.get_or_init(|| {
        [(); 2].map(|()| KeyPair::generate_for(&PKCS_ED25519).expect("a key can be generated"))
    });
    let issuer = Issuer::new(named(issuer), other);
    let made = named(subject).signed_by(own, &issuer);
    made.expect("a certificate can be signed").der().clone()
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}
