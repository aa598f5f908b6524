//! The cipher suites and groups of a configuration, by the names that operators know.
//!
//! **Promises.** A suite has its name in IANA's registry and its name in OpenSSL, a group also the other names of its
//! curve. Case does not matter.
//!
//! **Not here.** The suites themselves (`trust/provider.rs`), the keys of the file (`config/file/suites.rs`).

use std::fmt;
use std::str::FromStr;

use crate::terms::labels::Cipher;
use crate::value::{InvalidValue, TextValue};

/// A group for the key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyGroup {
    /// The hybrid of X25519 and ML-KEM-768, in TLS 1.3.
    X25519MlKem768,
    /// Curve25519.
    X25519,
    /// NIST P-256.
    Secp256r1,
    /// NIST P-384.
    Secp384r1,
    /// NIST P-521, which is not accepted by default.
    Secp521r1,
}

impl KeyGroup {
    /// Every group.
    const ALL: [Self; 5] =
        [Self::X25519MlKem768, Self::X25519, Self::Secp256r1, Self::Secp384r1, Self::Secp521r1];

    /// Returns the name in IANA's registry first, then the others.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::X25519MlKem768 => &["X25519MLKEM768"],
            Self::X25519 => &["x25519"],
            Self::Secp256r1 => &["secp256r1", "P-256", "prime256v1"],
            Self::Secp384r1 => &["secp384r1", "P-384"],
            Self::Secp521r1 => &["secp521r1", "P-521"],
        }
    }

    /// Returns whether TLS 1.2 has the group.
    pub(crate) const fn is_in_tls12(self) -> bool {
        match self {
            Self::X25519MlKem768 => false,
            Self::X25519 | Self::Secp256r1 | Self::Secp384r1 | Self::Secp521r1 => true,
        }
    }
}

impl fmt::Display for KeyGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names()[0])
    }
}

impl TextValue for KeyGroup {
    const EXPECTED: &'static str = "a group: \"X25519MLKEM768\", \"X25519\", \"P-256\" (secp256r1, prime256v1), \
        \"P-384\" (secp384r1) or \"P-521\" (secp521r1)";
}

impl FromStr for KeyGroup {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_named = |group: &Self| group.names().iter().any(|name| is_same(name, text));
        Self::ALL.into_iter().find(is_named).ok_or(InvalidValue::of::<Self>())
    }
}

/// A cipher suite that is accepted by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsualSuite(pub(crate) Cipher);

impl TextValue for UsualSuite {
    const EXPECTED: &'static str = "a cipher suite by its name in IANA's registry or in OpenSSL: \
        \"TLS_AES_128_GCM_SHA256\", \"TLS_AES_256_GCM_SHA384\" or \"TLS_CHACHA20_POLY1305_SHA256\" for TLS 1.3; \
        \"ECDHE-ECDSA-AES128-GCM-SHA256\", \"ECDHE-ECDSA-AES256-GCM-SHA384\", \
        \"ECDHE-ECDSA-CHACHA20-POLY1305\", \"ECDHE-RSA-AES128-GCM-SHA256\", \
        \"ECDHE-RSA-AES256-GCM-SHA384\" or \"ECDHE-RSA-CHACHA20-POLY1305\" for TLS 1.2";
}

impl FromStr for UsualSuite {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        named(text).filter(|c| !c.is_legacy()).map(Self).ok_or(InvalidValue::of::<Self>())
    }
}

/// A cipher suite that is accepted only where a configuration names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LegacySuite(pub(crate) Cipher);

impl TextValue for LegacySuite {
    const EXPECTED: &'static str = "a cipher suite by its name in IANA's registry or in OpenSSL: \
        \"TLS_AES_128_CCM_SHA256\" or \"TLS_AES_128_CCM_8_SHA256\" for TLS 1.3; \
        \"ECDHE-ECDSA-AES128-CCM\", \"ECDHE-ECDSA-AES256-CCM\", \"ECDHE-ECDSA-AES128-CCM8\" or \
        \"ECDHE-ECDSA-AES256-CCM8\" for TLS 1.2";
}

impl FromStr for LegacySuite {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        named(text).filter(|c| c.is_legacy()).map(Self).ok_or(InvalidValue::of::<Self>())
    }
}

/// Returns the suite with this name.
fn named(text: &str) -> Option<Cipher> {
    let names = |cipher: &Cipher| [cipher.as_str(), cipher.openssl_name()];
    Cipher::ALL.iter().copied().find(|cipher| names(cipher).iter().any(|name| is_same(name, text)))
}

fn is_same(name: &str, text: &str) -> bool {
    name.eq_ignore_ascii_case(text)
}

/// The accepted versions of TLS: at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AcceptedVersions {
    pub(crate) tls12: bool,
    pub(crate) tls13: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_has_its_names_in_iana_and_in_openssl() {
        for &cipher in Cipher::ALL {
            for name in [cipher.as_str(), cipher.openssl_name(), &cipher.as_str().to_lowercase()] {
                let usual = (!cipher.is_legacy()).then_some(UsualSuite(cipher));
                assert_eq!(name.parse::<UsualSuite>().ok(), usual, "{name}");
                let legacy = cipher.is_legacy().then_some(LegacySuite(cipher));
                assert_eq!(name.parse::<LegacySuite>().ok(), legacy, "{name}");
            }
            let expected =
                if cipher.is_legacy() { LegacySuite::EXPECTED } else { UsualSuite::EXPECTED };
            assert!(expected.contains(&format!("\"{}\"", cipher.openssl_name())));
        }
        for unknown in ["", "AES128-SHA", "TLS_RSA_WITH_AES_128_CBC_SHA", "HIGH", "ALL:!aNULL"] {
            assert_eq!(unknown.parse::<UsualSuite>().ok(), None, "{unknown}");
        }
    }

    #[test]
    fn a_group_has_the_names_of_its_curve() {
        let parse = |text: &str| text.parse::<KeyGroup>().ok();
        for name in ["P-256", "secp256r1", "prime256v1", "p-256"] {
            assert_eq!(parse(name), Some(KeyGroup::Secp256r1), "{name}");
        }
        assert_eq!(parse("X25519"), parse("x25519"));
        assert_eq!(parse("X25519MLKEM768"), Some(KeyGroup::X25519MlKem768));
        for unknown in ["", "X448", "ffdhe2048", "brainpoolP256r1", "P256"] {
            assert_eq!(parse(unknown), None, "{unknown}");
        }
    }
}
