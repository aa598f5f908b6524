//! Patterns of allow rules, for URIs and for text in the subject of a certificate.
//!
//! `*` stands for one or more characters of one label. A pattern has at most one in each label. The labels of a
//! URI end at slashes, those of a text at dots and slashes.
//!
//! **Promises.** A pattern that matches every name is not valid. A `*` never stands for a label's end, for
//! nothing, or for a part of a URI's scheme or authority. Matching is linear in the name.
//!
//! **Not here.** DNS names (`name_pattern.rs`), the names of a certificate (`trust/identity.rs`).

use std::borrow::Cow;
use std::str::FromStr;

use crate::value::{InvalidValue, TextValue};

/// Characters of a pattern at most: names are compared up to this length.
pub(crate) const MAX_NAME_CHARS: usize = 256;

/// A URI in which `*` stands for one or more characters between two slashes. Compared with the case of letters,
/// as SPIFFE prescribes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UriPattern(String);

/// A common name or an organizational unit in which `*` stands for one or more characters of a label. The case of
/// ASCII letters is ignored: RFC 5280 section 7.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextPattern(String);

impl UriPattern {
    /// Returns the pattern as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TextPattern {
    /// Returns the pattern as text, in lower case.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TextValue for UriPattern {
    const EXPECTED: &'static str = "a URI such as \"spiffe://plant-a/device/*\", at most one \"*\" \
                                    between two slashes and none before the path";
}

impl FromStr for UriPattern {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_valid = has_valid_stars(text, is_end_in_uri) && is_uri(text);
        is_valid.then(|| Self(text.to_owned())).ok_or(InvalidValue::of::<Self>())
    }
}

impl TextValue for TextPattern {
    const EXPECTED: &'static str = "a text of 1 to 256 characters such as \"pump-*\", at most one \
                                    \"*\" in each label, and not only \"*\"";
}

impl FromStr for TextPattern {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_other = |c: char| c != '*' && !is_end_in_text(c);
        let is_valid = has_valid_stars(text, is_end_in_text)
            && text.chars().any(is_other)
            && !text.chars().any(char::is_control);
        is_valid.then(|| Self(text.to_ascii_lowercase())).ok_or(InvalidValue::of::<Self>())
    }
}

/// Returns whether a URI matches a pattern.
pub(crate) fn uri_matches(pattern: &str, uri: &str) -> bool {
    labels_match(pattern, uri, is_end_in_uri)
}

/// Returns whether a text matches a pattern. Both are in lower case.
pub(crate) fn text_matches(pattern: &str, text: &str) -> bool {
    labels_match(pattern, text, is_end_in_text)
}

/// Returns a text in lower case, as far as its letters are ASCII.
pub(crate) fn folded(text: &str) -> Cow<'_, str> {
    match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => text.to_ascii_lowercase().into(),
        false => text.into(),
    }
}

const fn is_end_in_uri(c: char) -> bool {
    c == '/'
}

const fn is_end_in_text(c: char) -> bool {
    matches!(c, '.' | '/')
}

/// Returns whether a text is short enough, and has at most one star in each label.
fn has_valid_stars(text: &str, is_end: fn(char) -> bool) -> bool {
    let mut labels = text.split(is_end);
    text.chars().nth(MAX_NAME_CHARS).is_none()
        && labels.all(|label| label.matches('*').count() <= 1)
}

/// Returns whether a text is a URI by RFC 3986, whose scheme and authority have no star.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let is_scheme_byte = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    let is_scheme =
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(is_scheme_byte);
    let is_uri_byte = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&b);
    let authority = rest.strip_prefix("//").map_or("", |rest| rest.split('/').next().unwrap_or(""));
    let has_part = rest.bytes().any(|b| b != b'*' && b != b'/');
    is_scheme && has_part && rest.bytes().all(is_uri_byte) && !authority.contains('*')
}

/// Returns whether a name has as many labels as a pattern, and each matches.
fn labels_match(pattern: &str, name: &str, is_end: fn(char) -> bool) -> bool {
    let mut names = name.split_inclusive(is_end);
    let all = pattern.split_inclusive(is_end).all(|pattern| {
        // Both with the character that ends the label.
        names.next().is_some_and(|name| label_matches(pattern, name, is_end))
    });
    all && names.next().is_none()
}

