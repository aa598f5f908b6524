//! The types that let serde read a [`TextValue`] or a number with a range.
//!
//! **Promises.** The message of an invalid value names the value and the allowed values.
//!
//! **Not here.** The values (`config/values.rs`), checks of several values together (`file.rs`).

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Unexpected, Visitor};
use toml::Spanned;

use super::variables::expand;
use crate::config::BackendAddress;
use crate::config::values::PlainRecordBytes;
use crate::value::{TextValue, choices};

/// A [`TextValue`], written as a TOML string.
pub(super) struct Text<T>(pub(super) T);

impl<'de, T: TextValue + FromStr> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor<T>(PhantomData<T>);

        impl<T: TextValue + FromStr> Visitor<'_> for TextVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
                text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_str(TextVisitor(PhantomData)).map(Text)
    }
}

/// A [`TextValue`] in which variables of the environment are expanded.
pub(super) struct Expanded<T>(pub(super) T);

impl<'de, T: TextValue + FromStr> Deserialize<'de> for Expanded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parse = |text: &str| text.parse().ok();
        deserializer.deserialize_str(ExpandingVisitor { expected: T::EXPECTED, parse }).map(Self)
    }
}

/// A path in which variables of the environment are expanded.
pub(super) struct PathText(pub(super) PathBuf);

impl<'de> Deserialize<'de> for PathText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parse = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        deserializer.deserialize_str(ExpandingVisitor { expected: "a path", parse }).map(Self)
    }
}

/// Expands variables in a text, and parses the result.
struct ExpandingVisitor<P> {
    expected: &'static str,
    parse: P,
}

impl<P: Fn(&str) -> Option<T>, T> Visitor<'_> for ExpandingVisitor<P> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        let expanded = expand(text).map_err(E::custom)?;
        (self.parse)(&expanded)
            .ok_or_else(|| E::invalid_value(Unexpected::Other(&quoted(text, &expanded)), &self))
    }
}

/// Returns a text in quotation marks, and the result of its variables.
pub(super) fn quoted(text: &str, expanded: &str) -> String {
    match text == expanded {
        true => format!("string {text:?}"),
        false => format!("string {text:?}, which is {expanded:?}"),
    }
}

/// A list of texts.
pub(super) type Texts<T> = Option<Spanned<Vec<Spanned<Text<T>>>>>;

/// A whole number from `MIN` to `MAX`.
pub(super) struct Whole<const MIN: u32, const MAX: u32>(pub(super) u32);

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WholeVisitor<const MIN: u32, const MAX: u32>;

        impl<const MIN: u32, const MAX: u32> Visitor<'_> for WholeVisitor<MIN, MAX> {
            type Value = u32;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<u32, E> {
                u32::try_from(number)
                    .ok()
                    .filter(|n| (MIN..=MAX).contains(n))
                    .ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }
        }

        deserializer.deserialize_i64(WholeVisitor::<MIN, MAX>).map(Whole)
    }
}

/// The value of `max_record_bytes`: a number of bytes, or a size with its unit as in the other keys.
pub(super) struct RecordBytes(pub(super) u16);

impl<'de> Deserialize<'de> for RecordBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;

        impl Visitor<'_> for BytesVisitor {
            type Value = u16;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(PlainRecordBytes::EXPECTED)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<u16, E> {
                let size = format!("{number}B").parse::<PlainRecordBytes>().ok();
                size.and_then(|size| u16::try_from(size.0).ok())
                    .ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<u16, E> {
                let size = text.parse::<PlainRecordBytes>().ok();
                size.and_then(|size| u16::try_from(size.0).ok())
                    .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(BytesVisitor).map(RecordBytes)
    }
}

/// The value of `backend`: an address, or a list of addresses.
pub(super) enum BackendTexts {
    One(BackendAddress),
    List(Vec<Spanned<Expanded<BackendAddress>>>),
}

impl<'de> Deserialize<'de> for BackendTexts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextsVisitor;

        impl<'de> Visitor<'de> for TextsVisitor {
            type Value = BackendTexts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}, or a list of these", BackendAddress::EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<BackendTexts, E> {
                let expanded = expand(text).map_err(E::custom)?;
                expanded.parse().map(BackendTexts::One).map_err(|_| {
                    E::invalid_value(Unexpected::Other(&quoted(text, &expanded)), &self)
                })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<BackendTexts, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(BackendTexts::List)
            }
        }

        deserializer.deserialize_any(TextsVisitor)
    }
}

impl BackendTexts {
    /// Returns whether it has several addresses.
    pub(super) const fn has_several(&self) -> bool {
        matches!(self, Self::List(list) if list.len() > 1)
    }
}

/// The value of `client_auth`. The trusted CAs are a key next to it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum AuthChoice {
    #[default]
    None,
    Optional,
    Required,
}

choices!(AuthChoice { "none" => None, "optional" => Optional, or "required" => Required });
