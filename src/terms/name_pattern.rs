//! Patterns for names: server names of routes, identities of clients.
//!
//! **Promises.** Matching ignores the case of ASCII letters. It takes time that is linear in the name for each
//! star, and stars in a row are one star.
//!
//! **Not here.** The names that a pattern is compared with (`proxy/route.rs`, `control/admin/query.rs`).

use std::str::FromStr;

use crate::value::{InvalidValue, TextValue};

/// RFC 1035 section 2.3.4.
const MAX_NAME_BYTES: usize = 255;

/// A name in which `*` stands for any part of one label. Labels end at dots and slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(String);

impl NamePattern {
    /// Takes any text as a pattern. Parsing, in contrast, takes a DNS name, or `*.` and a DNS name.
    #[must_use]
    pub fn glob(text: &str) -> Self {
        let mut pattern = text.to_ascii_lowercase();
        while pattern.contains("**") {
            pattern = pattern.replace("**", "*");
        }
        Self(pattern)
    }

    /// Returns the pattern as text, in lower case.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether `name` matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let is_end = |c: &u8| [b'.', b'/'].contains(c);
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        // An empty label is no label that a star stands for.
        if pattern.starts_with(b"*") && name.first().is_some_and(is_end) {
            return false;
        }
        let (mut p, mut n) = (0, 0);
        // The last star, and the first byte of the name after the part that it stands for.
        let mut star = None;
        while n < name.len() {
            if pattern.get(p) == Some(&b'*') {
                star = Some((p, n));
                p += 1;
            } else if pattern.get(p).is_some_and(|c| c.eq_ignore_ascii_case(&name[n])) {
                p += 1;
                n += 1;
            } else if let Some((at, from)) = star.filter(|(_, from)| !is_end(&name[*from])) {
                star = Some((at, from + 1));
                (p, n) = (at + 1, from + 1);
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|c| *c == b'*')
    }
}

impl TextValue for NamePattern {
    const EXPECTED: &'static str = "a DNS name, or \"*.\" and a DNS name to match one more label";
}

impl FromStr for NamePattern {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        match is_dns_name(name) && text.len() <= MAX_NAME_BYTES {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err(InvalidValue::of::<Self>()),
        }
    }
}

/// Returns whether a text is a DNS name, without a dot at its end. Underscores are allowed, as in the names of
/// devices.
pub(crate) fn is_dns_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= MAX_NAME_BYTES && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_within_one_label() {
        let fits = |pattern: &str, name: &str| NamePattern::glob(pattern).matches(name);
        assert!(fits("sensor-1.plant.example", "SENSOR-1.plant.example"));
        assert!(fits("*.plant.example", "sensor-1.plant.example"));
        assert!(!fits("*.example", "sensor-1.plant.example"));
        assert!(
            fits("sensor-*", "sensor-17") && fits("*", "sensor-17") && fits("s*r-*7", "sensor-17")
        );
        assert!(!fits("sensor-*", "sensor-17.plant") && !fits("*", "a.b") && !fits("", "a"));
        assert!(fits("urn:plant/*/pump", "urn:plant/north/pump"));
        assert!(!fits("urn:plant/*", "urn:plant/north/pump"));
        assert!(fits("*a*b.c", "xaab.c") && !fits("*a*b.c", "xaac.c"));
        assert_eq!(NamePattern::glob("*****.a**"), NamePattern::glob("*.a*"));
    }

    #[test]
    fn a_wildcard_stands_for_exactly_one_label() {
        let pattern = "*.Plant.example".parse::<NamePattern>().unwrap();
        assert!(pattern.matches("a.plant.example"));
        assert!(pattern.matches("A.PLANT.EXAMPLE"));
        assert!(!pattern.matches("plant.example"));
        assert!(!pattern.matches("a.b.plant.example"));
        assert!(!pattern.matches(".plant.example"));
        for bad in ["", "*", "*.", "a..b", "a.*.b", "a b"] {
            assert!(bad.parse::<NamePattern>().is_err(), "{bad:?}");
        }
    }
}