fn label_matches(pattern: &str, name: &str, is_end: fn(char) -> bool) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == name };
    let part = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    part.is_some_and(|part| !part.is_empty() && !part.ends_with(is_end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_in_a_uri_stands_for_a_part_of_one_segment() {
        let fits = |pattern: &str, uri: &str| {
            pattern.parse::<UriPattern>().is_ok_and(|p| uri_matches(p.as_str(), uri))
        };
        let device = "spiffe://plant-a/device/*";
        assert!(fits(device, "spiffe://plant-a/device/pump.7"));
        assert!(fits("spiffe://plant-a/*/pump-*", "spiffe://plant-a/north/pump-7"));
        assert!(fits("urn:dev:mac:*", "urn:dev:mac:0024befffe804ff1"));
        for other in [
            "spiffe://plant-a/device/",
            "spiffe://plant-a/device",
            "spiffe://plant-a/device/a/b",
            "spiffe://plant-a/device/a/",
            "spiffe://plant-a/devices/a",
            "spiffe://plant-a.example/device/a",
            "spiffe://PLANT-A/device/a",
            "SPIFFE://plant-a/device/a",
            "xspiffe://plant-a/device/a",
        ] {
            assert!(!fits(device, other), "{other}");
        }
        assert!(!fits("spiffe://plant-a/pump-*", "spiffe://plant-a/pump-"));
    }

    #[test]
    fn a_uri_without_a_scheme_or_with_a_star_in_its_authority_is_refused() {
        let long = format!("urn:{}", "x".repeat(MAX_NAME_CHARS));
        for bad in [
            "",
            "*",
            "urn:",
            "urn:*",
            "plant-a/device/*",
            ":plant",
            "1urn:x",
            "spiffe://*/device/a",
            "spiffe://plant-*/device/a",
            "spi*:plant",
            "spiffe://plant-a/*-*",
            "spiffe://plant-a/de vice",
            "spiffe://plant-a/ä",
            &long,
        ] {
            assert!(bad.parse::<UriPattern>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_star_in_a_text_stands_for_a_part_of_one_label() {
        let fits = |pattern: &str, text: &str| {
            let pattern = pattern.parse::<TextPattern>();
            pattern.is_ok_and(|p| text_matches(p.as_str(), &folded(text)))
        };
        assert!(fits("Pump-*", "PUMP-7") && fits("pump 7", "Pump 7") && fits("*-pump", "a-pump"));
        assert!(fits("*.plant.example", "pump-7.plant.example"));
        assert!(fits("grün-*", "grün-東"));
        assert!(!fits("pump-*", "pump-") && !fits("pump-*", "pump-7.plant"));
        assert!(!fits("*.plant", ".plant") && !fits("*.plant", "a.b.plant"));
        assert!(!fits("pump", "pump-7") && !fits("pump", "pum") && !fits("pump-*", "a-pump-7"));
        let long = "x".repeat(MAX_NAME_CHARS + 1);
        for bad in ["", "*", "*.*", "a*b*c", "a\nb", &long] {
            assert!(bad.parse::<TextPattern>().is_err(), "{bad:?}");
        }
    }

    /// Compares in the simplest way.
    fn naive(pattern: &[u8], name: &[u8], is_end: fn(char) -> bool) -> bool {
        match pattern {
            [] => name.is_empty(),
            [b'*', rest @ ..] => {
                let label = name.iter().take_while(|byte| !is_end(char::from(**byte))).count();
                (1..=label).any(|end| naive(rest, &name[end..], is_end))
            }
            [byte, rest @ ..] => name.first() == Some(byte) && naive(rest, &name[1..], is_end),
        }
    }

    /// Returns every text of up to five of these characters.
    fn texts(alphabet: &str) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut last = all.clone();
        for _ in 0..5 {
            last = last
                .iter()
                .flat_map(|t| alphabet.chars().map(move |c| format!("{t}{c}")))
                .collect();
            all.extend_from_slice(&last);
        }
        all
    }

    #[test]
    fn every_short_pattern_matches_the_names_that_the_simplest_comparison_finds() {
        let names = texts("a./");
        let mut valid = 0;
        for pattern in texts("a*./") {
            let text = pattern.parse::<TextPattern>().ok();
            let uri = format!("u:{pattern}").parse::<UriPattern>().ok();
            valid += usize::from(text.is_some()) + usize::from(uri.is_some());
            for name in &names {
                if let Some(text) = &text {
                    let expected = naive(pattern.as_bytes(), name.as_bytes(), is_end_in_text);
                    assert_eq!(text_matches(text.as_str(), name), expected, "{pattern} {name}");
                }
                if let Some(uri) = &uri {
                    let expected = naive(pattern.as_bytes(), name.as_bytes(), is_end_in_uri);
                    let name = format!("u:{name}");
                    assert_eq!(uri_matches(uri.as_str(), &name), expected, "{pattern} {name}");
                }
            }
        }
        assert!(valid > 1000, "{valid}");
    }
}
