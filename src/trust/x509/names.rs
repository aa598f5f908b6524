//! Comparison of distinguished names by RFC 5280 section 7.1.
//!
//! **Promises.** Two names are equal if they differ only in the string type, in the case of ASCII letters,
//! or in white space, as in OpenSSL (`x509_name_canon`). Other values are compared by their bytes.
//!
//! **Not here.** Trust: an equal name proves nothing until the issuer's key verifies the signature.

use std::borrow::Cow;

use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::x509::{RelativeDistinguishedName, X509Name};

/// A distinguished name in a canonical form: equal names have equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct CanonicalName(Box<[u8]>);

impl CanonicalName {
    pub(super) fn of(name: &X509Name<'_>) -> Self {
        let mut bytes = Vec::with_capacity(name.as_raw().len() + 16);
        for rdn in name.iter_rdn() {
            push_rdn(&mut bytes, rdn);
        }
        Self(bytes.into())
    }

    /// Returns whether `self` is in the subtree of `base`: it begins with all parts of `base`.
    pub(super) fn is_below(&self, base: &Self) -> bool {
        // Each part is preceded by its length, so that no part is a prefix of another.
        self.0.starts_with(&base.0)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends a part of a name. Its attributes are a set, so they are sorted.
fn push_rdn(bytes: &mut Vec<u8>, rdn: &RelativeDistinguishedName<'_>) {
    let mut attributes: Vec<_> = rdn
        .iter()
        .map(|attribute| {
            let mut one = Vec::new();
            push(&mut one, attribute.attr_type().as_bytes());
            match text(attribute.attr_value()) {
                Some(text) => push(&mut one, folded(&text).as_bytes()),
                None => {
                    one.extend(attribute.attr_value().tag().0.to_be_bytes());
                    push(&mut one, attribute.attr_value().data);
                }
            }
            one
        })
        .collect();
    attributes.sort_unstable();
    push(bytes, &attributes.concat());
}

/// Appends the length of `bytes`, then `bytes`.
fn push(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(bytes.len().to_be_bytes());
    to.extend_from_slice(bytes);
}

/// Converts ASCII letters to lower case, removes white space at both ends, and replaces each other run of it by one space.
fn folded(text: &str) -> String {
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    let mut folded = words.join(" ");
    folded.make_ascii_lowercase();
    folded
}

/// Returns the text of an attribute, also in the string types of old CAs: RFC 5280 section 4.1.2.4.
/// Returns none for other types, and for bytes that are not text of their type.
pub(super) fn text<'a>(value: &Any<'a>) -> Option<Cow<'a, str>> {
    let decoded = |units: &mut dyn Iterator<Item = Option<char>>| {
        units.map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>()
    };
    match value.tag() {
        Tag::Utf8String
        | Tag::PrintableString
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::VisibleString => std::str::from_utf8(value.data).ok().map(Cow::Borrowed),
        // The type is T.61, but CAs write Latin-1 into it.
        Tag::T61String => Some(value.data.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let units = value.data.as_chunks().0.iter().map(|&unit| u16::from_be_bytes(unit));
            Some(decoded(&mut char::decode_utf16(units).map(Result::ok)).into())
        }
        Tag::UniversalString => {
            let units = value.data.as_chunks().0.iter().map(|&unit| u32::from_be_bytes(unit));
            Some(decoded(&mut units.map(char::from_u32)).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::FromDer;

    /// `SEQUENCE { SET { SEQUENCE { attribute 2.5.4.<kind>, value } } ... }`.
    fn name(parts: &[(u8, Tag, &[u8])]) -> CanonicalName {
        let part = |(kind, tag, value): &(u8, Tag, &[u8])| {
            let tag = u8::try_from(tag.0).unwrap();
            let value = [&[tag, u8::try_from(value.len()).unwrap()], *value].concat();
            wrapped(0x31, &wrapped(0x30, &[&[6, 3, 0x55, 4, *kind][..], &value].concat()))
        };
        let der = wrapped(0x30, &parts.iter().flat_map(part).collect::<Vec<_>>());
        CanonicalName::of(&X509Name::from_der(&der).unwrap().1)
    }

    fn wrapped(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
    }

    #[test]
    fn string_types_case_and_white_space_do_not_distinguish_names() {
        let utf8 = name(&[(10, Tag::Utf8String, b"Plant"), (3, Tag::Utf8String, b"Plant CA")]);
        for (tag, value) in [
            (Tag::PrintableString, &b"Plant CA"[..]),
            (Tag::T61String, b"PLANT ca"),
            (Tag::Ia5String, b"  plant \t CA "),
            (Tag::BmpString, b"\0P\0l\0a\0n\0t\0 \0C\0A"),
            (
                Tag::UniversalString,
                &[&b"Plant CA"[..]].concat().iter().flat_map(|b| [0, 0, 0, *b]).collect::<Vec<_>>(),
            ),
        ] {
            let other = name(&[(10, Tag::PrintableString, b"plant"), (3, tag, value)]);
            assert_eq!(other, utf8, "{tag:?}");
        }
    }

    #[test]
    fn other_words_attributes_and_orders_are_other_names() {
        let one = name(&[(10, Tag::Utf8String, b"Plant"), (3, Tag::Utf8String, b"CA")]);
        for other in [
            name(&[(10, Tag::Utf8String, b"Plant"), (3, Tag::Utf8String, b"C A")]),
            name(&[(10, Tag::Utf8String, b"Plant"), (11, Tag::Utf8String, b"CA")]),
            name(&[(3, Tag::Utf8String, b"CA"), (10, Tag::Utf8String, b"Plant")]),
            name(&[(10, Tag::Utf8String, b"Plant")]),
            name(&[(10, Tag::Utf8String, b"Plant"), (3, Tag::OctetString, b"CA")]),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn a_name_is_below_its_own_first_parts_alone() {
        let base = name(&[(10, Tag::Utf8String, b"Plant")]);
        assert!(
            name(&[(10, Tag::Utf8String, b"PLANT"), (3, Tag::Utf8String, b"x")]).is_below(&base)
        );
        assert!(!name(&[(10, Tag::Utf8String, b"Plant B")]).is_below(&base));
        assert!(
            !name(&[(3, Tag::Utf8String, b"x"), (10, Tag::Utf8String, b"Plant")]).is_below(&base)
        );
    }
}
