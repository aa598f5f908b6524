//! The allow rules of a listener: which verified clients may connect.
//!
//! **Not here.** Their evaluation (`trust/allow.rs`), the file format (`config/file/allow.rs`).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};

use crate::terms::name_pattern::NamePattern;
use crate::terms::rule_pattern::{TextPattern, UriPattern};
use crate::value::{InvalidValue, TextValue};

/// The allow rules of a listener and of its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// The rules of the configuration.
    pub rules: AllowRules,
    /// A file with more rules.
    pub file: Option<PathBuf>,
}

/// Allow rules: a client is admitted if any of them matches its certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowRules {
    /// Common names of the subject.
    pub cn: Vec<TextPattern>,
    /// DNS names of the SAN.
    pub dns: Vec<NamePattern>,
    /// URIs of the SAN.
    pub uri: Vec<UriPattern>,
    /// Organizational units of the subject.
    pub ou: Vec<TextPattern>,
    /// Public keys.
    pub spki_sha256: Vec<SpkiSha256>,
}

impl AllowRules {
    /// Returns the number of rules.
    #[must_use]
    pub const fn count(&self) -> usize {
        let Self { cn, dns, uri, ou, spki_sha256 } = self;
        cn.len() + dns.len() + uri.len() + ou.len() + spki_sha256.len()
    }
}

impl Allow {
    /// Returns whether there is neither a rule nor a file: every verified client is admitted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rules.count() == 0 && self.file.is_none()
    }
}

/// The SHA-256 of an encoded SubjectPublicKeyInfo.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpkiSha256(pub(crate) [u8; 32]);

impl fmt::Debug for SpkiSha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpkiSha256({})", HEXLOWER.encode(&self.0))
    }
}

impl TextValue for SpkiSha256 {
    const EXPECTED: &'static str = "the SHA-256 of a public key (SubjectPublicKeyInfo): 64 hexadecimal \
                                    digits, also with colons, or 44 characters of base64";
}

impl FromStr for SpkiSha256 {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bytes = match text.len() {
            44 => BASE64.decode(text.as_bytes()),
            // One colon after each byte but the last, as openssl prints a fingerprint.
            95 if text.bytes().skip(2).step_by(3).all(|byte| byte == b':') => {
                HEXLOWER_PERMISSIVE.decode(text.replace(':', "").as_bytes())
            }
            _ => HEXLOWER_PERMISSIVE.decode(text.as_bytes()),
        };
        let digest = bytes.ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        digest.map(Self).ok_or(InvalidValue::of::<Self>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_hexadecimal_or_base64() {
        let parse = |text: &str| text.parse::<SpkiSha256>().ok().map(|digest| digest.0);
        let bytes = std::array::from_fn(|i| u8::try_from(i * 8).unwrap());
        let hex = HEXLOWER.encode(&bytes);
        let pairs: Vec<_> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(parse(&hex), Some(bytes));
        assert_eq!(parse(&pairs.join(":")), Some(bytes));
        assert_eq!(parse(&BASE64.encode(&bytes)), Some(bytes));
        for bad in ["", "ab", &hex[1..], &format!("{hex}00"), &pairs.join("-"), &"g".repeat(64)] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
