//! The check that the accepted suites fit the certificates.
//!
//! **Promises.** In TLS 1.3 each suite fits every key. In TLS 1.2 a certificate that no suite fits is a warning, and an
//! error if the policy has neither another certificate nor TLS 1.3.
//!
//! **Not here.** The versions that are left by the suites (`config/suites.rs`).

use tokio_rustls::rustls::{SignatureAlgorithm, SupportedCipherSuite};

use super::chain::Chain;
use crate::config::{AcceptedVersions, TlsConfig};
use crate::trust::findings::{Cause, Warning};
use crate::trust::provider;

/// Returns a warning for each certificate that no suite of TLS 1.2 fits, and for a version that few devices could use.
///
/// # Errors
/// If no device could get any certificate.
pub(crate) fn check(tls: &TlsConfig, chains: &[Chain]) -> Result<Vec<Warning>, Cause> {
    let AcceptedVersions { tls12, tls13 } = tls.versions();
    if !tls12 {
        return Ok(Vec::new());
    }
    let usual = tls.suites.is_empty() || tls.suites.iter().any(|suite| suite.version() == "1.3");
    let legacy = (tls13 && !usual).then_some(Warning::LegacyTls13);
    let suites = &provider::offering(tls).cipher_suites;
    let fits = |chain: &&Chain| suites.iter().any(|suite| is_for(suite, chain.key.key.algorithm()));
    let unfit: Vec<_> = chains.iter().filter(|chain| !fits(chain)).collect();
    if !chains.is_empty() && unfit.len() == chains.len() && !tls13 {
        return Err(Cause::NoSuite);
    }
    let warning = |chain: &Chain| Warning::NoSuite { file: chain.files()[0].path.to_owned() };
    Ok(unfit.into_iter().map(warning).chain(legacy).chain(without_key(tls, chains)).collect())
}

/// Returns a warning if suites of `legacy_suites` need a key that no certificate has. In TLS 1.2 all of them are for ECDSA
/// (RFC 7251).
fn without_key(tls: &TlsConfig, chains: &[Chain]) -> Option<Warning> {
    let in_tls12 = tls.legacy_suites.iter().filter(|suite| suite.version() == "1.2");
    let suites: Vec<_> = in_tls12.map(|suite| suite.openssl_name()).collect();
    let is_rsa = |chain: &Chain| chain.key.key.algorithm() == SignatureAlgorithm::RSA;
    let is_unused = !suites.is_empty() && !chains.is_empty() && chains.iter().all(is_rsa);
    is_unused.then_some(Warning::NoKeyForLegacy { suites })
}

/// Returns whether a suite is one of TLS 1.2 for certificates with this kind of key.
fn is_for(suite: &SupportedCipherSuite, key: SignatureAlgorithm) -> bool {
    matches!(suite, SupportedCipherSuite::Tls12(_)) && suite.usable_for_signature_algorithm(key)
}
