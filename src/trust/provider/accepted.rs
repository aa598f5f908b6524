//! The suites and groups that a policy accepts, and whose order decides.
//!
//! **Promises.** A policy without lists of its own has all of the provider's. A list keeps its order.
//!
//! **Not here.** The choice of the group for a client (`proxy/hello/groups.rs`) and of the suite: rustls.

use std::sync::{Arc, LazyLock};

use tokio_rustls::rustls::crypto::aws_lc_rs::kx_group;
use tokio_rustls::rustls::crypto::{CryptoProvider, SupportedKxGroup};
use tokio_rustls::rustls::{CipherSuite, ProtocolVersion, SupportedCipherSuite};

use super::p521::Secp521r1;
use crate::config::{KeyGroup, TlsConfig};
use crate::terms::labels::Cipher;

/// Returns cryptography with the suites and groups of a policy: the usual ones or some of those, and then those of
/// `legacy` that it names.
pub(super) fn restricted(
    usual: &Arc<CryptoProvider>,
    legacy: &LazyLock<Vec<SupportedCipherSuite>>,
    tls: &TlsConfig,
) -> Arc<CryptoProvider> {
    if tls.suites.is_empty() && tls.legacy_suites.is_empty() && tls.groups.is_empty() {
        return Arc::clone(usual);
    }
    let mut provider = CryptoProvider::clone(usual);
    if !tls.suites.is_empty() {
        provider.cipher_suites = named(&tls.suites, &usual.cipher_suites);
    }
    if !tls.legacy_suites.is_empty() {
        provider.cipher_suites.extend(named(&tls.legacy_suites, legacy));
    }
    if !tls.groups.is_empty() {
        provider.kx_groups = tls.groups.iter().copied().map(group).collect();
    }
    Arc::new(provider)
}

/// Returns the cryptography of a policy with legacy suites for a client that prefers ChaCha20: its own order could put
/// a legacy suite first.
pub(super) fn chacha20_first(provider: &CryptoProvider) -> Arc<CryptoProvider> {
    let is_chacha20 = |suite: &SupportedCipherSuite| {
        let label = label(suite.suite());
        matches!(label, Some(Cipher::Tls13Chacha20 | Cipher::EcdsaChacha20 | Cipher::RsaChacha20))
    };
    let mut provider = provider.clone();
    // The sort is stable: legacy suites stay last.
    provider.cipher_suites.sort_by_key(|suite| !is_chacha20(suite));
    Arc::new(provider)
}

fn named(wanted: &[Cipher], suites: &[SupportedCipherSuite]) -> Vec<SupportedCipherSuite> {
    let find = |wanted: &Cipher| suites.iter().find(|s| label(s.suite()) == Some(*wanted)).copied();
    wanted.iter().filter_map(find).collect()
}

fn group(group: KeyGroup) -> &'static dyn SupportedKxGroup {
    match group {
        KeyGroup::X25519MlKem768 => kx_group::X25519MLKEM768,
        KeyGroup::X25519 => kx_group::X25519,
        KeyGroup::Secp256r1 => kx_group::SECP256R1,
        KeyGroup::Secp384r1 => kx_group::SECP384R1,
        KeyGroup::Secp521r1 => &Secp521r1,
    }
}

/// Returns the label of a suite. None if no policy has it.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum has suites of other providers")]
pub(crate) const fn label(suite: CipherSuite) -> Option<Cipher> {
    Some(match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Cipher::Tls13Aes128,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => Cipher::Tls13Aes256,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Cipher::Tls13Chacha20,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => Cipher::EcdsaAes128,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => Cipher::EcdsaAes256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => Cipher::EcdsaChacha20,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Cipher::RsaAes128,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Cipher::RsaAes256,
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Cipher::RsaChacha20,
        CipherSuite::TLS13_AES_128_CCM_SHA256 => Cipher::Tls13Aes128Ccm,
        CipherSuite::TLS13_AES_128_CCM_8_SHA256 => Cipher::Tls13Aes128Ccm8,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_CCM => Cipher::EcdsaAes128Ccm,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_CCM => Cipher::EcdsaAes256Ccm,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8 => Cipher::EcdsaAes128Ccm8,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8 => Cipher::EcdsaAes256Ccm8,
        _ => return None,
    })
}

/// The accepted suites and groups, by their codes.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// Each with its version.
    suites: Vec<(ProtocolVersion, [u8; 2])>,
    /// In order of preference.
    groups: Vec<[u8; 2]>,
    /// Those that TLS 1.2 has.
    groups_of_tls12: Vec<[u8; 2]>,
    /// Our order of groups decides; otherwise the client's.
    pub(crate) groups_decide: bool,
}

impl Accepted {
    /// Takes the suites and groups of the policy's cryptography.
    pub(crate) fn of(provider: &CryptoProvider, tls: &TlsConfig) -> Self {
        let suites = provider
            .cipher_suites
            .iter()
            .map(|suite| (suite.version().version, u16::from(suite.suite()).to_be_bytes()));
        let groups_of = |version| {
            let usable = provider.kx_groups.iter().filter(move |kx| kx.usable_for_version(version));
            usable.map(|kx| u16::from(kx.name()).to_be_bytes()).collect()
        };
        Self {
            suites: suites.collect(),
            groups: groups_of(ProtocolVersion::TLSv1_3),
            groups_of_tls12: groups_of(ProtocolVersion::TLSv1_2),
            groups_decide: !tls.groups.is_empty(),
        }
    }

    /// Returns whether a version has one of these suites.
    pub(crate) fn has_suite_of(&self, version: ProtocolVersion, suites: &[[u8; 2]]) -> bool {
        self.suites.iter().any(|(of, code)| *of == version && suites.contains(code))
    }

    /// Returns the codes of the groups that a version has.
    pub(crate) fn groups_of(&self, version: ProtocolVersion) -> &[[u8; 2]] {
        if version == ProtocolVersion::TLSv1_2 { &self.groups_of_tls12 } else { &self.groups }
    }
}
